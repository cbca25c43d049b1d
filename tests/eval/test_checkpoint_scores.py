"""Scoring checkpoints on disk: the numbers as in memory, the checkpoint's own theta, errors in one sentence."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import ROOT
from support.small_tokenizer import train_model

from megatron_mmbert.builders.data import tokenizer_of
from megatron_mmbert.checkpoint import training_state as checkpoints
from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.eval.bits_per_byte import load_held_out
from megatron_mmbert.eval.checkpoint_scores import load_encoder, score_checkpoint
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.errors import UserError

TEXTS = {"eng_Latn": "the cat sat on the mat and saw a dog ", "ell_Grek": "η γάτα κοιμάται στο σπίτι και ο σκύλος "}


def run_tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ.copy(), timeout=120)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with a tokenizer and a held-out store of two languages."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text").mkdir()
    documents = {name: [words[cut:] + words * 3 for cut in range(12)] for name, words in TEXTS.items()}
    for name, texts in documents.items():
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / "text" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    every_text = [text for texts in documents.values() for text in texts]
    options = {"hard_vocab_limit": False, "user_defined_symbols": ["<mask>"]}
    tokenizer = train_model(folder / "tokenizer.model", every_text, **options)
    ids = load_tokenizer(tokenizer).vocab_size  # fewer than asked for: there is little text
    made = run_tool(
        *("preprocess_data", "--input", folder / "text", "--tokenizer", folder / "tokenizer.model"),
        *("--output", folder / "heldout"),
    )
    assert made.returncode == 0, made.stderr
    model = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 32, "num_attention_heads": 2, "max_length": 64}
    batch = {"tokens_per_step": 128, "tokens_per_micro_batch": 128}
    phase = {"name": "one", "tokens": 1000, "mask_ratio": 0.3, "max_length": 64, "lr": 1e-3, "batch": batch}
    values = {
        "name": "tiny",
        "model": {**model, "vocab_size": ids, "init_std": 0.3},
        "tokenizer": {"path": str(folder / "tokenizer.model")},
        "data": {"stores": [str(folder / "heldout")]},
        "evaluation": {"stores": [str(folder / "heldout")], "rounds": 2},
        "phases": [phase],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture(scope="module")
def checkpoint(runtime: object, recipe: Recipe, recipe_file: Path) -> Path:
    """Random weights, saved as of theta 500: the recipe's phase has 10,000."""
    encoder = Encoder(encoder_config(recipe.model, 500.0, 700.0), recipe.model.vocab_size)
    initialize(encoder, 5)
    path = recipe_file.parent / "one" / "checkpoints" / "step-00000007"
    meta = CheckpointMeta(model=recipe.model, rope_theta=500.0, rope_theta_local=700.0, max_length=64)
    checkpoints.save(path, meta, encoder, None)
    return path


def test_scores_are_those_of_the_encoder_at_the_checkpoints_theta(checkpoint: Path, recipe: Recipe) -> None:
    text = load_held_out(recipe, tokenizer_of(recipe))
    expected = {}
    for theta, theta_local in ((500.0, 700.0), (10_000.0, 10_000.0)):
        encoder = Encoder(encoder_config(recipe.model, theta, theta_local), recipe.model.vocab_size)
        initialize(encoder, 5)
        expected[theta] = text.score(encoder)
    assert score_checkpoint(checkpoint, recipe) == expected[500.0]
    assert expected[500.0] != expected[10_000.0], "the test can tell the thetas apart"
    assert score_checkpoint(checkpoint.parents[1], recipe) == expected[500.0], "a phase's folder gives its newest"


def test_the_loaded_weights_are_the_saved_ones(checkpoint: Path, recipe: Recipe) -> None:
    meta = checkpoints.check_shape(checkpoint, recipe.model)
    saved = Encoder(encoder_config(recipe.model, 1.0, 1.0), recipe.model.vocab_size)
    initialize(saved, 5)
    loaded = dict(load_encoder(checkpoint, meta, recipe).named_parameters())
    assert all(loaded[name].equal(parameter) for name, parameter in saved.named_parameters())


def test_the_tool_writes_what_the_report_reads(
    checkpoint: Path,
    recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from megatron_mmbert.report.run_reader import read_scores

    output = tmp_path / "merged_bits_per_byte.json"
    arguments = [checkpoint, "--recipe", recipe_file, "evaluation.rounds=1", "--output", output]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:  # in this process: importing Megatron-Core again would take seconds
        runpy.run_path(str(ROOT / "tools" / "evaluate.py"), run_name="__main__")
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["language", "bits", "per", "byte", "scored", "tokens"]
    assert lines[-2].startswith("mean of 2 languages")
    scores = read_scores(output)["after"]
    assert set(scores) == set(TEXTS)
    assert float(lines[-2].split()[-2]) == pytest.approx(sum(scores.values()) / 2, abs=6e-4)


def test_without_held_out_stores(checkpoint: Path, recipe_file: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.stores is empty"):
        score_checkpoint(checkpoint, load_recipe(recipe_file, ["evaluation.stores=[]"]))


def test_a_checkpoint_of_another_shape(checkpoint: Path, recipe_file: Path) -> None:
    with pytest.raises(UserError, match="num_layers 2 and the recipe 3"):
        score_checkpoint(checkpoint, load_recipe(recipe_file, ["model.num_layers=3"]))


def test_a_checkpoint_of_another_tokenizer(checkpoint: Path, recipe: Recipe, tmp_path: Path) -> None:
    encoder = Encoder(encoder_config(recipe.model, 500.0, 700.0), recipe.model.vocab_size)
    initialize(encoder, 1)
    meta = CheckpointMeta(
        model=recipe.model, rope_theta=500.0, rope_theta_local=700.0, max_length=64, tokenizer_fingerprint="0" * 64
    )
    checkpoints.save(tmp_path / "other", meta, encoder, None)
    with pytest.raises(UserError, match="trained with another tokenizer"):
        score_checkpoint(tmp_path / "other", recipe)


def test_no_checkpoint_and_a_corrupt_one(checkpoint: Path, recipe: Recipe, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(UserError, match="no checkpoint here"):
        score_checkpoint(tmp_path, recipe)
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    victim = max(copy.glob("*.distcp"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(UserError, match=victim.name):
        score_checkpoint(copy, recipe)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.yaml"], "nowhere.yaml: no such recipe"),
        (["RECIPE", "evaluation.round=2"], "did you mean 'rounds'"),
    ],
)
def test_bad_recipes_end_with_one_sentence(recipe_file: Path, arguments: list[str], words: str) -> None:
    named = [str(recipe_file) if argument == "RECIPE" else argument for argument in arguments]
    done = run_tool("evaluate", "CKPT", "--recipe", *named)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
