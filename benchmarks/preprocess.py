"""Text to token ids on the disk: this project, Megatron-LM's script and `datasets.map`, on the same text and cores.

    python benchmarks/preprocess.py CORPUS --tokenizer DIR --megatron MEGATRON_LM [--workers 2]

CORPUS is a folder of ``.jsonl`` files, made one file for all three; DIR comes from tools/train_tokenizer.py. All ids
are compared. Each program runs on one line and on all: the difference is its processing time without start-up. The
Megatron-LM of today needs `triton`, and Python 3.12 for one name of `typing`, which is lent to it on 3.11; the map
needs `datasets`. About 3 minutes for 75 MB on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from results import machine, print_table, save

from megatron_mmbert.data.store.index_format import indexed_dataset
from megatron_mmbert.data.store.reader import Store

ROOT = Path(__file__).resolve().parents[1]
_LENT_NAME = """
import runpy, sys, typing, typing_extensions
typing.override = typing_extensions.override
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_MAP = """
import sys
from datasets import load_dataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast
source, path, output, workers = sys.argv[1:]
of_file = path.endswith(".json")
tokenizer = PreTrainedTokenizerFast(tokenizer_file=path) if of_file else AutoTokenizer.from_pretrained(path)
tokenizer.backend_tokenizer.encode_special_tokens = True  # "<unk>" in a document is text
def encode(batch):
    ids = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)
    return {"input_ids": ids["input_ids"]}
data = load_dataset("json", data_files=source, split="train", cache_dir=output + "/cache")
data = data.map(encode, batched=True, num_proc=int(workers), remove_columns=data.column_names)
data.save_to_disk(output + "/made")
"""


def commands(arguments: argparse.Namespace, source: Path, folder: Path) -> dict[str, list[str]]:
    """The command line of each program for one input file."""
    python, workers = sys.executable, str(arguments.workers)
    script = arguments.megatron / "tools" / "preprocess_data.py"
    model = arguments.tokenizer / "tokenizer.model"
    return {
        "megatron_mmbert": [
            python, str(ROOT / "tools" / "preprocess_data.py"), "--input", str(source), "--language", "all",
            "--tokenizer", str(arguments.tokenizer), "--output", str(folder / "ours"), "--workers", workers,
        ],
        "megatron_lm": [
            python, "-c", _LENT_NAME, str(script), "--input", str(source), "--output-prefix", str(folder / "lm"),
            "--tokenizer-type", "SentencePieceTokenizer", "--tokenizer-model", str(model), "--workers", workers,
            "--log-interval", "1000000",
        ],
        "datasets_map": map_command(source, arguments.tokenizer, folder, arguments.workers),
    }  # fmt: skip


def map_command(source: Path, tokenizer: Path, folder: Path, workers: int) -> list[str]:
    """The command line of `datasets.map`; ``tokenizer``: a folder, or a tokenizer.json."""
    return [sys.executable, "-c", _MAP, str(source), str(tokenizer), str(folder / "map"), str(workers)]


def write_sources(lines: bytes, folder: Path) -> dict[str, Path]:
    """Write the input files: one line, which is a program's start-up, and all of them."""
    sources = {"one line": folder / "one.jsonl", "all": folder / "all.jsonl"}
    sources["all"].write_bytes(lines)
    sources["one line"].write_bytes(lines[: lines.index(b"\n") + 1])
    return sources


def run(name: str, command: list[str], code: Path = ROOT, **settings: str) -> float:
    """Seconds that a command takes, with the packages below ``code`` and more ``settings`` in its environment."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", **settings}
    environment["PYTHONPATH"] = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def ids_of(name: str, folder: Path) -> Iterator[np.ndarray]:
    """The ids of each document that a program made."""
    if name == "megatron_mmbert":
        store = Store.open(folder / "ours")
        for document, length in enumerate(store.document_lengths("corpus", "all").tolist()):
            yield store.tokens("corpus", "all", document, 0, length)
    elif name == "megatron_lm":
        made = indexed_dataset().IndexedDataset(str(folder / "lm_text_document"))
        for document in range(len(made)):
            yield made[document]
    else:
        from datasets import load_from_disk

        for row in load_from_disk(str(folder / "map" / "made")):
            yield np.array(row["input_ids"])


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All three programs on one line and on everything."""
    lines = b"".join(file.read_bytes() for file in sorted(arguments.corpus.glob("*.jsonl")))
    seconds: dict[str, dict[str, float]] = {}
    for what, source in write_sources(lines, folder).items():
        for name, command in commands(arguments, source, folder / what).items():
            (folder / what).mkdir(exist_ok=True)
            seconds.setdefault(name, {})[what] = run(
                name, command, arguments.megatron if name == "megatron_lm" else ROOT
            )
            print(f"{name}, {what}: {seconds[name][what]:.1f} s", flush=True)
    ours = list(ids_of("megatron_mmbert", folder / "all"))
    tokens = sum(map(len, ours))
    rows: dict[str, Any] = {"documents": len(ours), "tokens": tokens, "bytes": len(lines)}
    for name, took in seconds.items():
        same = [np.array_equal(a, b) for a, b in zip(ours, ids_of(name, folder / "all"), strict=True)]
        processing = took["all"] - took["one line"]
        rows[name] = {
            "seconds": round(took["all"], 2),
            "start_up_seconds": round(took["one line"], 2),
            "tokens_per_second": round(tokens / processing),
            "tokens_per_second_with_start_up": round(tokens / took["all"]),
            "documents_with_the_same_ids": sum(same),
        }
    for name in ("megatron_lm", "datasets_map"):
        ratio = rows["megatron_mmbert"]["tokens_per_second"] / rows[name]["tokens_per_second"]
        rows[name]["megatron_mmbert_is_faster_by"] = round(ratio, 2)
        whole = seconds[name]["all"] / seconds["megatron_mmbert"]["all"]
        rows[name]["megatron_mmbert_is_faster_by_with_start_up"] = round(whole, 2)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--megatron", type=Path, required=True, help="a checkout of Megatron-LM")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preprocess-") as folder:
        rows = measure(arguments, Path(folder))
    command = "python benchmarks/preprocess.py CORPUS --tokenizer DIR --megatron MEGATRON_LM"
    about = machine("sentencepiece", "tokenizers", "transformers", "datasets", "numpy")
    path = save("preprocess", {"command": command, "machine": about, "workers": arguments.workers, **rows})
    print_table([(name, json.dumps(row)) for name, row in rows.items()])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
