"""Light recompute changes no bit of loss or gradient, and what it drops is not held."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from megatron_mmbert.config.recipe import ModelConfig, ParallelConfig
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.light_recompute import can_be_computed_again, drop_until_backward
from megatron_mmbert.model.packed import PackedParams
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.plan.layout import Recompute

LENGTHS = [200, 1, 155, 300]


def test_loss_and_gradients_are_the_same_bits(
    runtime: Runtime, shape: Callable[..., ModelConfig], pack: Callable[..., PackedParams]
) -> None:
    (loss, gradients), (light_loss, light_gradients) = (_step(shape(), pack(LENGTHS), kind) for kind in KINDS)
    assert light_loss == loss
    for name, gradient in gradients.items():
        assert torch.equal(light_gradients[name], gradient), name


def test_a_layer_keeps_less(
    runtime: Runtime, shape: Callable[..., ModelConfig], pack: Callable[..., PackedParams]
) -> None:
    """Of a layer, per token and in fp32: norms' outputs and the gated half of the feed-forward part are not kept."""
    model = shape(num_layers=6, attention_output_dropout=0.0)
    with_norms, light = (_kept_bytes(model, pack(LENGTHS), kind) for kind in KINDS)
    norms = (2 * model.num_layers - 1) * model.hidden_size
    gated = model.num_layers * model.ffn_hidden_size
    assert with_norms - light == 4 * sum(LENGTHS) * (norms + gated)


def test_evaluation_drops_nothing(runtime: Runtime, shape: Callable[..., ModelConfig]) -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    with torch.no_grad():
        output = can_be_computed_again(2 * weight, lambda: 2 * weight)
        drop_until_backward(output, 3 * output)
    assert output.tolist() == [2.0] * 4


def test_what_was_computed_again_is_freed_before_the_graph() -> None:
    weight, scale = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.tensor(3.0))
    again: list[weakref.ref[Tensor]] = []

    def compute() -> Tensor:
        result = 2 * weight
        again.append(weakref.ref(result))
        return result

    inner = can_be_computed_again(2 * weight, compute)
    outer = inner * scale
    drop_until_backward(inner, outer)
    assert inner.untyped_storage().nbytes() == 0
    seen = weakref.ref(inner)
    del inner
    loss = outer.sum()
    loss.backward()
    gc.collect()
    assert scale.grad == 8 and weight.grad is not None and weight.grad.tolist() == [6.0] * 4
    assert len(again) == 1 and again[0]() is None
    assert seen() is None, "the graph, which `loss` holds, still holds what was dropped"


KINDS: tuple[Recompute, Recompute] = ("none", "light")


def _encoder(model: ModelConfig, recompute: Recompute) -> Encoder:
    encoder = Encoder(encoder_config(model, 1e4, 1e4, ParallelConfig(recompute=recompute)), model.vocab_size)
    initialize(encoder, 1)
    return encoder.train()


def _loss(encoder: Encoder, packed: PackedParams) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 4096, (sum(LENGTHS),), generator=generator)
    scored = torch.arange(0, sum(LENGTHS), 3)
    return encoder(tokens, packed, scored, tokens[scored])


def _step(model: ModelConfig, packed: PackedParams, recompute: Recompute) -> tuple[float, dict[str, Tensor]]:
    encoder = _encoder(model, recompute)
    loss = _loss(encoder, packed)
    loss.backward()
    return float(loss), {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def _kept_bytes(model: ModelConfig, packed: PackedParams, recompute: Recompute) -> int:
    """Of all storages that autograd has saved, once the loss is there."""
    encoder = _encoder(model, recompute)
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = _loss(encoder, packed)
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in saved}
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in storages.values())
