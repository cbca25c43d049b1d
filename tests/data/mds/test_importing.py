"""MDS shards to a store and back: the very store that the text gives, however it was made; what a document is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from support.made_store import imported_store

from megatron_mmbert.cli import run_cli
from megatron_mmbert.data.mds import importing
from megatron_mmbert.data.mds.discover import Naming
from megatron_mmbert.data.mds.documents import Documents
from megatron_mmbert.data.mds.exporting import ExportJob, export_mds
from megatron_mmbert.data.mds.importing import import_mds, import_partition
from megatron_mmbert.data.mds.job import ImportJob
from megatron_mmbert.data.mds.writer import MdsWriter
from megatron_mmbert.data.preprocess.run import merge
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.verify import verify_store
from megatron_mmbert.utils.errors import UserError

PAD, EOS, BOS, MASK, PIECE = 0, 1, 2, 4, 300
FAO = Naming("web", "fao_Latn")


def files_of(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


@pytest.fixture(scope="module")
def exported(text_store: Path, faithful_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store as shards, of which the larger language has some."""
    path = tmp_path_factory.mktemp("exported") / "mds"
    export_mds(ExportJob(text_store, faithful_tokenizer, path, shard_bytes=200_000))
    return path


def shards(folder: Path, samples: list[list[int]]) -> Path:
    writer = MdsWriter(folder)
    for number, ids in enumerate(samples):
        writer.add(str(number), np.array(ids, np.uint32))
    writer.finish()
    return folder


def documents_of(store: Store) -> list[list[int]]:
    (dataset,) = store.datasets
    lengths = store.document_lengths(dataset.source, dataset.language).tolist()
    return [store.tokens(dataset.source, dataset.language, n, 0, length).tolist() for n, length in enumerate(lengths)]


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_back_and_forth_is_the_store_of_the_text(
    text_store: Path, faithful_tokenizer: Path, tmp_path: Path, compression: str | None
) -> None:
    mds, back = tmp_path / "mds", tmp_path / "store"
    export_mds(ExportJob(text_store, faithful_tokenizer, mds, compression=compression, shard_bytes=200_000))
    import_mds(ImportJob((mds,), faithful_tokenizer, back, shard_bytes=300_000))
    before, after = files_of(text_store), files_of(back)
    assert before.pop("made_from.json") != after.pop("made_from.json")
    assert before == after  # counts of bytes and words in the manifest among them
    assert not list(verify_store(back))


def test_partitions_and_workers_change_nothing(exported: Path, faithful_tokenizer: Path, tmp_path: Path) -> None:
    import_mds(ImportJob((exported,), faithful_tokenizer, tmp_path / "one", workers=2))
    for index in (1, 2, 3):
        import_partition(ImportJob((exported,), faithful_tokenizer, tmp_path / f"p{index}", partition=(index, 3)))
    merge([tmp_path / f"p{index}" for index in (3, 1, 2)], tmp_path / "merged")
    import_mds(ImportJob((exported,), faithful_tokenizer, tmp_path / "two"))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") == files_of(tmp_path / "merged")


def test_a_killed_import_resumes(
    exported: Path,
    faithful_tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = ImportJob((exported,), faithful_tokenizer, tmp_path / "store")
    seen: list[Path] = []

    def killed(file: importing.ShardFile) -> None:
        seen.append(file.path)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(importing, "hash_problem", killed)
        with pytest.raises(KeyboardInterrupt):
            import_mds(job)
    assert not (tmp_path / "store").exists()
    import_mds(job)
    assert "resuming, 2 of" in capsys.readouterr().out
    import_mds(ImportJob((exported,), faithful_tokenizer, tmp_path / "at_once"))
    assert files_of(tmp_path / "store") == files_of(tmp_path / "at_once")
    import_mds(job)
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "sample", "wanted"),
    [
        ("marked", [BOS, 300, 301, EOS], [[300, 301]]),
        ("marked", [BOS, 300, EOS, BOS, 301, EOS, PAD, PAD], [[300], [301]]),
        ("marked", [300, EOS, 301], [[300], [301]]),
        ("marked", [BOS, 300, MASK, 301], [[300, MASK, 301]]),
        ("cut", [300, 301], [[300, 301]]),
        ("cut", [300, BOS, 301], [[300], [301]]),
        ("samples", [300, 301], [[300, 301]]),
        ("samples", [BOS, 300, 301, EOS, PAD], [[300, 301]]),
    ],
)
def test_what_a_document_is(
    tokenizer_file: Path, tmp_path: Path, kind: Documents, sample: list[int], wanted: list[list[int]]
) -> None:
    folder = shards(tmp_path / "mds", [sample, [BOS, 310, EOS]])
    store = imported_store(ImportJob((folder,), tokenizer_file, tmp_path / "store", FAO, documents=kind))
    assert documents_of(store) == [*wanted, [310]]


@pytest.mark.parametrize(
    ("kind", "sample", "sentence"),
    [
        ("marked", [300, 301], "no <bos> (2) and no <eos> (1) in it"),
        ("samples", [300, EOS, 301], "<bos>, <eos> or <pad> within it"),
        ("marked", [BOS, EOS, PAD], "no id in it but"),
        ("cut", [MASK], "without text"),
        ("marked", [BOS, 300, 400, EOS], "id 400 is outside the vocabulary of 400"),
        ("marked", [BOS, 300, (1 << 32) - 1, EOS], "id 4294967295 is outside"),
    ],
)
def test_samples_that_give_no_document(
    tokenizer_file: Path, tmp_path: Path, kind: Documents, sample: list[int], sentence: str
) -> None:
    folder = shards(tmp_path / "mds", [[BOS, 310, EOS], sample, [BOS, 311, EOS]])
    with pytest.raises(UserError) as error:
        import_mds(ImportJob((folder,), tokenizer_file, tmp_path / "store", FAO, documents=kind))
    assert str(error.value).startswith(f"{folder / 'shard.00000.mds'}:2: ") and sentence in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mds"]
    store = imported_store(ImportJob((folder,), tokenizer_file, tmp_path / "store", FAO, documents=kind, skip_bad=True))
    assert documents_of(store) == [[310], [311]] and store.manifest.skipped_lines == 1
    listed = [json.loads(line) for line in (tmp_path / "store/skipped.jsonl").read_text().splitlines()]
    assert [(entry["line"], sentence in entry["reason"]) for entry in listed] == [(2, True)]


def test_samples_cut_to_a_length(text_store: Path, faithful_tokenizer: Path, tmp_path: Path) -> None:
    job = ExportJob(text_store, faithful_tokenizer, tmp_path / "mds", languages=("ell_Grek",), max_length=32)
    export_mds(job)
    back = imported_store(ImportJob((tmp_path / "mds",), faithful_tokenizer, tmp_path / "store"))
    store = Store.open(text_store)
    lengths = store.document_lengths("corpus", "ell_Grek")
    joined = [store.tokens("corpus", "ell_Grek", n, 0, length) for n, length in enumerate(lengths.tolist())]
    pieces = documents_of(back)
    assert max(map(len, pieces)) == 30 and len(pieces) == sum(-(-lengths // 30))
    assert np.array_equal(np.concatenate(joined), np.concatenate([np.array(piece) for piece in pieces]))


def test_a_large_sample_alone_is_bad(tokenizer_file: Path, tmp_path: Path) -> None:
    folder = shards(tmp_path / "mds", [[BOS, 310, EOS], [BOS, *[311] * 5000, EOS], [BOS, 312, EOS]])
    job = ImportJob((folder,), tokenizer_file, tmp_path / "store", FAO, max_sample_bytes=1000, skip_bad=True)
    assert documents_of(imported_store(job)) == [[310], [312]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--language-of", "dclm"], "give SOURCE=CODE"),
        (["--language", "fao_Latn", "--language-of", "a=eng_Latn"], "exclude each other"),
        (["--language-of", "corpsu=eng_Latn"], "no such source in --input; there are corpus"),
        (["--id-type", "float32"], "give one of uint16"),
        (["--source", "my web"], "without spaces"),
        (["--partition", "3/2"], "give I/N"),
        (["--partition", "1/" + "9" * 5000], "give I/N"),
        (["--merge", "p1"], "--merge takes finished partitions"),
        (["--column", "inputs_ids"], "did you mean 'input_ids'?"),
    ],
)
def test_arguments_that_are_refused(
    exported: Path, faithful_tokenizer: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    common = ["--input", str(exported), "--tokenizer", str(faithful_tokenizer), "--output", str(tmp_path / "store")]
    with pytest.raises(UserError) as error:
        run_cli(["import-mds", *common, *arguments])
    assert sentence in str(error.value) and not os.listdir(tmp_path)


def test_sources_are_in_the_order_of_their_names(tokenizer_file: Path, tmp_path: Path) -> None:
    """Not of the names of datasets: a hyphen is before the stroke between source and language."""
    for source in ("web-2", "web"):
        shards(tmp_path / "mds" / source / "fao_Latn", [[BOS, 300 + len(source), EOS]])
    store = imported_store(ImportJob((tmp_path / "mds",), tokenizer_file, tmp_path / "store"))
    assert [each.source for each in store.datasets] == ["web", "web-2"]
    assert store.tokens("web-2", "fao_Latn", 0, 0, 1).tolist() == [305]


def test_an_export_needs_the_tokenizer_of_the_store(text_store: Path, tokenizer_file: Path, tmp_path: Path) -> None:
    common = ["export-mds", str(text_store), "--output", str(tmp_path / "mds"), "--tokenizer"]
    with pytest.raises(UserError, match="not the tokenizer of"):
        run_cli([*common, str(tokenizer_file)])
    assert not os.listdir(tmp_path)


def test_an_export_of_languages_that_are_not_there(text_store: Path, faithful_tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no language 'ell_Greek' \(did you mean 'ell_Grek'\?\)"):
        export_mds(ExportJob(text_store, faithful_tokenizer, tmp_path / "mds", languages=("ell_Greek",)))
    assert not os.listdir(tmp_path)
