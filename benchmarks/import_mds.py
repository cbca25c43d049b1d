"""Importing MDS shards beside reading the same shards through MosaicML's ``StreamingDataset``: tokens a second, memory.

    python benchmarks/import_mds.py --tokenizer gemma2/tokenizer.json --peer .venv/bin/python-mosaicml

MosaicML's writer makes one shard of random ids of the tokenizer, in samples of at most 1,024 as mmBERT's first phase
has them; the sets are copies of it, as so many languages. In turns: the command on one shard and on the small set,
checks and a synced store included, of which the difference counts (loading Gemma's tokenizer takes seconds); and the
dataset for ``--seconds`` in a process that is warm, read as for training (``for sample in dataset``) and by number
(``dataset[i]``). Memory is that of all processes of an import together: *RSS* counts a page that two share twice, *PSS*
once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

FOLDER = "000_00000-tokenized-chunked-1024-512-32-backfill-nodups"
CODES = (
    "afr ben bul cat ces dan deu ell eng eus fao fin fra gle glg heb hin hrv hun hye ind isl ita jpn kat kaz kor lit "
    "mar mkd nld pol por ron rus slk slv spa srp swe tam tel tha tur ukr urd vie"
).split()
MAX_LENGTH = 1024
RATES = ("import_mds", "import_mds_with_start_up", "iterated", "by_number")


def write_shard(out: Path, vocab_size: int) -> int:
    """Write a full shard with MosaicML's writer, in its Python; returns its tokens."""
    np, streaming = peer_modules()
    pick = np.random.default_rng(0)
    columns = {"id": "str", "input_ids": "ndarray:uint32", "len": "int"}
    tokens = number = 0
    with streaming.MDSWriter(out=str(out), columns=columns, size_limit=None) as writer:
        while 4 * tokens < 64 << 20:
            length = int(min(MAX_LENGTH, max(32, pick.lognormal(6.3, 1.0))))
            ids = pick.integers(300, vocab_size, length).astype(np.uint32)
            ids[0], ids[-1] = 2, 1
            writer.write({"id": f"document-{number}", "input_ids": ids, "len": length})
            tokens, number = tokens + length, number + 1
    return tokens


def read_shards(folder: Path, seconds: float, by_number: bool) -> dict[str, float]:
    """Read with MosaicML's dataset, in its Python, for ``seconds`` or all that there is."""
    _, streaming = peer_modules()
    dataset = streaming.StreamingDataset(local=str(folder), shuffle=False, batch_size=1)
    samples = (dataset[number] for number in range(len(dataset))) if by_number else iter(dataset)
    tokens, start = next(samples)["input_ids"].size, time.perf_counter()
    for sample in samples:
        tokens += sample["input_ids"].size
        if time.perf_counter() - start > seconds:
            break
    return {"tokens": tokens, "seconds": time.perf_counter() - start}


def peer_modules() -> tuple[Any, Any]:
    """NumPy and streaming, without its parts that need torchvision."""
    for unused in ("vision", "multimodal", "text"):
        sys.modules[f"streaming.{unused}"] = types.ModuleType(unused)
    import numpy
    import streaming

    return numpy, streaming


def ask(peer: Path, *arguments: object) -> Any:
    """What this script says when MosaicML's Python runs it."""
    command = [str(peer), "-W", "ignore", __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def copies(shard: Path, folder: Path, count: int) -> Path:
    """``count`` languages of one shard each."""
    for code in CODES[:count]:
        shutil.copytree(shard, folder / "fineweb2" / f"{code}_Latn" / FOLDER)
    return folder


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the sets, then let both programs have their turns."""
    from preprocess_memory import measure

    from megatron_mmbert.tokenizer.load import load_tokenizer

    vocab_size = load_tokenizer(arguments.tokenizer).vocab_size
    tokens = ask(arguments.peer, "--write", folder / "shard", vocab_size)
    one = copies(folder / "shard", folder / "one", 1)
    small = copies(folder / "shard", folder / "small", arguments.small)
    command = [sys.executable, "-m", "megatron_mmbert", "import-mds", "--tokenizer", str(arguments.tokenizer)]
    command += ["--workers", str(arguments.workers), "--overwrite", "--output", str(folder / "store"), "--input"]
    turns = []
    for _ in range(arguments.turns):
        start, ours = (measure([*command, str(shards)]) for shards in (one, small))
        theirs = {
            name: ask(arguments.peer, "--read", folder / "shard", arguments.seconds, flag)
            for name, flag in (("iterated", 0), ("by_number", 1))
        }
        rates = {name: read["tokens"] / read["seconds"] for name, read in theirs.items()}
        rates["import_mds"] = (arguments.small - 1) * tokens / (ours["seconds"] - start["seconds"])
        rates["import_mds_with_start_up"] = arguments.small * tokens / ours["seconds"]
        memory = {"peak_rss_MB": ours["peak_rss_MB"], "peak_pss_MB": ours["peak_pss_MB"]}
        turns.append({name: round(rate) for name, rate in rates.items()} | memory)
        print(turns[-1], flush=True)
    shutil.rmtree(small)
    large = measure([*command, str(copies(folder / "shard", folder / "large", arguments.large))])
    return summary(turns) | {
        "small_set": {"shards": arguments.small, "tokens": arguments.small * tokens},
        "large_set": {"shards": arguments.large, "tokens": arguments.large * tokens, **large},
        "turns": turns,
    }


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The middle of what the turns gave."""
    middle = {name: sorted(turn[name] for turn in turns)[len(turns) // 2] for name in turns[0]}
    times = {
        f"times_{name}": sorted(round(turn["import_mds"] / turn[name], 1) for turn in turns)[len(turns) // 2]
        for name in ("iterated", "by_number")
    }
    return {"tokens_per_second": {name: middle[name] for name in RATES}, **times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--peer", type=Path, help="a Python with mosaicml-streaming; tests/run.sh makes one")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="that the other program reads in each turn")
    parser.add_argument("--small", type=int, default=5, help="shards of the small set, 67 MB each")
    parser.add_argument("--large", type=int, default=16, help="shards of the large set")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        print(json.dumps(write_shard(Path(arguments.write[0]), int(arguments.write[1]))))
        return
    if arguments.read:
        folder, seconds, by_number = arguments.read
        print(json.dumps(read_shards(Path(folder), float(seconds), by_number == "1")))
        return
    from results import machine, print_table, save

    with tempfile.TemporaryDirectory(prefix="import-mds-") as folder:
        rows = compare(arguments, Path(folder))
    command = "python benchmarks/import_mds.py --tokenizer gemma2/tokenizer.json --peer .venv/bin/python-mosaicml"
    about = {"command": command, "machine": machine("numpy", "torch"), "mosaicml_streaming": "0.13.0"}
    path = save("import_mds", about | {"workers": arguments.workers} | rows)
    print_table([(name, json.dumps(row)) for name, row in rows.items()])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
