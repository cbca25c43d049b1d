"""Mutated inputs and stores end in one sentence, a counted skip, or a sound store: no traceback, no hang.

Two hundred inputs at every run, five thousand with ``-m slow``. A case is named by its seed, which makes it again.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from support.made_store import made_store
from support.mutations import MUTATIONS, Mutation, no_hang

from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess
from megatron_mmbert.data.store.index_format import indexed_dataset
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.verify import verify_store
from megatron_mmbert.utils.errors import UserError

MOST = 1 << 16


def zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def parquet_bytes(texts: list[str], compression: str) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"text": texts}), sink, row_group_size=7, compression=compression)
    return bytes(sink.getvalue())


TEXT_MUTATIONS: dict[str, Mutation] = {
    "utf-8": lambda content, pick: content.replace(b"e", bytes([pick.randrange(128, 256)]), pick.randrange(1, 5)),
    "long line": lambda content, pick: content + b'{"text": "' + b"x" * (2 * MOST),
    "bomb": lambda content, pick: content + b" " * pick.choice((1 << 20, 1 << 22)),
    "deep": lambda content, pick: content + b"\n" + b"[" * 50_000,
    "null": lambda content, pick: content.replace(b'"', b"\0", 3),
}


def make_input(folder: Path, pick: random.Random) -> Path:
    """One input file: text damaged before or after it is packed."""
    texts = [f"text number {pick.random()} é 日本" for _ in range(pick.randrange(1, 30))]
    ending = pick.choice(("jsonl", "txt", "jsonl.gz", "txt.gz", "jsonl.zst", "txt.zst", "parquet"))
    if ending == "parquet":
        content = parquet_bytes(texts, pick.choice(("snappy", "zstd", "none")))
    else:
        content = "\n".join(texts if "txt" in ending else (json.dumps({"text": t}) for t in texts)).encode()
        if pick.random() < 0.5:
            content = TEXT_MUTATIONS[pick.choice(sorted(TEXT_MUTATIONS))](content, pick)
        content = {"gz": lambda c: gzip.compress(c, 1), "zst": zst}.get(ending[-3:].strip("."), bytes)(content)
    if pick.random() < 0.8:
        content = MUTATIONS[pick.choice(sorted(MUTATIONS))](content, pick)
    path = folder / f"eng.{ending}"
    path.write_bytes(content)
    return path


def check_input(folder: Path, tokenizer: Path, seed: int) -> str:
    """One mutated input through the preprocessing; how it ended."""
    indexed_dataset()  # its import alone takes seconds, or many on a busy machine
    pick = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    skip_bad = pick.random() < 0.5
    job = PreprocessJob((make_input(folder, pick),), tokenizer, folder / "out", skip_bad=skip_bad, max_line_bytes=MOST)
    with no_hang():
        try:
            store = made_store(job)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, (seed, error)
            assert [file.name for file in folder.iterdir()] == [job.inputs[0].name], seed
            return "refused"
    assert list(verify_store(job.output)) == [], seed
    return "skipped" if store.manifest.skipped_lines else "made"


def run_inputs(folder: Path, tokenizer: Path, seeds: range) -> None:
    endings = [check_input(folder / "case", tokenizer, seed) for seed in seeds]
    # All three ends are reached, so that the test is not one of refusals alone.
    assert min(endings.count(end) for end in ("refused", "skipped", "made")) > len(seeds) // 50


def test_200_mutated_inputs(tmp_path: Path, tokenizer_file: Path) -> None:
    run_inputs(tmp_path, tokenizer_file, range(200))


@pytest.mark.slow
def test_5000_mutated_inputs(tmp_path: Path, tokenizer_file: Path) -> None:
    run_inputs(tmp_path, tokenizer_file, range(1000, 6000))


def test_mutated_stores_are_never_taken_for_whole(tmp_path: Path, corpus: Path, tokenizer_file: Path) -> None:
    """A shard's file damaged in any way: opening or verifying says so."""
    sound = tmp_path / "sound"
    preprocess(PreprocessJob((corpus / "ell_Grek.jsonl",), tokenizer_file, sound))
    endings = (".bin", ".idx", ".crc32")
    for seed in range(150):
        pick = random.Random(seed)
        path = sound / f"shard-00000{pick.choice(endings)}"
        content = path.read_bytes()
        damaged = MUTATIONS[pick.choice(sorted(MUTATIONS))](content, pick)
        path.write_bytes(damaged)
        with no_hang():
            try:
                Store.open(sound)
                problems = list(verify_store(sound))
            except UserError as error:
                problems = [str(error)]
        assert bool(problems) == (damaged != content), seed
        path.write_bytes(content)


WRONG_COLUMNS = {
    "integers": pa.array([1, 2, 3]),
    "floats": pa.array([0.5, 1.5, 2.5]),
    "bytes": pa.array([b"a", b"\xff", b"c"]),
    "lists": pa.array([["a"], ["b"], ["c"]]),
    "structures": pa.array([{"a": 1}, {"a": 2}, {"a": 3}]),
    "nothing": pa.nulls(3),
}


@pytest.mark.parametrize("kind", WRONG_COLUMNS)
def test_a_column_of_a_wrong_type_is_refused(kind: str, tokenizer_file: Path, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": WRONG_COLUMNS[kind]}), tmp_path / "eng.parquet")
    with pytest.raises(UserError, match=r"eng\.parquet: column 'text' is .*, not a string"):
        preprocess(PreprocessJob((tmp_path / "eng.parquet",), tokenizer_file, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_store_of_a_wrong_dtype_is_never_taken_for_whole(tmp_path: Path, corpus: Path, tokenizer_file: Path) -> None:
    """The type of the ids is in the manifest and in the index: wrong in either, or in both."""
    store = tmp_path / "store"
    preprocess(PreprocessJob((corpus / "ell_Grek.jsonl",), tokenizer_file, store))
    manifest = (store / "manifest.json").read_text()
    index = (store / "shard-00000.idx").read_bytes()
    codes = [bytes([code]) for code in (1, 4, 6, 7, 0, 255)]
    for wrong_manifest in (False, True):
        for code in [index[17:18], *codes]:
            if not wrong_manifest and code == index[17:18]:
                continue
            (store / "manifest.json").write_text(
                manifest.replace('"uint16"', '"int32"') if wrong_manifest else manifest
            )
            (store / "shard-00000.idx").write_bytes(index[:17] + code + index[18:])
            with no_hang():
                try:
                    Store.open(store)
                    problems = list(verify_store(store))
                except UserError as error:
                    problems = [str(error)]
            assert problems, (wrong_manifest, code)
