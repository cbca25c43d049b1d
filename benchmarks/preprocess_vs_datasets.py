"""Text to token ids on the disk with a tokenizer such as Gemma 2's: this project and `datasets.map` in turns.

    python benchmarks/preprocess_vs_datasets.py CORPUS --tokenizer TOKENIZER_JSON [--workers 2] [--rounds 3]

CORPUS is a folder of ``.jsonl`` files, made one file for both (of every n-th line with ``--every n``). Each round runs
each program on all of it and on one line, which is its start-up. All ids are compared. `datasets` must be installed;
about 5 minutes for 75 MB on two cores.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from preprocess import ids_of, map_command, run, write_sources
from results import machine, print_table, save


def commands(arguments: argparse.Namespace, source: Path, folder: Path) -> dict[str, list[str]]:
    """The command line of each program for one input file."""
    file, workers = str(arguments.tokenizer), str(arguments.workers)
    return {
        "megatron_mmbert": [
            sys.executable, "-m", "megatron_mmbert", "preprocess", "--input", str(source), "--language", "all",
            "--tokenizer", file, "--output", str(folder / "ours"), "--workers", workers,
        ],
        "datasets_map": map_command(source, arguments.tokenizer, folder, arguments.workers),
    }  # fmt: skip


def same_ids(folder: Path) -> tuple[int, int, int]:
    """Documents, tokens, and documents with the same ids."""
    ours, theirs = (ids_of(name, folder) for name in ("megatron_mmbert", "datasets_map"))
    pairs = [(ids.size, np.array_equal(ids, other)) for ids, other in zip(ours, theirs, strict=True)]
    return len(pairs), sum(size for size, _ in pairs), sum(same for _, same in pairs)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both programs in turns."""
    every = b"".join(file.read_bytes() for file in sorted(arguments.corpus.glob("*.jsonl"))).splitlines(keepends=True)
    lines = b"".join(every[:: arguments.every])
    sources = write_sources(lines, folder)
    seconds: dict[str, list[dict[str, float]]] = {}
    rows: dict[str, Any] = {"bytes": len(lines)}
    for number in range(arguments.rounds):
        took: dict[str, dict[str, float]] = {}
        for what, source in sources.items():
            made = folder / f"{what} {number}"
            made.mkdir()
            for name, command in commands(arguments, source, made).items():
                took.setdefault(name, {})[what] = run(name, command, TOKENIZERS_PARALLELISM="false")
                print(f"round {number + 1}: {name}, {what}: {took[name][what]:.1f} s", flush=True)
        for name, each in took.items():
            seconds.setdefault(name, []).append(each)
        if number == 0:
            rows["documents"], rows["tokens"], rows["documents_with_the_same_ids"] = same_ids(folder / "all 0")
        shutil.rmtree(folder / f"all {number}")
    for name, each in seconds.items():
        rows[name] = {
            "seconds": [round(one["all"], 1) for one in each],
            "start_up_seconds": [round(one["one line"], 1) for one in each],
            "tokens_per_second_with_start_up": round(rows["tokens"] / statistics.median(one["all"] for one in each)),
        }
    pairs = list(zip(seconds["megatron_mmbert"], seconds["datasets_map"], strict=True))
    rows["megatron_mmbert_is_faster_by_with_start_up"] = [round(map_["all"] / ours["all"], 2) for ours, map_ in pairs]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, metavar="N")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preprocess-") as folder:
        rows = measure(arguments, Path(folder))
    command = "python benchmarks/preprocess_vs_datasets.py CORPUS --tokenizer TOKENIZER_JSON"
    about = machine("tokenizers", "transformers", "datasets", "numpy")
    path = save("preprocess_vs_datasets", {"command": command, "machine": about, "workers": arguments.workers, **rows})
    print_table([(name, str(row)) for name, row in rows.items()])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
