"""One checkpoint is one folder: Megatron-Core's distributed tensors, ``checkpoint.json`` and ``checksums.json``.

A folder is written aside under a dot name and renamed when every rank has written and every byte is on the disk, so a
folder called ``step-…`` is complete. ``checkpoint.json`` says what the tensors are; it is all that tools need to read.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError, model_validator

from megatron_mmbert import __version__
from megatron_mmbert.config.recipe import ModelConfig
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json, replace_folder, sync_folder, write_json

META_FILE = "checkpoint.json"
CHECKSUM_FILE = "checksums.json"
_READ = (META_FILE, ".metadata", "metadata.json")  # beside tensors, what loading reads; a report may lie there too
_STEP_FOLDER = re.compile(r"step-(\d{8,})")
_NAME_ANOTHER = "name a folder that holds checkpoint.json, such as RUN/PHASE/checkpoints/step-00000100"


class TrainedSection(BaseModel):
    """A phase that lies behind a checkpoint, as far as the order of its data goes.

    Attributes:
        phase: its section of the resolved recipe.
        sources: the recipe's ``data.sources``; ``seed`` its seed.
        blocks, fingerprint: see ``data.history.TrainedPhase``.
    """

    model_config = ConfigDict(extra="forbid")

    phase: dict[str, Any]
    sources: dict[str, Any]
    seed: int
    blocks: int
    fingerprint: str


class RecordedBatch(BaseModel):
    """What ``train.replay`` compares when the checkpoint has been loaded.

    Attributes:
        tokens: ids after masking; ``lengths`` of the samples that they are.
        scored: positions of the scored ones; ``labels``: their original ids.
        loss: the mean over them in nats, by the weights of the checkpoint; ``computed``: in what way.
    """

    model_config = ConfigDict(extra="forbid")

    tokens: list[NonNegativeInt]
    lengths: list[PositiveInt]
    scored: list[NonNegativeInt]
    labels: list[NonNegativeInt]
    loss: float = 0.0
    computed: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> RecordedBatch:
        places = 0 < len(self.scored) == len(self.labels) and max(self.scored) < len(self.tokens)
        if sum(self.lengths) != len(self.tokens) or not places:
            raise ValueError("no batch: samples, scored positions and labels do not fit its tokens")
        return self


class CheckpointMeta(BaseModel):
    """What a checkpoint holds and where its run stands.

    Attributes:
        model: shape of the encoder.
        rope_theta, rope_theta_local: bases of the global and local layers, as last trained or as set by a transition.
        max_length: the longest sample these weights are meant for.
        phase: the phase that wrote it, or that it is prepared for.
        step, phase_tokens: optimizer steps and real tokens of that phase so far.
        total_tokens: real tokens over all phases.
        loader: the data loader's state, a few integers; empty at the start of a phase.
        history: the phases behind this one, in order: where its data goes on follows from them.
        has_optimizer: whether the optimizer's state is inside.
        finished: whether the phase had seen all its tokens.
        recent_losses: what the rule for loss spikes looks back on.
        replay: a batch and the loss on it, to compare on resume; None for weights that were not trained here.
        recipe: the resolved recipe; empty for weights from elsewhere.
        origin: where the weights came from (a path or a sentence).
    """

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    model: ModelConfig
    rope_theta: float
    rope_theta_local: float
    max_length: int
    phase: str = ""
    step: int = 0
    phase_tokens: int = 0
    total_tokens: int = 0
    loader: dict[str, Any] = {}
    history: list[TrainedSection] = []
    has_optimizer: bool = False
    finished: bool = False
    recent_losses: list[float] = []
    replay: RecordedBatch | None = None
    recipe: dict[str, Any] = {}
    tokenizer_fingerprint: str = ""
    origin: str = ""
    code_version: str = __version__
    written_at: str = ""

    @model_validator(mode="after")
    def _within_the_vocabulary(self) -> CheckpointMeta:
        if self.replay is not None and max(*self.replay.tokens, *self.replay.labels) >= self.model.vocab_size:
            raise ValueError(f"replay has ids beyond the vocabulary of {self.model.vocab_size}")
        return self


def read_meta(path: Path) -> CheckpointMeta:
    """What the checkpoint in folder ``path`` holds.

    Raises:
        UserError: no checkpoint there, or a damaged description.
    """
    values = read_json(path / META_FILE, "checkpoint", _NAME_ANOTHER)
    try:
        return CheckpointMeta.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "damaged description"
        raise UserError(f"{path / META_FILE}: {place}: {problem['msg']}; {_NAME_ANOTHER}") from None


@contextmanager
def committed_checkpoint(path: Path) -> Iterator[Path]:
    """Yield a folder to write a checkpoint into; checksum, sync and rename it to ``path`` on success.

    For one process; training, whose ranks write together, has :mod:`.saver`.
    """
    staging = staging_path(path)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        finalize(staging)
        replace_folder(staging, path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def finalize(folder: Path, known: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> None:
    """Record the checksums of all that is in ``folder`` and see it safely on the disk.

    Args:
        known: checksums of files that are on the disk already.
    """
    write_json(folder / CHECKSUM_FILE, {name: known.get(name) or _checksum(folder / name) for name in _payload(folder)})
    sync_folder(folder)


def write_meta(folder: Path, meta: CheckpointMeta) -> None:
    """Describe the checkpoint that is being written into ``folder``."""
    stamped = meta.model_copy(update={"written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    write_json(folder / META_FILE, stamped.model_dump(mode="json"))


def checksum_problems(path: Path, progress: Callable[[int], None] = lambda done: None) -> Iterator[str]:
    """One sentence for each file of a checkpoint that is missing, of other content, or read though not listed.

    ``progress`` is called with the bytes of each file that has been read.
    """
    known = read_json(path / CHECKSUM_FILE, "list of checksums", "take another checkpoint")
    if not isinstance(known, dict):
        raise UserError(f"{path / CHECKSUM_FILE}: damaged list of checksums; take another checkpoint")
    for name, expected in known.items():
        file = path / name
        if not file.is_file():
            yield f"{file}: missing; take another checkpoint"
        elif _checksum(file) != expected:
            yield f"{file}: content differs from its checksum; take another checkpoint"
        progress(file.stat().st_size if file.is_file() else 0)
    for name in _payload(path):
        if name not in known and (name in _READ or name.endswith((".distcp", ".pt"))):
            yield f"{path / name}: not in the checkpoint's list of files; take another checkpoint"


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def committed_checkpoints(checkpoints: Path) -> list[Path]:
    """All committed checkpoints of a phase, oldest first."""
    if not checkpoints.is_dir():
        return []
    found = [(int(match[1]), path) for path in checkpoints.iterdir() if (match := _STEP_FOLDER.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_valid(checkpoints: Path, warn: Any = print) -> Path | None:
    """The newest checkpoint whose checksums hold; damaged ones are named by ``warn`` and left alone."""
    for path in reversed(committed_checkpoints(checkpoints)):
        try:
            read_meta(path)
            found = next(checksum_problems(path), None)
        except UserError as error:
            found = str(error)
        if found is None:
            return path
        warn(f"warning: damaged checkpoint skipped: {found}")
    return None


def resolve(path: Path) -> Path:
    """A checkpoint folder, given itself, a phase's folder, or its ``checkpoints`` folder (then the newest sound one).

    Raises:
        UserError: there is none, or the one that was named is damaged.
    """
    if (path / META_FILE).is_file():
        for problem in checksum_problems(path):
            raise UserError(problem)
        return path
    for folder in (path, path / "checkpoints"):
        newest = newest_valid(folder)
        if newest is not None:
            return newest
    raise UserError(f"{path}: no checkpoint here; {_NAME_ANOTHER}")


def apply_retention(checkpoints: Path, count: int, every_tokens: int | None = None) -> None:
    """Delete all but the newest ``count`` checkpoints of a phase, and the first after each ``every_tokens`` tokens.

    Which is the first is seen from those that are there: it is never deleted, so it stays the first. A checkpoint that
    cannot be read neither counts nor goes.
    """
    known = [(path, _tokens_of(path)) for path in committed_checkpoints(checkpoints)]
    passed = 0
    for path, tokens in [(path, tokens) for path, tokens in known if tokens is not None][:-count]:
        if every_tokens is not None and tokens // every_tokens > passed:
            passed = tokens // every_tokens
            continue
        # Under a dot name first: killed in the middle of it, no half of a checkpoint bears the name of a whole one.
        staging = staging_path(path)
        shutil.rmtree(staging, ignore_errors=True)
        os.replace(path, staging)
        shutil.rmtree(staging, ignore_errors=True)


def remove_leftovers(checkpoints: Path) -> None:
    """Delete what processes that were killed while they wrote or deleted a checkpoint have left."""
    for path in checkpoints.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _tokens_of(path: Path) -> int | None:
    try:
        return read_meta(path).phase_tokens
    except UserError:
        return None


def staging_path(path: Path) -> Path:
    """Where the checkpoint ``path`` is written before it is whole."""
    return path.with_name(f".{path.name}.tmp")


def check_output(output: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Refuse an output folder that exists, or that is or holds something a command reads (``--overwrite`` deletes it).

    Raises:
        UserError: either of them.
    """
    for path in inputs:
        if output.resolve() in (path.resolve(), *path.resolve().parents):
            raise UserError(f"--output {output}: is, or holds, the input {path}; choose another folder")
    if output.exists() and not overwrite:
        raise UserError(f"{output}: already exists; choose another --output or pass --overwrite")


def _payload(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _checksum(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    return {"bytes": file.stat().st_size, "sha256": digest}
