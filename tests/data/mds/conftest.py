"""MDS shards of token ids: written by this project's writer, byte by byte, or by the real mosaicml-streaming."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess

Peer = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="session")
def peer() -> Iterator[Peer]:
    """``peer({"write": folder, ...})``: MosaicML's own library does it, and its answer comes back."""
    python = os.environ.get("MMBERT_MOSAICML_PYTHON")
    if not python or not Path(python).exists():
        pytest.skip("MMBERT_MOSAICML_PYTHON names no Python with mosaicml-streaming; tests/run.sh makes one")
    script = ROOT / "tests/support/mosaicml_peer.py"
    command = [python, "-W", "ignore", str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(order: dict[str, Any]) -> Any:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer, "the peer ended; its error is above"
            return json.loads(answer)

        yield ask
        process.stdin.close()


@pytest.fixture(scope="session")
def text_store(corpus: Path, faithful_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the corpus, made of its text."""
    path = tmp_path_factory.mktemp("text") / "store"
    preprocess(PreprocessJob((corpus,), faithful_tokenizer, path, shard_bytes=300_000))
    return path
