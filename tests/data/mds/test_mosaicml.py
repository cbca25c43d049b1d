"""Against the real mosaicml-streaming, both ways: the same ids, document by document."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from support.made_store import imported_store

from megatron_mmbert.data.mds.discover import Naming
from megatron_mmbert.data.mds.exporting import ExportJob, export_mds
from megatron_mmbert.data.mds.job import ImportJob
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.verify import verify_store
from megatron_mmbert.tokenizer.load import load_tokenizer

from .conftest import Peer

BOS, EOS = 2, 1
ENCODINGS = [
    "ndarray",
    "ndarray:uint16",
    "ndarray:uint32",
    "ndarray:int32",
    "ndarray:int64",
    "ndarray:uint32:40",
    "bytes",
]


def documents(count: int, length: int | None = None) -> list[list[int]]:
    """Ids of pieces with text; as the vocabulary of the tests has them above its special ids and bytes."""
    pick = random.Random(count)
    return [
        [pick.randrange(270, 390) for _ in range(length or pick.choice((1, 30, 300, 70_000)))] for _ in range(count)
    ]


def ids_of(store: Store, source: str, language: str) -> list[list[int]]:
    lengths = store.document_lengths(source, language).tolist()
    return [store.tokens(source, language, number, 0, length).tolist() for number, length in enumerate(lengths)]


def write(peer: Peer, out: Path, ids: list[list[int]], encoding: str = "ndarray:uint32", **options: Any) -> None:
    columns = {"id": "str", "input_ids": encoding, "len": "int"}
    marked = [[BOS, *each, EOS] for each in ids]
    samples = [{"id": f"é{n}", "input_ids": each, "len": len(each)} for n, each in enumerate(marked)]
    peer({"write": str(out), "columns": columns, "samples": samples, "size_limit": 100_000, **options})


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_ids(peer: Peer, tokenizer_file: Path, tmp_path: Path, encoding: str) -> None:
    ids = documents(12, 38 if encoding.endswith(":40") else None)
    write(peer, tmp_path / "web/fao_Latn", ids, encoding, dtype="int64", hashes=["sha1", "xxh64"])
    id_type = "int64" if encoding == "bytes" else None
    store = imported_store(ImportJob((tmp_path / "web",), tokenizer_file, tmp_path / "store", id_type=id_type))
    assert ids_of(store, "web", "fao_Latn") == ids
    assert not list(verify_store(tmp_path / "store", load_tokenizer(tokenizer_file).fingerprint()))


@pytest.mark.parametrize("compression", ["zstd", "zstd:9", "gz", "bz2"])
def test_compressed_shards(peer: Peer, tokenizer_file: Path, tmp_path: Path, compression: str) -> None:
    ids = documents(12)
    write(peer, tmp_path / "web/fao_Latn", ids, compression=compression, hashes=["sha256"])
    store = imported_store(ImportJob((tmp_path / "web",), tokenizer_file, tmp_path / "store", workers=2))
    assert ids_of(store, "web", "fao_Latn") == ids


def test_a_tree_as_mmbert_published_it(peer: Peer, tokenizer_file: Path, tmp_path: Path) -> None:
    folder = "000_00000-tokenized-chunked-8192-512-32-backfill-nodups"
    places = {
        ("fineweb2-sampled-decay-v2", "fao_Latn"): f"fineweb2-sampled-decay-v2/fao_Latn/{folder}",
        ("fineweb2-sampled-decay-v2", "srp_Cyrl"): f"fineweb2-sampled-decay-v2/srp_Cyrl_train-sampled/{folder}",
        (
            "dclm-filtered-sampled-decay-10B",
            "eng_Latn",
        ): "dclm-filtered-sampled-decay-10B/split_30-tokenized-chunked-8192",
    }
    wanted = {}
    for number, (dataset, place) in enumerate(places.items()):
        wanted[dataset] = documents(5 + number, 50)
        write(peer, tmp_path / "train" / place, wanted[dataset])
    peer({"merge": str(tmp_path / "train")})
    for place in places.values():
        (tmp_path / "train" / place / "stats.json").write_text("{}")
    naming = Naming(language_of=(("dclm*", "eng_Latn"),))
    store = imported_store(ImportJob((tmp_path / "train",), tokenizer_file, tmp_path / "store", naming))
    assert [(each.source, each.language) for each in store.datasets] == sorted(wanted)
    for dataset, ids in wanted.items():
        assert ids_of(store, *dataset) == ids


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_our_shards_are_read_there(
    peer: Peer, text_store: Path, faithful_tokenizer: Path, tmp_path: Path, compression: str | None
) -> None:
    export_mds(
        ExportJob(text_store, faithful_tokenizer, tmp_path / "mds", compression=compression, shard_bytes=100_000)
    )
    store = Store.open(text_store)
    everything = []
    for dataset in store.datasets:
        name = f"{dataset.source}/{dataset.language}"
        wanted = [
            {"id": f"{name}/{number}", "input_ids": [BOS, *ids, EOS], "len": len(ids) + 2}
            for number, ids in enumerate(ids_of(store, dataset.source, dataset.language))
        ]
        assert peer({"read": str(tmp_path / "mds" / name), "hash": "sha256"}) == wanted
        everything += wanted
    assert peer({"read": str(tmp_path / "mds"), "hash": "sha256"}) == everything
