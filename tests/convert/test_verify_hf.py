"""`mmbert verify` on exports, tokenizers and folders of them: whole ones are whole, and each damaged file is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_checkpoint import VOCAB, RunTool, make_tokenizer

from megatron_mmbert.cli import dispatch
from megatron_mmbert.convert.verify_hf import verify_export
from megatron_mmbert.utils.checksums import CHECKSUM_FILE, write_checksums
from megatron_mmbert.utils.errors import UserError


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "run" / "hf"))


def test_a_run_of_everything(copy: Path, checkpoint: Path, tokenizer_dir: Path, run_tool: RunTool) -> None:
    shutil.copytree(checkpoint, copy.parent / "merged")
    shutil.copytree(tokenizer_dir, copy.parent / "tokenizer")
    status, out, err = run_tool("verify", copy.parent, tokenizer_dir / "tokenizer.json", "--deep")
    assert status == 0 and err == "", err
    assert f"{copy}: OK, a model of" in out and f"{copy.parent / 'tokenizer'}: OK, 400 ids" in out
    assert f"{copy.parent / 'merged'}  " in out and "valid" in out and "tokenizer.json: OK" in out
    listed = json.loads((copy / CHECKSUM_FILE).read_text())
    assert set(listed) == {file.name for file in copy.iterdir()} - {CHECKSUM_FILE}


@pytest.mark.parametrize(
    "file",
    ["model.safetensors", "config.json", "identity.json", "tokenizer.json", "tokenizer.model", "README.md"],
)
@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_each_damaged_file_is_named(file: str, how: str, copy: Path) -> None:
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    if how == "missing":
        (copy / file).unlink()
    (problem,) = verify_export(copy)
    assert problem.startswith(f"{copy / file}: ")


def test_damage_ends_with_status_2(copy: Path, run_tool: RunTool) -> None:
    (copy / "recipe.yaml").write_text("not listed, and read by nobody")
    assert run_tool("verify", copy)[0] == 0
    (copy / "tokenizer_config.json").write_text("{}")
    for path in (copy, copy.parent):
        status, out, err = run_tool("verify", path)
        assert status == 2 and out == "" and "tokenizer_config.json: content differs" in err


def test_contents_under_good_checksums(copy: Path, tmp_path: Path) -> None:
    """As whoever writes the list of checksums too would have it."""
    tensors = load_file(copy / "model.safetensors")
    tensors["head.norm.weight"][0] = torch.nan
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    write_checksums(copy)
    assert list(verify_export(copy)) == []
    (problem,) = verify_export(copy, deep=True)
    assert "tensor 'head.norm.weight' has 1 values that are not finite" in problem
    shutil.copy(make_tokenizer(tmp_path / "other", VOCAB, seed=1) / "tokenizer.json", copy)
    write_checksums(copy)
    (problem,) = verify_export(copy)
    assert "differs from what was exported (identity.json) in tokenizer" in problem


def test_a_folder_from_elsewhere(copy: Path, tokenizer_dir: Path, tmp_path: Path, run_tool: RunTool) -> None:
    for file in (CHECKSUM_FILE, "identity.json", "tokenizer.model"):
        (copy / file).unlink()
    status, out, _ = run_tool("verify", copy)
    assert status == 0 and "no checksums.json in it to compare the bytes with" in out
    assert run_tool("verify", copy, "--tokenizer", tokenizer_dir / "tokenizer.json")[0] == 0
    status, _, err = run_tool("verify", copy, "--tokenizer", make_tokenizer(tmp_path / "other", VOCAB, seed=1))
    assert status == 2 and "has another tokenizer than --tokenizer" in err
    status, _, err = run_tool("verify", tmp_path / "nowhere")
    assert status == 2 and "no such file or folder" in err


def test_a_tokenizer_whose_files_differ(tokenizer_dir: Path, tmp_path: Path, run_tool: RunTool) -> None:
    copy = Path(shutil.copytree(tokenizer_dir, tmp_path / "tokenizer"))
    other = make_tokenizer(tmp_path / "other", VOCAB, seed=1)
    shutil.copy(other / "tokenizer.json", copy)
    status, out, err = run_tool("verify", copy)
    assert status == 2 and out == "" and "tokenizer.json: gives other ids than tokenizer.model beside it" in err
    write_checksums(other)
    (other / "tokenizer.model").write_bytes((other / "tokenizer.model").read_bytes()[:-1])
    status, _, err = run_tool("verify", other)
    assert status == 2 and "tokenizer.model: content differs from its checksum" in err


def test_fill_mask_reads_what_was_exported(copy: Path, tmp_path: Path) -> None:
    command = ["fill-mask", str(copy), "--text", "a <mask>"]
    dispatch(command)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="content differs from its checksum"):
        dispatch(command)
    shutil.copy(make_tokenizer(tmp_path / "other", VOCAB, seed=1) / "tokenizer.json", copy)
    with pytest.raises(UserError, match=r"differs from what was exported .* in tokenizer"):
        dispatch(command)
