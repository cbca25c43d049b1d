"""Export: what is in the folder, that nothing half-done is left, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_checkpoint import (
    VOCAB,
    RunTool,
    error_line,
    make_checkpoint,
    make_tokenizer,
    random_weights,
    tiny_model,
)

from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors
from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.convert import parity
from megatron_mmbert.convert.export_hf import export_checkpoint
from megatron_mmbert.convert.hf_logits import Answer
from megatron_mmbert.convert.hf_writer import parse_size, plan_shards
from megatron_mmbert.convert.model_card import model_card
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.errors import UserError

PHASE = {"tokens": 1000, "mask_ratio": 0.3, "max_length": 128, "lr": 1e-3, "rope_theta": 10_000.0, "temperature": 0.7}
RECIPE: dict[str, Any] = {
    "name": "isles",
    "tokenizer": {"path": "tokenizer"},
    "phases": [
        {**PHASE, "name": "first", "languages": ["fao_Latn", "isl_Latn"]},
        {**PHASE, "name": "second", "languages": "all", "temperature": {"from": 0.5, "to": 0.3}},
        {**PHASE, "name": "afterwards", "languages": ["gle_Latn"]},
    ],
}


def test_folder_through_the_tool(
    run_process: Callable[..., Any], checkpoint: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """As a user runs it: a process of its own, checked, and the tensors are bit for bit the checkpoint's."""
    done = run_process(
        "convert_to_hf", checkpoint, "--tokenizer", tokenizer_dir, "--output", tmp_path / "hf", "--check"
    )
    assert done.returncode == 0, done.stderr
    assert "largest difference of a logit" in done.stdout and str(tmp_path / "hf") in done.stdout
    assert "missing" not in done.stderr.lower() and "newly initialized" not in done.stderr
    stored = load_file(tmp_path / "hf" / "model.safetensors")
    expected = random_weights(tiny_model())
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) for name in expected)
    names = {file.name for file in (tmp_path / "hf").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "README.md"} <= names
    assert "recipe.yaml" not in names  # the checkpoint has none
    assert json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())["model_max_length"] == 512
    assert not [name for name in (tmp_path).iterdir() if name.name.startswith(".")]


def test_shards_load_as_one(checkpoint: Path, tokenizer_dir: Path, exported: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    export_checkpoint(checkpoint, tokenizer_dir, tmp_path / "hf", max_shard_size="30KB")
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 2 and not (tmp_path / "hf" / "model.safetensors").exists()
    assert index["metadata"]["total_size"] == sum(4 * t.numel() for t in random_weights(tiny_model()).values())
    whole = AutoModelForMaskedLM.from_pretrained(exported).state_dict()
    parts = AutoModelForMaskedLM.from_pretrained(tmp_path / "hf").state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_plan_of_shards() -> None:
    assert plan_shards({"a": 4, "b": 4, "c": 9, "d": 1, "e": 2}, 8) == [["a", "b"], ["c"], ["d", "e"]]
    assert parse_size("5GB") == 5 * 10**9 and parse_size("1.5 mb") == 1_500_000 and parse_size("7") == 7
    for text in ("", "0", "-1", "5 pounds"):
        with pytest.raises(UserError, match="max-shard-size"):
            parse_size(text)


def test_recipe_and_card(tokenizer_dir: Path, tmp_path: Path) -> None:
    import yaml

    fingerprint = load_tokenizer(tokenizer_dir).fingerprint()
    path = make_checkpoint(
        tmp_path / "checkpoint",
        recipe=RECIPE,
        phase="second",
        step=12,
        phase_tokens=777,
        total_tokens=1777,
        tokenizer_fingerprint=fingerprint,
    )
    export_checkpoint(path, tokenizer_dir, tmp_path / "hf")
    assert yaml.safe_load((tmp_path / "hf" / "recipe.yaml").read_text()) == RECIPE
    card = (tmp_path / "hf" / "README.md").read_text()
    for piece in ("# isles", "1,777 real tokens", "777 of them (12 steps)", "not complete", "fao_Latn, isl_Latn"):
        assert piece in card
    assert "| second |" in card and "0.5 to 0.3" in card and "<mask>" in card and "160,000 in global" in card
    assert "afterwards" not in card and "gle_Latn" not in card  # a later phase is no part of this model


def test_card_without_a_recipe_claims_nothing(checkpoint: Path) -> None:
    card = model_card(read_meta(checkpoint), {"mask": "[MASK]", "bos": "[CLS]", "eos": "[SEP]"})
    assert "`[MASK]`" in card and "`[CLS] … [SEP]`" in card and "{tokenizer.mask_token}" in card
    assert "no record of training" in card and "| phase |" not in card


def test_saved_recipe_loads_again(tokenizer_dir: Path, tmp_path: Path) -> None:
    """The exported recipe.yaml is a recipe: training can be repeated from it."""
    text = "name: isles\npreset: tiny\ntokenizer: {path: t}\ndata: {stores: [s]}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    path = make_checkpoint(tmp_path / "checkpoint", recipe=recipe.to_dict(), phase="pretrain")
    export_checkpoint(path, tokenizer_dir, tmp_path / "hf")
    assert load_recipe(tmp_path / "hf" / "recipe.yaml") == recipe


def test_other_vocabulary_is_refused(run_tool: RunTool, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_tokenizer(tmp_path / "other", 380)
    status, _, err = run_tool("convert_to_hf", checkpoint, "--tokenizer", other, "--output", tmp_path / "hf")
    assert status == 2
    assert "380" in error_line(err) and "400" in error_line(err)
    assert not (tmp_path / "hf").exists()


def test_other_tokenizer_of_the_same_size_is_refused(tokenizer_dir: Path, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "checkpoint", tokenizer_fingerprint="f" * 64)
    with pytest.raises(UserError, match="trained with another tokenizer: give that one"):
        export_checkpoint(path, tokenizer_dir, tmp_path / "hf")


def zeros_for(tokenizer_dir: Path) -> Callable[..., Answer]:
    """Another model's answer, with the right tokenizer."""
    tokenizer = load_tokenizer(tokenizer_dir)

    def answer(folder: Path, samples: list[list[int]], texts: list[str], device: str) -> Answer:
        ids = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]
        return Answer([torch.zeros(len(sample), VOCAB) for sample in samples], ids, tokenizer.mask_id)

    return answer


def test_failed_check_leaves_nothing(
    checkpoint: Path, tokenizer_dir: Path, tmp_path: Path, run_tool: RunTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "ask_transformers", zeros_for(tokenizer_dir))
    arguments = ("convert_to_hf", checkpoint, "--tokenizer", tokenizer_dir, "--output", tmp_path / "hf", "--check")
    status, out, err = run_tool(*arguments)
    assert status == 2 and "logits differ" in error_line(err) and "wrote" not in out
    assert list(tmp_path.iterdir()) == []


def test_other_token_ids_fail_the_check(
    checkpoint: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = zeros_for(tokenizer_dir)

    def shifted(*arguments: Any) -> Answer:
        found = answer(*arguments)
        return Answer(found.logits, [[ids[0], *ids] for ids in found.text_ids], found.mask_id)

    monkeypatch.setattr(parity, "ask_transformers", shifted)
    with pytest.raises(UserError, match="AutoTokenizer gives"):
        export_checkpoint(checkpoint, tokenizer_dir, tmp_path / "hf", check=True)
    assert list(tmp_path.iterdir()) == []


def test_nan_fails_the_check(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_nan(folder: Path, samples: list[list[int]], *_: Any) -> Answer:
        return Answer([torch.full((len(ids), VOCAB), torch.nan) for ids in samples], [], None)

    monkeypatch.setattr(parity, "ask_transformers", all_nan)
    with pytest.raises(UserError, match="logits differ"):
        parity.check_parity(tmp_path, CheckpointTensors(checkpoint))


def test_folder_that_does_not_load_whole(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    tensors = load_file(exported / "model.safetensors")
    del tensors["head.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(exported / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"missing keys.*head\.norm\.weight"):
        parity.check_parity(tmp_path, CheckpointTensors(checkpoint))


def test_existing_output_and_inputs_are_spared(
    checkpoint: Path, tokenizer_dir: Path, tmp_path: Path, run_tool: RunTool
) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine.txt").write_text("keep")
    status, _, err = run_tool("convert_to_hf", checkpoint, "--tokenizer", tokenizer_dir, "--output", tmp_path / "hf")
    assert status == 2 and "choose another --output" in error_line(err)
    with pytest.raises(UserError, match="is not a Hugging Face model folder"):
        export_checkpoint(checkpoint, tokenizer_dir, tmp_path / "hf", overwrite=True)
    assert (tmp_path / "hf" / "mine.txt").read_text() == "keep", "--overwrite deletes no other work"
    export_checkpoint(checkpoint, tokenizer_dir, tmp_path / "hf2")
    with pytest.raises(UserError, match="already exists; choose another --output or pass --overwrite"):
        export_checkpoint(checkpoint, tokenizer_dir, tmp_path / "hf2")
    (tmp_path / "hf2" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match=r"holds other things than a Hugging Face model folder \(mine.txt\)"):
        export_checkpoint(checkpoint, tokenizer_dir, tmp_path / "hf2", overwrite=True)
    (tmp_path / "hf2" / "mine.txt").unlink()
    export_checkpoint(checkpoint, tokenizer_dir, tmp_path / "hf2", overwrite=True)
    assert (tmp_path / "hf2" / "config.json").exists()
    for output in (checkpoint, checkpoint.parent, tokenizer_dir):
        with pytest.raises(UserError, match="is, or holds, the input"):
            export_checkpoint(checkpoint, tokenizer_dir, output, overwrite=True)


def test_damaged_checkpoint_is_named(tokenizer_dir: Path, tmp_path: Path, run_tool: RunTool) -> None:
    path = make_checkpoint(tmp_path / "checkpoint")
    data = next(path.glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    status, _, err = run_tool("convert_to_hf", path, "--tokenizer", tokenizer_dir, "--output", tmp_path / "hf")
    assert status == 2 and data.name in error_line(err)
    status, _, err = run_tool("convert_to_hf", tmp_path, "--tokenizer", tokenizer_dir, "--output", tmp_path / "hf")
    assert status == 2 and "is, or holds" not in error_line(err) and "no checkpoint here" in error_line(err)
