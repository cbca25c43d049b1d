"""Light recompute changes no bit of loss or gradient, and what it drops is not held."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import ParallelConfig, Recompute
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.memory_saving.recompute import Recomputation, input_not_kept
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.parallel import Runtime

LENGTHS = [200, 1, 155, 300]


def test_loss_and_gradients_are_the_same_bits(
    runtime: Runtime, shape: Callable[..., ModelConfig], pack: Callable[..., PackedSequences]
) -> None:
    (loss, gradients), (light_loss, light_gradients) = (_step(shape(), pack(LENGTHS), kind) for kind in KINDS)
    assert light_loss == loss
    for name, gradient in gradients.items():
        assert torch.equal(light_gradients[name], gradient), name


def test_a_layer_keeps_less(
    runtime: Runtime, shape: Callable[..., ModelConfig], pack: Callable[..., PackedSequences]
) -> None:
    """Of a layer, per token and in fp32: norms' outputs and the gated half of the feed-forward part are not kept."""
    model = shape(num_layers=6, attention_output_dropout=0.0)
    with_norms, light = (_kept_bytes(model, pack(LENGTHS), kind) for kind in KINDS)
    norms, gated = (2 * model.num_layers - 2) * model.hidden_size, (model.num_layers - 1) * model.ffn_hidden_size
    of_scored_rows = model.hidden_size + model.ffn_hidden_size  # all that the last layer has behind its attention
    assert with_norms - light == 4 * (sum(LENGTHS) * (norms + gated) + len(_scored()) * of_scored_rows)


def test_only_the_marked_input_is_input_not_kept() -> None:
    weight, scale = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.tensor(3.0))
    calls: list[weakref.ref[Tensor]] = []

    def compute() -> Tensor:
        result = 2 * weight
        calls.append(weakref.ref(result))
        return result

    inner = Recomputation(compute).attach_to(2 * weight)
    with input_not_kept(inner):
        outer = inner * scale
    kept = weakref.ref(inner)
    del inner
    gc.collect()
    assert kept() is None, "the graph still holds what was to be computed again"
    loss = outer.sum()
    loss.backward()
    gc.collect()
    assert scale.grad == 8 and weight.grad is not None and weight.grad.tolist() == [6.0] * 4
    assert len(calls) == 1 and calls[0]() is None


def test_an_input_without_mark_and_evaluation_are_as_ever() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    with input_not_kept(weight):
        (weight * weight).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [2.0] * 4
    with torch.no_grad():
        output = Recomputation(lambda: 1 / 0).attach_to(2 * weight)
        with input_not_kept(output):
            tripled = 3 * output
    assert tripled.tolist() == [6.0] * 4


KINDS: tuple[Recompute, Recompute] = ("none", "light")


def _encoder(model: ModelConfig, recompute: Recompute) -> Encoder:
    encoder = Encoder(encoder_config(model, 1e4, 1e4, ParallelConfig(recompute=recompute)), model.vocab_size)
    initialize(encoder, 1)
    return encoder.train()


def _scored() -> Tensor:
    return torch.arange(0, sum(LENGTHS), 3)


def _loss(encoder: Encoder, packed: PackedSequences) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 4096, (sum(LENGTHS),), generator=generator)
    scored = _scored()
    return encoder(tokens, packed, scored, tokens[scored])


def _step(model: ModelConfig, packed: PackedSequences, recompute: Recompute) -> tuple[float, dict[str, Tensor]]:
    encoder = _encoder(model, recompute)
    loss = _loss(encoder, packed)
    loss.backward()
    return float(loss), {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def _kept_bytes(model: ModelConfig, packed: PackedSequences, recompute: Recompute) -> int:
    """Of all storages that autograd has saved, once the loss is there, but for the weights."""
    encoder = _encoder(model, recompute)
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = _loss(encoder, packed)
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in saved}
    for weight in encoder.parameters():
        storages.pop(weight.untyped_storage()._cdata, None)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in storages.values())
