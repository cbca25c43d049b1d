"""Text to token ids on the disk with a tokenizer such as Gemma 2's: this project and `datasets.map` in turns.

    python benchmarks/preprocess_vs_datasets.py CORPUS --tokenizer TOKENIZER_JSON [--workers 2] [--rounds 3]

CORPUS is a folder of ``.jsonl`` files, made one file for both (of every n-th line with ``--every n``). Each round runs
each program on all of it and on one line, which is its start-up. All ids are compared. `datasets` must be installed;
about 5 minutes for 75 MB on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import machine, print_table, save

from megatron_mmbert.data.store.reader import Store

ROOT = Path(__file__).resolve().parents[1]
_MAP = """
import sys
from datasets import load_dataset
from transformers import PreTrainedTokenizerFast
source, file, output, workers = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast(tokenizer_file=file)
tokenizer.backend_tokenizer.encode_special_tokens = True  # "<bos>" in a document is text
def encode(batch):
    ids = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)
    return {"input_ids": ids["input_ids"]}
data = load_dataset("json", data_files=source, split="train", cache_dir=output + "/cache")
data = data.map(encode, batched=True, num_proc=int(workers), remove_columns=data.column_names)
data.save_to_disk(output + "/made")
"""


def commands(arguments: argparse.Namespace, source: Path, folder: Path) -> dict[str, list[str]]:
    """The command line of each program for one input file."""
    file, workers = str(arguments.tokenizer), str(arguments.workers)
    return {
        "megatron_mmbert": [
            sys.executable, "-m", "megatron_mmbert", "preprocess", "--input", str(source), "--language", "all",
            "--tokenizer", file, "--output", str(folder / "ours"), "--workers", workers,
        ],
        "datasets_map": [sys.executable, "-c", _MAP, str(source), file, str(folder / "map"), workers],
    }  # fmt: skip


def run(command: list[str]) -> float:
    """Seconds that a command takes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def same_ids(folder: Path) -> tuple[int, int, int]:
    """Documents, tokens, and documents with the same ids."""
    from datasets import load_from_disk

    store = Store.open(folder / "ours")
    lengths = store.document_lengths("corpus", "all").tolist()
    same = sum(
        np.array_equal(store.tokens("corpus", "all", document, 0, length), row["input_ids"])
        for document, (length, row) in enumerate(zip(lengths, load_from_disk(str(folder / "map/made")), strict=True))
    )
    return len(lengths), sum(lengths), same


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both programs in turns."""
    every = b"".join(file.read_bytes() for file in sorted(arguments.corpus.glob("*.jsonl"))).splitlines(keepends=True)
    lines = b"".join(every[:: arguments.every])
    sources = {"one line": folder / "one.jsonl", "all": folder / "all.jsonl"}
    sources["all"].write_bytes(lines)
    sources["one line"].write_bytes(lines[: lines.index(b"\n") + 1])
    seconds: dict[str, list[dict[str, float]]] = {}
    rows: dict[str, Any] = {"bytes": len(lines)}
    for number in range(arguments.rounds):
        took: dict[str, dict[str, float]] = {}
        for what, source in sources.items():
            made = folder / f"{what} {number}"
            made.mkdir()
            for name, command in commands(arguments, source, made).items():
                took.setdefault(name, {})[what] = run(command)
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
    folder = Path(tempfile.mkdtemp(prefix="preprocess-"))
    try:
        rows = measure(arguments, folder)
    finally:
        shutil.rmtree(folder)
    command = "python benchmarks/preprocess_vs_datasets.py CORPUS --tokenizer TOKENIZER_JSON"
    about = machine("tokenizers", "transformers", "datasets", "numpy")
    path = save("preprocess_vs_datasets", {"command": command, "machine": about, "workers": arguments.workers, **rows})
    print_table([(name, str(row)) for name, row in rows.items()])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
