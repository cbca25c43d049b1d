from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from support import ROOT
from support.made_store import manifest_without_checksum

from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess
from megatron_mmbert.data.store.manifest import load_manifest, save_manifest
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.verify import verify_store
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.errors import UserError

Tool = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(scope="module")
def valid_store(corpus: Path, tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "store"
    preprocess(PreprocessJob((corpus,), tokenizer_file, path, shard_bytes=300_000))
    return path


@pytest.fixture
def store(valid_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(valid_store, tmp_path / "store"))


def flip(file: Path, byte: int, mask: int = 1) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= mask
    file.write_bytes(content)


def last_document(store: Path) -> tuple[int, int, int]:
    """(number in the last shard, byte where it starts, number in its language) of the last English document but 2."""
    opened = Store.open(store)
    group = next(g for g in opened.manifest.datasets if g.language == "eng_Latn")
    extent = next(e for e in group.extents if e.shard == 1)
    before = sum(e.documents for e in group.extents if e.shard < 1)
    at = extent.first_document + extent.documents - 3
    return at, opened._shard(1).bounds(at)[0], before + extent.documents - 3


def test_valid_store(store: Path, tokenizer_file: Path) -> None:
    read: list[int] = []
    assert list(verify_store(store, load_tokenizer(tokenizer_file).fingerprint(), read.append)) == []
    assert sum(read) == sum(file.stat().st_size for file in store.glob("*.bin"))


def test_flipped_byte_names_shard_and_document(store: Path) -> None:
    number, byte, of_language = last_document(store)
    flip(store / "shard-00001.bin", byte)  # the low bit of an id: still inside the vocabulary
    problems = list(verify_store(store))
    assert len(problems) == 1
    assert f"shard-00001.bin: document {number} (corpus/eng_Latn index {of_language}) is damaged" in problems[0]


def test_id_outside_the_vocabulary(store: Path) -> None:
    number, byte, _ = last_document(store)
    flip(store / "shard-00001.bin", byte + 2 + 1, 0x80)  # the high byte of its second id
    problems = list(verify_store(store))
    assert f"document {number} (" in problems[0] and "at token 1, the vocabulary has 400" in problems[0]


def test_truncated_data(store: Path) -> None:
    file = store / "shard-00000.bin"
    file.write_bytes(file.read_bytes()[:-2])
    problems = list(verify_store(store))
    assert len(problems) == 1 and str(file) in problems[0] and "bytes where" in problems[0]


def test_every_bad_file_is_named(store: Path) -> None:
    for name in ("shard-00000.bin", "shard-00001.idx", "shard-00002.crc32"):
        flip(store / name, 40)
    problems = list(verify_store(store))
    for name in ("shard-00000.bin: document 0", "shard-00001.idx: damaged", "shard-00002.crc32: damaged"):
        assert any(name in problem for problem in problems), problems
    assert len(problems) < 8


def test_index_that_does_not_fit_the_data(store: Path) -> None:
    """Even with a manifest that agrees with the damaged file."""
    file = store / "shard-00001.idx"
    number, _, _ = last_document(store)
    content = bytearray(file.read_bytes())
    lengths = np.frombuffer(content, np.int32, offset=34, count=number + 1)
    lengths[number] += 1
    file.write_bytes(content)
    problems = list(verify_store(store))
    assert any(f"shard-00001.idx: document {number + 1} starts at byte" in problem for problem in problems), problems


def test_any_flipped_byte_of_an_index_is_found_without_a_crash(store: Path) -> None:
    file = store / "shard-00000.idx"
    size = file.stat().st_size
    for byte in [*range(0, 40), size // 5, size // 2, size - 1]:
        flip(file, byte, 0xFF)
        assert any("shard-00000.idx" in problem for problem in verify_store(store)), byte
        flip(file, byte, 0xFF)
    assert list(verify_store(store)) == []


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "documents": (lambda group: group.update(documents=group["documents"] - 1), "documents, its extents"),
    "tokens": (lambda group: group.update(tokens=group["tokens"] - 1), "tokens, the "),
    "a document lost at the end": (lambda group: resize_end(group, -1), "the datasets' extents end at"),
    "a document too many": (lambda group: resize_end(group, 1), "extents end at"),
    "shifted": (lambda group: shift(group), "is in no dataset or in two"),
}


def resize_end(group: dict[str, Any], by: int) -> None:
    group["documents"] += by
    group["extents"][-1][2] += by


def shift(group: dict[str, Any]) -> None:
    group["extents"][-1][1] += 1


@pytest.mark.parametrize("language", ["eng_Latn", "jpn_Jpan"])
@pytest.mark.parametrize("change", CHANGES)
def test_manifest_that_does_not_fit(change: str, language: str, store: Path) -> None:
    """English spans several shards; Japanese lies at the end of the last."""
    apply, expected = CHANGES[change]
    value = manifest_without_checksum(store)
    group = next(group for group in value["groups"] if group["language"] == language)
    apply(group)
    (store / "manifest.json").write_text(json.dumps(value))
    problems = list(verify_store(store))
    if language == "eng_Latn" and change.startswith("a document"):
        expected = "is in no dataset or in two"  # Japanese follows in the same shard
    assert any(expected in problem for problem in problems), problems


def test_manifest_round_trip(store: Path, tmp_path: Path) -> None:
    save_manifest(tmp_path, load_manifest(store))
    assert (tmp_path / "manifest.json").read_bytes() == (store / "manifest.json").read_bytes()


def test_other_tokenizer(store: Path) -> None:
    problems = list(verify_store(store, "other"))
    assert len(problems) == 1 and "not with other" in problems[0]


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such token store"):
        list(verify_store(tmp_path / "nothing"))


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """The tool in this process: importing Megatron once more would take longer than all other tests here."""
    tool = ROOT / "tools" / "verify_data.py"
    monkeypatch.setattr(sys, "argv", [str(tool), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tool), run_name="__main__")
    return ended.value.code


def test_tool(
    store: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(monkeypatch, store, "--tokenizer", tokenizer_file) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and f"{store}: OK" in printed.out

    flip(store / "shard-00000.bin", 0)
    flip(store / "shard-00001.bin", 0)
    assert run_here(monkeypatch, store) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") and "document 0 " in line for line in lines)


def test_tool_without_a_store(run_tool: Tool, tmp_path: Path) -> None:
    done = run_tool("verify_data", tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path}") and done.stderr.count("\n") == 1
