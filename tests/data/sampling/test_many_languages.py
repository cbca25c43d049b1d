"""1,833 languages cost no more files, maps and open files than three."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from support.made_store import made_store

from megatron_mmbert.data.preprocess.run import PreprocessJob
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.tokenized_documents import TokenizedDocuments
from megatron_mmbert.data.store.writer import StoreWriter
from megatron_mmbert.data.text.records import Fields


def make(folder: Path, languages: int, tokenizer: Path, by_field: bool) -> Store:
    """A store of two short documents per language, from one mixed file or one file each."""
    rows = [(f"l{number:04d}", f"text {number} {n}") for n in range(2) for number in range(languages)]
    (folder / "in").mkdir(parents=True)
    if by_field:
        lines = [json.dumps({"text": text, "lang": language}) for language, text in rows]
        (folder / "in" / "mixed.jsonl").write_text("\n".join(lines))
    else:
        for language, text in rows:
            with (folder / "in" / f"{language}.txt").open("a") as file:
                file.write(text + "\n")
    how: dict[str, Any] = {"fields": Fields(language="lang")} if by_field else {"language_from": "file"}
    return made_store(PreprocessJob((folder / "in",), tokenizer, folder / "store", **how))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("by_field", [False, True])
def test_files_maps_and_open_files(
    by_field: bool, tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_files: list[int] = []
    add = StoreWriter.add

    def watched(self: StoreWriter, documents: TokenizedDocuments) -> None:
        add(self, documents)
        open_files.append(len(os.listdir("/proc/self/fd")))

    monkeypatch.setattr(StoreWriter, "add", watched)
    gc.collect()  # stores of tests before this one hold files open until they die
    few = make(tmp_path / "few", 3, tokenizer_file, by_field)
    most_with_few = max(open_files)
    open_files.clear()
    many = make(tmp_path / "many", 1833, tokenizer_file, by_field)
    assert len(many.datasets) == 1833 and len(many.manifest.shards) == 1
    assert max(open_files) == most_with_few
    assert sorted(os.listdir(many.path)) == sorted(os.listdir(few.path))
    for store in (few, many):
        for language in store.languages("corpus"):
            assert store.document_lengths("corpus", language).size == 2
            assert store.tokens("corpus", language, 1, 0, 2).size == 2
    maps = Path("/proc/self/maps").read_text()
    assert maps.count(f"{many.path}/") == maps.count(f"{few.path}/") > 0
