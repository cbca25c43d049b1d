"""Sampling weights of every dataset over a phase: temperature, source weights, epoch caps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.sampling.settings import DataPhase, MixtureError
from megatron_mmbert.utils.errors import nearest

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

_MAX_STAGES = 32  # 0.7 -> 0.5 moves by 0.006 per stage
_DECIMAL = Context(prec=25)
_ROUNDING = 1e-9
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # the high part times 2^20 is exact
_DEGREE = 14  # (ln(2) / 2)^15 / 15! is below 2^-60


@dataclass(frozen=True)
class WeightTable:
    """Sampling weights by stage; a stage is a run of blocks of one temperature.

    Attributes:
        first_block: int64 [stages], block each stage starts with; the last stage has no end.
        temperature: float64 [stages].
        weight: float64 [stages, datasets], the part of all tokens that each gives; each row sums to one.
        stage_tokens: float64 [stages], tokens of the phase in each stage; sums to the phase's tokens.
        capped: bool [datasets], those whose weight ``max_epochs`` bounds.
    """

    first_block: Int64s
    temperature: Float64s
    weight: Float64s
    stage_tokens: Float64s
    capped: npt.NDArray[np.bool_]

    def stage_of(self, block: int) -> int:
        """Return the stage that ``block`` lies in."""
        return int(np.searchsorted(self.first_block, block, side="right")) - 1


def weight_table(
    names: Sequence[tuple[str, str]], tokens: Int64s, cap_tokens: Float64s, phase: DataPhase
) -> WeightTable:
    """Return the sampling weights of datasets.

    p_i = weight of its source x b_i n_i^tau / sum over the source's languages of b_j n_j^tau, with b the phase's boost.

    Args:
        names: (source, language) of each dataset.
        tokens: int64 [datasets].
        cap_tokens: float64 [datasets], what each may give at most in the phase; inf: no cap.

    Raises:
        UserError: the sources table names a source without text, or the caps hold less than the phase asks for.
    """
    sources = sorted({source for source, _ in names})
    source_of = np.array([sources.index(source) for source, _ in names])
    source_weight = _source_weights(sources, source_of, tokens, phase)
    first_block, temperature, stage_tokens = _stages(phase)
    tempered = np.array([phase.tempered is None or source in phase.tempered for source in sources])[source_of]
    boost = np.array([phase.boost.get(language, 1.0) for _, language in names])
    logarithms = np.array([float(_DECIMAL.ln(int(n))) for n in tokens])
    rows = []
    for tau in temperature:
        power = boost * np.where(tempered, _powers(logarithms, float(tau)), tokens.astype(np.float64))
        total = np.array([math.fsum(power[source_of == source]) for source in range(len(sources))])
        rows.append(source_weight[source_of] * (power / total[source_of]))
    weight, capped = _apply_caps(np.stack(rows), source_weight, source_of, cap_tokens, stage_tokens, phase)
    return WeightTable(first_block, temperature, weight, stage_tokens, capped)


def _powers(logarithms: Float64s, tau: float) -> Float64s:
    """Return n^tau from ln n, float64, to a few units of the last place.

    By a polynomial rather than libm, whose exp differs in the last bit from machine to machine and would, once in a
    while, move a sample to another block; additions and multiplications are the same everywhere."""
    exponent = tau * logarithms
    doublings = np.rint(exponent * (1.0 / math.log(2.0)))
    remainder = (exponent - doublings * _LN2_HIGH) - doublings * _LN2_LOW  # at most ln(2) / 2 either way
    power = np.full_like(remainder, 1.0)
    for degree in range(_DEGREE, 0, -1):
        power = 1.0 + power * remainder / degree
    return np.ldexp(power, doublings.astype(np.int64))


def _source_weights(sources: list[str], source_of: Int64s, tokens: Int64s, phase: DataPhase) -> Float64s:
    """Return float64 [sources], sum one: the phase's table, or the sources' token counts without one."""
    if phase.sources is None:
        raw = [float(tokens[source_of == source].sum()) for source in range(len(sources))]
    else:
        for name, value in phase.sources.items():
            if name not in sources:
                hint = nearest(name, sources)
                raise MixtureError(f"phase {phase.name!r}: source {name!r} has no text in the phase's languages{hint}")
            if not value > 0:
                raise MixtureError(f"phase {phase.name!r}: the weight of source {name!r} must be positive, not {value}")
        raw = [float(phase.sources[name]) for name in sources]
    return np.array(raw) / math.fsum(raw)


def _stages(phase: DataPhase) -> tuple[Int64s, Float64s, Float64s]:
    """Return (first block, temperature, tokens) of every stage. Each takes the temperature of its middle."""
    per_block = phase.tokens_per_block
    blocks = -(-phase.tokens // per_block)
    count = 1 if phase.temperature.is_constant else min(_MAX_STAGES, blocks)
    edges = [stage * blocks // count for stage in range(count + 1)]
    tokens_at = [min(edge * per_block, phase.tokens) for edge in edges]
    pairs = list(itertools.pairwise(tokens_at))
    temperature = [phase.temperature.at((low + high) / 2 / phase.tokens) for low, high in pairs]
    spans = [float(high - low) for low, high in pairs]
    return np.array(edges[:-1], dtype=np.int64), np.array(temperature), np.array(spans)


def _apply_caps(
    base: Float64s, source_weight: Float64s, source_of: Int64s, cap: Float64s, stage_tokens: Float64s, phase: DataPhase
) -> tuple[Float64s, npt.NDArray[np.bool_]]:
    """Return weights under the caps, float64 [stages, datasets], and the capped datasets, bool [datasets].

    Datasets that would pass their cap are held at it, spread over the whole phase rather than read up early; what they
    leave goes to the other datasets of the source, or to other sources when all of it is held.
    """
    held = np.zeros_like(base)
    capped = np.zeros(base.shape[1], dtype=np.bool_)
    while True:
        weight = np.stack(
            [_distribute(b, h, capped, source_weight, source_of) for b, h in zip(base, held, strict=True)]
        )
        demand = np.zeros(base.shape[1])
        for tokens, row in zip(stage_tokens, weight, strict=True):
            demand += tokens * row
        over = ~capped & (demand > cap * (1.0 + _ROUNDING))
        if not over.any():
            return weight, capped
        held[:, over] = weight[:, over] * (cap[over] / demand[over])
        capped |= over
        if capped.all():
            raise MixtureError(
                f"phase {phase.name!r}: max_epochs {phase.max_epochs} allows {int(math.fsum(cap)):,} tokens "
                f"of the {phase.tokens:,} asked for; lower tokens or raise max_epochs"
            )


def _distribute(
    base: Float64s, held: Float64s, capped: npt.NDArray[np.bool_], source_weight: Float64s, source_of: Int64s
) -> Float64s:
    """Return one stage's weights, float64 [datasets]: ``held`` where capped, else in the proportions of ``base``."""
    count = len(source_weight)
    held_sum = np.bincount(source_of, weights=held, minlength=count)
    free_sum = np.bincount(source_of, weights=np.where(capped, 0.0, base), minlength=count)
    is_open = np.bincount(source_of, weights=~capped, minlength=count) > 0
    left = 1.0 - math.fsum(held_sum[~is_open])
    target = np.where(is_open, source_weight, 0.0) * (left / math.fsum(source_weight[is_open]))
    scale = (target - held_sum) / np.where(is_open, free_sum, 1.0)
    return np.where(capped, held, base * scale[source_of])
