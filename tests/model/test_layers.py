"""What each layer is made of: norms, windows, thetas, dropout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from megatron.core.transformer.identity_op import IdentityOp

from megatron_mmbert.attention import ENGINES, Engine, Request
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.model import dropout, layers
from megatron_mmbert.model.config import encoder_config, output_init_std
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.layers import engines_of
from megatron_mmbert.model.norm import WeightOnlyLayerNorm
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.utils.errors import UserError

LENGTHS = [70, 1, 57]


def tokens() -> torch.Tensor:
    return torch.randint(5, 4096, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))


def test_layer_0_has_no_attention_norm(build: Callable[..., Encoder]) -> None:
    layers = build().encoder.layers
    assert isinstance(layers[0].input_layernorm, IdentityOp)
    assert all(isinstance(layer.input_layernorm, WeightOnlyLayerNorm) for layer in layers[1:])
    assert all(isinstance(layer.pre_mlp_layernorm, WeightOnlyLayerNorm) for layer in layers)


def test_every_third_layer_is_global(build: Callable[..., Encoder]) -> None:
    layers = build(10_000.0, 500.0, num_layers=10).encoder.layers
    core = [layer.self_attention.core_attention for layer in layers]
    assert [number for number, each in enumerate(core) if each.window_each_side is None] == [0, 3, 6, 9]
    assert {each.window_each_side for each in core} == {None, 64}
    assert [each.rope_theta for each in core] == [10_000.0 if n % 3 == 0 else 500.0 for n in range(10)]


def test_the_pattern_follows_the_recipe(build: Callable[..., Encoder]) -> None:
    layers = build(global_attention_every=2, window_each_side=8).encoder.layers
    assert [each.self_attention.core_attention.window_each_side for each in layers] == [None, 8, None, 8, None, 8]


def test_engines_are_chosen_for_local_and_global_layers_apart(build: Callable[..., Encoder]) -> None:
    assert engines_of(build()) == "cpu (local), cpu (global)"
    wanted = PrecisionConfig(attention_local="torch", attention_global="eager")
    model = ModelConfig(num_layers=4, hidden_size=64, num_attention_heads=2, vocab_size=512)
    encoder = Encoder(encoder_config(model, 1e4, 1e4, precision=wanted), 512)
    assert engines_of(encoder) == "torch (local), eager (global)"
    with pytest.raises(UserError, match="'varlen': runs on CUDA devices only"):
        Encoder(encoder_config(model, 1e4, 1e4, precision=PrecisionConfig(attention_local="varlen")), 512)


def test_engines_of_both_kinds_are_chosen_before_any_layer_is_made(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choosing is a collective on GPUs: all ranks choose the same in the same order, whatever their stage's layers."""
    asked: list[int | None] = []

    def choose(name: str, request: Request, heads: int) -> Engine:
        asked.append(request.window_each_side)
        return ENGINES["torch" if request.window_each_side else "eager"]

    monkeypatch.setattr(layers, "choose", choose)
    model = ModelConfig(num_layers=4, hidden_size=64, num_attention_heads=2, vocab_size=512)
    config = encoder_config(model, 1e4, 1e4)
    assert engines_of(Encoder(config, 512)) == "torch (local), eager (global)"
    assert asked == [None, 64], "once for each kind, and none for a layer"


@pytest.mark.parametrize("engine", ["torch", "eager"])
def test_engines_agree_within_the_model(
    build: Callable[..., Encoder], pack: Callable[..., PackedSequences], engine: str
) -> None:
    """The one-piece path of the CPU engine, and the path through Megatron-Core's own split, gradients included."""
    encoder = build()
    packed, places = pack(LENGTHS), torch.arange(3, 120, 4)
    results = []
    for name in ("cpu", engine):
        for layer in encoder.encoder.layers:
            layer.self_attention.core_attention.engine = ENGINES[name]
        encoder.zero_grad()
        loss = encoder(tokens(), packed, places, tokens()[places])
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in encoder.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_the_gpus_path_computes_what_megatrons_split_does(
    build: Callable[..., Encoder], pack: Callable[..., PackedSequences]
) -> None:
    """Without Megatron-Core's split of the projection, which joins three gradients by a copy."""
    packed = pack(LENGTHS)
    x = torch.randn(sum(LENGTHS), 1, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for layer in build(hidden_size=64, num_attention_heads=2).encoder.layers[:2]:
        attention = layer.self_attention
        attention.core_attention.engine = ENGINES["torch"]
        split = attention(x, packed)
        whole, _ = attention.linear_proj(attention.core_attention.fused(attention.linear_qkv(x)[0], packed))
        torch.testing.assert_close(whole, split, rtol=1e-6, atol=1e-7)
        ours, theirs = (torch.autograd.grad(out.square().sum(), x)[0] for out in (whole, split))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_there_is_no_bias_but_the_decoders(build: Callable[..., Encoder]) -> None:
    assert [name for name, _ in build().named_parameters() if "bias" in name] == ["output_layer.bias"]


def test_the_norm_is_layer_norm_without_bias(build: Callable[..., Encoder]) -> None:
    norm = build().embedding.norm
    x = 3 + torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    centred = x.double() - x.double().mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    torch.testing.assert_close(norm(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_dropout_is_on_the_attentions_output_only(
    build: Callable[..., Encoder], pack: Callable[..., PackedSequences], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    original = dropout.keyed_dropout

    def recorded(x: torch.Tensor, rate: float, *others: Any) -> torch.Tensor:
        calls.append(rate)
        return original(x, rate, *others)

    monkeypatch.setattr(dropout, "keyed_dropout", recorded)
    encoder = build().train()
    packed, other = pack(LENGTHS), replace(pack(LENGTHS), dropout_keys=(1,))
    assert torch.equal(encoder(tokens(), packed), encoder(tokens(), packed)), "the same pack, the same masks"
    assert not torch.equal(encoder(tokens(), packed), encoder(tokens(), other)), "another pack, other masks"
    assert calls == [0.1] * 4 * 6, "once a layer"
    with torch.no_grad():
        for layer in encoder.encoder.layers:
            layer.self_attention.linear_proj.weight.zero_()
    assert torch.equal(encoder(tokens(), packed), encoder(tokens(), other)), "nothing else may be dropped"


def test_the_recipe_can_switch_dropout_off(build: Callable[..., Encoder], pack: Callable[..., PackedSequences]) -> None:
    encoder = build(attention_output_dropout=0.0).train()
    packed, other = pack(LENGTHS), replace(pack(LENGTHS), dropout_keys=(1,))
    assert torch.equal(encoder(tokens(), packed), encoder(tokens(), other))


def test_evaluation_is_deterministic(build: Callable[..., Encoder], pack: Callable[..., PackedSequences]) -> None:
    encoder = build()
    assert torch.equal(encoder(tokens(), pack(LENGTHS)), encoder(tokens(), pack(LENGTHS)))


def test_configuration(shape: Callable[..., ModelConfig]) -> None:
    config = encoder_config(shape(norm_eps=1e-6, init_std=0.03), 160_000.0, 10_000.0)
    assert config.activation_func is F.gelu, "exact, not the tanh form"
    assert not config.bias_activation_fusion, "Megatron-Core's fused GeGLU is the tanh form"
    assert (config.layernorm_epsilon, config.init_method_std, config.attention_dropout) == (1e-6, 0.03, 0.0)
    assert [config.theta_of(layer) for layer in range(4)] == [160_000.0, 10_000.0, 10_000.0, 160_000.0]
    assert output_init_std(config) == pytest.approx(0.03 / 12**0.5)
    assert config.params_dtype == torch.float32
    assert encoder_config(shape(), 1e4, 1e4, precision=PrecisionConfig(dtype="bf16")).params_dtype == torch.bfloat16


def test_bf16_is_close_to_fp32(
    build: Callable[..., Encoder], pack: Callable[..., PackedSequences], shape: Callable[..., ModelConfig]
) -> None:
    full = build(loud=False)
    narrow = Encoder(encoder_config(shape(), 1e4, 1e4, precision=PrecisionConfig(dtype="bf16")), 4096).eval()
    weights: dict[str, Any] = {name: each.bfloat16() for name, each in full.named_parameters()}
    narrow.load_state_dict(weights, strict=False)
    hidden = narrow(tokens(), pack(LENGTHS))
    assert hidden.dtype == torch.bfloat16
    torch.testing.assert_close(hidden.float(), full(tokens(), pack(LENGTHS)), rtol=0, atol=0.1)
