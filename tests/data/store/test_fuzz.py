"""Mutated manifests, indices and checksums of a store: told in one sentence, or every document as it was written.

Two hundred at every run, five thousand with ``-m slow``. A case is named by its seed, which makes it again. For half of
the damaged files the manifest has the checksum of the damage.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.made_store import manifest_without_checksum
from support.mutations import mutate, no_hang
from support.tokenized import tokenized

from megatron_mmbert.data.store.manifest import Manifest, TokenizerEntry, load_manifest, save_manifest
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.verify import verify_store
from megatron_mmbert.data.store.writer import StoreWriter
from megatron_mmbert.utils.errors import UserError

Documents = list[tuple[tuple[int, ...], list[list[int]]]]
VOCAB = 1000
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**62, 2**63, 10**400, 0.5, 1e308, "", "..", "a/b", "\0", "x" * 5000, "\u202e"),
    *([], {}, [[]], [[0, 0, 1]], {"a": 1}, "shard-00001", "uint16", "int32", 7, 3, "aab_Latn"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three languages in several shards."""
    folder, pick = tmp_path_factory.mktemp("fuzz") / "whole", np.random.default_rng(0)
    folder.mkdir()
    writer = StoreWriter(folder, "web", "uint16", shard_bytes=600)
    for language, documents in (("aaa_Latn", 9), ("aab_Latn", 1), ("aac_Cyrl", 14)):
        for _ in range(documents):
            ids = pick.integers(0, VOCAB, pick.integers(1, 60)).astype("uint16")
            writer.add(tokenized(language, ids, int(ids.size) * 3, int(ids.size)))
    datasets = writer.finish()
    save_manifest(folder, Manifest("uint16", TokenizerEntry("t", "f", VOCAB), datasets, tuple(writer.shards)))
    return folder


def read_all(folder: Path) -> Documents:
    """Return counts and ids of all documents by every way of reading; UserError for what a check finds."""
    store = Store.open(folder)
    for problem in verify_store(folder):
        raise UserError(problem)
    found = []
    for entry in store.manifest.datasets:
        name = (entry.source, entry.language)
        reader, lengths = store.reader(*name), store.document_lengths(*name)
        together = np.concatenate([each for each, _ in store.lengths_and_checksums(*name)])
        assert together.tolist() == lengths.tolist()
        ids = [reader(document, 0, int(length)).tolist() for document, length in enumerate(lengths)]
        found.append(((entry.documents, entry.tokens, entry.bytes, entry.words), ids))
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a JSON value."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(each, (*path, key))


def replace_values(content: bytes, pick: random.Random) -> bytes:
    """Put hostile values into a manifest, half of the time as whoever changes it on purpose."""
    value = json.loads(content)
    if pick.random() < 0.5:
        del value["sha256"]
    for _ in range(pick.choice((1, 1, 1, 3))):
        *parents, last = pick.choice(list(places(value)))
        place = value
        for key in parents:
            place = place[key]
        if pick.random() < 0.1:
            del place[last]
        elif type(place[last]) is int and pick.random() < 0.5:
            place[last] += pick.choice((-1, 1, 256, -256))
        else:
            place[last] = pick.choice(HOSTILE)
    return json.dumps(value).encode()


def damage(folder: Path, pick: random.Random) -> None:
    """Damage one file of a store."""
    manifest = folder / "manifest.json"
    kind = pick.choice(("bytes", "values", "values", ".idx", ".idx", ".crc32", ".bin"))
    if kind in ("bytes", "values"):
        content = manifest.read_bytes()
        manifest.write_bytes(mutate(content, pick) if kind == "bytes" else replace_values(content, pick))
        return
    path = pick.choice(sorted(folder.glob(f"*{kind}")))
    path.write_bytes(mutate(path.read_bytes(), pick))
    if pick.random() < 0.5:
        value = manifest_without_checksum(folder)
        for shard in value["shards"]:
            if shard["name"] == path.stem:
                shard[f"{kind[1:]}_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(value))


def check_store(whole: Path, folder: Path, expected: Documents, seed: int) -> str:
    """Read one damaged store; return how it ended."""
    pick = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    damage(folder, pick)
    with no_hang():
        try:
            found = read_all(folder)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, (seed, error)
            return "told"
    # Names are not checked by anything, and their datasets may stand in another order by them.
    assert sorted(found) == sorted(expected), seed
    return "whole"


def run_stores(whole: Path, folder: Path, seeds: range) -> None:
    expected = read_all(whole)
    ends = Counter(check_store(whole, folder / "case", expected, seed) for seed in seeds)
    assert min(ends["told"], ends["whole"]) > len(seeds) // 100, ends


def test_200_mutated_stores(whole: Path, tmp_path: Path) -> None:
    run_stores(whole, tmp_path, range(200))


@pytest.mark.slow
def test_5000_mutated_stores(whole: Path, tmp_path: Path) -> None:
    run_stores(whole, tmp_path, range(1000, 6000))


@pytest.mark.parametrize("key", ["bytes", "words"])
def test_totals_that_are_not_those_of_the_datasets(whole: Path, tmp_path: Path, key: str) -> None:
    store = tmp_path / "store"
    shutil.copytree(whole, store)
    value = json.loads((store / "manifest.json").read_bytes())
    value["groups"][0][key] += 1
    (store / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=rf"manifest\.json: damaged manifest .*{key}"):
        load_manifest(store)
