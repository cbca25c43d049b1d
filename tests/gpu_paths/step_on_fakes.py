"""One training step of mmBERT-base on a GPU that is not there, as JSON.

    python tests/gpu_paths/step_on_fakes.py              # packs of 64k tokens at 1,024, of 128k at 8,192
    python tests/gpu_paths/step_on_fakes.py --table      # writes step_table.json beside this file anew

The trainer's own step, from the model's first layer to the optimizer, over one pack: kernels and bytes of their
operands by operation, the times that the host waits, and the most memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parents[1] / "benchmarks")]

from support.fake_cuda import Recorder, compiled_by, fake_cuda  # noqa: E402

TABLE = HERE / "step_table.json"


class Case(NamedTuple):
    """A pack of samples of ``length`` tokens each."""

    tokens: int
    length: int
    ratio: float
    dropout: float = 0.0


CASES = {"1024": Case(65_536, 1024, 0.3), "8192": Case(131_072, 8192, 0.15, dropout=0.1)}


def measure(case: Case, recorder: Recorder) -> dict[str, Any]:
    """Return what a step over one pack costs."""
    from gpu_packs import packed, samples_of_pack

    from megatron_mmbert.optim.optimizer import initialize_states
    from megatron_mmbert.train.step import build_training, training_step

    recorder.reset()
    recipe = _recipe(case)
    phase = recipe.phases[0]
    samples = samples_of_pack(0, case.tokens, case.length, recipe.model.vocab_size, case.ratio, True)
    pack = packed(samples, 0, round(case.ratio * case.tokens))
    with fake_cuda(recorder) as mode:
        pack = type(pack)(**vars(pack) | {name: mode.from_tensor(value) for name, value in pack._tensors().items()})
        training = build_training(recipe, phase, lambda encoder, seed: None)
        initialize_states(training.optimizer.stable_adamw)  # else the first step would have none until it ends
        recorder.peak = recorder.live
        training_step(training, [pack], 1e-4, phase, 0.0, 1)
        training.gradients.finite()
    passed = recorder.totals("pass")
    return {
        "kernels": passed.kernels,
        "gigabytes": round(passed.bytes / 1e9, 2),
        "teraflops": round(passed.flops / 1e12, 2),
        "peak_bytes": recorder.peak,
        "waits": list(recorder.waits),
        "operations": {stage: recorder.table(stage) for stage in ("pass", "gradient sum", "update")},
    }


def on_a_gpu_that_is_not_there() -> Recorder:
    """Return the recorder of this process from now on."""
    from megatron_mmbert import parallel

    recorder = Recorder()
    _stand_in(recorder)
    parallel.enable_cpu_mode()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    parallel.start(seed=1)
    return recorder


def _stand_in(recorder: Recorder) -> None:
    """Put stand-ins in the place of what asks a device, before the modules that use them are imported."""
    from megatron_mmbert.kernels import compiled

    compiled.compiled_for_any_length = compiled_by(recorder)
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    from megatron_mmbert.attention import Request
    from megatron_mmbert.model import layers
    from megatron_mmbert.model.encoder import Encoder
    from megatron_mmbert.model.memory_saving import chunked_cross_entropy
    from megatron_mmbert.optim import optimizer, stable_adamw

    for limits in (
        chunked_cross_entropy.BYTES_OF_LOGITS,
        chunked_cross_entropy.SCRATCH_ELEMENTS,
        stable_adamw.SCRATCH_ELEMENTS,
    ):
        limits["cpu"] = limits["cuda"]  # fake tensors give their device as "cpu", though not as is_cpu
    layers._request = lambda config, window: Request(
        "cuda", config.params_dtype, 64, window, True, config.sample_tokens
    )
    Encoder.to = lambda self, device: self  # type: ignore[assignment, method-assign]
    CudaRNGStatesTracker.fork = lambda self, name=None: contextlib.nullcontext()  # type: ignore[method-assign]
    optimizer.names_of_all_stages = lambda names: sorted(set(names))
    _stages(recorder)
    for name in ("all_reduce", "broadcast", "barrier"):
        setattr(dist, name, lambda *_, **__: None)


def _stages(recorder: Recorder) -> None:
    """Have the recorder know whether the step is in the pass over its pack, or past it."""
    from megatron_mmbert.resilience import progress_marker
    from megatron_mmbert.train import gradient_monitor, step

    def enter(stage: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            recorder.stage = stage
            return function(*arguments, **options)

        return call

    progress_marker.mark = lambda stage, number=None: setattr(recorder, "stage", stage.name.lower().replace("_", " "))
    step._forward = enter("pass", step._forward)
    monitor = gradient_monitor.GradientMonitor
    monitor.look = enter("gradient sum", monitor.look)  # type: ignore[method-assign]


def _recipe(case: Case) -> Any:
    from megatron_mmbert.config.recipe import Recipe

    phase = {
        "name": "one",
        "tokens": 10**9,
        "mask_ratio": case.ratio,
        "max_length": case.length,
        "lr": 5e-4,
        "batch": {"tokens_per_step": case.tokens, "tokens_per_micro_batch": case.tokens},
    }
    return Recipe.model_validate(
        {
            "name": "base",
            "model": {"attention_output_dropout": case.dropout},
            "tokenizer": {"path": "none"},
            "data": {"stores": ["none"]},
            "phases": [phase],
            "precision": {"dtype": "bf16", "attention_local": "varlen", "attention_global": "varlen"},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--table", action="store_true", help="write step_table.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recorder = on_a_gpu_that_is_not_there()
    found = {name: measure(CASES[name], recorder) for name in given.cases}
    if given.table:
        kept = {name: found["1024"][name] for name in ("kernels", "gigabytes", "teraflops", "operations")}
        TABLE.write_text(_as_text(kept))
    print(json.dumps(found))


def _as_text(kept: dict[str, Any]) -> str:
    """Return JSON with an operation a line."""
    text = json.dumps({"torch": torch.__version__.split("+")[0], **kept}, indent=1)
    return re.sub(r"\[\s+([\d.]+),\s+([\d.]+)\s+\]", r"[\1, \2]", text) + "\n"


if __name__ == "__main__":
    main()
