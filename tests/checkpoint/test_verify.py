"""tools/verify_checkpoint.py: sound ones are sound, each kind of damage is named, and nothing in a checkpoint runs."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_mmbert.checkpoint import tensor_reader
from megatron_mmbert.checkpoint.commit import CHECKSUM_FILE, finalize
from megatron_mmbert.checkpoint.metadata import META_FILE, read_meta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors, write_tensors
from megatron_mmbert.checkpoint.verify import find_checkpoints, size_of, verify
from megatron_mmbert.utils.errors import UserError

Tool = Callable[..., tuple[int, str, str]]


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A checkpoint to be damaged, in a phase's folder."""
    return Path(shutil.copytree(saved, tmp_path / "run/first/checkpoints/step-00000002"))


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_checkpoint_is_sound(deep: bool, saved: Path) -> None:
    done: list[int] = []
    found = verify(saved, deep, done.append)
    assert found.is_valid and found.meta == read_meta(saved)
    assert (found.files, found.bytes) == size_of(saved)
    assert sum(done) > (1.5 if deep else 0.9) * found.bytes or not deep
    assert sum(done) <= 2 * found.bytes


def damage(path: Path, kind: str) -> str:
    """Do it; returns what the report must name."""
    tensors = next(path.glob("*.distcp"))
    content = tensors.read_bytes()
    if kind == "flipped":
        tensors.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    elif kind == "truncated":
        tensors.write_bytes(content[:-1])
    elif kind == "missing":
        tensors.unlink()
    elif kind == "no description":
        (path / META_FILE).unlink()
        return META_FILE
    elif kind == "no checksums":
        (path / CHECKSUM_FILE).unlink()
        return CHECKSUM_FILE
    else:
        (path / META_FILE).write_text('{"weights": "mine"}')
        return META_FILE
    return tensors.name


KINDS = ("flipped", "truncated", "missing", "no description", "no checksums", "foreign description")


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named(kind: str, copy: Path, run_tool: Tool) -> None:
    shutil.copytree(copy, copy.with_name("step-00000001"))
    named = damage(copy, kind)
    before = size_of(copy)
    status, out, err = run_tool("verify_checkpoint", "--checkpoint", copy.parents[2])
    assert status == 2
    lines = out.splitlines()
    assert len(lines) == 4 and lines[2].endswith("valid") and "damaged (1)" in lines[3]
    assert f"error: {copy / named}: " in err and "step-00000001" not in err
    assert size_of(copy) == before, "nothing is deleted"


def test_deep_reads_the_tensors(copy: Path, run_tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are not finite and shapes that are not the model's, under good checksums."""
    tensors, meta = CheckpointTensors(copy), read_meta(copy).model_copy(update={"has_optimizer": False})
    values = {name: tensors.load(name) for name in tensors.names()}
    norm = next(name for name in values if "layernorm" in name)
    table = next(name for name in values if "word_embeddings" in name)
    values[table][0, :3] = float("nan")
    values[norm] = torch.ones(len(values[norm]) + 1)
    bad = copy.with_name("step-00000003")
    with monkeypatch.context() as patch:
        patch.setattr(tensor_reader, "check_finite", lambda tensor, *_: tensor)
        write_tensors(bad, meta, values)
    assert verify(bad).is_valid
    status, out, err = run_tool("verify_checkpoint", "--checkpoint", bad, "--deep")
    assert status == 2 and "damaged (2)" in out
    assert f"tensor {table!r} has 3 values that are not finite" in err
    assert f"tensor {norm!r} has shape" in err


class Malicious:
    """Unpickled, it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", [".metadata", "common.pt"])
def test_no_code_in_it_runs(name: str, deep: bool, copy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (copy / name).write_bytes(pickle.dumps(Malicious(mark)))
    (copy / CHECKSUM_FILE).unlink()
    finalize(copy)
    found = verify(copy, deep)
    assert not mark.exists()
    assert len(found.checksum_problems) == 1 and name in found.checksum_problems[0]


def test_what_is_verified(copy: Path, tmp_path: Path, run_tool: Tool) -> None:
    for path in (copy, copy.parent, copy.parents[1], copy.parents[2]):
        assert find_checkpoints(path) == [copy]
    with pytest.raises(UserError, match="no checkpoint here"):
        find_checkpoints(tmp_path)
    status, _, err = run_tool("verify_checkpoint", "--checkpoint", tmp_path / "nowhere")
    assert status == 2 and "no checkpoint here; name a run's folder" in err
