"""Every kind of input, through the whole preprocessing."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from support.made_store import made_store

from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess
from megatron_mmbert.utils.errors import UserError


def write_all_kinds(folder: Path, texts: list[str]) -> list[Path]:
    """The same documents as ``eng`` in six kinds of file, each in a folder of its own."""
    lines = {"txt": "\n".join(texts).encode(), "jsonl": "\n".join(json.dumps({"text": t}) for t in texts).encode()}
    files = []
    for kind, content in lines.items():
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        packed = {"": content, ".gz": gzip.compress(content), ".zst": bytes(sink.getvalue())}
        for ending, data in packed.items():
            files.append(folder / f"{kind}{ending}".replace(".", "_") / f"eng.{kind}{ending}")
            files[-1].parent.mkdir(parents=True)
            files[-1].write_bytes(data)
    files.append(folder / "parquet" / "eng.parquet")
    files[-1].parent.mkdir()
    parquet.write_table(pa.table({"text": texts}), files[-1], row_group_size=100)
    return files


def test_every_kind_gives_the_same_shards(tmp_path: Path, tokenizer_file: Path, texts: dict[str, list[str]]) -> None:
    found = []
    for number, file in enumerate(write_all_kinds(tmp_path / "in", texts["eng_Latn"][:300])):
        job = PreprocessJob((file,), tokenizer_file, tmp_path / f"store{number}", workers=1 + number % 2)
        found.append(made_store(job).manifest)
    assert len(found) == 7 and found[0].totals()["documents"] == 300
    assert all(manifest == found[0] for manifest in found)


def test_too_long_a_line_stops_or_is_counted(tmp_path: Path, tokenizer_file: Path) -> None:
    (tmp_path / "eng.txt").write_text("short\n" + "long " * 100 + "\nshort too\n")
    job = PreprocessJob((tmp_path / "eng.txt",), tokenizer_file, tmp_path / "store", max_line_bytes=400)
    with pytest.raises(UserError, match=r"eng\.txt:2: longer than 400 bytes"):
        preprocess(job)
    store = made_store(replace(job, skip_bad=True))
    assert (store.manifest.totals()["documents"], store.manifest.skipped_lines) == (2, 1)
    with pytest.raises(UserError, match="other max line bytes"):
        preprocess(replace(job, skip_bad=True, max_line_bytes=1000))
