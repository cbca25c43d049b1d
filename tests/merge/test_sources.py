"""The sources of a merge. Hugging Face folders: whole, in shards, tied, untied, and every way they can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from support.tiny_checkpoint import make_checkpoint

from megatron_mmbert.checkpoint.discovery import resolve
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors
from megatron_mmbert.config.merge import MergeOptions
from megatron_mmbert.convert.hf_writer import INDEX, WEIGHTS
from megatron_mmbert.convert.name_mapping import HF_TIED_DECODER as ALIAS
from megatron_mmbert.convert.name_mapping import HF_WORD_EMBEDDING as ORIGINAL
from megatron_mmbert.merge.request import MergeRequest
from megatron_mmbert.merge.run import check_same_tensors, merge_folders
from megatron_mmbert.merge.sources import HFFolder, open_source
from megatron_mmbert.parallel import Runtime

Rewrite = Callable[[Path, dict[str, torch.Tensor | None]], None]
Refused = Callable[..., None]


def test_sharded_and_single_folders_list_the_same_names(zoo: Path) -> None:
    assert (zoo / "b" / INDEX).is_file() and len(list((zoo / "b").glob("*.safetensors"))) > 2
    single, sharded = HFFolder(zoo / "a"), HFFolder(zoo / "b")
    assert single.names() == sharded.names() == check_same_tensors([single, sharded])
    assert ALIAS not in single.names() and ORIGINAL in single.names()
    assert sharded.shape(ORIGINAL) == (40, 16) == tuple(sharded.load(ORIGINAL).shape)


def test_open_source_recognises_a_folder(zoo: Path) -> None:
    assert isinstance(open_source(zoo / "a"), HFFolder)


def test_stored_alias_is_merged_once(models: Path, rewrite: Rewrite, refused: Refused) -> None:
    embedding = load_file(models / "a" / WEIGHTS)[ORIGINAL]
    rewrite(models / "a", {ALIAS: embedding.clone()})
    merge_folders(MergeRequest("ties", models / "base", (models / "a", models / "b")), models / "out")
    assert ALIAS not in load_file(models / "out" / WEIGHTS)
    rewrite(models / "a", {ALIAS: embedding + 1})
    shutil.rmtree(models / "out")
    refused(str(models / "a"), ALIAS, "differ", "tie_word_embeddings")


def test_untied_decoder_is_merged_on_its_own(models: Path, rewrite: Rewrite) -> None:
    for name in ("base", "a"):
        config = json.loads((models / name / "config.json").read_text())
        (models / name / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
        rewrite(models / name, {ALIAS: torch.ones(40, 16) * len(name)})
    merge_folders(MergeRequest("ties", models / "base", (models / "a",), MergeOptions(density=1.0)), models / "out")
    assert torch.equal(load_file(models / "out" / WEIGHTS)[ALIAS], torch.ones(40, 16))


def test_pickles_are_refused(models: Path, refused: Refused) -> None:
    (models / "a" / WEIGHTS).rename(models / "a" / "pytorch_model.bin")
    refused("pytorch_model.bin", "pickle", "save_pretrained")


def test_folders_without_weights_or_configuration(models: Path, refused: Refused) -> None:
    (models / "a" / WEIGHTS).unlink()
    refused(str(models / "a"), WEIGHTS)
    (models / "a" / "config.json").unlink()
    refused(str(models / "a"), "config.json")
    shutil.rmtree(models / "a")
    refused(str(models / "a"), "no such checkpoint")


def test_damaged_configuration(models: Path, refused: Refused) -> None:
    (models / "a" / "config.json").write_text("[1]")
    refused("config.json", "not a model configuration")
    (models / "a" / "config.json").write_text("{")
    refused("config.json", "damaged")


def test_truncated_file(models: Path, refused: Refused) -> None:
    whole = (models / "a" / WEIGHTS).read_bytes()
    (models / "a" / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(str(models / "a" / WEIGHTS), "damaged")


def test_damaged_shards(models: Path, refused: Refused) -> None:
    shards = sorted((models / "b").glob("*.safetensors"))
    shards[0].rename(models / "b" / "hidden")
    refused(shards[0].name, "missing")
    shutil.copyfile(shards[1], shards[0])
    refused(shards[0].name, "lacks")
    (models / "b" / INDEX).write_text(json.dumps({"weight_map": {"x": "../a/model.safetensors"}}))
    refused("../a/model.safetensors", "not a file of this folder")
    (models / "b" / INDEX).write_text("{}")
    refused("weight_map")


def test_a_merged_checkpoint_is_valid_with_its_report(tmp_path: Path, runtime: Runtime) -> None:
    models = [make_checkpoint(tmp_path / name) for name in ("base", "one", "two")]
    output = tmp_path / "merged"
    merge_folders(MergeRequest("linear", None, tuple(models)), output)
    assert (output / "merge_report.json").is_file()
    assert resolve(output) == output, "a report is none of the files that a checkpoint is read from"
    merged, one = CheckpointTensors(output), CheckpointTensors(models[1])
    name = merged.names()[0]
    torch.testing.assert_close(merged.load(name), one.load(name))
