"""Token stores at both ends of a datatrove pipeline: the bytes of preprocessing, killed tasks, bad documents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny_run import VOCAB, write_corpus

pytest.importorskip("datatrove", reason="datatrove is not installed (the extra `datatrove`)")

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader

from megatron_mmbert.data.datatrove.reader import TokenStoreReader
from megatron_mmbert.data.datatrove.writer import TokenStoreMerger, TokenStoreWriter
from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.tokenizer.settings import Settings
from megatron_mmbert.tokenizer.train import train_tokenizer
from megatron_mmbert.utils.errors import UserError


def with_language(self: Any, data: dict[str, Any], path: str, number: int | str) -> dict[str, Any]:
    """The adapter that names the language by the file."""
    return {"text": data["text"], "id": f"{path}/{number}", "metadata": {"language": Path(path).name.split(".")[0]}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("trove") / "corpus", 30, seed=1)


@pytest.fixture(scope="module")
def tokenizer(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trove-tokenizer") / "tokenizer"
    train_tokenizer([corpus], folder, Settings(vocab_size=VOCAB))
    return folder


@pytest.fixture(scope="module")
def store(corpus: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What preprocessing makes of the same documents."""
    output = tmp_path_factory.mktemp("trove-store") / "store"
    preprocess(PreprocessJob(inputs=(corpus,), tokenizer=tokenizer, output=output, workers=1))
    return output


def shards(store: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(store.glob("shard-*"))}


def tasks(corpus: Path, tokenizer: Path, folder: Path, count: int, **options: Any) -> LocalPipelineExecutor:
    reader = JsonlReader(str(corpus), adapter=with_language, file_progress=False)
    pipeline = [reader, TokenStoreWriter(folder / "parts", tokenizer, **options)]
    return LocalPipelineExecutor(pipeline, tasks=count, workers=1, logging_dir=str(folder / "logs"))


def merged(folder: Path, overwrite: bool = False) -> Path:
    list(TokenStoreMerger(folder / "parts", folder / "store", overwrite).run(None))
    return folder / "store"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_store_is_that_of_preprocessing(
    corpus: Path, tokenizer: Path, store: Path, tmp_path: Path, count: int
) -> None:
    """By any number of tasks, more than there are files too."""
    tasks(corpus, tokenizer, tmp_path, count).run()
    assert shards(merged(tmp_path)) == shards(store)
    assert Store.open(tmp_path / "store").manifest.datasets == Store.open(store).manifest.datasets


def test_a_task_is_run_once_at_a_time(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    documents = [Document("the cat", str(n), [], {"language": "aaa_Latn"}) for n in range(3)]
    half = TokenStoreWriter(tmp_path / "parts", tokenizer).run(documents)
    next(half)
    with pytest.raises(UserError, match="another command is making it"):
        list(TokenStoreWriter(tmp_path / "parts", tokenizer).run(documents))
    half.close()
    assert not list((tmp_path / "parts").iterdir())


def test_what_a_kill_leaves_is_replaced(corpus: Path, tokenizer: Path, store: Path, tmp_path: Path) -> None:
    """Killed in the middle, at the end, between the partition and datatrove's mark, and run again with a mark."""
    executor = tasks(corpus, tokenizer, tmp_path, 2)
    executor.run()
    parts = tmp_path / "parts"
    left = parts / ".part-00001.partial"
    left.mkdir()
    shutil.copytree(parts / "part-00001", left / "part")
    (left / "part/ids.bin").write_bytes(b"half")
    shutil.rmtree(parts / "part-00001")
    (tmp_path / "logs/completions/00001").unlink()
    (tmp_path / "logs/completions/00000").unlink()  # its partition is there, and has no name yet
    shutil.copytree(parts / "part-00000", parts / ".part-00000.partial/part")
    tasks(corpus, tokenizer, tmp_path, 2).run()
    assert not left.exists() and shards(merged(tmp_path)) == shards(store)
    shutil.rmtree(parts / "part-00001")
    tasks(corpus, tokenizer, tmp_path, 2).run()  # done by its mark, so nothing is made
    with pytest.raises(UserError, match="partition 2 of 2 is missing"):
        merged(tmp_path, overwrite=True)


def test_other_documents_are_another_store(corpus: Path, tokenizer: Path, tmp_path: Path, capsys: Any) -> None:
    tasks(corpus, tokenizer, tmp_path, 1).run()
    merged(tmp_path)
    merged(tmp_path)
    assert "already made" in capsys.readouterr().out
    texts = [Document("other text", str(n), [], {"language": "aaa_Latn"}) for n in range(3)]
    list(TokenStoreWriter(tmp_path / "parts", tokenizer).run(texts))
    with pytest.raises(UserError, match="made with other inputs"):
        merged(tmp_path)
    assert Store.open(merged(tmp_path, overwrite=True)).languages("corpus") == ["aaa_Latn"]


def test_duplicates_and_ids_that_are_known(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    loaded = load_tokenizer(tokenizer)
    texts = ["the cat sat", "der Hund", "the cat sat"]
    documents = [Document(text, str(n), [], {"ids": loaded.encode(text)}) for n, text in enumerate(texts)]
    writer = TokenStoreWriter(tmp_path / "parts", tokenizer, language="aaa_Latn", ids_key="ids", dedup=True)
    assert list(writer.run(documents)) == documents
    found = Store.open(merged(tmp_path))
    lengths = found.document_lengths("corpus", "aaa_Latn").tolist()
    ids = [found.tokens("corpus", "aaa_Latn", n, 0, length).tolist() for n, length in enumerate(lengths)]
    assert ids == [loaded.encode(text) for text in texts[:2]] and found.manifest.duplicates == 1


BAD = {
    "no text": (Document(" ", "d7", [], {"language": "aaa_Latn"}), r"document 'd7': field 'text' is ' '"),
    "no language": (Document("x", "d7"), r"document 'd7': metadata\['language'\] is None, which names no language"),
    "half a pair": (Document("x\ud800", "d7", [], {"language": "a"}), "half of a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_documents_are_named(tokenizer: Path, tmp_path: Path, name: str) -> None:
    document, message = BAD[name]
    with pytest.raises(UserError, match=message):
        list(TokenStoreWriter(tmp_path / "parts", tokenizer).run([document]))
    assert not list((tmp_path / "parts").iterdir())


@pytest.mark.parametrize("ids", [[], [VOCAB], [-1], [2**40], [1.5], ["a"], None, [[1], [2]]])
def test_bad_ids_are_named(tokenizer: Path, tmp_path: Path, ids: Any) -> None:
    writer = TokenStoreWriter(tmp_path / "parts", tokenizer, language="aaa_Latn", ids_key="ids")
    with pytest.raises(
        UserError, match=r"document 'd7': (gives no token|metadata\['ids'\] is )|gives id \S+, outside its vocabulary"
    ):
        list(writer.run([Document("x", "d7", [], {"ids": ids})]))


def test_settings_that_are_no_names(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="source"):
        TokenStoreWriter(tmp_path, tokenizer, source="a b")
    with pytest.raises(UserError, match="language"):
        TokenStoreWriter(tmp_path, tokenizer, language="")
    with pytest.raises(UserError, match="shard_bytes 0"):
        TokenStoreWriter(tmp_path, tokenizer, shard_bytes=0)
    for make in (TokenStoreReader, TokenStoreWriter, TokenStoreMerger):
        with pytest.raises(UserError, match=r"^s3:/+bucket/a: .* on disks alone"):
            make("s3://bucket/a", tokenizer)
    with pytest.raises(UserError, match="no partition there"):
        merged(tmp_path)


def read(reader: TokenStoreReader, world_size: int = 1) -> Iterator[Document]:
    for rank in range(world_size):
        yield from reader.run(None, rank, world_size)


def test_reader(corpus: Path, tokenizer: Path, store: Path) -> None:
    """Every document once, by any number of tasks, with its text, language and ids."""
    texts = {json.loads(line)["text"] for file in corpus.glob("*.jsonl") for line in file.open()}
    for world_size in (1, 4):
        documents = list(read(TokenStoreReader(store, tokenizer, ids_key="ids"), world_size))
        assert {each.text for each in documents} == texts and len({each.id for each in documents}) == len(documents)
    loaded = load_tokenizer(tokenizer)
    assert all(each.metadata["ids"] == loaded.encode(each.text) for each in documents)
    some = list(read(TokenStoreReader(store, tokenizer, languages=["bbb_Latn"], limit=4)))
    assert [each.id for each in some] == [f"corpus/bbb_Latn/{n}" for n in range(4)]
    assert some[0].metadata["token_count"] == len(loaded.encode(some[0].text))


def test_reader_refuses(store: Path, tokenizer: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no documents in xyz"):
        list(read(TokenStoreReader(store, tokenizer, languages=["xyz"])))
    train_tokenizer([corpus / "bbb_Latn.jsonl"], tmp_path / "other", Settings(vocab_size=VOCAB - 30))
    with pytest.raises(UserError, match="made with another tokenizer"):
        list(read(TokenStoreReader(store, tmp_path / "other")))
