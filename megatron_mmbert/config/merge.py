"""The recipe's ``merge`` section, and the rules for what a merge method can be asked for.

``merge/`` takes the rules from here, so that a recipe is checked when it is read and a command line by the same code. A
new method is an entry in :data:`METHODS` and its function in ``merge/methods.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field, WrapValidator, model_validator

from megatron_mmbert.config.base import PlacedError, Section
from megatron_mmbert.config.values import Within
from megatron_mmbert.utils.bounds import Range
from megatron_mmbert.utils.errors import nearest


class MergeMethod(NamedTuple):
    """The demands of one merge method.

    Attributes:
        options: fields of :class:`MergeOptions` that it reads; the others must stay at their defaults.
        needs_base: it works on differences from the checkpoint that all models started from.
        model_count: the only number of models that it can merge; None for any.
    """

    options: tuple[str, ...]
    needs_base: bool = False
    model_count: int | None = None


METHODS = {
    "ties": MergeMethod(("density", "weights", "scale"), needs_base=True),
    "linear": MergeMethod(("weights",)),
    "slerp": MergeMethod(("t",), model_count=2),
    "task_arithmetic": MergeMethod(("weights", "scale"), needs_base=True),
    "ema": MergeMethod(("ema_decay",)),
}


@dataclass(frozen=True)
class MergeOptions:
    """Numbers of a merge.

    Attributes:
        density: ties: the share of each task vector's entries that is kept, in (0, 1].
        weights: ties, linear, task_arithmetic: one per model, 0 or more; all 1 when None.
        scale: ties, task_arithmetic: lambda, the factor of the merged task vector.
        t: slerp: 0 gives the first model, 1 the second.
        ema_decay: ema: weight of a checkpoint relative to the next newer one, in (0, 1].
    """

    density: float = 0.5
    weights: tuple[float, ...] | None = None
    scale: float = 1.0
    t: float = 0.5
    ema_decay: float = 0.5

    RANGES: ClassVar[dict[str, Range]] = {
        "density": Range(0, 1, above=True),
        "weights": Range(0, 1e6),
        "scale": Range(-1e6, 1e6),
        "t": Range(0, 1),
        "ema_decay": Range(0, 1, above=True),
    }

    def weights_for(self, count: int) -> tuple[float, ...]:
        """Return the weights of ``count`` models."""
        return self.weights if self.weights is not None else (1.0,) * count


KEYS = {name: name for name in ("method", "base", "models", *(field.name for field in fields(MergeOptions)))}
KEYS["scale"] = "lambda"  # a keyword of Python, and the paper's name
"""The recipe's key of each part of a merge."""


class InvalidMerge(ValueError):
    """A merge that its method cannot do. The message is one sentence; ``part`` is a key of :data:`KEYS`."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


def check_merge(
    method: str, model_count: int, has_base: bool, options: MergeOptions, names: Mapping[str, str] = KEYS
) -> None:
    """Check all that can be checked without reading a tensor.

    Args:
        names: how the reader of the message has written each part of a merge: keys of a recipe, flags of a command.

    Raises:
        InvalidMerge: the sentence names the part, its value and the remedy.
    """
    for part, problem in _problems(method, model_count, has_base, options, names):
        raise InvalidMerge(part, f"{names[part]} {problem}")


def _problems(
    method: str, model_count: int, has_base: bool, options: MergeOptions, names: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield (part, what is wrong with its value)."""
    if method not in METHODS:
        yield "method", f"{method}: unknown{nearest(method, METHODS)}; choose one of {', '.join(METHODS)}"
        return
    rules = METHODS[method]
    if rules.needs_base and not has_base:
        yield "method", f"{method}: works on differences from a base; name it with {names['base']}"
    if model_count < 1:
        yield "models", "has no entry; name one checkpoint or more"
    if rules.model_count not in (None, model_count):
        yield (
            "models",
            f"has {model_count} entries and {method} takes exactly {rules.model_count}; "
            f"drop some or take {names['method']} linear",
        )
    for field in fields(MergeOptions):
        value = getattr(options, field.name)
        if field.name not in rules.options and value != field.default:
            known = ", ".join(names[option] for option in rules.options)
            yield field.name, f"{value} is not read by {names['method']} {method}, only {known}; leave it out"
    yield from _range_problems(model_count, options)


def _range_problems(model_count: int, options: MergeOptions) -> Iterator[tuple[str, str]]:
    for name, allowed in options.RANGES.items():
        value = getattr(options, name)
        for number in value or () if name == "weights" else (value,):
            if number not in allowed:
                yield name, f"{number} must be {allowed}"
    weights = options.weights_for(model_count)
    if len(weights) != model_count:
        yield "weights", f"has {len(weights)} given for {model_count} models; give one per model"
    if weights and sum(weights) == 0:
        yield "weights", f"{list(weights)}: all are 0; give at least one model a positive weight"


def _within(option: str) -> WrapValidator:
    return WrapValidator(Within(MergeOptions.RANGES[option]))


class MergeConfig(Section):
    """The merge of the decay variants into one model (paper: TIES; density and weights are not published)."""

    base: str | None = None
    """The phase that all models started from. It gives the configuration too; else the first model does."""
    models: Annotated[list[str], Field(min_length=1)]
    """Phases whose last checkpoints are merged; for ``ema`` the oldest first."""
    method: str = "ties"
    """``ties``, ``linear``, ``slerp``, ``task_arithmetic`` or ``ema``."""
    density: Annotated[float, _within("density")] = MergeOptions.density
    """ties: the share of each task vector's entries that is kept."""
    weights: list[Annotated[float, _within("weights")]] | None = None
    """ties, linear, task_arithmetic: one per model; equal when not given."""
    scale: Annotated[float, _within("scale")] = Field(default=MergeOptions.scale, alias="lambda")
    """ties, task_arithmetic: the factor of the merged task vector."""
    t: Annotated[float, _within("t")] = MergeOptions.t
    """slerp: 0 gives the first model, 1 the second."""
    ema_decay: Annotated[float, _within("ema_decay")] = MergeOptions.ema_decay
    """ema: weight of a checkpoint relative to the next newer one."""
    allow_different: list[str] = []
    """Values in which the models may differ though it changes their function, such as ``tokenizer``."""

    @property
    def phases(self) -> list[str]:
        """Return the names of the phases that take part."""
        return [*([] if self.base is None else [self.base]), *self.models]

    @property
    def options(self) -> MergeOptions:
        """Return the numbers of the merge."""
        weights = None if self.weights is None else tuple(self.weights)
        return MergeOptions(self.density, weights, self.scale, self.t, self.ema_decay)

    @model_validator(mode="after")
    def _possible(self) -> MergeConfig:
        try:
            check_merge(self.method, len(self.models), self.base is not None, self.options)
        except InvalidMerge as error:
            raise PlacedError(str(error), KEYS[error.part]) from None
        return self
