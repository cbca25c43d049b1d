"""The recipe: the one YAML file of a run, section by section. Names and defaults follow arXiv 2509.06888.

Where the paper and the released configuration files disagree, the presets of :mod:`megatron_mmbert.config.loading`
ship both (``-paper`` and ``-released``); the defaults here are the values on which they agree.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from megatron_mmbert.config.base import PlacedError, Section
from megatron_mmbert.config.data import DataConfig, TokenizerConfig
from megatron_mmbert.config.merge import MergeConfig
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.outputs import CheckpointConfig, EvaluationConfig, LoggingConfig
from megatron_mmbert.config.parallel import ParallelConfig, layout_problem
from megatron_mmbert.config.phase import OptimizerConfig, Phase
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.config.renamed_keys import rename_keys
from megatron_mmbert.config.stability import ResilienceConfig, StabilityConfig
from megatron_mmbert.config.values import within
from megatron_mmbert.utils.errors import UserError, nearest


class Recipe(Section):
    """A whole run."""

    # attributes: the sections of the YAML

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """The name of the run, in logs and trackers; runs/NAME is the job scripts' output folder unless they get one."""
    seed: Annotated[int, within(0, 2**31 - 1)] = 21
    """Fixes initial weights, the order of the data, masks and dropout."""
    model: ModelConfig
    """The shape of the encoder."""
    tokenizer: TokenizerConfig
    """The tokenizer of the run."""
    data: DataConfig
    """The text to train on, and how it is masked."""
    phases: Annotated[list[Phase], Field(min_length=1)]
    """The phases of training in their order; each starts from an earlier one or from scratch."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer's settings of all phases."""
    parallel: ParallelConfig = ParallelConfig()
    """The layout of the model over ranks."""
    precision: PrecisionConfig = PrecisionConfig()
    """The arithmetic of the layers."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """The rhythm of checkpoints, and which of them stay."""
    logging: LoggingConfig = LoggingConfig()
    """The log, trackers, and signals that stop a run."""
    stability: StabilityConfig = StabilityConfig()
    """The reaction to bad losses and gradients."""
    resilience: ResilienceConfig = ResilienceConfig()
    """The limits by which ranks watch one another."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out text to score."""
    merge: MergeConfig | None = None
    """The merge of phases into one model; null: none."""

    @model_validator(mode="before")
    @classmethod
    def _current_keys(cls, values: Any) -> Any:
        """Take keys of earlier versions, as checkpoints written by them have in their recipe."""
        return rename_keys(values)[0] if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [phase.name for phase in self.phases]
        for name in names:
            if names.count(name) > 1:
                raise PlacedError(f"two phases are called {name!r}; give each its own name", "phases", name)
        if problem := layout_problem(self.parallel, self.model):
            raise PlacedError(problem, "parallel")
        if problem := self.precision.recompute_problem(self.parallel.recompute):
            raise PlacedError(problem, "precision")
        for number, phase in enumerate(self.phases):
            self._check_phase(phase, names[:number])
        for name in self.merge.phases if self.merge else []:
            if name not in names:
                raise PlacedError(
                    f"merge names {name!r}, which is no phase{nearest(name, names)}; choose from {names}", "merge"
                )
        return self

    def _check_phase(self, phase: Phase, earlier: list[str]) -> None:
        """Raise PlacedError where ``phase`` does not fit the other sections, or the names of ``earlier`` phases."""
        tokens = phase.batch.pack_tokens
        if self.parallel.sequence and tokens % self.parallel.tensor:
            raise PlacedError(
                f"phase {phase.name!r}: a pack of {tokens} tokens does not divide by parallel.tensor "
                f"{self.parallel.tensor}, as sequence parallelism needs; choose a multiple",
                *("phases", phase.name, "batch"),
            )
        rows = tokens // (self.parallel.tensor if self.parallel.sequence else 1)
        if problem := self.precision.fp8_problem(self.model, self.parallel.tensor, rows):
            raise PlacedError(f"{problem} (phase {phase.name!r})", "precision")
        if phase.start_from not in (None, "scratch", *earlier):
            raise PlacedError(
                f"phase {phase.name!r} starts from {phase.start_from!r}, which is no earlier phase"
                f"{nearest(str(phase.start_from), earlier)}; choose 'scratch' or one of {earlier}",
                *("phases", phase.name, "from"),
            )
        if phase.max_length > self.model.max_length:
            raise PlacedError(
                f"phase {phase.name!r} has max_length {phase.max_length}, above model.max_length "
                f"{self.model.max_length}; raise the latter",
                *("phases", phase.name, "max_length"),
            )

    def phase(self, name: str) -> Phase:
        """Return the phase called ``name``.

        Raises:
            UserError: there is none; the sentence names the nearest.
        """
        for phase in self.phases:
            if phase.name == name:
                return phase
        names = [phase.name for phase in self.phases]
        raise UserError(
            f"recipe {self.name!r}: no phase {name!r}{nearest(name, names)}; choose from {', '.join(names)}"
        )

    def origin(self, phase: Phase) -> str | None:
        """Return the name of the phase that ``phase`` starts from, None for scratch."""
        if phase.start_from is not None:
            return None if phase.start_from == "scratch" else phase.start_from
        position = [each.name for each in self.phases].index(phase.name)
        return self.phases[position - 1].name if position else None

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved recipe as plain values, in the YAML's own key names."""
        return self.model_dump(mode="json", by_alias=True)
