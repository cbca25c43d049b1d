"""Resume check: the loss on a recorded batch, computed when weights are saved and again when they are loaded.

Checksums say that a checkpoint's files are those that were written. This says that what is computed from them is what
was computed: by this code, these libraries, this layout and these attention engines, on these devices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from megatron_mmbert.checkpoint.metadata import RecordedBatch
from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.kernels import fp32_matmul
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.evaluation import evaluation_mode, masked_losses
from megatron_mmbert.model.layers import engines_of
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.parallel.runtime import all_ranks, broadcast_object, current
from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.resilience.progress_marker import Stage
from megatron_mmbert.utils.errors import UserError

TOKENS = 256
"""Of a recorded batch at most: a save should not cost a step."""
_SAME = {"float32": 1e-6, "bfloat16": 1e-3}
_OTHER = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far, relatively, losses may be apart where all is computed in the same way, and where sums have another order."""


def record(encoders: Sequence[Encoder], pack: PackedBatch) -> RecordedBatch | None:
    """Return the beginning of rank 0's ``pack`` and the loss on it; None where that is no number. All ranks call it."""
    batch: RecordedBatch = broadcast_object(_beginning(pack) if current().is_main else None)
    loss, way = broadcast_object((loss_on(encoders, batch), _way(encoders)))
    return batch.model_copy(update={"loss": loss, "computed": way}) if math.isfinite(loss) else None


def check(path: Path, batch: RecordedBatch, encoders: Sequence[Encoder]) -> str:
    """Replay the batch recorded in checkpoint ``path``, from which ``encoders`` were loaded; all ranks together.

    Returns:
        What was found, for the log.

    Raises:
        UserError: the loss of some rank is another one, by more than the order of sums explains.
    """
    losses: list[float] = all_ranks(loss_on(encoders, batch))
    rank, loss = max(enumerate(losses), key=lambda each: _distance(each[1], batch.loss))
    now, then = broadcast_object(_way(encoders)), batch.computed
    limit = _limit(then, now)
    found = f"{loss:.7g}, {batch.loss:.7g} when it was saved"
    if _distance(loss, batch.loss) <= limit * abs(batch.loss):
        changed = "" if now == then else f"; computed by {then} then, by {now} now"
        return f"recorded batch replayed: loss {found} (limit {limit:g} of it){changed}"
    raise UserError(
        f"{path}: the loss on the batch recorded in it is {found} (rank {rank}; limit {limit:g} of it; computed by "
        f"{then} then, by {now} now): weights, code or libraries are not those that it was saved by; restore them, "
        "move this checkpoint away to resume from the one before, or set checkpoint.resume_check to warn"
    )


def loss_on(encoders: Sequence[Encoder], batch: RecordedBatch) -> float:
    """Return the mean loss per scored token in nats, without dropout, on every rank; no random state is touched."""
    progress_marker.mark(Stage.RESUME_CHECK)
    device = current().device
    tokens, lengths = list(batch.tokens), list(batch.lengths)
    if missing := -len(tokens) % current().tp_size:  # sequence parallelism deals them out evenly
        tokens, lengths = tokens + missing * [0], [*lengths, missing]
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    packed = PackedSequences.of(bounds, max(lengths))
    rows = [torch.tensor(values, dtype=torch.int64, device=device) for values in (tokens, batch.scored, batch.labels)]
    with evaluation_mode(encoders):
        loss_K = masked_losses(encoders, rows[0], packed, rows[1], rows[2])
    return float(loss_K.double().mean())


def _beginning(pack: PackedBatch) -> RecordedBatch:
    """Return the first :data:`TOKENS` of a pack, the last sample cut; where none of them is scored, the first is."""
    size = min(TOKENS, len(pack.tokens_T))
    bounds = [*(bound for bound in pack.cu_seqlens.tolist() if bound < size), size]
    rows = zip(pack.masked_index_K.tolist(), pack.label_K.tolist(), strict=True)
    scored = [(index, label) for index, label in rows if label != IGNORED_LABEL and index < size]
    scored = scored or [(0, int(pack.tokens_T[0]))]
    return RecordedBatch(
        tokens=pack.tokens_T[:size].tolist(),
        lengths=[stop - start for start, stop in itertools.pairwise(bounds)],
        scored=[index for index, _ in scored],
        labels=[label for _, label in scored],
    )


def _way(encoders: Sequence[Encoder]) -> str:
    """Describe what the order of sums depends on: ``float32 on cpu with MKL, tensor 2, pipeline 1 x 1, cpu (local), cpu
    (global)``."""
    config = encoders[0].config
    stages = f"{config.pipeline_model_parallel_size} x {len(encoders)}"
    dtype = str(config.params_dtype).removeprefix("torch.")
    engines = ", ".join(dict.fromkeys(engines_of(encoder) for encoder in encoders))
    device = current().device.type
    where = f"{device} with {fp32_matmul.backend()}" if device == "cpu" else device
    return f"{dtype} on {where}, tensor {current().tp_size}, pipeline {stages}, {engines}"


def _distance(loss: float, recorded: float) -> float:
    return abs(loss - recorded) if math.isfinite(loss) else math.inf


def _limit(then: str, now: str) -> float:
    """Return the relative limit; that of half precision where one of the two computed in it."""
    if then == now:
        return _SAME[now.split()[0]]
    return _OTHER["bfloat16" if any(way.startswith("bfloat16") for way in (then, now)) else "float32"]
