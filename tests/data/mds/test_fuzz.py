"""Mutated shards and indexes end in one sentence, in counted skips, or in a store of exactly what the bytes say.

Two hundred at every run, two thousand with ``-m slow``. A case is named by its seed, which makes it again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.mutations import no_hang

from megatron_mmbert.data.mds.importing import import_mds
from megatron_mmbert.data.mds.job import ImportJob
from megatron_mmbert.data.mds.writer import MdsWriter
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.verify import verify_store
from megatron_mmbert.utils.errors import UserError

BOS, EOS, PAD, VOCAB = 2, 1, 0, 400


def write(folder: Path, packed: bool, hashed: bool) -> None:
    """Two shards of a few short documents each."""
    writer = MdsWriter(folder, "zstd" if packed else None, shard_bytes=1024)
    for number in range(9):
        writer.add(f"a{number}", np.array([BOS, *range(270 + number, 310 + number), EOS], np.uint32))
    writer.finish()
    assert len(writer.entries) == 3
    if not hashed:
        index = json.loads((folder / "index.json").read_text())
        for entry in index["shards"]:
            for kind in ("raw_data", "zip_data"):
                if entry[kind]:
                    entry[kind]["hashes"] = {}
        (folder / "index.json").write_text(json.dumps(index))


def mutated(content: bytes, pick: random.Random) -> bytes:
    data = bytearray(content)
    at = pick.randrange(len(data))
    match pick.choice(("flip", "flip", "number", "splice", "cut", "zeros", "digit")):
        case "flip":
            for _ in range(pick.choice((1, 1, 4, 32))):
                data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
        case "number":
            place = 4 * pick.randrange(min(len(data), 120) // 4)
            value = pick.choice((0, 1, 7, 1 << 31, (1 << 32) - 1, len(data), pick.randrange(1 << 12)))
            data[place : place + 4] = value.to_bytes(4, "little")
        case "splice":
            size = pick.randrange(1, 60)
            data[at : at + size] = pick.choice((b"", pick.randbytes(size), data[:size], data[at : at + size] * 2))
        case "cut":
            del data[at:]
        case "zeros":
            size = pick.randrange(1, 60)
            data[at : at + size] = bytes(len(data[at : at + size]))
        case "digit":
            digits = [place for place, byte in enumerate(data) if 48 <= byte < 58]
            data[pick.choice(digits) if digits else at] = pick.choice(b"0123456789")
    return bytes(data)


def documents_in(raw: bytes) -> list[list[int]]:
    """What a shard's bytes say, read one sample after the other."""
    count = int.from_bytes(raw[:4], "little")
    offsets = np.frombuffer(raw, "<u4", count + 1, 4).tolist()
    found = []
    for start, stop in pairwise(offsets):
        name, size = np.frombuffer(raw, "<u4", 2, start).tolist()
        shape = start + 8 + name
        assert raw[shape] == 1 << 2 and stop == shape + size + 8
        document: list[int] = []
        for value in [*np.frombuffer(raw, "<u4", raw[shape + 1], shape + 2).tolist(), EOS]:
            if value not in (BOS, EOS, PAD):
                document.append(value)
            elif document:
                found.append(document)
                document = []
    return found


def meaning(raw: bytes) -> bytes:
    """A shard without what gives other ids, or none, where it changes: its header, names, lengths and ids."""
    count = int.from_bytes(raw[:4], "little")
    offsets = np.frombuffer(raw, "<u4", count + 1, 4).tolist()
    kept = [raw[: 4 + 4 * (count + 1)]]
    for start in offsets[:-1]:
        shape = start + 8 + int.from_bytes(raw[start : start + 4], "little")
        kept.append(raw[start : start + 8] + raw[shape : shape + 2])
    return b"".join(kept)


def unpacked(path: Path, size: int) -> bytes:
    content = path.read_bytes()
    return pa.Codec("zstd").decompress(content, size, asbytes=True) if path.suffix == ".zstd" else content


def stored(store: Store) -> list[list[int]]:
    (dataset,) = store.datasets
    lengths = store.document_lengths(dataset.source, dataset.language).tolist()
    return [store.tokens(dataset.source, dataset.language, n, 0, size).tolist() for n, size in enumerate(lengths)]


@pytest.fixture(autouse=True)
def without_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is lost here, and waiting for the disk is half of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[bool, bool], Path]:
    made = {}
    for packed in (False, True):
        for hashed in (False, True):
            made[packed, hashed] = tmp_path_factory.mktemp("fuzz") / "web/fao_Latn"
            write(made[packed, hashed], packed, hashed)
    return made


def try_one(seed: int, originals: dict[tuple[bool, bool], Path], tokenizer: Path, folder: Path) -> str:
    """Mutate one file and import; returns how it ended."""
    pick = random.Random(seed)
    packed, hashed, skip_bad = pick.random() < 0.4, pick.random() < 0.3, pick.random() < 0.5
    original = originals[packed, hashed]
    source = folder / "web/fao_Latn"
    shutil.copytree(original, source)
    entries = json.loads((original / "index.json").read_text())["shards"]
    name = pick.choice(["index.json", *(each.name for each in sorted(original.glob("shard*")))])
    content = (original / name).read_bytes()
    other = mutated(content, pick)
    (source / name).write_bytes(other)
    if name != "index.json" and not hashed and len(other) != len(content) and pick.random() < 0.7:
        tell_size(source / "index.json", name, len(other))  # else its size gives it away
    try:
        with no_hang(f"seed {seed}"):
            import_mds(ImportJob((folder / "web",), tokenizer, folder / "store", skip_bad=skip_bad))
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 700, seed
        assert not (folder / "store").exists() and not (folder / ".store.partial/store").exists(), seed
        return "refused"
    assert not list(verify_store(folder / "store")), seed
    store = Store.open(folder / "store")
    sizes = [entry["raw_data"]["bytes"] for entry in entries]
    before = [unpacked(path, size) for path, size in zip(sorted(original.glob("shard*")), sizes, strict=True)]
    wanted = [document for raw in before for document in documents_in(raw)]
    if store.manifest.skipped_lines:
        assert skip_bad, seed
        if name == "index.json":  # what it says of some shards fits them no more
            assert [document for document in wanted if document in stored(store)] == stored(store), seed
            return "skipped"
        intact = [n for n, path in enumerate(sorted(original.glob("shard*"))) if path.name != name]
        kept = [document for n in intact for document in documents_in(before[n])]
        assert [document for document in stored(store) if document in kept][: len(kept)] == kept, seed
        return "skipped"
    after = [unpacked(path, size) for path, size in zip(sorted(source.glob("shard*")), sizes, strict=True)]
    if after == before:
        assert stored(store) == wanted, seed
        return "same"
    assert not hashed and list(map(meaning, after)) == list(map(meaning, before)), seed
    assert stored(store) == [document for raw in after for document in documents_in(raw)], seed
    return "other ids"


def tell_size(index: Path, name: str, size: int) -> None:
    value = json.loads(index.read_text())
    for entry in value["shards"]:
        for kind in ("raw_data", "zip_data"):
            if entry[kind] and entry[kind]["basename"] == name:
                entry[kind]["bytes"] = size
    index.write_text(json.dumps(value))


def run(seeds: range, originals: dict[tuple[bool, bool], Path], tokenizer: Path, tmp_path: Path) -> set[str]:
    ends = set()
    for seed in seeds:
        folder = tmp_path / str(seed)
        ends.add(try_one(seed, originals, tokenizer, folder))
        shutil.rmtree(folder)
    return ends


def test_two_hundred_mutations(originals: dict[tuple[bool, bool], Path], tokenizer_file: Path, tmp_path: Path) -> None:
    assert run(range(200), originals, tokenizer_file, tmp_path) == {"refused", "skipped", "same", "other ids"}


@pytest.mark.slow
def test_two_thousand_mutations(originals: dict[tuple[bool, bool], Path], tokenizer_file: Path, tmp_path: Path) -> None:
    assert run(range(200, 2200), originals, tokenizer_file, tmp_path) == {"refused", "skipped", "same", "other ids"}
