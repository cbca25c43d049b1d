"""A partition that is killed anywhere resumes to the same bytes."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.tokenized import tokenized

from megatron_mmbert.data.preprocess.partition_reader import Partition
from megatron_mmbert.data.preprocess.partition_writer import FILES, InputIdentity, PartitionWriter
from megatron_mmbert.data.text.records import BadLine
from megatron_mmbert.utils.errors import UserError

ABOUT = {"dtype": "uint16", "tokenizer": {}}
INPUTS: list[InputIdentity] = [[f"file{n}", None, n, n] for n in range(8)]
FORM = {"source": "web"}


def write_file(writer: PartitionWriter, number: int) -> None:
    """Write what comes of input ``number``: documents of several languages, new ones in later files; a bad line."""
    pick = random.Random(number)
    for at in range(pick.randrange(0, 12)):
        ids = np.array(pick.choices(range(1000), k=pick.randrange(1, 9)), "uint16")
        writer.add(tokenized(f"l{pick.randrange(number + 2)}", ids, at, number))
    writer.skipped.add(BadLine(f"file{number}", 1, "bad"))
    writer.finish_file()


def fill(
    folder: Path, inputs: list[InputIdentity] = INPUTS, stop: int | None = None, about: dict[str, str] = FORM
) -> int:
    """Make the partition, or its first files; return how many were there already."""
    writer = PartitionWriter(folder, about, inputs)
    before = writer.done
    for number in range(before, len(inputs))[:stop]:
        write_file(writer, inputs[number][2])
    if writer.done == len(inputs):
        writer.finish(ABOUT)
    writer.close()
    return before


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_killed_anywhere_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    fill(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    kept = 0
    for seed in range(150):
        pick = random.Random(seed)
        folder = tmp_path / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        fill(folder, stop=pick.randrange(1, 9))
        for name in (*FILES, "skipped.jsonl"):
            content = (folder / name).read_bytes()
            torn = pick.choice((b"", pick.randbytes(50), b'{"input": ["fi'))
            if name == "journal.jsonl":
                content = content[: pick.randrange(len(content) + 1)]
                torn = torn if content.endswith(b"\n") else b""
            elif pick.random() < 0.2:
                content, torn = content[: pick.randrange(len(content) + 1)], b""
            (folder / name).write_bytes(content + torn)
        kept += fill(folder)
        assert contents(folder) == whole, seed
    assert kept > 150


def test_a_changed_input_is_done_again_and_all_after_it(tmp_path: Path) -> None:
    fill(tmp_path / "a", stop=7)
    changed = [*INPUTS[:4], ["file4", None, 44, 44], *INPUTS[5:]]
    assert fill(tmp_path / "a", changed) == 4
    fill(tmp_path / "b", changed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert fill(tmp_path / "a", changed) == 8
    assert fill(tmp_path / "a", changed[:6]) == 6, "fewer inputs: what came after them is cut off"
    assert fill(tmp_path / "a", changed, about={"source": "other"}) == 0


def test_languages_come_together_in_their_order(tmp_path: Path) -> None:
    fill(tmp_path)
    partition = Partition(tmp_path)
    found = {language: list(partition.read(language)) for language in partition.languages}
    expected: dict[str, list[int]] = {}
    for number in range(len(INPUTS)):
        pick = random.Random(number)
        for _ in range(pick.randrange(0, 12)):
            ids = pick.choices(range(1000), k=pick.randrange(1, 9))
            expected.setdefault(f"l{pick.randrange(number + 2)}", []).extend(ids)
    assert {k: np.concatenate([d.ids for d in v]).tolist() for k, v in found.items()} == expected
    assert list(partition.read("none of this")) == []
    assert partition.about["skipped_lines"] == len(INPUTS)


def test_the_number_of_files_does_not_grow_with_the_languages(tmp_path: Path) -> None:
    for languages in (2, 2000):
        writer = PartitionWriter(tmp_path / str(languages), FORM, INPUTS[:1])
        for number in range(languages):
            writer.add(tokenized(f"l{number}", np.arange(3, dtype="uint16"), 1, 1))
        writer.finish_file()
        writer.finish(ABOUT)
    assert {file.name for file in (tmp_path / "2").iterdir()} == {file.name for file in (tmp_path / "2000").iterdir()}
    assert len(Partition(tmp_path / "2000").languages) == 2000


@pytest.mark.parametrize("name", ["ids.bin", "rows.bin", "runs.bin", "part.json"])
def test_a_damaged_partition_is_told(name: str, tmp_path: Path) -> None:
    fill(tmp_path)
    content = (tmp_path / name).read_bytes()
    value = json.loads((tmp_path / "part.json").read_text())
    for at in range(0, len(content), 11 if name != "part.json" else len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 0x41
        for wrong in (bytes(damaged), content[:at]):
            (tmp_path / name).write_bytes(wrong)
            with pytest.raises(UserError):
                partition = Partition(tmp_path)
                rows = [documents for language in partition.languages for documents in partition.read(language)]
                # What a changed count of bytes or words does is not seen: the store made of it is one of this text.
                assert name == "rows.bin" and len(wrong) == len(content) and sum(d.rows.size for d in rows)
                raise UserError("not looked at")
    (tmp_path / name).write_bytes(content)
    assert Partition(tmp_path).languages == value["languages"]


def test_what_was_left_out_is_known_after_a_resume(tmp_path: Path) -> None:
    writer = PartitionWriter(tmp_path, FORM, INPUTS[:2])
    writer.left_out += 3
    write_file(writer, 0)
    writer.left_out += 5  # of a file that is not finished
    writer.close()
    assert PartitionWriter(tmp_path, FORM, INPUTS[:2]).left_out == 3
