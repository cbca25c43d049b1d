from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from support import ROOT
from support.made_store import made_store

from megatron_mmbert.data.preprocess import tokenize_partition
from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess
from megatron_mmbert.data.preprocess.tokenize_worker import TokenizeWorker, read_batches
from megatron_mmbert.data.store.index_format import indexed_dataset
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.text.documents import read_documents
from megatron_mmbert.data.text.records import Fields, InputFile
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.errors import UserError, run_command

Tool = Callable[..., "CompletedProcess[str]"]
REAL_CORPUS = ROOT.parent / "shared" / "data" / "corpus"


@pytest.fixture
def job(corpus: Path, tokenizer_file: Path, tmp_path: Path) -> PreprocessJob:
    return PreprocessJob(inputs=(corpus,), tokenizer=tokenizer_file, output=tmp_path / "store")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def all_documents(store: Path) -> list[list[int]]:
    """What Megatron's own reader finds in the shards, in order."""
    found = []
    for file in sorted(store.glob("*.idx")):
        dataset = indexed_dataset().IndexedDataset(str(file.with_suffix("")))
        found += [dataset[number].tolist() for number in range(len(dataset))]
        assert dataset.document_indices.tolist() == list(range(len(dataset) + 1))
    return found


def test_megatron_reads_exactly_the_tokenizers_ids(job: PreprocessJob, texts: dict[str, list[str]]) -> None:
    store = made_store(replace(job, shard_bytes=100_000))
    tokenizer = load_tokenizer(job.tokenizer)
    expected = [tokenizer.encode(text) for language in sorted(texts) for text in texts[language]]
    assert len(store.manifest.shards) > 3 and len(store.manifest.datasets[1].extents) > 3
    assert all_documents(job.output) == expected
    for group in store.datasets:
        assert group.documents == len(texts[group.language])
        assert group.bytes == sum(len(text.encode()) for text in texts[group.language])
        first = store.tokens("corpus", group.language, 0, 0, 5).tolist()
        assert first == tokenizer.encode(texts[group.language][0])[:5]
    words = {g.language: g.words for g in store.manifest.datasets}
    assert words["eng_Latn"] == sum(len(text.split()) for text in texts["eng_Latn"])


def test_real_text(job: PreprocessJob) -> None:
    if not REAL_CORPUS.is_dir():
        pytest.skip("the corpus of real text is not on this machine")
    files = [REAL_CORPUS / f"{name}.jsonl" for name in ("ayo_Latn", "abk_Cyrl", "kok_Latn", "amh_Ethi")]
    preprocess(replace(job, inputs=tuple(files)))
    tokenizer = load_tokenizer(job.tokenizer)
    assert all_documents(job.output) == [
        tokenizer.encode(d.text) for file in sorted(files) for d in read_documents(file)
    ]


def test_same_bytes_for_any_number_of_workers(
    job: PreprocessJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many batches, the number of batches on their way is a bound that is reached."""
    monkeypatch.setattr(tokenize_partition, "read_batches", lambda files: read_batches(files, batch_bytes=10_000))
    made = {}
    for workers in (1, 3):
        output = tmp_path / f"store{workers}"
        preprocess(replace(job, output=output, workers=workers, shard_bytes=300_000))
        made[workers] = contents(output)
    monkeypatch.undo()
    preprocess(replace(job, output=tmp_path / "large_batches", shard_bytes=300_000))
    assert made[1] == made[3] == contents(tmp_path / "large_batches")


def test_batches_hold_every_line_and_byte(corpus: Path) -> None:
    file = InputFile(corpus / "eng_Latn.jsonl", "eng_Latn")
    batches = list(read_batches([file], batch_bytes=10_000))
    assert b"".join(line for batch in batches for line in batch.lines) == file.path.read_bytes()
    assert sum(batch.input_bytes for batch in batches) == file.path.stat().st_size
    assert [batch.ends_file for batch in batches] == [False] * (len(batches) - 1) + [True]
    lines = 1
    for batch in batches:
        assert batch.first_line == lines or not batch.lines
        lines += len(batch.lines)


def test_order_is_language_then_file_then_line(job: PreprocessJob, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("b/deu.1.txt", "a/eng.txt", "a/deu.2.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} eins\n{name} zwei\n")
    preprocess(replace(job, inputs=(folder,)))
    tokenizer = load_tokenizer(job.tokenizer)
    found = [tokenizer.decode(ids) for ids in all_documents(job.output)]
    assert found == [
        f"{name} {word}" for name in ("a/deu.2.txt", "b/deu.1.txt", "a/eng.txt") for word in ("eins", "zwei")
    ]


def test_language_from_a_field(job: PreprocessJob, texts: dict[str, list[str]], tmp_path: Path) -> None:
    """Mixed lines give the very shards that sorted files give."""
    preprocess(job)
    rows = [(n, language, text) for language, documents in texts.items() for n, text in enumerate(documents)]
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join(json.dumps({"lang": language, "text": text}) for _, language, text in sorted(rows)))
    by_field = replace(job, inputs=(mixed,), output=tmp_path / "by_field", fields=Fields(language="lang"), workers=2)
    preprocess(by_field)
    assert Store.open(by_field.output).manifest == Store.open(job.output).manifest
    assert all_documents(by_field.output) == all_documents(job.output)


def test_again_does_nothing_and_other_arguments_are_refused(
    job: PreprocessJob, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocess(job)
    before = (job.output / "manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    preprocess(replace(job, workers=2))
    assert "nothing to do" in capsys.readouterr().out
    assert (job.output / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"other source; .*--overwrite"):
        preprocess(replace(job, source="web"))
    assert made_store(replace(job, source="web", overwrite=True)).sources == ["web"]


def test_changed_input_is_noticed(job: PreprocessJob, corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "in")
    job = replace(job, inputs=(tmp_path / "in",))
    preprocess(job)
    with (tmp_path / "in" / "ell_Grek.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(UserError, match="other inputs"):
        preprocess(job)


def test_overwrite_deletes_nothing_but_stores(job: PreprocessJob) -> None:
    job.output.mkdir()
    (job.output / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not a token store"):
        preprocess(replace(job, overwrite=True))
    assert (job.output / "thesis.tex").exists()


def test_skip_bad_counts_and_lists(job: PreprocessJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "eng.jsonl").write_bytes(b'{"text": "good"}\n{"text": 3}\n\n{"text": "\xff"}\n{"text": "fine"}\n{oops\n')
    (folder / "deu.jsonl").write_bytes(b"")
    store = made_store(replace(job, inputs=(folder,), skip_bad=True, workers=2))
    assert [(g.language, g.documents) for g in store.datasets] == [("eng", 2)]
    assert store.manifest.skipped_lines == 4
    rows = [json.loads(line) for line in (job.output / "skipped.jsonl").read_text().splitlines()]
    assert [(Path(row["file"]).name, row["line"]) for row in rows] == [
        ("deu.jsonl", 0),
        ("eng.jsonl", 2),
        ("eng.jsonl", 4),
        ("eng.jsonl", 6),
    ]
    assert "skipped 4 bad lines" in capsys.readouterr().err


def test_an_id_outside_the_vocabulary_is_refused(job: PreprocessJob) -> None:
    class Broken:
        vocab_size = 100

        def fingerprint(self) -> str:
            return "broken"

        def encode_arrays(self, texts: list[str]) -> list[np.ndarray]:
            return [np.array([1, 100]) for _ in texts]

    worker = TokenizeWorker(Broken(), Fields(), "uint16")
    batch = next(iter(read_batches([InputFile(job.inputs[0] / "ell_Grek.jsonl", "ell_Grek")])))
    with pytest.raises(UserError, match=r"ell_Grek\.jsonl:1: .* id 100, outside its vocabulary of 100"):
        worker.tokenize(batch)


BAD_FILES = {
    "missing": None,
    "empty": b"",
    "blank": b"\n\n",
    "no field": b'{"text": "good"}\n{"body": "x"}\n',
    "not a string": b'{"text": "good"}\n{"text": ["x"]}\n',
    "malformed": b'{"text": "good"}\n{"text": "x"\n',
    "not UTF-8": b'{"text": "good"}\n{"text": "\xe9"}\n',
    "no text": b'{"text": "good"}\n{"text": " "}\n',
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_tool_ends_with_one_sentence_on_bad_input(
    name: str, run_tool: Tool, tokenizer_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "eng.jsonl"
    content = BAD_FILES[name]
    if content is not None:
        path.write_bytes(content)
    out = tmp_path / "out" / "store"
    done = run_tool("preprocess_data", "--input", path, "--tokenizer", tokenizer_file, "--output", out, "--workers", 2)
    assert done.returncode == 2 and done.stdout == ""
    at = f"{path}:2: " if content and b"good" in content else f"{path}: "
    assert re.fullmatch(f"error: {re.escape(at)}.*\n", done.stderr), done.stderr
    assert not out.parent.exists() or not list(out.parent.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workers", "0"),
        ("--language", "a b"),
        ("--language", "a", "--language-field", "b"),
        ("--tokenizer", "nowhere"),
    ],
)
def test_tool_refuses_bad_arguments(
    arguments: tuple[str, ...], run_tool: Tool, corpus: Path, tokenizer_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    done = run_tool("preprocess_data", "--input", corpus, "--tokenizer", tokenizer_file, "--output", out, *arguments)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*\n", done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


def test_tool_prints_what_it_made(run_tool: Tool, corpus: Path, tokenizer_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    done = run_tool(
        "preprocess_data", "--input", corpus, "--tokenizer", tokenizer_file, "--output", out, "--workers", 2
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 languages, 2,565 documents" in done.stdout and "ell_Grek" in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def start_slow(job: PreprocessJob, monkeypatch: pytest.MonkeyPatch) -> multiprocessing.Process:
    """The command in a forked process (Megatron is imported already), slowed down to be caught half-way."""
    tokenize = TokenizeWorker.tokenize

    def slow(self: TokenizeWorker, batch: object) -> object:
        time.sleep(1.0)  # long enough for a busy machine to notice that it has begun
        return tokenize(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(TokenizeWorker, "tokenize", slow)
    monkeypatch.setattr(tokenize_partition, "read_batches", lambda files: read_batches(files, batch_bytes=10_000))
    indexed_dataset()

    def command() -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the tool does
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started ignoring it
        run_command(lambda: preprocess(job) and None)

    process = multiprocessing.get_context("fork").Process(target=command)
    process.start()
    wait_for(lambda: finished_files(job) > 0)
    return process


def finished_files(job: PreprocessJob) -> int:
    journal = job.output.with_name(".store.partial") / "part" / "journal.jsonl"
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the workers")
def test_kill_9_leaves_no_store_and_no_workers(job: PreprocessJob, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start_slow(replace(job, workers=2), monkeypatch)
    assert process.pid is not None
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not job.output.exists()
    try:
        wait_for(lambda: not any(is_running(pid) for pid in workers))
    finally:
        for pid in filter(is_running, workers):
            os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_resumes_to_the_same_bytes(
    number: int, job: PreprocessJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process = start_slow(replace(job, workers=2), monkeypatch)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == (-9 if number == signal.SIGKILL else 130)
    assert [file.name for file in job.output.parent.iterdir()] == [".store.partial"]
    done = finished_files(job)
    monkeypatch.undo()
    tokenized = []
    tokenize = TokenizeWorker.tokenize
    monkeypatch.setattr(
        TokenizeWorker, "tokenize", lambda self, batch: tokenized.append(batch.file.path) or tokenize(self, batch)
    )
    preprocess(job)
    assert done > 0 and len(set(tokenized)) == 3 - done
    preprocess(replace(job, output=tmp_path / "at_once"))
    assert contents(job.output) == contents(tmp_path / "at_once")
    assert not job.output.with_name(".store.partial").exists()


def test_a_killed_worker_is_told(job: PreprocessJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenizeWorker, "tokenize", lambda self, batch: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match="fewer than --workers 2"):
        preprocess(replace(job, workers=2))
    assert not list(job.output.parent.iterdir())
