from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from support.tokenized import tokenized

from megatron_mmbert.data.store.manifest import Manifest, TokenizerEntry, save_manifest
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.tokenized_documents import TokenizedDocuments, store_dtype
from megatron_mmbert.data.store.writer import StoreWriter
from megatron_mmbert.utils.errors import UserError

LENGTHS = {"deu": [3, 5, 2], "eng": [10, 1, 7, 30, 4], "fra": [6]}


def documents(dtype: str) -> list[TokenizedDocuments]:
    """Documents whose ids count up over the whole store, so that every token is told from every other."""
    made, first = [], 0
    for language, lengths in LENGTHS.items():
        for length in lengths:
            made.append(tokenized(language, np.arange(first, first + length).astype(dtype), 4 * length, length))
            first += length
    return made


@pytest.fixture(params=["uint16", "int32"])
def store_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    dtype: str = request.param
    folder = tmp_path / "store"
    folder.mkdir()
    writer = StoreWriter(folder, "web", dtype, shard_bytes=20 * np.dtype(dtype).itemsize)
    for document in documents(dtype):
        writer.add(document)
    groups = writer.finish()
    save_manifest(folder, Manifest(dtype, TokenizerEntry("tok", "abc", 100), groups, tuple(writer.shards)))
    return folder


def test_groups_and_counts(store_path: Path) -> None:
    store = Store.open(store_path)
    assert store.sources == ["web"] and store.languages("web") == ["deu", "eng", "fra"]
    assert [(g.language, g.documents, g.tokens, g.bytes) for g in store.datasets] == [
        (language, len(lengths), sum(lengths), 4 * sum(lengths)) for language, lengths in LENGTHS.items()
    ]
    assert store.vocab_size == 100 and store.tokenizer_fingerprint == "abc"


def test_every_slice_of_every_document_across_shards(store_path: Path) -> None:
    store = Store.open(store_path)
    assert len(store.manifest.datasets[1].extents) > 1, "eng must span shards for this test to mean anything"
    expected = iter(documents(store.manifest.dtype))
    for language, lengths in LENGTHS.items():
        found = store.document_lengths("web", language)
        assert found.dtype == np.int64 and found.tolist() == lengths
        for number, length in enumerate(lengths):
            ids = next(expected).ids
            for start in range(length + 1):
                for stop in range(start, length + 1):
                    part = store.tokens("web", language, number, start, stop)
                    assert part.dtype == ids.dtype and part.tolist() == ids[start:stop].tolist()


def test_a_document_larger_than_a_shard_stays_whole(store_path: Path) -> None:
    shards = Store.open(store_path).manifest.shards
    assert max(shard.tokens for shard in shards) == 30  # the shards are cut at 20
    assert [shard.name for shard in shards] == [f"shard-{number:05d}" for number in range(len(shards))]


def test_tokens_are_a_read_only_view(store_path: Path) -> None:
    ids = Store.open(store_path).tokens("web", "eng", 0, 0, 5)
    assert ids.base is not None
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


@pytest.mark.parametrize("place", [(5, 0, 1), (-1, 0, 1), (0, 0, 11), (0, -1, 2), (0, 3, 2)])
def test_out_of_range(place: tuple[int, int, int], store_path: Path) -> None:
    with pytest.raises(IndexError):
        Store.open(store_path).tokens("web", "eng", *place)


def test_unknown_names_give_the_nearest(store_path: Path) -> None:
    store = Store.open(store_path)
    with pytest.raises(UserError, match="'deu'"):
        store.document_lengths("web", "due")
    with pytest.raises(UserError, match="'web'"):
        store.languages("wbe")


def test_pickled_store_reads_on(store_path: Path) -> None:
    store = Store.open(store_path)
    first = store.tokens("web", "eng", 3, 0, 30).tolist()
    assert pickle.loads(pickle.dumps(store)).tokens("web", "eng", 3, 0, 30).tolist() == first


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_truncated_or_missing_file(ending: str, store_path: Path) -> None:
    file = store_path / f"shard-00001.{ending}"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError) as caught:
        Store.open(store_path)
    for part in (str(file), str(size - 3), str(size), "preprocess_data.py"):
        assert part in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match=f"{file}: missing"):
        Store.open(store_path)


def test_damaged_index_header(store_path: Path) -> None:
    file = store_path / "shard-00000.idx"
    content = bytearray(file.read_bytes())
    content[20] ^= 0xFF  # in the number of sequences
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"shard-00000\.idx: damaged index"):
        Store.open(store_path).document_lengths("web", "deu")


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": "other"}', "cut"])
def test_no_store_or_damaged_manifest(content: str | None, store_path: Path) -> None:
    manifest = store_path / "manifest.json"
    if content is None:
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text().replace('"shards"', '"sherds"') if content == "cut" else content)
    with pytest.raises(UserError, match=r"manifest\.json: .*preprocess_data\.py"):
        Store.open(store_path)
    with pytest.raises(UserError, match="no such token store"):
        Store.open(store_path / "nothing")


def test_opening_touches_no_shard_data(store_path: Path) -> None:
    """The shards are mapped when used: a store whose shard data is all wrong still opens."""
    for file in store_path.glob("*.idx"):
        file.write_bytes(bytes(file.stat().st_size))
    assert Store.open(store_path).datasets[0].documents == 3


def test_scattered_language_is_refused(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, "web", "uint16")
    ids = np.arange(3, dtype="uint16")
    for language in ("a", "b"):
        writer.add(tokenized(language, ids, 1, 1))
    with pytest.raises(ValueError, match="scattered"):
        writer.add(tokenized("a", ids, 1, 1))


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_shards_are_what_megatrons_builder_writes(dtype: str, tmp_path: Path) -> None:
    from megatron_mmbert.data.store.index_format import indexed_dataset

    writer = StoreWriter(tmp_path, "web", dtype)
    builder = indexed_dataset().IndexedDatasetBuilder(str(tmp_path / "m.bin"), dtype=np.dtype(dtype).type)
    for document in documents(dtype):
        writer.add(document)
        builder.add_document(document.ids, [document.ids.size])
    writer.finish()
    builder.finalize(str(tmp_path / "m.idx"))
    for ending in (".bin", ".idx"):
        assert (tmp_path / f"shard-00000{ending}").read_bytes() == (tmp_path / f"m{ending}").read_bytes()


def test_shards_do_not_depend_on_how_documents_arrive(tmp_path: Path) -> None:
    """One at a time, or all of a language at once over several cuts."""
    one, many = tmp_path / "one", tmp_path / "many"
    for folder in (one, many):
        folder.mkdir()
        writer = StoreWriter(folder, "web", "uint16", shard_bytes=26)
        every = documents("uint16")
        for language in LENGTHS:
            of = [document for document in every if document.language == language]
            together = TokenizedDocuments(
                language, np.concatenate([d.ids for d in of]), np.concatenate([d.rows for d in of])
            )
            for some in of if folder is one else [together]:
                writer.add(some)
        groups = writer.finish()
        save_manifest(folder, Manifest("uint16", TokenizerEntry("t", "f", 100), groups, tuple(writer.shards)))
    assert len(list(one.iterdir())) > 10
    for file in one.iterdir():
        assert file.read_bytes() == (many / file.name).read_bytes(), file.name


def test_dtype_is_megatrons() -> None:
    from megatron_mmbert.data.store.index_format import indexed_dataset

    for vocab_size in (100, 65499, 65500, 65536, 256_000):
        assert store_dtype(vocab_size) == indexed_dataset().DType.optimal_dtype(vocab_size).__name__
