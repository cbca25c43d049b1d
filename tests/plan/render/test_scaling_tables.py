"""``tools/plan_run.py --gpu`` as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

TOOL = ROOT / "tools/plan_run.py"
TWO_PACKS = "phases.pretrain.batch={tokens_per_step: 8192, tokens_per_pack: 4096}"


def plan(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: mine\npreset: mmbert_base-paper\ntokenizer: {path: none}\ndata: {stores: [none]}\n")
    return subprocess.run([sys.executable, str(TOOL), str(path), *options], capture_output=True, text=True, timeout=120)


def test_a_preset_scales_by_data_parallelism_alone(tmp_path: Path) -> None:
    figure_file = tmp_path / "scaling.png"
    done = plan(tmp_path, "--gpus", "32", "--gpu", "h100", "--mfu", "0.4", "--scaling-plot", str(figure_file))
    assert done.returncode == 0, done.stderr
    assert figure_file.read_bytes()[:4] == b"\x89PNG" and f"wrote {figure_file}" in done.stdout
    assert "layout chosen for 32 h100: tp 1, pp 1, dp 32" in done.stdout and "not legal for so many" not in done.stdout
    assert "between nodes" in done.stdout
    assert "a step of 1152 packs, 96 at the ramp's start, bounds" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--gpu", "h10", "--mfu", "0.4"), "--gpu h10: no known kind (did you mean 'h100'?)"),
        (("--gpu", "h100"), "--gpu h100: needs a speed"),
        (("--gpus", "7", "--gpu", "h100", "--mfu", "0.4", TWO_PACKS), "--gpus 7: no layout of h100 is legal"),
        (("--link-bandwidth", "5"), "--link-bandwidth: belongs to a kind"),
        (("--scaling-plot", "a.png"), "--scaling-plot a.png: shows a kind of GPU; give --gpu too"),
        (("--gpu", "h100", "--mfu", "0.4", "--scaling-plot", "a.pdf"), "a.pdf: name a file that ends in .png"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = plan(tmp_path, *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and said in done.stderr
