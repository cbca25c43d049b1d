"""Held-out bits per byte of a checkpoint on disk: of training, of a merge, or converted from elsewhere.

The model runs with the theta that its ``checkpoint.json`` gives, whatever phase the recipe is at; text, masks and
sample length are the recipe's, so the scores compare with those that training wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from megatron_mmbert import parallel
from megatron_mmbert.builders.data import tokenizer_of
from megatron_mmbert.checkpoint import training_state as checkpoints
from megatron_mmbert.checkpoint.discovery import resolve
from megatron_mmbert.checkpoint.identity import check_names, check_tokenizer
from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.eval.bits_per_byte import HeldOut, Score, load_held_out
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.parallel.runtime import current
from megatron_mmbert.utils.errors import UserError

_SECONDS_BEFORE_BAR = 3.0


def score_checkpoint(path: Path, recipe: Recipe, allowed: Collection[str] = ()) -> dict[str, Score]:
    """Return the score of every held-out language, in this process alone.

    Args:
        path: a checkpoint folder, or a phase's folder (then its newest valid checkpoint).
        allowed: names of :mod:`megatron_mmbert.checkpoint.identity` in which it may differ from the recipe.

    Raises:
        UserError: no valid checkpoint, one of another shape or tokenizer, or no held-out stores in the recipe.
    """
    if not recipe.evaluation.stores:
        raise UserError(
            f"recipe {recipe.name!r}: evaluation.stores is empty; name stores of held-out text, for instance "
            "evaluation.stores=[runs/quickstart/heldout]"
        )
    check_names(allowed)
    path = resolve(path)
    meta = checkpoints.check_shape(path, recipe.model, allowed)
    tokenizer = tokenizer_of(recipe)
    check_tokenizer(path, meta, tokenizer, allowed)
    text = load_held_out(recipe, tokenizer)
    parallel.start(seed=recipe.seed)
    scores = score_with_progress(text, load_encoder(path, meta, recipe))
    if not scores:
        raise UserError(
            f"{recipe.evaluation.stores[0]}: no token to score in the held-out stores; raise evaluation.mask_ratio or "
            "evaluation.tokens_per_language, or add text"
        )
    return scores


def load_encoder(path: Path, meta: CheckpointMeta, recipe: Recipe) -> Encoder:
    """Return the checkpoint's encoder, whole, on this process's device."""
    config = encoder_config(
        recipe.model, meta.rope_theta, meta.rope_theta_local, precision=recipe.precision.for_scoring
    )
    encoder = Encoder(config, recipe.model.vocab_size)
    encoder.to(current().device)
    checkpoints.load(path, encoder, None)
    return encoder


def score_with_progress(text: HeldOut, encoder: Encoder) -> dict[str, Score]:
    """Return ``text.score(encoder)``, with a bar of packs on stderr when it takes longer than some seconds."""
    stream = sys.stderr
    slowly = {} if stream.isatty() else {"mininterval": 10.0}  # a log gets a line now and then
    bar: Any = tqdm(desc="held-out", unit=" packs", delay=_SECONDS_BEFORE_BAR, file=stream, **slowly)
    hook = encoder.register_forward_hook(lambda *_: bar.update(1) and None)
    try:
        return text.score(encoder)
    finally:
        hook.remove()
        bar.close()
