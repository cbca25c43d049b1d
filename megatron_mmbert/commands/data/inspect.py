"""Show what the model is given at a place of a phase: packs, decoded, with their sources and mask marks.

A phase continues in the data where the phases before it stopped: with --checkpoint, where the checkpoint of a run says
they did; without, where the recipe lets expect it, which may be some packs off.

[MASK→token] stands for a hidden token, [other→token] for a replaced one, [=token] for one that is kept but has to be
predicted. key.path=value overrides the recipe, as in training.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mmbert.commands.arguments import Whole, add_overrides, add_recipe
from megatron_mmbert.utils.errors import UserError

if TYPE_CHECKING:
    from megatron_mmbert.config.phase import Phase
    from megatron_mmbert.config.recipe import Recipe
    from megatron_mmbert.data.loading.loader import PackLoader
    from megatron_mmbert.tokenizer.load import Tokenizer

EXAMPLES = """
mmbert inspect recipe.yaml --phase pretrain --at-token 1B
mmbert inspect recipe.yaml --phase pretrain --at-token 0 --packs 2 --samples 3
mmbert inspect recipe.yaml --phase pretrain --at-token 0 --text-only data.masking=paper
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add_recipe(parser)
    parser.add_argument("--phase", required=True, help="name of a phase of the recipe")
    some = Whole(1, 10**6)
    parser.add_argument(
        "--at-token", type=Whole(), required=True, metavar="N", help="real tokens of the phase before it: 0, 1.5B"
    )
    parser.add_argument("--packs", type=some, default=1, metavar="P", help="packs to show (default %(default)s)")
    parser.add_argument("--samples", type=some, metavar="K", help="the first K samples of each pack (default all)")
    parser.add_argument("--text-only", action="store_true", help="the text before masking, samples apart by a line")
    parser.add_argument("--checkpoint", type=Path, metavar="CKPT", help="of this phase, or of the one before it")
    parser.add_argument("--exact", action="store_true", help="count every token before the place, however far it is")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the packs."""
    from megatron_mmbert.builders.data import tokenizer_of
    from megatron_mmbert.config.loading import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    phase = recipe.phase(arguments.phase)
    token = arguments.at_token
    if token >= phase.tokens:
        raise UserError(f"--at-token {token}: phase {phase.name!r} has tokens 0 to {phase.tokens - 1:,}")
    tokenizer = tokenizer_of(recipe)
    # These import torch, which takes seconds: not before the command is known to be good.
    from megatron_mmbert.data.loading.inspect import COUNTED_BLOCKS, packs_at
    from megatron_mmbert.report.pack_text import LEGEND, pack_lines, plain_text, wants_colour

    loader = _loader(recipe, phase, tokenizer, arguments.checkpoint)
    blocks = sys.maxsize if arguments.exact else COUNTED_BLOCKS
    packs = itertools.islice(packs_at(loader, token, blocks), arguments.packs)
    if arguments.text_only:
        for pack in packs:
            for sample in pack.samples[: arguments.samples]:
                print(plain_text(sample, tokenizer), end="\n\n")
        return
    print(LEGEND)
    for pack in packs:
        print()
        for line in pack_lines(pack, tokenizer, token, arguments.samples, wants_colour(sys.stdout)):
            print(line)


def _loader(recipe: Recipe, phase: Phase, tokenizer: Tokenizer, checkpoint: Path | None) -> PackLoader:
    """Return the phase's loader, at the place in the data where the phase begins."""
    from megatron_mmbert.builders.data import (
        data_phase,
        planned_places,
        stores_of,
        token_ids,
        trained_resume_points,
    )
    from megatron_mmbert.checkpoint.discovery import resolve
    from megatron_mmbert.checkpoint.metadata import read_meta
    from megatron_mmbert.checkpoint.phase_transition import history_of
    from megatron_mmbert.data.loading.loader import PackLoader

    stores = stores_of(recipe.data.stores, tokenizer, recipe.data.check_share)
    if checkpoint is None:
        places = planned_places(recipe, phase, stores)
    else:
        meta = read_meta(resolve(checkpoint))
        history = meta.history if meta.phase == phase.name else history_of(meta)
        places = trained_resume_points(recipe, history, stores, _warn)
    return PackLoader(stores, data_phase(recipe, phase, stores, _warn, places), token_ids(tokenizer))


def _warn(sentence: str) -> None:
    print(sentence, file=sys.stderr)
