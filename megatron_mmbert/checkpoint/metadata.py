"""The description of a checkpoint, ``checkpoint.json``: what its tensors are and where its run stands.

It is all that tools need to read, and needs neither PyTorch nor Megatron-Core.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from megatron_mmbert import __version__
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json, write_json

META_FILE = "checkpoint.json"
NAME_ANOTHER = "name a folder that holds checkpoint.json, such as RUN/PHASE/checkpoints/step-00000100"

FinitePositive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainedSection(BaseModel):
    """A phase that was trained before a checkpoint, as far as the order of its data goes.

    Attributes:
        phase: its section of the resolved recipe.
        sources: the recipe's ``data.sources``; ``seed`` its seed.
        blocks, fingerprint: see ``data.sampling.resume.TrainedPhase``.
    """

    model_config = ConfigDict(extra="forbid")

    phase: dict[str, Any]
    sources: dict[str, Any]
    seed: NonNegativeInt
    blocks: NonNegativeInt
    fingerprint: str


class RecordedBatch(BaseModel):
    """A batch and the loss on it, which ``train.resume_check`` compares when the checkpoint has been loaded.

    Attributes:
        tokens: ids after masking, of samples of ``lengths`` tokens.
        scored: indices of the masked positions in ``tokens``; ``labels``: their original ids.
        loss: the mean over the masked positions in nats, by the weights of the checkpoint.
        computed: device, precision and attention engine of that loss.
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
        labelled = 0 < len(self.scored) == len(self.labels) and max(self.scored) < len(self.tokens)
        if sum(self.lengths) != len(self.tokens) or not labelled:
            raise ValueError("no batch: samples, scored positions and labels do not fit its tokens")
        return self


class CheckpointMeta(BaseModel):
    """The content of ``checkpoint.json``; its fields are a file format.

    Attributes:
        model: shape of the encoder.
        rope_theta, rope_theta_local: bases of the global and local layers, as last trained or as set by a transition.
        max_length: tokens of the longest sample that these weights are meant for.
        phase: the phase that wrote it, or that it is prepared for.
        step, phase_tokens: optimizer steps and real tokens of that phase so far.
        total_tokens: real tokens over all phases.
        loader: the data loader's state, a few integers; empty at the start of a phase.
        history: the phases trained before this one, in order; the positions from which its data continues follow.
        has_optimizer: whether the optimizer's state is inside.
        finished: whether the phase had seen all its tokens.
        recent_losses: losses of the last steps, against which the anomaly guard recognizes a spike.
        replay: a batch and the loss on it, to compare on resume; None for weights that were not trained here.
        recipe: the resolved recipe; empty for weights from elsewhere.
        tokenizer_fingerprint: of the tokenizer that the weights were trained with; empty if that is not known.
        tokenizer_aliases: those of other files of it, as of a ``tokenizer.json`` beside its ``.model``.
        origin: where the weights came from (a path or a sentence).
    """

    # attributes: the keys of checkpoint.json, a file format

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    model: ModelConfig
    rope_theta: FinitePositive
    rope_theta_local: FinitePositive
    max_length: PositiveInt
    phase: str = ""
    step: NonNegativeInt = 0
    phase_tokens: NonNegativeInt = 0
    total_tokens: NonNegativeInt = 0
    loader: dict[str, Any] = {}
    history: list[TrainedSection] = []
    has_optimizer: bool = False
    finished: bool = False
    recent_losses: list[float] = []
    replay: RecordedBatch | None = None
    recipe: dict[str, Any] = {}
    tokenizer_fingerprint: str = ""
    tokenizer_aliases: list[str] = []
    origin: str = ""
    code_version: str = __version__
    written_at: str = ""

    @model_validator(mode="after")
    def _counts_agree(self) -> CheckpointMeta:
        if self.total_tokens < self.phase_tokens:
            raise ValueError(f"total_tokens {self.total_tokens} is less than phase_tokens {self.phase_tokens}")
        if self.loader.get("tokens", self.phase_tokens) != self.phase_tokens:
            raise ValueError(f"loader.tokens {self.loader['tokens']} is not phase_tokens {self.phase_tokens}")
        return self

    @model_validator(mode="after")
    def _within_the_vocabulary(self) -> CheckpointMeta:
        if self.replay is not None and max(*self.replay.tokens, *self.replay.labels) >= self.model.vocab_size:
            raise ValueError(f"replay has ids beyond the vocabulary of {self.model.vocab_size}")
        return self


def read_meta(path: Path) -> CheckpointMeta:
    """Return the description of the checkpoint in folder ``path``.

    Raises:
        UserError: no checkpoint there, or a corrupt description.
    """
    values = read_json(path / META_FILE, "checkpoint", NAME_ANOTHER)
    try:
        return CheckpointMeta.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "damaged description"
        raise UserError(f"{path / META_FILE}: {key}: {problem['msg']}; {NAME_ANOTHER}") from None


def write_meta(folder: Path, meta: CheckpointMeta) -> None:
    """Write the description of the checkpoint that is being written into ``folder``, stamped with the time in UTC."""
    stamped = meta.model_copy(update={"written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    write_json(folder / META_FILE, stamped.model_dump(mode="json"))
