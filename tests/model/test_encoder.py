"""The whole encoder: size, loss, and no bit from one document of a pack to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import ParallelConfig, Recompute
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.parallel import Runtime

LENGTHS = [70, 200, 1, 129]


def tokens_of(lengths: list[int], seed: int = 0) -> Tensor:
    return torch.randint(5, 4096, (sum(lengths),), generator=torch.Generator().manual_seed(seed))


def parameter_counts(model: ModelConfig) -> dict[str, int]:
    """Parameters by formula, from the architecture alone."""
    width, vocab = model.hidden_size, model.vocab_size
    layer = 3 * width**2 + width**2 + 2 * model.ffn_hidden_size * width + model.ffn_hidden_size * width + 2 * width
    body = model.num_layers * layer - width + width + width  # layer 0 lacks a norm; final norm; embedding norm
    head = width**2 + width + vocab
    encoder = body + vocab * width
    return {"layer": layer, "body": body, "encoder": encoder, "head": head, "all": encoder + head}


# per layer, encoder without token table, encoder, head beyond the tied table, all
PUBLISHED = {
    "base": (768, 12, (5_015_040, 110_331_648, 306_939_648, 846_592, 307_786_240)),
    "small": (384, 6, (1_917_696, 42_189_696, 140_493_696, 403_840, 140_897_536)),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_formula_gives_mmberts_sizes(size: str) -> None:
    hidden, heads, counts = PUBLISHED[size]
    model = ModelConfig(hidden_size=hidden, num_attention_heads=heads)
    assert tuple(parameter_counts(model).values()) == counts


@pytest.mark.parametrize("changes", [{}, {"num_layers": 1}, {"hidden_size": 64, "ffn_hidden_size": 100}])
def test_encoders_have_the_size_of_the_formula(
    changes: dict[str, int], build: Callable[..., Encoder], shape: Callable[..., ModelConfig]
) -> None:
    assert sum(each.numel() for each in build(**changes).parameters()) == parameter_counts(shape(**changes))["all"]


@pytest.mark.parametrize("size", PUBLISHED)
def test_mmberts_encoders_have_mmberts_size(size: str, runtime: Runtime) -> None:
    """Built without memory for the weights."""
    hidden, heads, counts = PUBLISHED[size]
    model = ModelConfig(hidden_size=hidden, num_attention_heads=heads)
    with torch.device("meta"):
        encoder = Encoder(encoder_config(model, 1e4, 1e4), model.vocab_size)
    assert sum(each.numel() for each in encoder.parameters()) == counts[-1]
    assert len(list(encoder.parameters())) == 137, "138 tensors of the released model, of which one is tied"


def test_loss_and_every_gradient_are_those_of_dense_logits(
    build: Callable[..., Encoder], pack: Callable[..., PackedSequences]
) -> None:
    encoder, tokens, packed = build(), tokens_of(LENGTHS), pack(LENGTHS)
    scored = torch.tensor([0, 3, 69, 70, 150, 269, 270, 271, 399])
    label = tokens_of(LENGTHS, seed=1)[scored]
    total, rows = encoder.loss(encoder(tokens, packed), scored, label)
    ours = torch.autograd.grad(total, list(encoder.parameters()))
    dense = F.cross_entropy(encoder.logits(encoder(tokens, packed))[scored], label, reduction="none")
    theirs = torch.autograd.grad(dense.sum(), list(encoder.parameters()))
    torch.testing.assert_close(rows, dense.detach(), rtol=1e-5, atol=1e-5)
    for (name, _), found, expected in zip(encoder.named_parameters(), ours, theirs, strict=True):
        error = (found - expected).norm() / expected.norm()
        assert error < 1e-5, f"{name}: {error}"


def with_gradients(encoder: Encoder, tokens: Tensor, packed: PackedSequences) -> dict[str, Tensor]:
    """Hidden states, logits, and the gradient at the embeddings' output of a fixed direction of both."""
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = encoder.embedding.register_forward_hook(keep)
    hidden = encoder(tokens, packed)
    handle.remove()
    logits = encoder.logits(hidden)
    generator = torch.Generator().manual_seed(7)
    ((hidden * torch.randn(hidden.shape, generator=generator)).sum() + logits[:, ::97].square().sum()).backward()
    assert kept[0].grad is not None
    return {"hidden": hidden.detach(), "logits": logits.detach(), "gradient": kept[0].grad}


@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_no_bit_of_a_document_reaches_another(
    changed: int, build: Callable[..., Encoder], pack: Callable[..., PackedSequences]
) -> None:
    encoder, tokens = build(), tokens_of(LENGTHS)
    others = tokens.clone()
    start = sum(LENGTHS[:changed])
    own = slice(start, start + LENGTHS[changed])
    others[own] = tokens_of(LENGTHS, seed=1)[own]
    apart = torch.ones(len(tokens), dtype=torch.bool)
    apart[own] = False
    before, after = (with_gradients(encoder, each, pack(LENGTHS)) for each in (tokens, others))
    for name, value in before.items():
        assert torch.equal(value[apart], after[name][apart]), f"{name} of another document changed"
        assert not torch.equal(value[own], after[name][own]), f"{name} of the document itself did not change"


def test_a_document_is_the_same_alone_and_packed_in_any_order(
    build: Callable[..., Encoder], pack: Callable[..., PackedSequences]
) -> None:
    encoder = build()
    documents = tokens_of(LENGTHS).split(LENGTHS)
    order = [2, 3, 0, 1]
    with torch.no_grad():
        packed = encoder(torch.cat(documents), pack(LENGTHS)).split(LENGTHS)
        lengths = [LENGTHS[number] for number in order]
        moved = encoder(torch.cat([documents[number] for number in order]), pack(lengths)).split(lengths)
        for place, number in enumerate(order):
            torch.testing.assert_close(moved[place], packed[number], rtol=0, atol=2e-5)
            alone = encoder(documents[number], pack([LENGTHS[number]]))
            torch.testing.assert_close(alone, packed[number], rtol=0, atol=2e-5)


def test_theta_matters_where_it_should(build: Callable[..., Encoder], pack: Callable[..., PackedSequences]) -> None:
    tokens, packed = tokens_of(LENGTHS), pack(LENGTHS)
    with torch.no_grad():
        near, far, mixed = (
            build(*thetas)(tokens, packed).squeeze(1) for thetas in ((10_000.0,), (160_000.0,), (160_000.0, 10_000.0))
        )
    lone = slice(270, 271)  # a sample of one token: no rotation can change it
    for a, b in ((near, far), (near, mixed), (far, mixed)):
        assert torch.equal(a[lone], b[lone])
        apart = (a - b).abs().amax(-1)
        assert (apart[:270].reshape(-1) > 1e-4).float().mean() > 0.9


@pytest.mark.parametrize("recompute", ["none", "light", "selective", "full"])
def test_the_last_layer_ends_on_scored_rows_with_the_same_loss_and_gradients(
    recompute: Recompute, build: Callable[..., Encoder], pack: Callable[..., PackedSequences]
) -> None:
    encoder = build(parallel=ParallelConfig(recompute=recompute)).train()
    tokens, packed = tokens_of(LENGTHS), pack(LENGTHS)
    scored = torch.tensor([0, 0, 3, 69, 70, 270, 271, 399])  # as batches have them: ascending, 0 where too few
    label = tokens_of(LENGTHS, seed=1)[scored].index_fill(0, torch.tensor([0]), -100)
    seen: list[int] = []
    encoder.encoder.layers[-1].mlp.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    encoder(tokens, packed, scored, label).backward()
    ours = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    assert set(seen) == {len(scored)}
    encoder.zero_grad(set_to_none=True)
    encoder.loss(encoder(tokens, packed), scored, label)[0].backward()
    assert seen[-1] == len(tokens)
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and ours[name] is not None
        assert (parameter.grad - ours[name]).norm() / parameter.grad.norm() < 1e-5, name
