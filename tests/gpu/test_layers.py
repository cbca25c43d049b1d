"""Transformer Engine's layers beside the torch spec's, in BF16 and FP8: the same function, names and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_packs import packed, samples_of_pack
from torch import Tensor

from megatron_mmbert.checkpoint import training_state as checkpoints
from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.kernels import fp8
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import logical_parameters
from megatron_mmbert.train.step import packed_params

TOKENS = 1024
LINEARS = ["qkv", "proj", "fc1", "fc2"]
Build = Callable[..., Encoder]


@pytest.fixture(params=["te", *fp8.SCALINGS])
def te(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The precision section of Transformer Engine's layers, by kind."""
    kind: str = request.param
    reason = fp8.te_unsupported_reason() if kind == "te" else fp8.fp8_unsupported_reason(kind)
    if reason:
        pytest.skip(reason)
    return {"layers": "te"} if kind == "te" else {"fp8": kind, "fp8_linear_layers": LINEARS}


def loss_and_gradients(encoder: Encoder, device: str, passes: int = 1) -> tuple[Tensor, list[Tensor]]:
    """In training, of the last of ``passes`` (delayed scales are found in the first)."""
    batch = packed(samples_of_pack(0, TOKENS, 256, 2048, 0.3), 0, 300).to(device)
    encoder.train()
    for _ in range(passes):
        encoder.zero_grad()
        loss = encoder(batch.tokens_T, packed_params(batch), batch.masked_index_K, batch.label_K) / 300
        loss.backward()
    return loss.detach(), [parameter.grad.float().flatten() for parameter in encoder.parameters()]


def cosine(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return torch.nn.functional.cosine_similarity(torch.cat(ours), torch.cat(theirs), dim=0).item()


def test_the_torch_specs_gradients_in_bf16_are_those_of_fp32(build: Build, device: str) -> None:
    """What the comparisons below stand on."""
    narrow, wide = build(), build(dtype="fp32")
    (our_loss, ours), (their_loss, theirs) = (loss_and_gradients(each, device) for each in (narrow, wide))
    torch.testing.assert_close(our_loss.float(), their_loss, rtol=5e-3, atol=0)
    assert cosine(ours, theirs) >= 0.995


def test_loss_and_gradients(build: Build, device: str, te: dict[str, Any]) -> None:
    in_fp8 = "fp8" in te
    (our_loss, ours), (their_loss, theirs) = (loss_and_gradients(build(**p), device, passes=3) for p in (te, {}))
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-2, atol=0)
    assert cosine(ours, theirs) >= (0.99 if in_fp8 else 0.999)
    if in_fp8:
        assert not all(map(torch.equal, ours, theirs)), "nothing was computed in FP8"


def test_only_the_chosen_linears_run_in_fp8(build: Build, device: str) -> None:
    if reason := fp8.fp8_unsupported_reason("current"):
        pytest.skip(reason)
    encoder = build(fp8="current", fp8_linear_layers=["fc1"])
    loss_and_gradients(encoder, device)
    layer = encoder.encoder.layers[1]
    used = {"qkv": layer.self_attention.linear_qkv, "proj": layer.self_attention.linear_proj}
    used |= {"fc1": layer.mlp.linear_fc1, "fc2": layer.mlp.linear_fc2}
    assert {name for name, each in used.items() if each.fp8_meta["fp8_checkpoint"] or each.fp8_initialized} == {"fc1"}


def test_scoring_is_in_bf16_and_takes_any_number_of_tokens(build: Build, device: str, te: dict[str, Any]) -> None:
    batch = packed(samples_of_pack(1, 1021, 256, 2048, 0.3), 0, 300).to(device)
    with torch.no_grad():
        hidden = [build(**p).eval()(batch.tokens_T, packed_params(batch)).float() for p in (te, {})]
    torch.testing.assert_close(*hidden, rtol=2e-2, atol=2e-2)


def test_checkpoints_are_the_same(
    build: Build, device: str, te: dict[str, Any], model: ModelConfig, tmp_path: Path
) -> None:
    saved = build(**te)
    loss_and_gradients(saved, device)
    meta = CheckpointMeta(model=model, rope_theta=1e4, rope_theta_local=1e4, max_length=1024)
    checkpoints.save(tmp_path / "step-1", meta, saved, None)
    other = build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    checkpoints.load(tmp_path / "step-1", other, None)
    ours, theirs = dict(logical_parameters(saved)), dict(logical_parameters(other))
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        assert torch.equal(parameter, theirs[name]), name
    checkpoints.load(tmp_path / "step-1", build(**te), None)
