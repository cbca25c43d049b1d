"""The encoder against transformers' ModernBERT with the same weights, sample by sample and packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ModernBertConfig, ModernBertForMaskedLM

from megatron_mmbert.convert.name_mapping import hf_names, reorder_rows_for_megatron
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.model.parameter_names import parameter_names

LENGTHS = [1, 2, 63, 64, 65, 66, 127, 129, 130, 1000]
TOLERANCE = 1e-4
SMALL = {
    "num_layers": 22,
    "hidden_size": 384,
    "ffn_hidden_size": 1152,
    "num_attention_heads": 6,
    "vocab_size": 256_000,
}

Pack = Callable[..., PackedSequences]


def theirs(encoder: Encoder, attention: str) -> ModernBertForMaskedLM:
    """transformers' model of the same shape, with large random weights and norms off 1."""
    config = encoder.config
    model = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=encoder.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.ffn_hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=8192,
            norm_eps=config.layernorm_epsilon,
            global_rope_theta=config.rope_theta,
            local_rope_theta=config.rope_theta_local,
            local_attention=2 * config.window_each_side,
            **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 1},
            attn_implementation=attention,
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.05, generator=generator)
            else:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return model


def copy_weights(encoder: Encoder, model: ModernBertForMaskedLM) -> None:
    weights: dict[str, Any] = model.state_dict()
    assert {name for name, _ in encoder.named_parameters()} == set(parameter_names(encoder.config.num_layers))
    theirs, heads = hf_names(encoder.config.num_layers), encoder.config.num_attention_heads
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.copy_(reorder_rows_for_megatron(name, weights[theirs[name]], heads))


def documents_of(lengths: list[int], vocab: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, vocab, (length,), generator=generator) for length in lengths]


def assert_parity(encoder: Encoder, model: ModernBertForMaskedLM, lengths: list[int], pack: Pack) -> None:
    documents = documents_of(lengths, encoder.vocab_size)
    packed = encoder.logits(encoder(torch.cat(documents), pack(lengths))).split(lengths)
    for document, in_pack in zip(documents, packed, strict=True):
        expected = model(document[None]).logits[0]
        alone = encoder.logits(encoder(document, pack([len(document)])))
        assert expected.std() > 0.1, "logits must be large enough for the tolerance to mean something"
        for where, found in (("packed", in_pack), ("alone", alone)):
            error = (found - expected).abs().max().item()
            assert error <= TOLERANCE, f"{where}, {len(document)} tokens: {error}"


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("thetas", [(10_000.0, 10_000.0), (160_000.0, 160_000.0), (160_000.0, 10_000.0)])
def test_logits_equal_transformers(
    attention: str, thetas: tuple[float, float], build: Callable[..., Encoder], pack: Pack
) -> None:
    encoder = build(*thetas)
    model = theirs(encoder, attention)
    copy_weights(encoder, model)
    assert_parity(encoder, model, LENGTHS, pack)


@torch.no_grad()
def test_the_comparison_notices_a_wrong_theta(build: Callable[..., Encoder], pack: Pack) -> None:
    model = theirs(build(160_000.0, 160_000.0), "sdpa")
    encoder = build(160_000.0, 10_000.0)
    copy_weights(encoder, model)
    with pytest.raises(AssertionError, match="packed, 130 tokens"):
        assert_parity(encoder, model, [130], pack)


@torch.no_grad()
def test_every_logit_of_the_longest_sample(build: Callable[..., Encoder], pack: Pack) -> None:
    encoder = build(160_000.0, vocab_size=512, num_layers=4)
    model = theirs(encoder, "sdpa")
    copy_weights(encoder, model)
    (document,) = documents_of([8192], 512)
    found = encoder.logits(encoder(document, pack([8192])))
    assert (found - model(document[None]).logits[0]).abs().max().item() <= TOLERANCE


def test_gradients_equal_transformers(build: Callable[..., Encoder], pack: Pack) -> None:
    encoder = build(160_000.0)
    model = theirs(encoder, "eager")
    copy_weights(encoder, model)
    (document,) = documents_of([200], 4096)
    scored = torch.arange(0, 200, 7)
    label = document.roll(3)[scored]
    total, _ = encoder.loss(encoder(document, pack([200])), scored, label)
    total.backward()
    torch.nn.functional.cross_entropy(model(document[None]).logits[0][scored], label, reduction="sum").backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in encoder.named_parameters():
        expected = gradients[hf_names(encoder.config.num_layers)[name]]
        assert parameter.grad is not None and expected is not None
        expected = reorder_rows_for_megatron(name, expected, 4)
        error = ((parameter.grad - expected).norm() / expected.norm()).item()
        assert error < 1e-4, f"{name}: {error}"


@pytest.mark.slow
@torch.no_grad()
def test_logits_of_mmbert_smalls_shape_equal_transformers(build: Callable[..., Encoder], pack: Pack) -> None:
    encoder = build(160_000.0, **SMALL)
    model = theirs(encoder, "sdpa")
    copy_weights(encoder, model)
    assert_parity(encoder, model, [1, 2, 65, 130, 300], pack)
    (document,) = documents_of([8192], 256_000)
    rows = torch.arange(0, 8192, 64)
    expected = model.decoder(model.head(model.model(document[None]).last_hidden_state[0, rows]))
    found = encoder.logits(encoder(document, pack([8192]))[rows])
    assert (found - expected).abs().max().item() <= TOLERANCE
