"""The recipe's fields. Each class is one section of the YAML; names and defaults follow arXiv 2509.06888.

Where the paper and the released configuration files disagree, the presets of :mod:`megatron_mmbert.config.loading`
ship both (``-paper`` and ``-released``); the defaults here are the values on which they agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from megatron_mmbert.config.base import PlacedError, Section
from megatron_mmbert.config.constants import SPECIAL_TOKENS_PER_SAMPLE
from megatron_mmbert.config.languages import expand
from megatron_mmbert.config.merge import MergeConfig
from megatron_mmbert.config.parallel import misfit
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.config.stability import StabilityConfig
from megatron_mmbert.config.values import Count, LinearRamp, PositiveCount, check_range
from megatron_mmbert.utils.errors import nearest

PACK_MULTIPLE = 128  # tokens; keeps every matrix shape aligned for FP8 and tensor parallelism

Positive = Annotated[int, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]


class ModelConfig(Section):
    """Shape of the encoder (ModernBERT with weight-only LayerNorm; paper, table of model sizes)."""

    num_layers: Positive = 22
    hidden_size: Positive = 768
    ffn_hidden_size: Positive = 1152
    """Width after gating; fc1 has twice as many rows."""
    num_attention_heads: Positive = 12
    vocab_size: Positive = 256_000
    max_length: Positive = 8192
    """The longest sample of any phase, in tokens; what the exported model declares."""
    global_attention_every: Positive = 3
    """Layer i attends globally when i mod this is 0, else within the window."""
    window_each_side: Positive = 64
    """Visible tokens left and right of a token in a local layer, itself not counted."""
    norm_eps: float = 1e-5
    attention_output_dropout: Ratio = 0.1
    """Dropout on the attention block's output; all other dropouts are 0."""
    init_std: float = 0.02

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.hidden_size % self.num_attention_heads or (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be an even multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        return self

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def is_global(self, layer: int) -> bool:
        """Whether layer ``layer`` (0-based) attends to the whole sample."""
        return layer % self.global_attention_every == 0


class TokenizerConfig(Section):
    """Where the tokenizer lies: a folder of tools/train_tokenizer.py, a ``.model`` or a ``tokenizer.json``."""

    path: Path


class SourceConfig(Section):
    """How one source of the stores is sampled."""

    tempered: bool = True
    """Whether its languages are weighted by n_i^tau (FineWeb2 is); otherwise by their tokens."""


class DataConfig(Section):
    """What there is to train on, and how pieces are masked."""

    stores: Annotated[list[Path], Field(min_length=1)]
    sources: dict[str, SourceConfig] = {}
    masking: Literal["ours", "paper"] = "ours"
    """``paper``: <bos>/<eos> are maskable, random ids up to the batch's largest; ``ours``: neither."""
    masking_unit: Literal["token", "word", "span"] = "token"
    """What is masked as a whole: single tokens, words (from one space to the next; single tokens in scripts without
    spaces), or spans of geometric length with mean 3. Exactly mask_ratio of the positions are scored with each."""
    allow_missing_languages: bool = False
    """Train although the store lacks some of a phase's languages (named in the log)."""
    workers: Annotated[int, Field(ge=0)] = 0


class LanguageTable(Section):
    """Languages read from a table: the ``column`` of rows of a TSV whose columns match ``where``."""

    table: Path
    column: str
    where: dict[str, list[str]] = {}


class LRConfig(Section):
    """Trapezoid by tokens: linear warm-up, plateau, decay to ``final_ratio`` of the peak."""

    warmup_tokens: Count = 0
    decay_tokens: Count = 0
    decay: Literal["one_minus_sqrt", "linear"] = "one_minus_sqrt"
    final_ratio: Ratio = 0.02


class BatchConfig(Section):
    """Tokens per optimizer step, and how many of them one micro batch (pack) holds."""

    tokens_per_step: PositiveCount
    tokens_per_micro_batch: PositiveCount
    ramp_tokens: Count = 0
    ramp_start_tokens: Count = 0
    """Tokens per step at the start of the ramp; 0 means one micro batch per data-parallel rank."""

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> BatchConfig:
        if self.tokens_per_micro_batch % PACK_MULTIPLE:
            raise ValueError(
                f"tokens_per_micro_batch {self.tokens_per_micro_batch} must be a multiple of {PACK_MULTIPLE}"
            )
        for name in ("tokens_per_step", "ramp_start_tokens"):
            if getattr(self, name) % self.tokens_per_micro_batch:
                raise ValueError(
                    f"{name} {getattr(self, name)} must be a multiple of tokens_per_micro_batch "
                    f"{self.tokens_per_micro_batch}"
                )
        return self


class Phase(Section):
    """One row of the recipe (paper, section on training phases)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    start_from: str | None = Field(default=None, alias="from")
    """The phase whose last checkpoint this one starts from; by default the one before it, ``scratch`` for the first."""
    tokens: PositiveCount
    languages: Literal["all"] | LanguageTable | list[str] = "all"
    """Codes of the store (``eng_Latn``), without script (``eng``) for every script of a language, or named sets
    (``@mmbert_pretrain``, see :mod:`megatron_mmbert.config.languages`), which validation replaces by their codes."""
    temperature: LinearRamp = LinearRamp.constant(1.0)
    boost: dict[str, float] = {}
    """Factors on the sampling weight of single languages, applied after the temperature."""
    sources: dict[str, float] = {}
    """Shares of the sources in tokens; empty: in proportion to their tokens."""
    max_epochs: float | None = None
    """No language is repeated more often than this within the phase."""
    mask_ratio: LinearRamp
    max_length: Positive
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    rope_theta_local: Annotated[float, Field(gt=0)] | None = None
    """Theta of the local layers; by default that of the global ones (ModernBERT keeps 10,000)."""
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    schedule: LRConfig = LRConfig()
    batch: BatchConfig
    optimizer_state: Literal["keep", "reset"] = "keep"

    @field_validator("languages", mode="before")
    @classmethod
    def _languages_listed(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "all":
            raise ValueError("write 'all', a list of codes such as [eng, fra_Latn], or a table")
        return value

    @field_validator("languages")
    @classmethod
    def _language_sets(cls, value: Any) -> Any:
        return expand(value) if isinstance(value, list) else value

    @field_validator("temperature")
    @classmethod
    def _temperature_range(cls, value: LinearRamp) -> LinearRamp:
        check_range("temperature", value, 0.0, 1.0)
        return value

    @field_validator("mask_ratio")
    @classmethod
    def _mask_ratio_range(cls, value: LinearRamp) -> LinearRamp:
        check_range("mask_ratio", value, 0.0, 1.0)
        return value

    @model_validator(mode="after")
    def _fits(self) -> Phase:
        if self.max_length > self.batch.tokens_per_micro_batch:
            raise ValueError(
                f"max_length {self.max_length} must not exceed batch.tokens_per_micro_batch "
                f"{self.batch.tokens_per_micro_batch}"
            )
        if self.max_length <= SPECIAL_TOKENS_PER_SAMPLE:
            raise ValueError(f"max_length {self.max_length} must hold <bos>, <eos> and text: at least 3")
        if self.schedule.warmup_tokens + self.schedule.decay_tokens > self.tokens:
            raise ValueError("schedule.warmup_tokens + schedule.decay_tokens must not exceed tokens")
        return self

    @property
    def theta_local(self) -> float:
        return self.rope_theta if self.rope_theta_local is None else self.rope_theta_local


class OptimizerConfig(Section):
    """StableAdamW (arXiv 2304.13013; ModernBERT src/optimizer.py)."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 8e-5
    """Fully decoupled: the share of a weight that one step at the peak LR removes."""


class ParallelConfig(Section):
    """How the model is laid over ranks; data parallelism takes what is left of the world size."""

    tensor: Positive = 1
    sequence: bool = False
    """Sequence parallelism: between the tensor-parallel matrix products each rank holds its share of the tokens."""
    pipeline: Positive = 1
    virtual_stages: Positive = 1
    """Parts of the model per pipeline rank; more than 1 interleaves them, which shortens the pipeline's bubble."""
    layers_per_stage: list[Annotated[int, Field(ge=0)]] | None = None
    """Layers of each stage in order (pipeline x virtual_stages of them); by default balanced, counting the embedding
    and the head as layers."""
    distributed_optimizer: bool = False
    """Shard the optimizer's state (masters and moments) over the data-parallel ranks."""
    overlap: bool = False
    """Reduce gradients over data-parallel ranks during backward, and with the distributed optimizer gather updated
    weights during forward."""
    bucket_elements: PositiveCount = 40_000_000
    """What one such reduction takes at a time."""
    recompute: Literal["none", "light", "selective", "full"] = "none"
    """Activations computed again in backward to save memory: of norms and GeGLU (light, which repeats no matrix
    product), of attention and feed-forward (selective), or of whole layers (full)."""
    lost_rank_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A rank that is silent for so long is taken for lost; the others name it and end."""
    hung_rank_seconds: Annotated[float, Field(gt=0)] = 1200.0
    """When all ranks live and none gets on for so long, the one that hangs is named and all end. Longer than the first
    step, a save, and the start; shorter than timeout_minutes, which would name one of those that wait."""
    timeout_minutes: Annotated[float, Field(gt=0)] = 30.0
    """The longest wait for ranks that are alive, in one exchange."""

    @property
    def stages(self) -> int:
        """Pipeline stages, virtual ones included."""
        return self.pipeline * self.virtual_stages

    @model_validator(mode="after")
    def _possible(self) -> ParallelConfig:
        if self.virtual_stages > 1 and self.pipeline == 1:
            raise ValueError(
                f"virtual_stages {self.virtual_stages} needs pipeline 2 or more; set it to 1 or raise pipeline"
            )
        if self.layers_per_stage is not None and len(self.layers_per_stage) != self.stages:
            raise ValueError(
                f"layers_per_stage has {len(self.layers_per_stage)} numbers for {self.stages} stages (pipeline "
                f"{self.pipeline} x virtual_stages {self.virtual_stages}); give one for each"
            )
        return self


class CheckpointConfig(Section):
    """When a phase is saved, and what stays of it."""

    every_tokens: PositiveCount = 10_000_000_000
    keep_last: Positive = 2
    keep_every_tokens: PositiveCount | None = None
    """Besides the last ones, the first checkpoint after each so many tokens of the phase stays for good."""
    asynchronous: bool = True
    """Write while training goes on, from a copy in host memory of what a rank writes; else training waits."""
    on_failure: Literal["continue", "stop"] = "continue"
    """What happens when a checkpoint cannot be written, as on a full disk; at the end of a phase, or asked to stop, the
    run always ends with the reason."""
    replay: Literal["stop", "warn", "none"] = "stop"
    """A save records the beginning of a batch and the loss on it; a resume that finds another loss stops, or warns."""


class LoggingConfig(Section):
    every_steps: Positive = 1
    tensorboard: bool = True
    wandb: str | None = None
    """Project of Weights & Biases to log to; its own environment variables say mode and key."""
    mlflow: str | None = None
    """Experiment of MLflow to log to, at the address in MLFLOW_TRACKING_URI."""
    stop_signals: list[Literal["SIGTERM", "SIGUSR1", "SIGUSR2"]] = ["SIGTERM", "SIGUSR1", "SIGUSR2"]
    """Signals that end the step on all ranks, save, and end the run; a second SIGTERM ends it at once."""
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    """Matrix-product ceiling of one device in TFLOP/s; measured at start when not given."""


class EvaluationConfig(Section):
    """Held-out bits per byte by language, before and after each phase, and on the way."""

    stores: list[Path] = []
    every_tokens: PositiveCount | None = None
    """Score also whenever a phase has trained this many more tokens; null: only before and after it."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    tokens_per_language: PositiveCount = 4096
    rounds: Positive = 1
    """Each held-out piece is masked this many times, each time elsewhere."""


class Recipe(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 21
    model: ModelConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    phases: Annotated[list[Phase], Field(min_length=1)]
    optimizer: OptimizerConfig = OptimizerConfig()
    parallel: ParallelConfig = ParallelConfig()
    precision: PrecisionConfig = PrecisionConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    numbers: StabilityConfig = StabilityConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    merge: MergeConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [phase.name for phase in self.phases]
        for name in names:
            if names.count(name) > 1:
                raise PlacedError(f"two phases are called {name!r}; give each its own name", "phases", name)
        if problem := misfit(self.parallel, self.model):
            raise PlacedError(problem, "parallel")
        if problem := self.precision.misfit(self.parallel.recompute, self.numbers.deterministic):
            raise PlacedError(problem, "precision")
        for number, phase in enumerate(self.phases):
            tokens = phase.batch.tokens_per_micro_batch
            if self.parallel.sequence and tokens % self.parallel.tensor:
                raise PlacedError(
                    f"phase {phase.name!r}: batch.tokens_per_micro_batch {tokens} does not divide by parallel.tensor "
                    f"{self.parallel.tensor}, as sequence parallelism needs; choose a multiple",
                    *("phases", phase.name, "batch"),
                )
            origin = phase.start_from
            if origin not in (None, "scratch", *names[:number]):
                raise PlacedError(
                    f"phase {phase.name!r} starts from {origin!r}, which is no earlier phase"
                    f"{nearest(str(origin), names[:number])}; choose 'scratch' or one of {names[:number]}",
                    *("phases", phase.name, "from"),
                )
            if phase.max_length > self.model.max_length:
                raise PlacedError(
                    f"phase {phase.name!r} has max_length {phase.max_length}, above model.max_length "
                    f"{self.model.max_length}; raise the latter",
                    *("phases", phase.name, "max_length"),
                )
        for name in self.merge.phases if self.merge else []:
            if name not in names:
                raise PlacedError(
                    f"merge names {name!r}, which is no phase{nearest(name, names)}; choose from {names}", "merge"
                )
        return self

    def phase(self, name: str) -> Phase:
        """The phase called ``name``; KeyError when there is none."""
        return {phase.name: phase for phase in self.phases}[name]

    def origin(self, phase: Phase) -> str | None:
        """Name of the phase that ``phase`` starts from, None for scratch."""
        if phase.start_from is not None:
            return None if phase.start_from == "scratch" else phase.start_from
        position = [each.name for each in self.phases].index(phase.name)
        return self.phases[position - 1].name if position else None

    def to_dict(self) -> dict[str, Any]:
        """The resolved recipe as plain values, in the YAML's own key names."""
        return self.model_dump(mode="json", by_alias=True)
