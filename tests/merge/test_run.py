"""The merge command and its driver on whole folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_checkpoint import VOCAB, make_checkpoint, make_tokenizer

from megatron_mmbert.config.merge import MergeOptions
from megatron_mmbert.convert.hf_writer import INDEX, WEIGHTS
from megatron_mmbert.convert.name_mapping import HF_WORD_EMBEDDING as ORIGINAL
from megatron_mmbert.merge.methods import merge_tensor
from megatron_mmbert.merge.request import MergeRequest
from megatron_mmbert.merge.run import merge_folders
from megatron_mmbert.merge.sources import HFFolder
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.utils.checksums import write_checksums
from megatron_mmbert.utils.errors import UserError

transformers = pytest.importorskip("transformers")
TOOL = Path(__file__).resolve().parents[2] / "tools" / "merge_ties.py"
Rewrite = Callable[[Path, dict[str, torch.Tensor | None]], None]
Refused = Callable[..., None]


def test_command_merges_and_transformers_loads_the_result(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    done = subprocess.run(
        [sys.executable, TOOL, "--base", zoo / "base", "--models", zoo / "a", zoo / "b", "--density", "0.4",
         "--weights", "1", "2", "--lambda", "0.8", "--output", out],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout and "merging (ties)" in done.stderr
    sources = [HFFolder(zoo / name) for name in ("base", "a", "b")]
    options = MergeOptions(density=0.4, weights=(1.0, 2.0), scale=0.8)
    model, info = transformers.ModernBertForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.decoder.weight.data_ptr() == model.model.embeddings.tok_embeddings.weight.data_ptr()
    loaded = model.state_dict()
    for name in sources[0].names():
        base, *tensors = [source.load(name) for source in sources]
        assert torch.equal(loaded[name], merge_tensor("ties", base, tensors, options).tensor), name
    assert torch.isfinite(model(torch.tensor([[2, 5, 6, 1]])).logits).all()
    assert (out / "tokenizer.json").read_text() == "{}"
    assert not (out / "README.md").exists() and not (out / "optimizer.pt").exists()
    report = json.loads((out / "merge_report.json").read_text())
    assert report["method"] == "ties" and report["options"] == {"density": 0.4, "weights": [1.0, 2.0], "lambda": 0.8}
    line = report["tensors"][ORIGINAL]
    delta = sources[2].load(ORIGINAL) - sources[0].load(ORIGINAL)
    assert line["delta_norms"][1] == pytest.approx(delta.norm().item(), rel=1e-5)
    assert 0 < line["sign_conflict_share"] < 1 and 0 < report["summary"]["sign_conflict_share"] < 1


def test_command_ends_with_one_sentence(zoo: Path, tmp_path: Path) -> None:
    command = [sys.executable, TOOL, "--models", zoo / "a", zoo / "b", "--output", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "--base" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("method", "with_base"), [("linear", False), ("slerp", False), ("ema", True)])
def test_methods_without_a_base(zoo: Path, tmp_path: Path, method: str, with_base: bool) -> None:
    report = merge_folders(
        MergeRequest(method, zoo / "base" if with_base else None, (zoo / "a", zoo / "b")), tmp_path / "o"
    )
    merged, first, second = load_file(tmp_path / "o" / WEIGHTS), HFFolder(zoo / "a"), HFFolder(zoo / "b")
    expected = merge_tensor(method, None, [first.load(ORIGINAL), second.load(ORIGINAL)], MergeOptions()).tensor
    assert torch.equal(merged[ORIGINAL], expected)
    assert (tmp_path / "o" / "tokenizer.json").exists() == with_base
    assert ("delta_norms" in report["summary"]) == with_base


def test_output_of_sharded_folders_is_one_file(zoo: Path, tmp_path: Path) -> None:
    merge_folders(MergeRequest("linear", None, (zoo / "b", zoo / "a")), tmp_path / "o")
    assert not (tmp_path / "o" / INDEX).exists()
    assert [file.name for file in (tmp_path / "o").glob("*.safetensors")] == [WEIGHTS]


def test_merging_one_model_at_density_one_gives_it_back(zoo: Path, tmp_path: Path) -> None:
    merge_folders(MergeRequest("ties", zoo / "base", (zoo / "a",), MergeOptions(density=1.0)), tmp_path / "o")
    got, wanted = HFFolder(tmp_path / "o"), HFFolder(zoo / "a")
    for name in wanted.names():
        torch.testing.assert_close(got.load(name), wanted.load(name), rtol=0, atol=1e-6)


def test_precision_of_the_base_is_kept_and_integers_are_copied(models: Path) -> None:
    for name in ("base", "a"):
        tensors = {k: v.bfloat16() for k, v in load_file(models / name / WEIGHTS).items()}
        save_file({**tensors, "counts": torch.arange(3)}, models / name / WEIGHTS)
    merge_folders(MergeRequest("ties", models / "base", (models / "a",)), models / "out")
    merged = load_file(models / "out" / WEIGHTS)
    assert merged[ORIGINAL].dtype == torch.bfloat16 and merged["counts"].tolist() == [0, 1, 2]


def test_other_shape(models: Path, rewrite: Rewrite, refused: Refused) -> None:
    rewrite(models / "a", {"decoder.bias": torch.zeros(41)})
    refused(str(models / "a"), "decoder.bias", "[41]", "[40]")


def test_missing_and_extra_tensors(models: Path, rewrite: Rewrite, refused: Refused) -> None:
    rewrite(models / "a", {"decoder.bias": None, "decoder.bia": torch.zeros(40)})
    refused(str(models / "a"), "lacks tensor decoder.bias", "decoder.bia'")
    rewrite(models / "a", {"decoder.bias": torch.zeros(40)})
    refused(str(models / "a"), "decoder.bia ")


def test_damaged_values(models: Path, rewrite: Rewrite, refused: Refused) -> None:
    rewrite(models / "a", {"decoder.bias": torch.full((40,), float("nan"))})
    refused(str(models / "a"), "decoder.bias", "NaN")


def test_a_result_that_overflows_is_not_written(models: Path, rewrite: Rewrite, refused: Refused) -> None:
    """Of finite models: what float32 holds, half precision does not."""
    for name, value in (("base", 0.0), ("a", 6e4)):
        rewrite(models / name, {"decoder.bias": torch.full((40,), value).half()})
    request = MergeRequest("task_arithmetic", models / "base", (models / "a",), MergeOptions(scale=2.0))
    with pytest.raises(UserError, match=r"merge by task_arithmetic: tensor 'decoder.bias' has 40 values .*--lambda"):
        merge_folders(request, models / "out")
    assert not (models / "out").exists()


@pytest.mark.parametrize("options", [MergeOptions(scale=1e308), MergeOptions(weights=(1e308, 1.0))])
def test_numbers_that_can_only_overflow_are_refused(options: MergeOptions, models: Path) -> None:
    request = MergeRequest("ties", models / "base", (models / "a", models / "b"), options)
    with pytest.raises(UserError, match=r"1e\+308 must be between"):
        merge_folders(request, models / "out")


def test_integers_that_differ(models: Path, rewrite: Rewrite) -> None:
    rewrite(models / "base", {"counts": torch.arange(3)})
    rewrite(models / "a", {"counts": torch.arange(3) + 1})
    with pytest.raises(UserError, match="counts holds integers that differ"):
        merge_folders(MergeRequest("ties", models / "base", (models / "a",)), models / "out")


def test_a_damaged_file_beside_the_weights_is_not_copied(models: Path) -> None:
    request = MergeRequest("ties", models / "base", (models / "a",))
    for name in ("base", "a"):
        (models / name / "special_tokens_map.json").write_text('{"mask_token": "<mask>"}')
        write_checksums(models / name)
        (models / name / "special_tokens_map.json").write_text('{"mask_token": "<m')
    with pytest.raises(UserError, match=r"special_tokens_map\.json: content differs from its checksum"):
        merge_folders(request, models / "out")
    for name in ("base", "a"):
        (models / name / "special_tokens_map.json").unlink()
    with pytest.raises(UserError, match=r"special_tokens_map\.json: missing"):
        merge_folders(request, models / "out")
    assert not (models / "out").exists()


def test_output_is_never_an_input_and_never_lost(models: Path) -> None:
    inputs = (models / "a", models / "b")
    for output in (models / "a", models):
        with pytest.raises(UserError, match=r"--output .* is, or holds, the input"):
            merge_folders(MergeRequest("linear", None, inputs), output, overwrite=True)
    (models / "out").mkdir()
    (models / "out" / "old").touch()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is not a Hugging Face model folder; choose another"):
            merge_folders(MergeRequest("linear", None, inputs), models / "out", overwrite=overwrite)
    (models / "out" / "old").unlink()
    merge_folders(MergeRequest("linear", None, inputs), models / "out")
    with pytest.raises(UserError, match="already exists"):
        merge_folders(MergeRequest("linear", None, inputs), models / "out")
    merge_folders(MergeRequest("linear", None, inputs), models / "out", overwrite=True)
    assert (models / "out" / WEIGHTS).is_file()


def edit(folder: Path, **values: object) -> None:
    """Change keys of config.json; None takes one out."""
    old = json.loads((folder / "config.json").read_text())
    new = {key: value for key, value in {**old, **values}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(new))


THETAS = {
    kind: {"rope_type": "default", "rope_theta": theta}
    for kind, theta in (("full_attention", 500.0), ("sliding_attention", 10_000.0))
}
FUNCTIONS: dict[str, tuple[dict[str, object], str]] = {
    "theta": ({"rope_parameters": THETAS}, "rope_theta (500, not 160000)"),
    "theta of transformers 4": ({"rope_parameters": None, "global_rope_theta": 500.0}, "rope_theta (500, not 160000)"),
    "window": ({"local_attention": 32}, "window_each_side (16, not 64)"),
    "layers": ({"layer_types": ["full_attention"] * 2}, "global_layers ([0, 1], not [0])"),
    "eps": ({"norm_eps": 1e-6}, "norm_eps"),
    "activation": ({"hidden_activation": "silu"}, "activation (silu, not gelu)"),
    "a key of whatever model": ({"rope_scaling_factor": 4.0}, "rope_scaling_factor (4, not not stated)"),
}


@pytest.mark.parametrize(("values", "named"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_configurations_of_other_functions(
    values: dict[str, object], named: str, models: Path, refused: Refused
) -> None:
    edit(models / "a", **values)
    refused(f"{models / 'a'}: differs from {models / 'base'} in {named}", "--allow-different")


def test_configurations_of_one_function(models: Path) -> None:
    """Written by another generation of transformers, or with other dropouts and labels."""
    edit(models / "a", rope_parameters=None, layer_types=None, attention_dropout=0.3, transformers_version="4.48.0")
    edit(models / "b", local_attention=129, classifier_pooling="cls", id2label={"0": "yes"}, norm_bias=None)
    merge_folders(MergeRequest("ties", models / "base", (models / "a", models / "b")), models / "out")
    report = json.loads((models / "out" / "merge_report.json").read_text())
    assert report["identity"]["rope_theta"] == 160_000 and report["different"] == {}


def test_a_difference_that_is_meant_is_in_the_report(models: Path) -> None:
    edit(models / "a", rope_parameters=THETAS)
    request = MergeRequest("linear", None, (models / "b", models / "a"), allow_different=("rope_theta",))
    assert merge_folders(request, models / "out")["different"] == {"rope_theta": [160_000, 500]}
    with pytest.raises(UserError, match="--allow-different theta: no such value"):
        merge_folders(MergeRequest("linear", None, (models / "a",), allow_different=("theta",)), models / "again")


def test_folders_of_two_tokenizers(models: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        make_tokenizer((tmp_path / name), VOCAB, seed=number)
    for name in ("tokenizer.json", "tokenizer.model"):
        shutil.copy(tmp_path / "one" / name, models / "b")
        shutil.copy(tmp_path / "two" / name, models / "a")
    inputs = (models / "b", models / "a")
    with pytest.raises(UserError, match=r"a: differs from .*b in tokenizer \(.*merge models of one tokenizer"):
        merge_folders(MergeRequest("linear", None, inputs), models / "out")
    shutil.copy(tmp_path / "one" / "tokenizer.json", models / "a")
    (models / "a" / "tokenizer.model").unlink()  # as transformers saves it: the same tokenizer
    merge_folders(MergeRequest("linear", None, inputs), models / "out")


@pytest.mark.parametrize("change", [{"rope_theta": 500.0}, {"tokenizer_fingerprint": "b" * 64}])
def test_checkpoints_of_other_functions(change: dict[str, Any], tmp_path: Path, runtime: Runtime) -> None:
    paths = [make_checkpoint(tmp_path / name, tokenizer_fingerprint="a" * 64) for name in ("base", "one")]
    paths.append(make_checkpoint(tmp_path / "two", **{"tokenizer_fingerprint": "a" * 64, **change}))
    name = "tokenizer" if "tokenizer_fingerprint" in change else next(iter(change))
    with pytest.raises(UserError, match=rf"two: differs from .*one in {name} \("):
        merge_folders(MergeRequest("linear", None, tuple(paths[1:])), tmp_path / "out")
    assert not (tmp_path / "out").exists()
