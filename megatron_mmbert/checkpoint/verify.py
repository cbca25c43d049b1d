"""Verifying checkpoints without loading them into a model: checksums of files, their content, and every tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_mmbert.checkpoint.commit import CHECKSUM_FILE, checksum_problems
from megatron_mmbert.checkpoint.discovery import committed_checkpoints
from megatron_mmbert.checkpoint.metadata import META_FILE, CheckpointMeta, read_meta
from megatron_mmbert.model.parameter_names import parameter_shapes
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.text_table import table

Progress = Callable[[int], None]
COMMON_FILE = "common.pt"


@dataclass(frozen=True)
class CheckResult:
    """The result of checking one checkpoint.

    Attributes:
        meta: its description; None if that cannot be read.
        files, bytes: number and size of the files in the folder.
        checksum_problems: one sentence each; none if it is valid.
    """

    path: Path
    meta: CheckpointMeta | None
    files: int
    bytes: int
    checksum_problems: tuple[str, ...]

    @property
    def is_valid(self) -> bool:
        """Return whether no problem was found."""
        return not self.checksum_problems


def find_checkpoints(path: Path) -> list[Path]:
    """Return the checkpoint ``path``, or all of the phase or the run in that folder, oldest first.

    Raises:
        UserError: there is none.
    """
    if (path / META_FILE).exists() or (path / CHECKSUM_FILE).exists():
        return [path]
    folders = [path, path / "checkpoints", *sorted(path.glob("*/checkpoints"))]
    found = [checkpoint for folder in folders for checkpoint in committed_checkpoints(folder)]
    others = [folder for folder in sorted(path.glob("*")) if (folder / META_FILE).is_file()]  # merged, converted
    found += [folder for folder in others if folder not in found]
    if not found:
        raise UserError(f"{path}: no checkpoint here; name a run's folder, a phase's, or one checkpoint")
    return found


def size_of(path: Path) -> tuple[int, int]:
    """Return number and total bytes of the files in a folder."""
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    return len(sizes), sum(sizes)


def verify(
    path: Path, deep: bool = False, progress: Progress = lambda done: None, tokenizer: str | None = None
) -> CheckResult:
    """Check one checkpoint; nothing in it is run, whatever it holds.

    Args:
        deep: also read every tensor, the optimizer's too: it must be there, finite, and of the shape that
            ``checkpoint.json`` says. Needs a running process group (``megatron_mmbert.parallel.start()``).
        progress: called with the bytes checked since its last call, which add up to those of the folder (twice if
            ``deep``).
        tokenizer: the fingerprint of the one that it must have been trained with, where it records it; None for any.
    """
    files, size = size_of(path)
    found: list[str] = []
    meta = None
    try:
        meta = read_meta(path)
        found += checksum_problems(path, progress)
    except UserError as error:
        found.append(str(error))
    if not found:
        found += _contents(path, deep, progress)
    if meta is not None and tokenizer is not None and meta.tokenizer_fingerprint not in ("", tokenizer):
        found.append(f"{path}: trained with another tokenizer than --tokenizer; give that one")
    return CheckResult(path, meta, files, size, tuple(found))


def results_table(results: Sequence[CheckResult]) -> str:
    """Return a row for each checkpoint: what it is, how large, and whether it is valid."""
    header = ["checkpoint", "phase", "step", "tokens", "files", "MB", "optimizer", "result"]
    rows = []
    for each in results:
        meta = each.meta
        about = [meta.phase or "-", f"{meta.step:,}", f"{meta.total_tokens:,}"] if meta else ["?", "?", "?"]
        optimizer = "?" if meta is None else "yes" if meta.has_optimizer else "no"
        result = "valid" if each.is_valid else f"damaged ({len(each.checksum_problems)})"
        rows.append([str(each.path), *about, str(each.files), f"{each.bytes / 1e6:,.1f}", optimizer, result])
    return table(header, rows, [False, False, True, True, True, True, False, False])


def _contents(path: Path, deep: bool, progress: Progress) -> Iterator[str]:
    """Yield problems in the content of files whose checksums hold."""
    from megatron_mmbert.checkpoint.safe_unpickle import check_contents, readable  # Megatron takes seconds

    try:
        check_contents(path)
        if (path / COMMON_FILE).is_file():
            with readable(path / COMMON_FILE):
                torch.load(path / COMMON_FILE, weights_only=True)
        if deep:
            yield from _tensors(path, progress)
    except UserError as error:
        yield str(error)


def _tensors(path: Path, progress: Progress) -> Iterator[str]:
    """Yield tensors of other shapes than the description's, and those with values that are not finite."""
    from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors
    from megatron_mmbert.utils.finite import finite_problem

    tensors = CheckpointTensors(path)
    for name, expected in parameter_shapes(tensors.meta.model).items():
        if tensors.shape(name) != expected:
            yield (
                f"{path}: tensor {name!r} has shape {list(tensors.shape(name))}, and checkpoint.json asks for "
                f"{list(expected)}; take another checkpoint"
            )
    for name, tensor in tensors.everything():
        if problem := finite_problem(tensor, name):
            yield f"{path}: {problem}; take another checkpoint"
        progress(tensor.nbytes)
