"""Made-up run folders, as training writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

# name: (origin, tokens, mask ratio, temperature, loss at the end)
_PHASES: dict[str, tuple[str | None, int, float, float, float]] = {
    "pretrain": (None, 2_000_000, 0.30, 0.7, 4.2),
    "midtrain": ("pretrain", 600_000, 0.15, 0.5, 3.4),
    "decay_eng": ("midtrain", 300_000, 0.05, 0.3, 3.1),
    "decay_all": ("midtrain", 300_000, 0.05, 0.3, 3.0),
}
RunMaker = Callable[..., Path]


def language_names(count: int) -> list[str]:
    return [f"{chr(97 + n // 26 % 26)}{chr(97 + n % 26)}{chr(97 + n // 676)}_Latn" for n in range(count)]


def write_metrics(folder: Path, phase: str, steps: int) -> None:
    origin, tokens, mask_ratio, temperature, end = _PHASES[phase]
    before = _tokens_until(origin)
    noise = np.random.default_rng(len(phase)).normal(0, 0.1, steps)
    lines = []
    for step in range(1, steps + 1):
        seen = tokens * step // steps
        values = {"phase": phase, "step": step, "phase_tokens": seen, "goal_tokens": tokens}
        values |= {"total_tokens": before + seen, "loss": end + 5 * 0.9**step + noise[step - 1], "lr": 1e-3}
        values |= {"mask_ratio": mask_ratio, "temperature": temperature, "seconds": 1.0}
        lines.append(json.dumps(values) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))


def _tokens_until(origin: str | None) -> int:
    return _PHASES[origin][1] + _tokens_until(_PHASES[origin][0]) if origin else 0


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """``make_run({"pretrain": languages, ...}, steps=50)``: a run's folder with these phases, in no recipe's words."""

    def make(trained: dict[str, Sequence[str]], steps: int = 50) -> Path:
        output = tmp_path / "myrun"
        everything = sorted({language for languages in trained.values() for language in languages})
        level = {language: 3.0 + number / len(everything) for number, language in enumerate(everything)}
        for phase, languages in trained.items():
            folder = output / phase
            folder.mkdir(parents=True)
            write_metrics(folder, phase, steps)
            weight = {language: 1 / (number + 2) for number, language in enumerate(languages)}
            total = sum(weight.values())
            rows = [
                {"source": "web", "language": name, "share": w / total, "tokens": 1000 * w, "samples": 1, "epochs": 2}
                for name, w in weight.items()
            ]
            (folder / "mixture.json").write_text(json.dumps(rows))
            after = {name: value * (0.8 if name in languages else 0.95) for name, value in level.items()}
            (folder / "bits_per_byte.json").write_text(json.dumps({"before": level, "after": after}))
            level = level if phase.startswith("decay") else after
        return output

    return make
