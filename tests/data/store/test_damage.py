"""Stores that were damaged before or under a run: each ends in one sentence that names the file, never in a signal."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.made_store import manifest_without_checksum
from support.synthetic_source import IDS, data_phase
from support.tokenized import tokenized

from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.data.store import shard as shard_module
from megatron_mmbert.data.store.manifest import Manifest, TokenizerEntry, save_manifest
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.verify import verify_store
from megatron_mmbert.data.store.writer import StoreWriter
from megatron_mmbert.utils.errors import UserError

LENGTHS = {"deu": [30, 500, 2], "eng": [100, 1, 70, 300, 41]}
HEADER = 34
DOCUMENTS = 8


@pytest.fixture(params=["uint16", "int32"])
def store_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    writer, random = StoreWriter(folder, "web", request.param), np.random.default_rng(0)
    for language, lengths in LENGTHS.items():
        for length in lengths:
            writer.add(tokenized(language, random.integers(6, 900, length).astype(request.param), 4 * length, length))
    datasets = writer.finish()
    manifest = Manifest(request.param, TokenizerEntry("tok", "abc", 1000), datasets, tuple(writer.shards))
    save_manifest(folder, manifest)
    return folder


def read_all(store: Store) -> None:
    for dataset in store.datasets:
        for document, length in enumerate(store.document_lengths(dataset.source, dataset.language).tolist()):
            store.tokens(dataset.source, dataset.language, document, 0, length)


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def overwrite(file: Path, at: int, content: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(content)


def finalize_again(store: Path) -> None:
    """Write the checksums of the small files into the manifest, as whoever changes a store on purpose would."""
    value = manifest_without_checksum(store)
    for key, ending in (("idx_sha256", "idx"), ("crc32_sha256", "crc32"), ("bin_sha256", "bin")):
        value["shards"][0][key] = hashlib.sha256((store / f"shard-00000.{ending}").read_bytes()).hexdigest()
    (store / "manifest.json").write_text(json.dumps(value))


def test_a_third_of_all_ids_changed_ends_training_with_the_document(store_path: Path) -> None:
    ids = np.fromfile(store_path / "shard-00000.bin", dtype := Store.open(store_path).manifest.dtype)
    ids[::3] ^= 1
    ids.astype(dtype).tofile(store_path / "shard-00000.bin")
    loader = PackLoader(Store.open(store_path), data_phase("p", 10_000, 128, 512), IDS)
    sentence = error_of(lambda: loader.next_packs(2))
    assert f"{store_path}/shard-00000.bin: document " in sentence and "(web/" in sentence and "checksum" in sentence


def test_one_bit_is_found_wherever_the_document_is_first_read(store_path: Path) -> None:
    width = np.dtype(Store.open(store_path).manifest.dtype).itemsize
    with (store_path / "shard-00000.bin").open("r+b") as file:
        file.seek((30 + 499) * width)
        byte = file.read(1)[0]
    overwrite(store_path / "shard-00000.bin", (30 + 499) * width, bytes([byte ^ 1]))
    sentence = error_of(lambda: Store.open(store_path).tokens("web", "deu", 1, 0, 5))
    assert "shard-00000.bin: document 1 (web/deu index 1) is damaged" in sentence
    unchecked = Store.open(store_path, check_share=0)
    assert unchecked.tokens("web", "deu", 1, 0, 5).size == 5


def test_a_share_of_the_documents_is_checked_and_the_same_ones_again() -> None:
    chosen = np.unpackbits(np.frombuffer(shard_module._chosen(100_000, 0.1), np.uint8), bitorder="little")
    assert abs(chosen[:100_000].mean() - 0.1) < 0.005
    assert shard_module._chosen(100_000, 0.1) == shard_module._chosen(100_000, 0.1)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("ending", ["bin", "idx", "crc32"])
def test_cut_under_a_run(ending: str, in_memory: bool, store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Touched where it is mapped, this would be SIGBUS."""
    monkeypatch.setattr(shard_module, "SECONDS_PER_LOOK", 0.0)
    if not in_memory:
        monkeypatch.setattr(shard_module, "MAX_IN_MEMORY", 0)
    store = Store.open(store_path)
    store.tokens("web", "deu", 0, 0, 30)
    os.truncate(store_path / f"shard-00000.{ending}", 0)
    if in_memory and ending != "bin":
        read_all_documents(store)  # what is needed of them is known
        return
    sentence = error_of(lambda: read_all_documents(store))
    assert f"{store_path}/shard-00000.{ending}: cut to 0 bytes since it was opened" in sentence


def read_all_documents(store: Store) -> None:
    for language, lengths in LENGTHS.items():
        for document, length in enumerate(lengths):
            store.tokens("web", language, document, 0, length)


def test_changed_under_a_run(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "SECONDS_PER_LOOK", 0.0)
    store = Store.open(store_path)
    read_all(store)
    size = (store_path / "shard-00000.bin").stat().st_size
    os.utime(store_path / "shard-00000.bin", ns=(0, 0))
    overwrite(store_path / "shard-00000.bin", 0, bytes(size))
    assert "is damaged, its checksum is wrong" in error_of(lambda: read_all_documents(store))


def test_rotated_pointers(store_path: Path) -> None:
    file = store_path / "shard-00000.idx"
    at = HEADER + 4 * DOCUMENTS
    pointers = np.frombuffer(file.read_bytes(), "<i8", DOCUMENTS, at)
    overwrite(file, at, np.roll(pointers, 3).tobytes())
    for action in (lambda: read_all(Store.open(store_path)), lambda: Store.open(store_path).check_small_files()):
        assert "shard-00000.idx: document 0 starts at byte" in error_of(action)


@pytest.mark.parametrize("value", [-5, 0, 2**31 - 1])
@pytest.mark.parametrize("column", ["length", "pointer"])
def test_index_that_cannot_be_even_where_the_manifest_agrees(column: str, value: int, store_path: Path) -> None:
    at, dtype = (HEADER + 8, "<i4") if column == "length" else (HEADER + 4 * DOCUMENTS + 16, "<i8")
    overwrite(store_path / "shard-00000.idx", at, np.array([value], dtype).tobytes())
    finalize_again(store_path)
    assert "shard-00000.idx: document " in error_of(lambda: read_all(Store.open(store_path)))
    assert any("shard-00000.idx: document " in problem for problem in verify_store(store_path))


def test_ids_beyond_the_vocabulary_even_where_the_checksums_agree(store_path: Path) -> None:
    dtype = Store.open(store_path).manifest.dtype
    ids = np.fromfile(store_path / "shard-00000.bin", dtype)
    ids[0] = 1000
    ids.tofile(store_path / "shard-00000.bin")
    overwrite(store_path / "shard-00000.crc32", 0, zlib.crc32(ids[:30].tobytes()).to_bytes(4, "little"))
    finalize_again(store_path)
    loader = PackLoader(Store.open(store_path), data_phase("p", 10_000, 512, 2048), IDS)
    sentence = error_of(lambda: loader.next_packs(3))
    assert "shard-00000.bin: document 0 (web/deu index 0) has the id 1000, and the vocabulary has 1000" in sentence


def test_missing_checksums(store_path: Path) -> None:
    (store_path / "shard-00000.crc32").unlink()
    assert "shard-00000.crc32: missing" in error_of(lambda: Store.open(store_path))


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "number as name": lambda value: value["shards"][0].update(name=5),
    "path as name": lambda value: value["shards"][0].update(name="../store/shard-00000"),
    "absolute name": lambda value: value["shards"][0].update(name="/store/shard-00000"),
    "dots as name": lambda value: value["shards"][0].update(name=".."),
    "text as bytes": lambda value: value["shards"][0].update(bin_bytes="x"),
    "fraction as bytes": lambda value: value["shards"][0].update(idx_bytes=1.5),
    "other bytes": lambda value: value["shards"][0].update(bin_bytes=6),
    "enormous": lambda value: value["shards"][0].update(tokens=10**30),
    "yes as tokens": lambda value: value["shards"][0].update(tokens=True),
    "negative documents": lambda value: value["groups"][0].update(documents=-3),
    "negative tokens": lambda value: value["groups"][0].update(tokens=-1),
    "no bytes": lambda value: value["groups"][0].update(bytes=0),
    "path as language": lambda value: value["groups"][0].update(language="../../x"),
    "path as source": lambda value: value["groups"][0].update(source="a/b"),
    "null as language": lambda value: value["groups"][0].update(language=None),
    "extent before the shard": lambda value: value["groups"][0]["extents"][0].__setitem__(1, -5),
    "extent without documents": lambda value: value["groups"][0]["extents"][0].__setitem__(2, 0),
    "extent in another shard": lambda value: value["groups"][0]["extents"][0].__setitem__(0, 1),
    "short extent": lambda value: value["groups"][0]["extents"][0].pop(),
    "no extents": lambda value: value["groups"][0].update(extents={"0": 1}),
    "two of one name": lambda value: value["groups"].append(value["groups"][0]),
    "two shards of one name": lambda value: value["shards"].append(value["shards"][0]),
    "no shards": lambda value: value.update(shards=[]),
    "no datasets": lambda value: value.update(groups=[]),
    "text as vocabulary": lambda value: value["tokenizer"].update(vocab_size="9"),
    "no vocabulary": lambda value: value["tokenizer"].update(vocab_size=0),
    "list as tokenizer": lambda value: value.update(tokenizer=[1, 2, 3]),
    "list as type": lambda value: value.update(dtype=["uint16"]),
    "text as skipped": lambda value: value.update(skipped_lines="3"),
    "a shard of text": lambda value: value.update(shards=["shard-00000"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_manifest_that_cannot_be(change: str, store_path: Path) -> None:
    value = manifest_without_checksum(store_path)
    CHANGES[change](value)
    (store_path / "manifest.json").write_text(json.dumps(value))
    for action in (lambda: Store.open(store_path), lambda: list(verify_store(store_path))):
        sentence = error_of(action)
        assert sentence.startswith(f"{store_path}/manifest.json: damaged manifest (") and "preprocess_data" in sentence


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'{"version": ' + b"9" * 5000 + b"}"])
def test_manifest_that_is_no_json(content: bytes, store_path: Path) -> None:
    (store_path / "manifest.json").write_bytes(content)
    assert "manifest.json: damaged token store manifest" in error_of(lambda: Store.open(store_path))


def test_extents_that_leave_documents_out(store_path: Path) -> None:
    value = manifest_without_checksum(store_path)
    value["groups"][1]["extents"][0][1] += 1
    (store_path / "manifest.json").write_text(json.dumps(value))
    assert "is in no dataset or in two" in error_of(lambda: Store.open(store_path))


def test_tokens_that_the_manifest_does_not_have(store_path: Path) -> None:
    value = manifest_without_checksum(store_path)
    value["groups"][0]["tokens"] += 7
    value["groups"][1]["tokens"] -= 7
    (store_path / "manifest.json").write_text(json.dumps(value))
    assert "tokens and its manifest says" in error_of(lambda: read_all(Store.open(store_path)))


@pytest.mark.parametrize("key", ["path", "fingerprint"])
def test_a_manifest_whose_values_are_not_as_they_were_written(key: str, store_path: Path) -> None:
    """A value of the right kind, which no other file contradicts."""
    whole = json.loads((store_path / "manifest.json").read_text())
    changed = whole | {"tokenizer": whole["tokenizer"] | {key: whole["tokenizer"][key][:-1] + "x"}}
    (store_path / "manifest.json").write_text(json.dumps(changed))
    assert "its values differ from their checksum" in error_of(lambda: Store.open(store_path))
    assert "its values differ from their checksum" in error_of(lambda: list(verify_store(store_path)))
    (store_path / "manifest.json").write_text(json.dumps({k: v for k, v in changed.items() if k != "sha256"}))
    Store.open(store_path)  # as one that was made before there was a checksum
