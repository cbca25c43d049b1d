"""Peak memory of the preprocessing, all processes together, on 100 MB and on 2 GB of text.

    python benchmarks/preprocess_memory.py CORPUS --tokenizer DIR [--workers 2]

The inputs are the documents of CORPUS in random order, over and over. About 6 minutes on two quiet cores, and 7 GB of
disk. *RSS* counts a page that two processes share twice, *PSS* once.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from results import machine, print_table, save

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"100 MB": 100_000_000, "2 GB": 2_000_000_000}


def write_input(path: Path, lines: list[bytes], size: int) -> None:
    """Lines in random order until there are ``size`` bytes."""
    pick = random.Random(0)
    written = 0
    with path.open("wb") as file:
        while written < size:
            pick.shuffle(lines)
            for line in lines:
                written += file.write(line)
                if written >= size:
                    break


def measure(command: list[str]) -> dict[str, Any]:
    """Run ``command`` and watch it with all its processes."""
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    peak = {"rss": 0, "pss": 0}
    while process.poll() is None:
        total = dict.fromkeys(peak, 0)
        try:
            for one in (process, *process.children(recursive=True)):
                memory = one.memory_full_info()
                for kind in total:
                    total[kind] += getattr(memory, kind)
        except psutil.Error:  # one ended meanwhile
            continue
        peak = {kind: max(peak[kind], total[kind]) for kind in peak}
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"failed with status {process.returncode}")
    return {f"peak_{kind}_MB": round(value / 1e6) for kind, value in peak.items()} | {
        "seconds": round(time.perf_counter() - start, 1)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    lines = [line for file in sorted(arguments.corpus.glob("*.jsonl")) for line in file.open("rb")]
    rows: dict[str, Any] = {}
    for name, size in SIZES.items():
        folder = Path(tempfile.mkdtemp(prefix="preprocess-"))
        try:
            write_input(folder / "in.jsonl", lines, size)
            command = [sys.executable, str(ROOT / "tools" / "preprocess_data.py"), "--input", str(folder / "in.jsonl")]
            command += ["--language", "all", "--tokenizer", str(arguments.tokenizer), "--output", str(folder / "store")]
            rows[name] = measure([*command, "--workers", str(arguments.workers)])
        finally:
            shutil.rmtree(folder)
        print(name, rows[name], flush=True)
    for kind in ("rss", "pss"):
        key = f"peak_{kind}_MB"
        rows[f"growth_of_{kind}"] = round(rows["2 GB"][key] / rows["100 MB"][key] - 1, 3)
    about = machine("sentencepiece", "numpy")
    command_line = "python benchmarks/preprocess_memory.py CORPUS --tokenizer DIR"
    path = save("preprocess_memory", {"command": command_line, "machine": about, "workers": arguments.workers, **rows})
    print_table([(name, str(row)) for name, row in rows.items()])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
