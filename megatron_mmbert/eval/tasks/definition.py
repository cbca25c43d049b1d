"""The definition of a task and of a suite: one YAML file each, and no code."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints, model_validator

from megatron_mmbert.config.base import PlacedError, Section

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=60)]
Head = Literal["bitext", "passages", "classification", "pair", "tagging", "bits"]
Metric = Literal["accuracy", "mrr", "span_f1", "bits_per_byte"]
Split = Literal["train", "dev", "test", "passages"]
SPLITS: tuple[Split, ...] = get_args(Split)

# Of each head: the roles that columns play in it, its metrics (the first by default), the splits it cannot do without.
ROLES: dict[str, tuple[str, ...]] = {
    "bitext": ("text", "target"),
    "passages": ("text", "key"),
    "classification": ("text", "label"),
    "pair": ("text", "second", "label"),
    "tagging": ("words", "tags"),
    "bits": ("text",),
}
METRICS: dict[str, tuple[Metric, ...]] = {
    "bitext": ("accuracy",),
    "passages": ("mrr", "accuracy"),
    "classification": ("accuracy",),
    "pair": ("accuracy",),
    "tagging": ("accuracy", "span_f1"),
    "bits": ("bits_per_byte",),
}
NEEDED: dict[str, tuple[Split, ...]] = {
    "bitext": ("test",),
    "passages": ("test", "passages"),
    "classification": ("train", "dev", "test"),
    "pair": ("train", "dev", "test"),
    "tagging": ("train", "dev", "test"),
    "bits": ("test",),
}
TRAINED = ("classification", "pair", "tagging")
"""Heads that learn from a training split."""
LOWER_IS_BETTER: tuple[Metric, ...] = ("bits_per_byte",)


class Published(Section):
    """A score that others printed."""

    model: str
    """Name of the model."""
    score: float = Field(allow_inf_nan=False)
    """As printed."""
    metric: str
    """Its metric, with the languages it is a mean of."""
    protocol: str
    """How it came about, where that differs from this task: fine-tuned, other languages, other metric."""
    source: str
    """Paper or page."""


class Settings(Section):
    """The sizes, seeds and languages of a probe."""

    max_train: int = Field(default=1000, ge=2)
    """Training examples (sentences of a tagging task) that are taken; each seed learns from four fifths of them."""
    max_dev: int = Field(default=500, ge=2)
    """Examples of the dev split that the strength of regularization is chosen on."""
    max_test: int = Field(default=1000, ge=2)
    """Examples that are scored, of each language; the same for all models and seeds."""
    seeds: int = Field(default=3, ge=1, le=100)
    """Training samples to repeat everything with; heads that do not learn have one."""
    source: str | None = None
    """Language that the probe learns from, to be scored on all others; None for no transfer."""
    in_language: bool = True
    """Whether each language that has a train and a dev split also has a probe of its own."""
    centre: bool = True
    """Of vectors that are compared with one another: whether each side's mean is taken off first."""


class Hub(Section):
    """A data set of the Hugging Face hub."""

    id: str
    """Name of the data set, ``owner/name``."""
    config: str = "default"
    """Name of its configuration; may hold ``{language}``."""


class Task(Section):
    """A task: data, columns, splits, head, metric, settings, published numbers."""

    # attributes: the keys of the file
    name: Name
    """Name in tables and of files."""
    title: str
    """One line for a reader."""
    head: Head
    """What is done: ``bitext``, ``passages``, ``classification``, ``pair``, ``tagging``, ``bits``."""
    metric: Metric | None = None
    """``accuracy``, ``mrr``, ``span_f1`` or ``bits_per_byte``; the head's own by default."""
    splits: dict[Split, str]
    """Of each split its file, relative to the folder of data; ``{language}`` stands for a language's name there."""
    columns: dict[str, str]
    """Column of each role: text, second, target, key, label, words, tags."""
    passage_columns: dict[str, str] = {}
    """Columns of the passages' file: text and key."""
    labels: list[str] = []
    """All labels; empty: those of the training split."""
    label_names: dict[str, str] = {}
    """Label by its value in the files, where these hold numbers."""
    languages: list[str] = []
    """Names of the languages in the files; empty: all that are there."""
    hub: Hub | None = None
    """Where the data come from, if from the hub."""
    settings: Settings = Settings()
    """Sizes, seeds and transfer."""
    published: list[Published] = []
    """Scores of others."""
    licence: str = ""
    """Licence of the data."""

    @property
    def scored_by(self) -> Metric:
        """The metric, the head's own where none is named."""
        return self.metric or METRICS[self.head][0]

    @property
    def lower_is_better(self) -> bool:
        """True if a smaller score is a better one."""
        return self.scored_by in LOWER_IS_BETTER

    @model_validator(mode="after")
    def _is_whole(self) -> Task:
        roles = ROLES[self.head]
        _all_there("columns", self.columns, roles, f"a task of head {self.head!r}")
        if self.head == "passages":
            _all_there("passage_columns", self.passage_columns, ("text", "key"), "a task of head 'passages'")
        for split in NEEDED[self.head]:
            if split not in self.splits:
                raise PlacedError(f"split {split!r} is missing; head {self.head!r} needs it", "splits")
        for split, pattern in self.splits.items():
            if "{language}" not in pattern:
                raise PlacedError(f"{pattern!r}: write {{language}} where the language stands", "splits", split)
        if self.scored_by not in METRICS[self.head]:
            allowed = " or ".join(METRICS[self.head])
            raise PlacedError(f"{self.metric!r}: head {self.head!r} is scored by {allowed}", "metric")
        return self


class Suite(Section):
    """A suite: tasks by the names of their files, and where their data are looked for."""

    name: Name
    """Name in reports."""
    title: str
    """One line for a reader."""
    data: list[str] = []
    """Folders to look for data in, relative to the current one; the first that exists is taken."""
    tasks: list[str] = Field(min_length=1)
    """Names of this project's tasks, or YAML files relative to the suite's own."""


def _all_there(key: str, columns: dict[str, Any], roles: tuple[str, ...], what: str) -> None:
    if set(columns) != set(roles):
        raise PlacedError(f"{what} has the columns {', '.join(roles)}, not {', '.join(columns) or 'none'}", key)
