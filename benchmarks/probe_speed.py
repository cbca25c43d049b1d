"""Probes of texts of varied length: our packed inference against sentence-transformers with the same model.

    OMP_NUM_THREADS=2 python benchmarks/probe_speed.py --model HF_DIR --data DIR     # DIR: data of the suite local

Texts are those of the suite's tasks: sentences of Tatoeba, SIB-200's and questions of XQuAD, and XQuAD's passages, in
several languages and mixed order. Both compute the vectors of all of them, round by round in turn, and both score the
Tatoeba probe by them. Needs the extra [eval] and sentence-transformers. Writes docs/results/probe_speed.json.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import machine, save

from megatron_mmbert.eval.encoders.opening import find_model
from megatron_mmbert.eval.probes.heads import HEADS
from megatron_mmbert.eval.probes.subjects import Features
from megatron_mmbert.eval.tasks.data import TaskData
from megatron_mmbert.eval.tasks.loading import load_suite
from megatron_mmbert.kernels import fp32_matmul
from megatron_mmbert.utils.errors import UserError, run_command

MAY_DIFFER = 1e-4
LANGUAGES = {"tatoeba": ("deu", "tam", "cmn"), "sib200": ("eng_Latn", "amh_Ethi"), "xquad_retrieval": ("eng", "rus")}
Encode = Callable[[list[str]], np.ndarray]


class Asked:
    """A subject of probes that one way of encoding answers."""

    label, kind, identity = "benchmark", "model", "benchmark"
    strengths: tuple[float, ...] = (0.01,)

    def __init__(self, encode: Encode) -> None:
        self._encode = encode

    def texts(self, texts: list[str]) -> Features:
        return self._encode(texts)


def main() -> None:
    args = _arguments()
    fp32_matmul.use_fastest()
    _, tasks = load_suite("local")
    data = {task.name: TaskData(task, args.data) for task in tasks if task.name in LANGUAGES}
    texts = _texts(data, args.texts)
    ways = {"ours, packed": _ours(args.model), "sentence-transformers": _theirs(args.model)}
    found = {name: encode(texts[:64]) for name, encode in ways.items()}  # also warms both up
    difference = float(np.abs(np.subtract(*found.values())).max())
    if not difference < MAY_DIFFER:
        raise UserError(f"{args.model}: vectors differ by {difference}, so the speeds are not comparable")
    seconds = dict.fromkeys(ways, 0.0)
    for number in range(args.rounds):
        for name, encode in ways.items():
            start = time.perf_counter()
            found[name] = encode(texts)
            took = time.perf_counter() - start
            seconds[name] += took
            print(f"  round {number + 1} of {args.rounds}: {name}: {len(texts) / took:.0f} texts/s", flush=True)
    scores = {name: _tatoeba(data["tatoeba"], encode) for name, encode in ways.items()}
    figures: dict[str, Any] = {"machine": machine("torch", "transformers", "sentence-transformers")}
    figures |= {"threads": torch.get_num_threads(), "our_fp32_products": fp32_matmul.backend(), "texts": len(texts)}
    figures |= {"characters": sorted(map(len, texts))[:: max(1, len(texts) // 10)]}
    figures |= {"texts_per_s": {name: args.rounds * len(texts) / each for name, each in seconds.items()}}
    figures |= {"largest_difference": float(np.abs(np.subtract(*found.values())).max()), "tatoeba": scores}
    figures["ratio"] = seconds["sentence-transformers"] / seconds["ours, packed"]
    print(f"ours over sentence-transformers: {figures['ratio']:.2f}, differing by {figures['largest_difference']:.1e}")
    print(f"Tatoeba: {scores}\nwrote {save('probe_speed', figures)}")


def _texts(data: dict[str, TaskData], count: int) -> list[str]:
    """``count`` texts of each language of each task, passages among them, in mixed order."""
    found = []
    for name, languages in LANGUAGES.items():
        for language in languages:
            found += [row["text"] for row in data[name].examples("test", language, count)]
            if name == "xquad_retrieval":
                found += [row["text"] for row in data[name].examples("passages", language, count)]
    random.Random(0).shuffle(found)
    return found


def _tatoeba(data: TaskData, encode: Encode) -> dict[str, float]:
    """Accuracy of each language and direction."""
    head = HEADS["bitext"]
    units = head.units(data, LANGUAGES["tatoeba"], 1, "model")
    return {
        f"{language} {unit.setting}": outcome.score
        for unit in units
        for language, outcome in head.outcomes(unit, Asked(encode), data)  # type: ignore[arg-type]
    }


def _ours(folder: Path) -> Encode:
    encoder = find_model(str(folder), "packed").open("cpu", "fp32")
    return encoder.text_vectors


def _theirs(folder: Path) -> Encode:
    from sentence_transformers import SentenceTransformer

    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    model = SentenceTransformer(str(folder), device="cpu")
    return lambda texts: model.encode(texts, batch_size=32, show_progress_bar=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--data", type=Path, required=True, help="data of the suite local")
    parser.add_argument("--texts", type=int, default=100, help="texts of each language and task (100)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each (3)")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
