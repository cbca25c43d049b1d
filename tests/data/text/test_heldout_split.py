"""Held-out text: disjoint from the training text, whole together, stable when documents are added."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from megatron_mmbert.data.text.conditions import parse_conditions
from megatron_mmbert.data.text.documents import Document
from megatron_mmbert.data.text.heldout_split import choose, divide, split_files
from megatron_mmbert.data.text.inputs.discover import InputOptions
from megatron_mmbert.data.text.records import Fields
from megatron_mmbert.utils.errors import UserError


class Split(NamedTuple):
    train: list[tuple[str, str]]
    heldout: list[tuple[str, str]]


def split_documents(documents: list[Document], share: float, max_bytes: int) -> Split:
    split = Split([], [])
    for side, name, text in divide(documents, choose(documents, share, max_bytes)):
        getattr(split, side).append((name, text))
    return split


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


def test_the_same_documents_as_when_all_were_sorted_in_memory() -> None:
    """Also where many documents have one id, and whichever of them is the last."""
    for count in (10, 57, 1000):
        of = [Document(f"d{n // 7 if n % 3 else 0}", "x" * (1 + n % 11), n + 1) for n in range(count)]
        for share, max_bytes in ((0.01, 10**9), (0.3, 10**9), (0.9, 10**9), (0.5, 40), (0.5, 0)):
            wanted = min(share * sum(len(d.text) for d in of), max_bytes)
            held: set[int] = set()
            taken = 0
            for n in sorted(range(count), key=lambda n: hashlib.blake2b(of[n].id.encode(), digest_size=8).digest()):
                if taken >= wanted:
                    break
                held.add(n)
                taken += len(of[n].text)
            split = split_documents(of, share, max_bytes)
            assert split.heldout == [(of[n].id, of[n].text) for n in range(count) if n in held]
            assert split.train == [(of[n].id, of[n].text) for n in range(count) if n not in held]


def test_memory_does_not_grow_with_the_language() -> None:
    def stream(count: int) -> Iterator[Document]:
        return (Document(f"d{n}", "some text " * 3, n + 1) for n in range(count))

    peaks = []
    for count in (20_000, 200_000):
        tracemalloc.start()
        chosen = choose(stream(count), 0.5, 10**12)
        held = sum(side == "heldout" for side, _, _ in divide(stream(count), chosen))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert abs(held - count / 2) < 2
    assert peaks[1] < peaks[0] + 9e6, peaks  # keys beyond 8 MB lie on the disk; sorting them took 40 MB here


def test_bad_lines_are_left_out_and_listed(tmp_path: Path) -> None:
    source = tmp_path / "eng_Latn.jsonl"
    rows = [json.dumps({"body": f"text {n}"}) for n in range(30)]
    source.write_text("\n".join([*rows, "{", json.dumps({"body": ""})]) + "\n")
    options = InputOptions(Fields("body"))
    with pytest.raises(UserError, match=r"eng_Latn.jsonl:31: malformed"):
        split_files([source], tmp_path / "out", 0.2, 10**6, options=options)
    sentence = split_files([source], tmp_path / "out", 0.2, 10**6, options=options, skip_bad=True)
    assert "left out 2 bad lines" in sentence
    assert len((tmp_path / "out/skipped.jsonl").read_text().splitlines()) == 2
    assert sum(len(file.read_text().splitlines()) for file in (tmp_path / "out").glob("*/*.jsonl")) == 30


@pytest.mark.parametrize(
    ("where", "sentence"), [(None, "check --text-field: 2 lines are bad"), ("n > 9", "and --where")]
)
def test_no_document_left(tmp_path: Path, where: str | None, sentence: str) -> None:
    source = tmp_path / "eng_Latn.jsonl"
    source.write_text('{"body": "a", "n": 1}\n' * 2)
    condition = {} if where is None else {"text": "body", "where": parse_conditions(where)}
    options = InputOptions(fields=Fields(**condition))
    with pytest.raises(UserError, match=sentence):
        split_files([source], tmp_path / "out", 0.2, 10**6, options=options, skip_bad=True)
    assert [path.name for path in tmp_path.iterdir()] == ["eng_Latn.jsonl"]
