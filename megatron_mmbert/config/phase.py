"""The recipe's ``phases`` and ``optimizer`` sections: what is trained when, at which rate, in which batches."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from megatron_mmbert.config.base import PACK_MULTIPLE, SPECIAL_TOKENS_PER_SAMPLE, Section
from megatron_mmbert.config.data import LanguageTable, expand
from megatron_mmbert.config.model import Theta
from megatron_mmbert.config.values import Count, Factor, LinearRamp, Portion, PositiveCount, Ratio, parse_count, within
from megatron_mmbert.utils.bounds import MAX_LENGTH, MAX_PACK_TOKENS

Decay = Literal["one_minus_sqrt", "linear"]
MAX_STEP_TOKENS = 10**9
StepTokens = Annotated[int, BeforeValidator(parse_count), within(1, MAX_STEP_TOKENS)]
RampTokens = Annotated[int, BeforeValidator(parse_count), within(0, MAX_STEP_TOKENS)]
PackTokens = Annotated[int, BeforeValidator(parse_count), within(1, MAX_PACK_TOKENS)]
WeightDecay = Annotated[float, within(0, 1, below=True)]
Beta = Annotated[float, within(0, 1, below=True)]


class LRConfig(Section):
    """The learning rate by tokens: linear warm-up, plateau, decay to ``final_ratio`` of the peak (a trapezoid)."""

    warmup_tokens: Count = 0
    """Tokens of the linear rise from 0 at the start of the phase; 0 for none."""
    decay_tokens: Count = 0
    """Tokens of the decay at the end of the phase; 0 for none."""
    decay: Decay = "one_minus_sqrt"
    """The shape of the decay, ``optim/schedule.py`` has the formulas."""
    final_ratio: Ratio = 0.02
    """The learning rate at the end of the decay over the peak rate."""


class BatchConfig(Section):
    """Tokens per optimizer step, per pack (the unit of the data's order) and per micro batch (the unit of work).

    The packs of a step do not depend on the number of ranks; how many of them a rank takes at once does not change the
    step. So a recipe trains the same steps on one GPU and on hundreds.
    """

    tokens_per_step: StepTokens
    """Tokens of one optimizer step over all ranks, a multiple of tokens_per_pack."""
    tokens_per_pack: PackTokens | None = None
    """Tokens of one pack, the unit of the data's order, a multiple of 128; by default tokens_per_micro_batch."""
    tokens_per_micro_batch: PackTokens | Literal["auto"] = "auto"
    """Tokens of the packs that a rank takes in one forward pass, a multiple of tokens_per_pack. ``auto``: as many as a
    GPU's memory holds by the estimate of ``plan_run``; one pack on a CPU."""
    ramp_tokens: Count = 0
    """Tokens of the phase over which a step grows to tokens_per_step; 0 for none."""
    ramp_start_tokens: RampTokens = 0
    """Tokens per step at the start of the ramp; 0 means one pack per data-parallel rank."""
    ramp_increment_tokens: RampTokens = 0
    """Tokens that each stage of the ramp adds to a step; 0 means one pack per data-parallel rank."""

    @property
    def pack_tokens(self) -> int:
        """Tokens of one pack."""
        given = self.tokens_per_pack or self.tokens_per_micro_batch
        return int(given)

    @property
    def packs_per_micro_batch(self) -> int | None:
        """The most packs of one micro batch; None for ``auto``."""
        return None if self.tokens_per_micro_batch == "auto" else self.tokens_per_micro_batch // self.pack_tokens

    @model_validator(mode="after")
    def _packs_fit(self) -> BatchConfig:
        if self.tokens_per_pack is None and self.tokens_per_micro_batch == "auto":
            raise ValueError("give tokens_per_pack, for example 8192, or a number for tokens_per_micro_batch")
        unit = "tokens_per_micro_batch" if self.tokens_per_pack is None else "tokens_per_pack"
        if self.pack_tokens % PACK_MULTIPLE:
            raise ValueError(f"{unit} {self.pack_tokens} must be a multiple of {PACK_MULTIPLE}")
        for name in ("tokens_per_step", "tokens_per_micro_batch", "ramp_start_tokens", "ramp_increment_tokens"):
            value = getattr(self, name)
            if value != "auto" and value % self.pack_tokens:
                raise ValueError(f"{name} {value} must be a multiple of {unit} {self.pack_tokens}")
        if self.ramp_start_tokens > self.tokens_per_step:
            raise ValueError(
                f"ramp_start_tokens {self.ramp_start_tokens} must not exceed tokens_per_step {self.tokens_per_step}"
            )
        return self


class Phase(Section):
    """One row of the recipe (paper, section on training phases)."""

    # attributes: the keys of a phase in the YAML

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """The phase's name, which is also its folder in the run's."""
    start_from: str | None = Field(default=None, alias="from")
    """The phase whose last checkpoint this one starts from; by default the one before it, ``scratch`` for the first."""
    tokens: PositiveCount
    """Real (non-pad) tokens to train; all schedules of the phase run over them."""
    languages: Literal["all"] | LanguageTable | list[str] = "all"
    """Codes of the store (``eng_Latn``), without script (``eng``) for every script of a language, or named sets
    (``@mmbert_pretrain``, see :mod:`megatron_mmbert.config.data`), which validation replaces by their codes."""
    temperature: Portion = LinearRamp.constant(1.0)
    """tau of the tempered sources: a language of n tokens weighs n^tau. A number or ``{from, to}``, in (0, 1]."""
    boost: dict[str, Factor] = {}
    """Factors on the sampling weight of single languages, applied after the temperature."""
    sources: dict[str, Factor] = {}
    """Weights of the sources in tokens, of any sum; empty: in proportion to their tokens."""
    max_epochs: Annotated[float, within(0, 1e6, above=True)] | None = None
    """No language is repeated more often than this within the phase."""
    mask_ratio: Portion
    """Scored positions over positions of a pack. A number or ``{from, to}``, in (0, 1]."""
    max_length: Annotated[int, within(SPECIAL_TOKENS_PER_SAMPLE + 1, MAX_LENGTH)]
    """The longest sample in tokens, <bos> and <eos> counted; longer documents are split."""
    rope_theta: Theta = 10_000.0
    """The base of the rotary embedding in global layers."""
    rope_theta_local: Theta | None = None
    """The base in local layers; by default that of the global ones (ModernBERT keeps 10,000)."""
    lr: Annotated[float, within(0, 10, above=True)]
    """The peak learning rate."""
    weight_decay: WeightDecay | None = None
    """The weight decay of this phase; by default that of the optimizer section."""
    schedule: LRConfig = LRConfig()
    """The learning rate over the phase."""
    batch: BatchConfig
    """The batch size over the phase."""
    optimizer_state: Literal["keep", "reset"] = "keep"
    """Whether the optimizer's moments are taken over from the phase that this one starts from."""
    allow_different: list[str] = []
    """Values in which the checkpoint that the phase starts from may differ from the recipe, such as ``tokenizer``; any
    other difference that changes the model's function, and that the phase does not state, is refused."""

    @field_validator("languages", mode="before")
    @classmethod
    def _languages_listed(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "all":
            raise ValueError("write 'all', a list of codes such as [eng, fra_Latn], or a table")
        return value

    @field_validator("languages")
    @classmethod
    def _language_sets(cls, value: Any) -> Any:
        if value == []:
            raise ValueError("names no language; write 'all', or a list of codes such as [eng, fra_Latn]")
        return expand(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _fits(self) -> Phase:
        if self.max_length > self.batch.pack_tokens:
            unit = "tokens_per_micro_batch" if self.batch.tokens_per_pack is None else "tokens_per_pack"
            raise ValueError(f"max_length {self.max_length} must not exceed batch.{unit} {self.batch.pack_tokens}")
        if self.schedule.warmup_tokens + self.schedule.decay_tokens > self.tokens:
            raise ValueError("schedule.warmup_tokens + schedule.decay_tokens must not exceed tokens")
        return self

    @property
    def theta_local(self) -> float:
        """The base of the rotary embedding in local layers."""
        return self.rope_theta if self.rope_theta_local is None else self.rope_theta_local


class OptimizerConfig(Section):
    """StableAdamW (arXiv 2304.13013; ModernBERT src/optimizer.py)."""

    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay rates of the two moments per step."""
    eps: Annotated[float, within(1e-30, 1)] = 1e-8
    """Added to the square root of the second moment."""
    weight_decay: WeightDecay = 8e-5
    """Fully decoupled: the part of a weight that one step at the peak learning rate removes."""
