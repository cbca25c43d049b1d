"""Published corpora in the layouts in which they are downloaded, each to the right store with one command."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from support.made_store import made_store

from megatron_mmbert.cli import run_cli
from megatron_mmbert.data.preprocess.job import PreprocessJob
from megatron_mmbert.data.preprocess.run import merge, preprocess, preprocess_partition
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.text import heldout_split
from megatron_mmbert.data.text.conditions import parse_conditions
from megatron_mmbert.data.text.inputs.discover import AS_FOUND, discover, find_files
from megatron_mmbert.data.text.records import Fields
from megatron_mmbert.utils.errors import UserError

Run = Callable[..., Store]


@pytest.fixture
def run(tokenizer_file: Path, tmp_path: Path) -> Run:
    def run(*arguments: object) -> Store:
        command = ["preprocess", *arguments, "--tokenizer", tokenizer_file, "--output", tmp_path / "store"]
        run_cli([*map(str, command), "--workers", "1"])
        return Store.open(tmp_path / "store")

    return run


def counts(store: Store) -> dict[str, tuple[int, int]]:
    """Map each language to its documents and bytes."""
    return {entry.language: (entry.documents, entry.bytes) for entry in store.manifest.datasets}


def fineweb2(language: str, texts: list[str], **others: Any) -> pa.Table:
    """A table with FineWeb2's columns."""
    code, script = language.split("_")
    count = len(texts)
    columns = {
        "text": texts,
        "id": [f"<urn:uuid:{language}-{n}>" for n in range(count)],
        "dump": ["CC-MAIN-2024-10"] * count,
        "url": ["https://example.org"] * count,
        "date": ["2024-02-21T12:00:00Z"] * count,
        "file_path": ["s3://crawl/warc.gz"] * count,
        "language": [code] * count,
        "language_score": [0.5 + n / 10 for n in range(count)],
        "language_script": [script] * count,
        "minhash_cluster_size": [n + 1 for n in range(count)],
        "top_langs": ["{}"] * count,
    }
    return pa.table(columns | others)


def write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True)
    parquet.write_table(table, path)


def codes() -> Iterator[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return (f"{''.join(three)}_{script}" for three in product(letters, repeat=3) for script in ("Latn", "Cyrl"))


@pytest.mark.parametrize("count", [41, pytest.param(1833, marks=pytest.mark.slow)])
def test_fineweb2_with_its_test_and_removed_folders(
    count: int, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "fineweb-2" / "data"
    expected = {}
    for number, language in enumerate(islice(codes(), count)):
        texts = [f"text {n} of {language}" for n in range(1 + number % 3)]
        write(fineweb2(language, texts), data / language / "train" / "000_00000.parquet")
        if number % 3 == 0:
            write(fineweb2(language, ["secret"]), data / language / "test" / "000_00000.parquet")
            write(fineweb2(language, ["bad"]), data / f"{language}_removed" / "train" / "000_00000.parquet")
        expected[language] = (len(texts), sum(len(text) for text in texts))
    (data / "README.md").write_text("x")
    start = time.perf_counter()
    assert len(find_files([data]).taken) == count
    assert time.perf_counter() - start < 5  # also of more than 6,000 folders
    assert counts(run("--input", tmp_path / "fineweb-2")) == expected
    said, rest = capsys.readouterr().out, (count + 2) // 3
    assert f"{count:,} languages from folder names ({count:,} files)" in said
    assert f"left out: {rest} files of removed, {rest} files of test; --split takes them" in said
    assert "not read: 1 file (1 .md)" in said


def test_conditions_and_copies_of_fineweb2(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"text {n}" for n in range(5)]
    write(fineweb2("fao_Latn", texts), tmp_path / "data/fao_Latn/train/000_00000.parquet")
    store = run("--input", tmp_path / "data", "--where", "language_score >= 0.6 and dump != 'x'", "--rehydrate")
    # Clusters of 2, 3, 4 and 5 documents.
    assert counts(store) == {"fao_Latn": (2 + 3 + 3 + 5, 13 * len("text 0"))}
    assert "left out 1 documents that do not meet --where" in capsys.readouterr().err
    store = run("--input", tmp_path / "data", "--split", "train", "--overwrite")
    assert counts(store)["fao_Latn"][0] == 5


def test_finepdfs_and_fineweb2_hq_without_their_embeddings(run: Run, tmp_path: Path) -> None:
    for language in ("fra_Latn", "deu_Latn"):
        pages: dict[str, Any] = {"per_page_languages": [["fra", "deu"]] * 2, "token_count": [3, 4]}
        write(fineweb2(language, ["eins", "zwei"], **pages), tmp_path / f"pdfs/data/{language}/train/000_00000.parquet")
        more: dict[str, Any] = {"quality_score": [0.1, 0.9], "embeddings": [[0.5] * 768] * 2}
        write(fineweb2(language, ["drei", "vier"], **more), tmp_path / f"hq/{language}/000_00000.parquet")
    store = run("--input", tmp_path / "pdfs", tmp_path / "hq", "--where", "text != 'vier'")
    assert counts(store) == dict.fromkeys(("fra_Latn", "deu_Latn"), (3, 12))


def test_languages_of_two_columns_and_in_two_spellings(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(fineweb2("nor_Latn", ["a", "b"]), tmp_path / "mixed/1.parquet")
    write(fineweb2("srp_Cyrl", ["c"]), tmp_path / "more/2.parquet")
    where = ("--input", tmp_path / "mixed", tmp_path / "more")
    assert counts(run(*where, "--language-field", "language+language_script")) == {
        "nor_Latn": (2, 2),
        "srp_Cyrl": (1, 1),
    }
    assert "nor_Latn (nob)" in capsys.readouterr().err
    (tmp_path / "more/3.jsonl").write_text('{"text": "d", "language": "NOR", "language_script": "Latn"}\n')
    with pytest.raises(UserError, match="'nor_Latn' and 'NOR_Latn' are one language in two spellings"):
        run(*where, "--language-field", "language+language_script", "--overwrite")
    (tmp_path / "more/3.jsonl").write_text('{"text": "d", "language": "nor", "language_script": ""}\n')
    with pytest.raises(UserError, match=r"3\.jsonl:1: language field 'language_script' is '', which names no language"):
        run(*where, "--language-field", "language+language_script", "--overwrite")


def lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as stream:
        stream.write("".join(json.dumps(record) + "\n" for record in records).encode())


def test_hplt(run: Run, tmp_path: Path) -> None:
    for name in ("fin_Latn/10_1", "fin_Latn/9_1", "eng_Latn/8_1"):
        record = {"f": "./path.warc.gz", "u": "https://example.org", "lang": ["fin_Latn"], "prob": [0.9], "text": "ja"}
        lines(tmp_path / "hplt" / f"{name}.jsonl.zst", [record] * 2)
    assert counts(run("--input", tmp_path / "hplt")) == {"fin_Latn": (4, 8), "eng_Latn": (2, 4)}


def test_dclm(run: Run, tmp_path: Path) -> None:
    record = {"text": "a page", "url": "x", "language_id_whole_page_fasttext": {"en": 0.97}, "metadata": {"n": 1}}
    folder = tmp_path / "dclm/global-shard_01_of_10/local-shard_0_of_10"
    lines(folder / "shard_00000000_processed.jsonl.zst", [record, record | {"text": "une page"}])
    with pytest.raises(UserError, match="no language in its path"):
        run("--input", tmp_path / "dclm")
    assert not (tmp_path / "store").exists()
    where = ("--where", "language_id_whole_page_fasttext.en > 0.65")
    assert counts(run("--input", tmp_path / "dclm", "--language", "eng_Latn", *where)) == {"eng_Latn": (2, 14)}


def test_finewiki(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wiki in ("enwiki", "alswiki"):
        columns = {"text": ["# Title"], "id": ["x/1"], "wikiname": [wiki], "page_id": [1], "has_math": [False]}
        write(pa.table(columns), tmp_path / f"finewiki/data/{wiki}/000_00000.parquet")
    assert counts(run("--input", tmp_path / "finewiki")) == {"en": (1, 7), "gsw": (1, 7)}
    assert "en (eng)" in capsys.readouterr().err


def test_starcoder(run: Run, tmp_path: Path) -> None:
    for name in ("python/train-00000-of-00059", "lua/train-00000-of-00003", "c++/train-00000-of-00044"):
        columns = {"max_stars_repo_path": ["a.py"], "max_stars_count": [5], "id": ["7"], "content": ["print(1)\n"]}
        write(pa.table(columns), tmp_path / f"starcoderdata/{name}.parquet")
    with pytest.raises(UserError, match="`code` for source code"):
        run("--input", tmp_path / "starcoderdata", "--text-field", "content")
    store = run("--input", tmp_path / "starcoderdata", "--text-field", "content", "--language", "code")
    assert counts(store) == {"code": (3, 27)}


def test_what_conditions_leave_out_is_counted_through_partitions_and_resumes(
    tokenizer_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for language in ("fra_Latn", "deu_Latn"):
        for number in range(2):
            path = tmp_path / f"data/{language}/{number}/train.parquet"
            write(fineweb2(language, [f"text {n}" for n in range(3)]), path)
    job = PreprocessJob(
        (tmp_path / "data",),
        tokenizer_file,
        tmp_path / "one",
        fields=Fields(where=parse_conditions("text == 'text 1'")),
    )
    one = made_store(job)
    assert "left out 8 documents" in capsys.readouterr().err
    for number in (1, 2):
        preprocess_partition(replace(job, output=tmp_path / f"p{number}", partition=(number, 2)))
    capsys.readouterr()
    merge([tmp_path / "p1", tmp_path / "p2"], tmp_path / "merged")
    assert Store.open(tmp_path / "merged").manifest.datasets == one.manifest.datasets
    assert "left out 8 documents" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no document left, .* 12 do not meet --where"):
        preprocess(replace(job, output=tmp_path / "none", fields=Fields(where=parse_conditions("text == 'x'"))))


def split(*arguments: object) -> None:
    run_cli(["split-heldout", *map(str, arguments)])


def documents_of(folder: Path) -> dict[str, list[str]]:
    """Map each language of a side of a split to the ids in it."""
    return {
        path.name.removesuffix(".jsonl"): [json.loads(line)["id"] for line in path.read_text().splitlines()]
        for path in sorted(folder.iterdir())
    }


def test_fineweb2_is_split_and_each_side_preprocessed(run: Run, tmp_path: Path) -> None:
    """Test and removed folders left out, conditions kept, copies only of what is trained on."""
    for language in ("fao_Latn", "srp_Cyrl"):
        texts = [f"text {n} of {language}" for n in range(60)]
        sizes = {"minhash_cluster_size": [1 + n % 2 for n in range(60)]}
        write(fineweb2(language, texts, **sizes), tmp_path / f"data/{language}/train/000_00000.parquet")
        write(fineweb2(language, ["secret"]), tmp_path / f"data/{language}/test/000_00000.parquet")
        write(fineweb2(language, ["bad"]), tmp_path / f"data/{language}_removed/train/000_00000.parquet")
    where = ("--where", "language_score >= 0.95", "--rehydrate", "--share", 0.2)
    split("--input", tmp_path / "data", "--output", tmp_path / "split", *where)
    train, held = (documents_of(tmp_path / "split" / side) for side in ("train", "heldout"))
    assert sorted(train) == sorted(held) == ["fao_Latn", "srp_Cyrl"]
    for language in train:
        number = {f"<urn:uuid:{language}-{n}>": n for n in range(60)}
        assert not set(train[language]) & set(held[language])
        assert {number[name] for name in (*train[language], *held[language])} == set(range(5, 60))
        assert all(train[language].count(name) == 1 + number[name] % 2 for name in train[language])
        assert len(held[language]) == len(set(held[language])) and 3 < len(held[language]) < 20
    for side, found in (("train", train), ("heldout", held)):
        store = run("--input", tmp_path / "split" / side, "--overwrite")
        assert {name: count for name, (count, _) in counts(store).items()} == {
            name: len(ids) for name, ids in found.items()
        }


def test_a_split_by_the_language_of_each_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very split that files of one language give, of more languages than files are open."""
    monkeypatch.setattr(heldout_split, "_OPEN_FILES", 4)
    languages = list(islice(codes(), 15))
    rows = [(language, n) for n in range(12) for language in languages]
    columns = {
        "text": [f"text {n} of {language}" for language, n in rows],
        "id": [f"{language}-{n}" for language, n in rows],
        "lang": [language for language, _ in rows],
    }
    write(pa.table(columns), tmp_path / "mixed/1.parquet")
    split("--input", tmp_path / "mixed", "--output", tmp_path / "by-line", "--language-field", "lang", "--share", 0.3)
    (tmp_path / "alone").mkdir()
    for language in languages:
        lines_of = [{"id": f"{language}-{n}", "text": f"text {n} of {language}"} for n in range(12)]
        (tmp_path / "alone" / f"{language}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines_of))
    split("--input", tmp_path / "alone", "--output", tmp_path / "by-file", "--share", 0.3)
    files = {
        path.relative_to(tmp_path / "by-file"): path.read_bytes() for path in (tmp_path / "by-file").rglob("*.js*")
    }
    assert len(files) == 2 * 15 + 1
    assert {path.relative_to(tmp_path / "by-line") for path in (tmp_path / "by-line").rglob("*.js*")} == set(files)
    assert all((tmp_path / "by-line" / path).read_bytes() == content for path, content in files.items())
    assert sorted(path.name for path in (tmp_path / "by-line").iterdir()) == ["heldout", "split.json", "train"]
    assert set(counts(run("--input", tmp_path / "by-line" / "train"))) == set(languages)
    columns["lang"][5] = columns["lang"][5].lower()
    write(pa.table(columns), tmp_path / "twice/1.parquet")
    with pytest.raises(UserError, match="are one language in two spellings"):
        split("--input", tmp_path / "twice", "--output", tmp_path / "none", "--language-field", "lang")
    assert not (tmp_path / "none").exists()


def test_listing_3600_folders_takes_seconds(tmp_path: Path) -> None:
    """FineWeb2's tree without its text: 1,833 languages, of most also what was removed."""
    for number, language in enumerate(islice(codes(), 1833)):
        for name in (language, f"{language}_removed") if number % 30 else (language,):
            folder = tmp_path / "data" / name / "train"
            os.makedirs(folder)
            os.mknod(folder / "000_00000.parquet")
    start = time.perf_counter()
    found = discover([tmp_path / "data"], AS_FOUND)
    assert time.perf_counter() - start < 5
    assert len(found.files) == len({file.language for file in found.files}) == 1833
