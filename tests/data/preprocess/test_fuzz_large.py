"""Inputs that are large, or become large when they are unpacked: a counted skip or one sentence, in little memory."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from support import ROOT

from megatron_mmbert.data.store.reader import Store

MEGABYTE = 1 << 20
GOOD = b'{"text": "good"}\n'
MOST_MEMORY = 900e6
"""Most of the parent and its largest worker together; 200 MB of each are libraries."""

_WATCHED = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    # Not RUSAGE_SELF, which begins with the size of the process that this one was forked from.
    own = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    for kilobytes in (int(own.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss):
        print("peak", kilobytes * 1024, file=sys.stderr)
"""


def gzip_bomb(path: Path, block: bytes, blocks: int) -> None:
    """``blocks`` times ``block``, packed a thousand times smaller."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        file.write(packer.compress(GOOD))
        for _ in range(blocks):
            file.write(packer.compress(block))
        file.write(packer.compress(b"\n" + GOOD))
        file.write(packer.flush())


def preprocess(path: Path, tokenizer: Path, *arguments: str) -> tuple[int, str, float]:
    """(status, stderr, most memory of the processes in bytes)."""
    command = [sys.executable, "-c", _WATCHED, str(ROOT / "tools" / "preprocess_data.py"), "--input", str(path)]
    command += ["--language", "eng", "--tokenizer", str(tokenizer), "--output", str(path.parent / "store")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--workers", "2", *arguments], capture_output=True, text=True, env=environment, timeout=500
    )
    peaks = [float(size) for size in re.findall(r"^peak (\d+)$", done.stderr, re.MULTILINE)]
    stderr = re.sub(r"^(peak|preprocess:) .*\n", "", done.stderr, flags=re.MULTILINE)
    return done.returncode, stderr, sum(peaks)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "txt.zst"])
def test_lines_of_100_megabytes(ending: str, tokenizer_file: Path, tmp_path: Path) -> None:
    path = tmp_path / f"eng.{ending}"
    content = GOOD + b'{"text": "' + b"x" * (100 * MEGABYTE) + b'"}\n' + GOOD + b'{"text": "' + b"y" * (100 * MEGABYTE)
    if ending.endswith("gz"):
        content = gzip.compress(content, 1)
    elif ending.endswith("zst"):
        content = bytes(pa.compress(content, codec="zstd", asbytes=True))
    path.write_bytes(content)
    status, stderr, _ = preprocess(path, tokenizer_file)
    assert status == 2 and re.fullmatch(rf"error: {path}:2: longer than \d+ bytes; .*\n", stderr), stderr
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    status, stderr, memory = preprocess(path, tokenizer_file, "--skip-bad")
    assert status == 0 and "Traceback" not in stderr and memory < MOST_MEMORY
    manifest = Store.open(tmp_path / "store").manifest
    assert manifest.skipped_lines == 2 and manifest.totals()["documents"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one line", "blank lines", "short lines"])
def test_zip_bombs(kind: str, tokenizer_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "eng.jsonl.gz"
    if kind == "one line":
        gzip_bomb(path, b"x" * MEGABYTE, 2048)
    elif kind == "blank lines":
        gzip_bomb(path, b" " * 1023 + b"\n", 2 << 20)
    else:
        gzip_bomb(path, b'{"oops' * 100 + b"\n", 1 << 17)
    assert path.stat().st_size < 6 * MEGABYTE
    status, stderr, memory = preprocess(path, tokenizer_file, "--skip-bad")
    assert status == 0 and "Traceback" not in stderr, stderr
    assert memory < MOST_MEMORY
    manifest = Store.open(tmp_path / "store").manifest
    assert manifest.totals()["documents"] == 2
    assert manifest.skipped_lines == {"one line": 1, "blank lines": 0, "short lines": 1 << 17}[kind]
