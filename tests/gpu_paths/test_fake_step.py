"""A whole training step of mmBERT-base on fake CUDA tensors: waits, kernels, bytes of operands, and memory.

The counts are compared with ``step_table.json``; what makes them smaller writes the table anew (see step_on_fakes.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.plan.memory import rank_memory
from megatron_mmbert.plan.parallel_layout import ParallelLayout

HERE = Path(__file__).parent
TABLE = json.loads((HERE / "step_table.json").read_text())


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """By case: packs of 64k tokens at 1,024 and a ratio of 0.3; of 128k at 8,192 and 0.15, with dropout."""
    command = [sys.executable, "-W", "ignore", str(HERE / "step_on_fakes.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    cases: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return cases


@pytest.mark.parametrize("case", ["1024", "8192"])
def test_the_host_never_waits_in_a_pass_and_three_times_a_step(found: dict[str, Any], case: str) -> None:
    """Megatron-Core asks whether any token counts; the loss is read; and whether the gradients are finite."""
    assert found[case]["waits"] == [
        ["gradient sum", "_local_scalar_dense"],
        ["gradient sum", "tolist"],
        ["update", "_local_scalar_dense"],
    ]


@pytest.mark.parametrize("stage", ["pass", "gradient sum", "update"])
def test_no_operation_takes_more_kernels_or_bytes(found: dict[str, Any], stage: str) -> None:
    known, now = TABLE["operations"][stage], found["1024"]["operations"][stage]
    grown = {
        name: f"{known.get(name, [0, 0.0])} -> {[kernels, gigabytes]}"
        for name, (kernels, gigabytes) in now.items()
        if kernels > known.get(name, [0, 0.0])[0] or gigabytes > 1.001 * known.get(name, [0, 0.0])[1] + 0.01
    }
    assert not grown, "kernels and GB of these operations grew; if others shrank for it, write the table anew"


def test_the_totals_are_those_of_the_table(found: dict[str, Any]) -> None:
    """Also where they shrink: the next growth is to be seen."""
    kept = {name: TABLE[name] for name in ("kernels", "gigabytes", "teraflops")}
    assert {name: found["1024"][name] for name in kept} == pytest.approx(kept, rel=0.005), (
        "write the table anew with step_on_fakes.py --table"
    )


@pytest.mark.parametrize(
    ("case", "tokens", "ratio", "dropout"), [("1024", 65_536, 0.3, 0.0), ("8192", 131_072, 0.15, 0.1)]
)
def test_memory_is_what_the_plan_says(
    found: dict[str, Any], case: str, tokens: int, ratio: float, dropout: float
) -> None:
    planned = rank_memory(
        ModelConfig(attention_output_dropout=dropout), ParallelLayout(micro_tokens=tokens, scored=ratio), 0
    )
    assert found[case]["peak_bytes"] == pytest.approx(planned.peak, rel=0.02)
