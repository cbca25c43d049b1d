"""Shards and indexes that are damaged, missing or lie: one sentence with file, value and remedy, and no store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.made_store import imported_store

from megatron_mmbert.data.mds.discover import Naming
from megatron_mmbert.data.mds.importing import import_mds
from megatron_mmbert.data.mds.job import ImportJob
from megatron_mmbert.data.mds.writer import MdsWriter
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.utils.errors import UserError

BOS, EOS = 2, 1
Index = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of four samples each, without hashes, in a folder of Faroese."""
    folder = tmp_path / "web/fao_Latn"
    writer = MdsWriter(folder, shard_bytes=1100)
    for number in range(8):
        writer.add(f"a{number}", np.array([BOS, *[300 + number] * 40, EOS], np.uint32))
    writer.finish()
    edit(folder, lambda index: [index["shards"][n]["raw_data"].update(hashes={}) for n in (0, 1)])
    assert len(json.loads((folder / "index.json").read_text())["shards"]) == 2
    return folder


def edit(folder: Path, change: Callable[[Index], object]) -> None:
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))


def patch(folder: Path, at: int, value: int, width: int = 4) -> None:
    """Write a number into the first shard."""
    content = bytearray((folder / "shard.00000.mds").read_bytes())
    content[at : at + width] = value.to_bytes(width, "little")
    (folder / "shard.00000.mds").write_bytes(content)


def refuse(folder: Path, tokenizer: Path, **how: Any) -> str:
    """The sentence of an import, which leaves nothing behind."""
    top = folder.parents[1]
    with pytest.raises(UserError) as error:
        import_mds(ImportJob((folder.parent,), tokenizer, top / "out/store", **how))
    assert not (top / "out/store").exists()
    sentence = str(error.value)
    assert sentence.isprintable() and len(sentence) < 600 and "Traceback" not in sentence
    return sentence


def first(index: Index) -> Index:
    entry: Index = index["shards"][0]
    return entry


INDEX_CASES: dict[str, tuple[Callable[[Index], object], str]] = {
    "no shards": (lambda i: i.pop("shards"), "not the index of MDS shards"),
    "other version": (lambda i: i.update(version=3), "index of version 3"),
    "other format": (lambda i: first(i).update(format="csv"), "format 'csv'"),
    "other shard version": (lambda i: first(i).update(version=1), "version 1"),
    "no columns": (lambda i: first(i).update(column_names=[]), "one name, one encoding"),
    "columns of other lengths": (lambda i: first(i)["column_sizes"].pop(), "one name, one encoding"),
    "twice one column": (lambda i: first(i).update(column_names=["id", "id", "len"]), "one name, one encoding"),
    "unknown encoding": (lambda i: first(i)["column_encodings"].__setitem__(1, "torch"), "no encoding 'torch'"),
    "a size that lies": (lambda i: first(i)["column_sizes"].__setitem__(2, 4), "cannot have size 4"),
    "pickled": (lambda i: [e["column_encodings"].__setitem__(0, "pkl") for e in i["shards"]], "is pickled"),
    "ids of floats": (lambda i: first(i)["column_encodings"].__setitem__(1, "ndarray:float32"), "no row of whole"),
    "ids of two axes": (lambda i: first(i).update(column_encodings=["str", "ndarray:uint32:2,2", "int"],
                                                  column_sizes=[None, 16, 8]), "no row of whole"),
    "a huge shape": (lambda i: first(i)["column_encodings"].__setitem__(1, "ndarray:uint32:9999999999"), "no encoding"),
    "ids in text": (lambda i: first(i)["column_encodings"].__setitem__(1, "str"), "no row of whole"),
    "bare bytes": (lambda i: first(i)["column_encodings"].__setitem__(1, "bytes"), "pass --id-type"),
    "snappy": (lambda i: first(i).update(compression="snappy", zip_data=first(i)["raw_data"]), "none of zstd, gz"),
    "compression without a file": (lambda i: first(i).update(compression="zstd"), "do not go together"),
    "a file outside": (lambda i: first(i)["raw_data"].update(basename="../../x.mds"), "names no file below"),
    "an absolute file": (lambda i: first(i)["raw_data"].update(basename="/etc/passwd"), "names no file below"),
    "a name of two lines": (lambda i: first(i)["raw_data"].update(basename="a\nb.mds"), "names no file below"),
    "a number as name": (lambda i: first(i)["raw_data"].update(basename=7), "damaged index"),
    "negative samples": (lambda i: first(i).update(samples=-1), "samples -1"),
    "samples as text": (lambda i: first(i).update(samples="4"), "samples '4'"),
    "a huge number": (lambda i: first(i)["raw_data"].update(bytes=1 << 40), "is not between"),
    "other samples": (lambda i: first(i).update(samples=5), "4 samples, 5 in the index"),
    "other bytes": (lambda i: first(i)["raw_data"].update(bytes=999), "999 in the index"),
    "other hash": (lambda i: first(i)["raw_data"].update(hashes={"sha1": "0" * 40}), "its sha1 is"),
    "unknown hash": (lambda i: first(i)["raw_data"].update(hashes={"md99": "0"}), "'md99' in index.json cannot be"),
    "hash that is none": (lambda i: first(i)["raw_data"].update(hashes=["sha1"]), "hashes ['sha1']"),
    "a missing shard": (lambda i: first(i)["raw_data"].update(basename="shard.00009.mds"), "in no index.json"),
    "a shard that is not listed": (lambda i: i["shards"].pop(), "in no index.json"),
    "other columns": (lambda i: first(i).update(column_names=["id", "input_ids", "n"]), "with other types than"),
}  # fmt: skip


@pytest.mark.parametrize("case", INDEX_CASES)
def test_an_index_that_lies(folder: Path, tokenizer_file: Path, case: str) -> None:
    change, sentence = INDEX_CASES[case]
    edit(folder, change)
    assert sentence in refuse(folder, tokenizer_file)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, '{"version": 2, "shards": [7]}', "\xff"])
def test_an_index_that_is_none(folder: Path, tokenizer_file: Path, text: str) -> None:
    (folder / "index.json").write_bytes(text.encode("latin-1"))
    assert str(folder / "index.json") in refuse(folder, tokenizer_file)


SHARD_CASES: dict[str, tuple[int, int, int, str]] = {
    "number of samples": (0, 1 << 31, 4, "2147483648 samples, 4 in the index"),
    "first offset in the table": (4, 8, 4, "begins at byte 8"),
    "first offset far away": (4, 1 << 30, 4, "begins at byte 1073741824"),
    "offset backwards": (8, 20, 4, "sample 1 lies from byte"),
    "offset outside": (12, 1 << 31, 4, "sample 2 lies from byte"),
    "last offset": (20, 10, 4, "sample 4 lies from byte"),
    "header": (24, 0, 4, "does not say its columns"),
}


@pytest.mark.parametrize("case", SHARD_CASES)
def test_a_shard_that_lies(folder: Path, tokenizer_file: Path, case: str) -> None:
    at, value, width, sentence = SHARD_CASES[case]
    patch(folder, at, value, width)
    found = refuse(folder, tokenizer_file)
    assert sentence in found and "shard.00000.mds: damaged" in found
    store = imported_store(ImportJob((folder.parent,), tokenizer_file, folder.parents[1] / "store", skip_bad=True))
    assert store.datasets[0].documents == 4 and store.manifest.skipped_lines == 1


SAMPLE_CASES: dict[str, tuple[int, int, int, str]] = {
    "length of the id": (0, 3, 4, "its columns are not as long as it is"),
    "length of the ids": (4, 1 << 31, 4, "its columns are not as long as it is"),
    "dimensions": (10, 2 << 2, 1, "not one dimension"),
    "no dimension": (10, 0, 1, "not one dimension"),
    "width of the shape": (10, 1 << 2 | 3, 1, "not as many as it says"),
    "shape": (11, 41, 1, "not as many as it says"),
    "an id": (12, 400, 4, "id 400 is outside the vocabulary of 400"),
}


@pytest.mark.parametrize("case", SAMPLE_CASES)
def test_a_sample_that_lies(folder: Path, tokenizer_file: Path, case: str) -> None:
    at, value, width, sentence = SAMPLE_CASES[case]
    content = (folder / "shard.00000.mds").read_bytes()
    patch(folder, int(np.frombuffer(content, "<u4", 1, 8)[0]) + at, value, width)
    found = refuse(folder, tokenizer_file)
    assert sentence in found and "shard.00000.mds:2: " in found
    store = imported_store(ImportJob((folder.parent,), tokenizer_file, folder.parents[1] / "store", skip_bad=True))
    assert store.datasets[0].documents == 7 and store.manifest.skipped_lines == 1


def test_a_cut_shard_and_one_that_is_longer(folder: Path, tokenizer_file: Path) -> None:
    shard = folder / "shard.00000.mds"
    content = shard.read_bytes()
    for other in (content[:-1], content + b"x", b"", content[:3]):
        shard.write_bytes(other)
        assert f"{len(other)} bytes, {len(content)} in the index" in refuse(folder, tokenizer_file)
    shard.unlink()
    assert "shard.00000.mds: missing; download it again" in refuse(folder, tokenizer_file)
    shard.symlink_to(shard.name)
    assert "a link to nothing, or to itself" in refuse(folder, tokenizer_file)


def test_a_packed_shard_that_is_damaged_or_larger_than_it_says(tmp_path: Path, tokenizer_file: Path) -> None:
    import pyarrow as pa

    folder = tmp_path / "web/fao_Latn"
    writer = MdsWriter(folder, compression="zstd")
    for number in range(200):
        writer.add(str(number), np.array([BOS, *range(270, 390), EOS], np.uint32))
    writer.finish()
    packed = folder / "shard.00000.mds.zstd"
    content = packed.read_bytes()

    def replace(other: bytes) -> None:
        packed.write_bytes(other)
        edit(folder, lambda index: first(index)["zip_data"].update(bytes=len(other), hashes={}))

    replace(content[:-5])
    assert "shard.00000.mds.zstd: damaged (Truncated" in refuse(folder, tokenizer_file)
    replace(content + pa.Codec("zstd").compress(bytes(50_000_000), asbytes=True))
    assert "the last sample ends at byte" in refuse(folder, tokenizer_file)
    replace(b"no zstd at all, but long enough")
    assert "shard.00000.mds.zstd: damaged (" in refuse(folder, tokenizer_file)


def test_a_merged_index_of_more_shards_than_are_here(folder: Path, tokenizer_file: Path) -> None:
    entries = json.loads((folder / "index.json").read_text())["shards"]
    for entry in entries:
        entry["raw_data"]["basename"] = f"fao_Latn/{entry['raw_data']['basename']}"
    other = json.loads(json.dumps(entries[0]).replace("fao_Latn/", "isl_Latn/").replace('"samples": 4', '"samples": 3'))
    merged = folder.parent / "index.json"
    merged.write_text(json.dumps({"version": 2, "shards": [*entries, other]}))
    assert "lists 1 shard in folders below it, and 1 are missing" in refuse(folder, tokenizer_file)
    merged.write_text(json.dumps({"version": 2, "shards": entries}))
    store = imported_store(ImportJob((folder.parent,), tokenizer_file, folder.parents[1] / "store"))
    assert store.datasets[0].documents == 8
    (folder / "index.json").unlink()  # the merged one alone is enough
    assert imported_store(ImportJob((folder.parent,), tokenizer_file, folder.parents[1] / "store", overwrite=True))
    entries[0]["samples"] = 3
    named = json.dumps({"version": 2, "shards": entries}).replace("fao_Latn/", "")
    (folder / "index.json").write_text(named)
    assert "what another index.json does not" in refuse(folder, tokenizer_file)


def test_sources_and_languages_that_are_not_clear(folder: Path, tokenizer_file: Path) -> None:
    shutil.move(folder, folder.with_name("shard_00000-tokenized"))
    folder = folder.with_name("shard_00000-tokenized")
    assert "no language in its path" in refuse(folder, tokenizer_file)
    job = ImportJob((folder.parent,), tokenizer_file, folder.parents[1] / "store", Naming(language_of=(("w*", "fao"),)))
    assert [(each.source, each.language) for each in imported_store(job).datasets] == [("web", "fao")]
    sentence = "not an index.json; give the folder that it lies in"
    with pytest.raises(UserError, match=sentence):
        import_mds(ImportJob((folder / "shard.00000.mds",), tokenizer_file, folder.parents[1] / "other"))


def test_links_of_a_download_cache_and_a_loop(folder: Path, tokenizer_file: Path) -> None:
    """Hugging Face's cache keeps files elsewhere, under names of their hashes."""
    blobs = folder.parents[1] / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    (folder / "loop").symlink_to(folder.parent)
    import_mds(ImportJob((folder.parent,), tokenizer_file, folder.parents[1] / "store"))
    store = Store.open(folder.parents[1] / "store")
    assert [(each.language, each.documents) for each in store.datasets] == [("fao_Latn", 8)]


def test_a_shard_of_zero_samples(folder: Path, tokenizer_file: Path) -> None:
    """MosaicML's writer leaves one before a first sample above its limit."""
    writer = MdsWriter(folder.parent / "isl_Latn")
    writer.add("a", np.array([BOS, 300, EOS], np.uint32))
    writer.finish()
    first_folder = folder.parent / "isl_Latn"
    content = (first_folder / "shard.00000.mds").read_bytes()
    header = content[12 : int.from_bytes(content[4:8], "little")]
    empty = (0).to_bytes(4, "little") + (8 + len(header)).to_bytes(4, "little") + header
    (first_folder / "shard.00001.mds").write_bytes(empty)
    described = {"basename": "shard.00001.mds", "bytes": len(empty), "hashes": {}}
    edit(first_folder, lambda index: index["shards"].append(first(index) | {"samples": 0, "raw_data": described}))
    import_mds(ImportJob((folder.parent,), tokenizer_file, folder.parents[1] / "store"))
    store = Store.open(folder.parents[1] / "store")
    assert [(each.language, each.documents) for each in store.datasets] == [("fao_Latn", 8), ("isl_Latn", 1)]
