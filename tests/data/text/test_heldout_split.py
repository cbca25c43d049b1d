"""Held-out text: disjoint from the training text, whole together, stable when documents are added."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_mmbert.data.text.documents import Document
from megatron_mmbert.data.text.heldout_split import split_documents, split_files
from megatron_mmbert.data.text.inputs.discover import InputOptions
from megatron_mmbert.data.text.records import Fields
from megatron_mmbert.utils.errors import UserError


def documents(count: int) -> list[Document]:
    return [Document(f"d{n}", f"text of document {n} " * 5, n + 1) for n in range(count)]


def test_whole_documents_of_a_large_file() -> None:
    split = split_documents(documents(200), share=0.1, max_bytes=10**9)
    train, held = dict(split.train), dict(split.heldout)
    assert not train.keys() & held.keys()
    assert train | held == {d.id: d.text for d in documents(200)}
    assert 0.08 < len(held) / 200 < 0.13


def test_adding_documents_moves_few() -> None:
    before = {name for name, _ in split_documents(documents(200), 0.1, 10**9).heldout}
    after = {name for name, _ in split_documents(documents(201), 0.1, 10**9).heldout}
    assert len(before ^ after) <= 2


def test_limit_in_bytes() -> None:
    held = split_documents(documents(200), 0.5, max_bytes=1000).heldout
    assert 1000 <= sum(len(text) for _, text in held) < 1000 + 150


def test_single_document_gives_its_last_lines() -> None:
    lines = [f"line {n}" for n in range(20)]
    split = split_documents([Document("only", "\n".join(lines), 1)], 0.2, 10**9)
    (name, text), (held_name, held_text) = split.train[0], split.heldout[0]
    assert (name, held_name) == ("only", "only#end")
    assert text.split("\n") + held_text.split("\n") == lines
    assert 3 <= len(held_text.split("\n")) <= 5


def test_too_small_to_split() -> None:
    split = split_documents([Document("one", "a single line", 1)], 0.2, 10**9)
    assert split.train == [("one", "a single line")] and split.heldout == []


def test_files(tmp_path: Path) -> None:
    source = tmp_path / "corpus"
    source.mkdir()
    for language, count in (("aaa_Latn", 50), ("bbb_Latn", 1)):
        rows = [{"id": f"{language}{n}", "text": "\n".join(f"l{i} {n}" for i in range(9))} for n in range(count)]
        (source / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sentence = split_files([source], tmp_path / "out", 0.1, 10**6)
    assert "held out" in sentence
    held = [json.loads(line) for line in (tmp_path / "out/heldout/aaa_Latn.jsonl").open()]
    assert 4 <= len(held) <= 7
    assert (tmp_path / "out/heldout/bbb_Latn.jsonl").exists()
    with pytest.raises(UserError, match="already exists"):
        split_files([source], tmp_path / "out", 0.1, 10**6)
    with pytest.raises(UserError, match="share"):
        split_files([source], tmp_path / "other", 1.5, 10**6)


def test_many_files_of_a_language_in_folders_and_its_test_set(tmp_path: Path) -> None:
    for name in ("train/000_00000", "train/000_00001", "test/000_00000"):
        path = tmp_path / f"data/fao_Latn/{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"id": f"{name}:{n}", "body": f"text {n}"}) + "\n" for n in range(20)))
    options = InputOptions(Fields("body"))
    split_files([tmp_path / "data"], tmp_path / "out", 0.2, 10**6, options=options)
    rows = {
        side: [json.loads(line)["id"] for line in (tmp_path / f"out/{side}/fao_Latn.jsonl").open()]
        for side in ("train", "heldout")
    }
    assert len(rows["train"]) + len(rows["heldout"]) == 40 and len(rows["heldout"]) > 4
    assert not any("test" in name for side in rows.values() for name in side)
