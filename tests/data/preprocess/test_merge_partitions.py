"""Partitions made by an array of tasks merge into the very store of one command."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from support.made_store import made_store

from megatron_mmbert.cli import run_cli
from megatron_mmbert.data.preprocess.job import input_files, partition_files
from megatron_mmbert.data.preprocess.partition_reader import verify_partition
from megatron_mmbert.data.preprocess.run import PreprocessJob, merge, preprocess_partition
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.verify import verify_store
from megatron_mmbert.data.text.records import Fields
from megatron_mmbert.utils.errors import UserError

Tool = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(scope="module")
def many_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen files of very different size in five languages, with texts that come again and bad lines."""
    folder = tmp_path_factory.mktemp("many")
    pick = random.Random(1)
    for number in range(12):
        language = pick.choice(("deu", "eng", "fra", "jpn", "spa"))
        lines = []
        for _ in range(pick.choice((1, 5, 20, 200))):
            text = " ".join(pick.choices(("etaoin", "shrdlu", "x", "αβγ"), k=pick.randrange(1, 4)))
            lines.append(json.dumps({"text": text, "lang": pick.choice(("a", "b", "c"))}))
        lines.insert(pick.randrange(len(lines)), '{"text": 3}')
        (folder / f"{language}.{number}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("by_field", [False, True])
@pytest.mark.parametrize("dedup", [False, True])
def test_merged_is_byte_for_byte_what_one_command_makes(
    by_field: bool, dedup: bool, many_files: Path, tokenizer_file: Path, tmp_path: Path
) -> None:
    job = PreprocessJob(
        (many_files,), tokenizer_file, tmp_path / "one", skip_bad=True, dedup=dedup, shard_bytes=600,
        fields=Fields(language="lang" if by_field else None),
    )  # fmt: skip
    one = made_store(job)
    assert len(one.manifest.shards) > 3 and (one.manifest.duplicates > 100) == dedup
    assert one.manifest.skipped_lines == 12
    for parts in (2, 5):
        paths = [tmp_path / f"{parts}-{number}" for number in range(1, parts + 1)]
        for number, path in enumerate(paths, start=1):
            preprocess_partition(replace(job, output=path, partition=(number, parts), workers=1 + (number == 1)))
        random.Random(parts).shuffle(paths)
        merge(paths, tmp_path / f"merged{parts}")
        assert contents(tmp_path / f"merged{parts}") == contents(job.output), parts
    assert list(verify_store(tmp_path / "merged5")) == []


def test_every_file_is_in_one_partition_and_partitions_are_balanced(many_files: Path, tokenizer_file: Path) -> None:
    files = input_files(PreprocessJob((many_files,), tokenizer_file, Path("nowhere")))
    total = sum(file.path.stat().st_size for file in files)
    largest = max(file.path.stat().st_size for file in files)
    for parts in range(1, len(files) + 1):
        shares = [partition_files(files, (number, parts)) for number in range(1, parts + 1)]
        assert [file for some in shares for file in some] == files and all(shares)
        assert max(sum(file.path.stat().st_size for file in some) for some in shares) <= total / parts + largest
    with pytest.raises(UserError, match="only 12 input files"):
        partition_files(files, (1, 13))


@pytest.fixture
def parts(many_files: Path, tokenizer_file: Path, tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"part{number}" for number in (1, 2, 3)]
    for number, path in enumerate(paths, start=1):
        preprocess_partition(PreprocessJob((many_files,), tokenizer_file, path, skip_bad=True, partition=(number, 3)))
    return paths


def test_wrong_sets_of_partitions_are_refused(
    parts: list[Path], many_files: Path, tokenizer_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    with pytest.raises(UserError, match="partition 2 of 3 is missing"):
        merge([parts[0], parts[2]], out)
    with pytest.raises(UserError, match="partition 1 of 3 again"):
        merge([*parts, parts[0]], out)
    with pytest.raises(UserError, match="no partition of a token store here"):
        merge([*parts, many_files], out)
    other = PreprocessJob(
        (many_files,), tokenizer_file, tmp_path / "other", skip_bad=True, partition=(2, 3), dedup=True
    )
    preprocess_partition(other)
    with pytest.raises(UserError, match=r"of another store .*other dedup"):
        merge([parts[0], other.output, parts[2]], out)
    with pytest.raises(UserError, match="a partition of a store; merge"):
        Store.open(parts[0])
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_a_damaged_partition_makes_no_store(parts: list[Path], tmp_path: Path) -> None:
    damaged = bytearray((parts[1] / "ids.bin").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (parts[1] / "ids.bin").write_bytes(damaged)
    with pytest.raises(UserError, match=rf"{parts[1]}: document \d+ \(\w+\) is damaged"):
        merge(parts, tmp_path / "store")
    assert not (tmp_path / "store").exists() and not list(tmp_path.glob(".*"))
    assert any("is damaged" in problem for problem in verify_partition(parts[1]))
    assert list(verify_partition(parts[0])) == []


@pytest.mark.parametrize("file", ["made_from.json", "part.json"])
@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"shard": [1]}', '{"shard": [2, 3], "inputs": [["a"]]}', "the format alone"]
)
def test_records_of_a_partition_that_are_other_json(file: str, content: str, parts: list[Path], tmp_path: Path) -> None:
    whole = json.loads((parts[1] / file).read_text())
    known = json.dumps({key: whole[key] for key in ("format", "version") if key in whole})
    (parts[1] / file).write_text(known if content == "the format alone" else content)
    with pytest.raises(UserError, match=rf"^{parts[1]}(/{file})?: ") as caught:
        merge(parts, tmp_path / "store")
    assert "\n" not in str(caught.value) and not (tmp_path / "store").exists()


def test_inputs_that_changed_between_tasks_are_noticed(many_files: Path, tokenizer_file: Path, tmp_path: Path) -> None:
    shutil.copytree(many_files, tmp_path / "in")
    job = PreprocessJob((tmp_path / "in",), tokenizer_file, tmp_path / "p1", skip_bad=True, partition=(1, 2))
    preprocess_partition(job)
    with (tmp_path / "in" / "zul.jsonl").open("w") as file:
        file.write('{"text": "one more"}\n')
    preprocess_partition(replace(job, output=tmp_path / "p2", partition=(2, 2)))
    with pytest.raises(UserError, match=r"another store .*other all_inputs"):
        merge([tmp_path / "p1", tmp_path / "p2"], tmp_path / "store")


def test_the_tool_makes_partitions_and_merges_them(
    run_tool: Tool, corpus: Path, tokenizer_file: Path, tmp_path: Path
) -> None:
    def make(*arguments: object) -> CompletedProcess[str]:
        done = run_tool("preprocess_data", *arguments)
        assert "Traceback" not in done.stderr
        return done

    source = ("--input", corpus, "--tokenizer", tokenizer_file)
    for number in (1, 2):
        done = make(
            *source, "--output", tmp_path / f"p{number}", "--partition" if number == 1 else "--shard", f"{number}/2"
        )
        assert done.returncode == 0 and f"partition {number} of 2" in done.stdout
    assert make("--merge", tmp_path / "p1", tmp_path / "p2", "--output", tmp_path / "merged").returncode == 0
    assert make(*source, "--output", tmp_path / "one").returncode == 0
    assert contents(tmp_path / "merged") == contents(tmp_path / "one")
    assert "nothing to do" in make("--merge", tmp_path / "p2", tmp_path / "p1", "--output", tmp_path / "merged").stdout
    for wrong in (("--partition", "0/2"), ("--partition", "3/2"), ("--partition", "x"), ("--merge", tmp_path / "p1")):
        done = make(*source, "--output", tmp_path / "wrong", *wrong)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "beside"),
    [
        ("preprocess", ["--dedup"]),
        ("preprocess", ["--language-from", "folder"]),
        ("preprocess", ["--shard-bytes", "1000"]),
        ("import-mds", ["--source", "web"]),
        ("import-mds", ["--skip-bad"]),
    ],
)
def test_a_merge_passes_over_no_argument(tmp_path: Path, command: str, beside: list[str]) -> None:
    with pytest.raises(UserError, match=f"and --overwrite beside them, not {beside[0]};"):
        run_cli([command, "--merge", str(tmp_path / "p1"), "--output", str(tmp_path / "store"), *beside])
