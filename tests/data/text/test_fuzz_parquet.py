"""Mutated parquet files of published layouts: one sentence, counted bad lines, or all rows as they were written.

Two hundred at every run, five thousand with ``-m slow``. A case is named by its seed, which makes it again.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from support.damaged_text import assert_damage_is_told
from support.mutations import flip_in, mutate, no_hang

from megatron_mmbert.data.text.conditions import parse_conditions
from megatron_mmbert.data.text.documents import read_documents, read_file
from megatron_mmbert.data.text.records import Fields, InputFile, SkippedLines
from megatron_mmbert.utils.errors import UserError

FIELDS = (
    Fields(),
    Fields(language="language+language_script"),
    Fields(where=parse_conditions("language_score >= 0 and dump != 'x'")),
    Fields(rehydrate=True),
)
_FOOTER_END = 8  # bytes: the length of the footer and the magic


def table(texts: list[str], pick: random.Random) -> pa.Table:
    """A table with FineWeb2's columns, and some that nobody reads."""
    count = len(texts)
    text: Any = pa.array(texts, pick.choice((pa.string(), pa.large_string())))
    columns = {
        "text": text.dictionary_encode() if pick.random() < 0.2 else text,
        "id": [f"<urn:uuid:{n}>" for n in range(count)],
        "dump": ["CC-MAIN-2024-10"] * count,
        "language": ["fao"] * count,
        "language_script": ["Latn"] * count,
        "language_score": [0.5] * count,
        "minhash_cluster_size": [1] * count,
        "embeddings": [[0.5] * 4] * count,
        "metadata": [{"a": 1, "b": "x"}] * count,
        "nothing": pa.nulls(count),
    }
    return pa.table(columns)


def make_file(path: Path, pick: random.Random) -> tuple[list[str], bool]:
    """A mutated file; return the texts before, and whether its pages have checksums."""
    texts = [f"text number {pick.random()} é 日本 " * pick.choice((1, 1, 50)) for _ in range(pick.randrange(1, 90))]
    has_checksums = pick.random() < 0.5
    sink = pa.BufferOutputStream()
    parquet.write_table(
        table(texts, pick),
        sink,
        row_group_size=pick.choice((5, 40, 1000)),
        compression=pick.choice(("snappy", "zstd", "gzip", "lz4", "none")),
        use_dictionary=pick.random() < 0.5,
        data_page_version=pick.choice(("1.0", "2.0")),
        data_page_size=pick.choice((200, 1 << 20)),
        write_page_checksum=has_checksums,
        write_page_index=pick.random() < 0.3,
    )
    content = bytes(sink.getvalue())
    footer = len(content) - _FOOTER_END - int.from_bytes(content[-8:-4], "little")
    kind = pick.random()
    if kind < 0.35:  # the description of the columns, which decides what is read from where
        content = flip_in(content, pick, footer, len(content))
    elif kind < 0.55:
        content = flip_in(content, pick, 4, footer)
    elif kind < 0.95:
        content = mutate(content, pick)
    path.write_bytes(content)
    return texts, has_checksums


def check_file(folder: Path, seed: int) -> str:
    """Read one mutated file; return how it ended."""
    pick = random.Random(seed)
    path = folder / "fao_Latn.parquet"
    texts, has_checksums = make_file(path, pick)
    skipped = SkippedLines() if pick.random() < 0.5 else None
    with no_hang():
        try:
            found = list(read_file(InputFile(path, None, pick.choice(FIELDS), 1 << 16), skipped))
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error) and len(str(error)) < 600, (seed, error)
            return "refused"
    if skipped is not None and skipped.count:
        return "skipped"
    # Bytes of a page without a checksum may be others; that there are as many rows is always told.
    assert len(found) == len(texts), seed
    if has_checksums:
        assert [document.text for document in found] == texts, seed
    return "read"


def run_files(folder: Path, seeds: range) -> None:
    ends = Counter(check_file(folder, seed) for seed in seeds)
    assert min(ends[end] for end in ("refused", "skipped", "read")) > len(seeds) // 20, ends


def test_200_mutated_parquet_files(tmp_path: Path) -> None:
    run_files(tmp_path, range(200))


@pytest.mark.slow
def test_5000_mutated_parquet_files(tmp_path: Path) -> None:
    run_files(tmp_path, range(1000, 6000))


@pytest.mark.parametrize(
    ("where", "rows", "is_told"),
    [(0, 39, True), (0, 41, True), (1, 39, False), (1, 41, False), (2, 39, True), (2, 41, False)],
    ids=["file-fewer", "file-more", "column-fewer", "column-more", "group-fewer", "group-more"],
)
def test_an_index_that_says_another_number_of_rows(where: int, rows: int, is_told: bool, tmp_path: Path) -> None:
    """Never fewer rows without a word; a number that is not needed to find them all may be wrong."""
    path = tmp_path / "fao_Latn.parquet"
    texts = [f"text {n}" for n in range(40)]
    parquet.write_table(pa.table({"text": texts}), path)
    content = path.read_bytes()
    # The third field of each of the three is a number of 64 bits, written twice as large.
    at = [match.start() for match in re.finditer(bytes((0x16, 2 * 40)), content)]
    assert len(at) == 3
    path.write_bytes(content[: at[where] + 1] + bytes([2 * rows]) + content[at[where] + 2 :])
    if is_told:
        assert_damage_is_told(path, r"fao_Latn\.parquet: damaged parquet after row \d+")
    else:
        assert [document.text for document in read_documents(path)] == texts
