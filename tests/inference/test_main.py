"""The command: files in, shards out, whole or not at all."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megatron_mmbert.inference import Model, encode


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
