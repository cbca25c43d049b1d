"""The trainer on the GPU: what it learns in each precision, no wait of the host on the way, a checkpoint and back."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import gpu_training
import pytest
import torch
from gpu_packs import packed, samples_of_pack
from gpu_scale import SMOKE

from megatron_mmbert.checkpoint import training_state as checkpoints
from megatron_mmbert.kernels import fp8
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.train.resume import fresh_meta
from megatron_mmbert.train.step import Training, packed_params, training_step

TOKENS = 1024


@pytest.mark.parametrize("scaling", fp8.SCALINGS)
def test_fp8_learns_what_bf16_does(runtime: Runtime, device: str, scaling: str) -> None:
    """Mean loss of the last fifty of 300 steps within 1 %."""
    if reason := fp8.fp8_unsupported_reason(scaling):
        pytest.skip(reason)
    scale = dataclasses.replace(SMOKE, device=device, learning_steps=300, learning_tokens=2048)
    reference = gpu_training.losses(scale, "base")
    found = gpu_training.losses(scale, "base", fp8=scaling, fp8_linear_layers=gpu_training.ALL_LINEARS)
    assert found["mean_of_last"] == pytest.approx(reference["mean_of_last"], rel=0.01)
    assert reference["mean_of_last"] < 0.97 * reference["losses"][0], "nothing was learned, so nothing is compared"
    assert found["losses"] != reference["losses"], "nothing was computed in FP8"


def test_the_host_never_waits_within_a_pass(build: Callable[..., Encoder], device: str) -> None:
    # By name: the engine that is fastest at this size may be one that reads lengths on the host.
    engine = "varlen" if device == "cuda" else "auto"
    encoder = build(attention_local=engine, attention_global=engine).train()
    batches = [packed(samples_of_pack(seed, TOKENS, 256, 2048, 0.3), seed, 300).to(device) for seed in range(3)]
    for number, batch in enumerate(batches):
        if number == 2 and device == "cuda":  # the first two compile
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            loss = encoder(batch.tokens_T, packed_params(batch), batch.masked_index_K, batch.label_K)
            loss.backward()
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss)


def test_the_host_waits_only_where_a_step_has_to(runtime: Runtime, device: str) -> None:
    """For the loss, for the check that the gradients are finite, and where Megatron-Core divides by the token count."""
    if device != "cuda":
        pytest.skip("a CPU waits for nothing")
    scale = dataclasses.replace(SMOKE, device=device)
    recipe = gpu_training.recipe_of(
        scale, "base", 1024, TOKENS, {"attention_local": "varlen", "attention_global": "varlen"}
    )
    packs = [gpu_training.pack_of(scale, "base", 1024, number, False, TOKENS) for number in range(2)]
    with gpu_training.trained(recipe) as (training, phase), warnings.catch_warnings(record=True) as waits:
        for _ in range(2):  # the first step compiles
            training_step(training, packs, phase.lr, phase, 0.0, recipe.seed)
        torch.cuda.synchronize()
        waits.clear()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        training_step(training, packs, phase.lr, phase, 0.0, recipe.seed)
        torch.cuda.set_sync_debug_mode("default")
    assert len([each for each in waits if "synchronizing CUDA operation" in str(each.message)]) <= 3


def test_a_checkpoint_goes_on_as_the_run_would(runtime: Runtime, device: str, tmp_path: Path) -> None:
    scale = dataclasses.replace(SMOKE, device=device)
    recipe = gpu_training.recipe_of(scale, "base", 1024, TOKENS, {})

    def losses(training: Training, numbers: range) -> list[float]:
        packs = [gpu_training.pack_of(scale, "base", 1024, number, False, TOKENS) for number in numbers]
        phase = recipe.phases[0]
        return [training_step(training, [pack], phase.lr, phase, 0.0, recipe.seed) for pack in packs]

    path = tmp_path / "step-3"
    with gpu_training.trained(recipe) as (training, phase):
        losses(training, range(3))
        checkpoints.save(path, fresh_meta(recipe, phase), training.encoders, training.optimizer)
        kept = [parameter.detach().clone() for parameter in training.encoders[0].parameters()]
        expected = losses(training, range(3, 6))
    with gpu_training.trained(recipe) as (training, _):
        checkpoints.load(path, training.encoders, training.optimizer)
        assert all(map(torch.equal, training.encoders[0].parameters(), kept)), "the weights are not those saved"
        found = losses(training, range(3, 6))
    assert found == pytest.approx(expected, rel=1e-3)
