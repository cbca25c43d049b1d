"""The command: files in, shards out, whole or not at all."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_checkpoint import make_tokenizer
from transformers import ModernBertModel

from megatron_mmbert.convert.hf_identity import write_identity
from megatron_mmbert.inference import Model, encode, load_model
from megatron_mmbert.inference import run as inference_run
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.checksums import write_checksums


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["encode", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("megatron_mmbert.inference", run_name="__main__")
    return int(ended.value.code or 0)


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "eng_Latn.jsonl"
    path.write_text("".join(json.dumps({"text": text or "a"}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["npy", "safetensors", "jsonl"])
def test_every_format_holds_the_same_rows(
    form: str, model: Model, folder: Path, corpus: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = corpus.parent / "out"
    assert run(monkeypatch, folder, "--input", corpus, "--output", output, "--format", form) == 0
    index = json.loads((output / "index.json").read_text())
    assert (index["rows"], index["what"], index["pooling"]) == (len(texts), "embeddings", "mean")
    (shard,) = index["shards"]
    path = output / shard["file"]
    if form == "npy":
        rows = torch.from_numpy(np.load(path, allow_pickle=False))
    elif form == "safetensors":
        rows = load_file(path)["rows"]
    else:
        rows = torch.tensor([json.loads(line) for line in path.read_text().splitlines()])
    torch.testing.assert_close(rows, encode(model, [text or "a" for text in texts]), rtol=0, atol=1e-5)


def test_scores(folder: Path, corpus: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output = corpus.parent / "scores"
    assert run(monkeypatch, folder, "--input", corpus, "--output", output, "--what", "scores", "--format", "jsonl") == 0
    rows = [json.loads(line) for line in (output / "part-00000.jsonl").read_text().splitlines()]
    assert len(rows) == len(texts)
    assert all(value < 0 and count > 0 for value, count in rows)


def test_bad_input_ends_in_one_sentence_and_leaves_nothing(
    folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = corpus.parent / "out"
    with corpus.open("a") as file:
        file.write("no json\n")
    assert run(monkeypatch, folder, "--input", corpus, "--output", output) == 2
    assert "eng_Latn.jsonl" in capsys.readouterr().err
    assert not output.exists()
    assert [path.name for path in corpus.parent.iterdir()] == [corpus.name], "nothing is left aside"
    output.mkdir()
    (output / "thesis.tex").touch()
    assert run(monkeypatch, folder, "--input", corpus, "--output", output) == 2
    assert "out: is not a folder of embeddings or scores; choose another --output" in capsys.readouterr().err


def test_rows_are_traced_to_texts(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """F7: line-aligned files have rows that are aligned, and an empty text a finite row of its own."""
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n" + "etaoin " * 40 + "\n")
    (tmp_path / "b.jsonl").write_text('{"text": "one", "id": "x"}\n\n{"text": ""}\n{"text": null}\n')
    inputs = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    output = tmp_path / "out"
    assert run(monkeypatch, folder, "--input", *inputs, "--output", output, "--max-length", "12") == 0
    assert "1 of them were cut to 12 tokens" in capsys.readouterr().out
    index = json.loads((output / "index.json").read_text())
    assert index["rows"] == 8 and index["cut_texts"] == 1 and index["max_length"] == 12
    assert [(each["first_row"], each["rows"], each["cut"]) for each in index["rows_by_file"]] == [(0, 5, 1), (5, 3, 0)]
    rows = [json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5, 1, 3, 4]
    assert rows[4]["cut"] and rows[5] == {"file": str(inputs[1]), "line": 1, "id": "x"}
    found = np.load(output / "part-00000.npy")
    assert found.shape == (8, model.width) and np.isfinite(found).all()
    torch.testing.assert_close(torch.from_numpy(found[6]), encode(model, [""])[0])
    assert run(monkeypatch, folder, "--input", *inputs, "--output", tmp_path / "scores", "--what", "scores") == 0
    assert np.load(tmp_path / "scores" / "part-00000.npy")[1].tolist() == [0, 0]
    assert run(monkeypatch, folder, "--input", *inputs, "--output", output, "--overwrite") == 0, "its own kind"


def test_an_embedding_model_without_head(
    folder: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """G1: as sentence-transformers saves one: the encoder's tensors alone, their names without prefix."""
    base = Path(shutil.copytree(folder, tmp_path / "base"))
    ModernBertModel.from_pretrained(folder).save_pretrained(base)
    assert not any(name.startswith(("model.", "head.")) for name in load_file(base / "model.safetensors"))
    texts = ["one", "shrdlu two"]
    torch.testing.assert_close(encode(load_model(base), texts), encode(model, texts), rtol=0, atol=1e-6)
    (tmp_path / "a.txt").write_text("\n".join(texts))
    (base / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (base / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    assert run(monkeypatch, base, "--input", tmp_path / "a.txt", "--output", tmp_path / "out") == 0
    rows = torch.from_numpy(np.load(tmp_path / "out" / "part-00000.npy"))
    torch.testing.assert_close(rows, encode(model, texts, "cls"), rtol=0, atol=1e-5)
    capsys.readouterr()
    arguments = (base, "--input", tmp_path / "a.txt", "--output", tmp_path / "scores", "--what", "scores")
    assert run(monkeypatch, *arguments) == 2
    assert "no masked-language-model head in this folder" in capsys.readouterr().err


def test_a_changed_export_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    write_identity(copy, load_tokenizer(copy).fingerprint())
    write_checksums(copy)
    (tmp_path / "a.txt").write_text("one\n")
    arguments = (copy, "--input", tmp_path / "a.txt", "--output", tmp_path / "out")
    make_tokenizer(tmp_path / "other", 400, seed=1)
    shutil.copy(tmp_path / "other" / "tokenizer.model", copy)
    assert run(monkeypatch, *arguments) == 2
    assert "differs from what was exported (identity.json) in tokenizer" in capsys.readouterr().err
    shutil.copy(folder / "tokenizer.model", copy)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-9] ^= 4
    (copy / "model.safetensors").write_bytes(content)
    assert run(monkeypatch, *arguments) == 2
    assert "model.safetensors: content differs from its checksum" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["embeddings", "scores"])
def test_a_row_that_is_not_finite_ends_it(
    what: str, folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of finite weights: half precision can overflow."""
    spoil = {"embeddings": "encode_windows", "scores": "score_windows"}[what]
    parts = [torch.ones(3, 2), torch.tensor([[1.0, 2.0], [float("nan"), 1.0]])]
    monkeypatch.setattr(inference_run, spoil, lambda *_: iter(parts))
    output = corpus.parent / "out"
    assert run(monkeypatch, folder, "--input", corpus, "--output", output, "--what", what) == 2
    assert "text 5: its row is not finite" in capsys.readouterr().err
    assert [path.name for path in corpus.parent.iterdir()] == [corpus.name]


def test_weights_that_are_not_finite_are_named(
    folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = Path(shutil.copytree(folder, corpus.parent / "hf"))
    tensors = load_file(spoilt / "model.safetensors")
    tensors["decoder.bias"][2] = float("inf")
    save_file(tensors, spoilt / "model.safetensors", metadata={"format": "pt"})
    assert run(monkeypatch, spoilt, "--input", corpus, "--output", corpus.parent / "out") == 2
    assert f"{spoilt / 'model.safetensors'}: tensor 'decoder.bias' has 1 values" in capsys.readouterr().err
