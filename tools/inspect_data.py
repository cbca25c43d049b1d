"""What the model is given at a place of a phase: packs, decoded, with their sources and mask marks.

    python tools/inspect_data.py recipe.yaml --phase pretrain --at-token 1B
    python tools/inspect_data.py recipe.yaml --phase pretrain --at-token 0 --packs 2 --samples 3
    python tools/inspect_data.py recipe.yaml --phase pretrain --at-token 0 --text-only data.masking=paper

A phase goes on in the data where the phases before it stopped: with --checkpoint, where the checkpoint of a run says
they did; without, where the recipe lets expect it, which may be some packs off.

[MASK→token] stands for a hidden token, [other→token] for a replaced one, [=token] for one that is kept but has to be
predicted. key.path=value overrides the recipe, as in training.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a checkout that is not installed

from megatron_mmbert.builders.data import (
    data_phase,
    planned_places,
    stores_of,
    token_ids,
    tokenizer_of,
    trained_resume_points,
)
from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.recipe import Phase, Recipe
from megatron_mmbert.config.values import parse_count
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.utils.errors import UserError, nearest, run_command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="the recipe, a YAML file")
    parser.add_argument("--phase", required=True, help="name of a phase of the recipe")
    parser.add_argument("--at-token", required=True, metavar="N", help="real tokens of the phase before it: 0, 1.5B")
    parser.add_argument("--packs", type=int, default=1, metavar="P", help="packs to show (default %(default)s)")
    parser.add_argument("--samples", type=int, metavar="K", help="the first K samples of each pack (default all)")
    parser.add_argument("--text-only", action="store_true", help="the text before masking, samples apart by a line")
    parser.add_argument("--checkpoint", type=Path, metavar="CKPT", help="of this phase, or of the one before it")
    parser.add_argument("--exact", action="store_true", help="count every token before the place, however far it is")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="recipe values to replace")
    return parser.parse_intermixed_args()  # overrides may stand behind options


def main() -> None:
    arguments = parse_arguments()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    names = [phase.name for phase in recipe.phases]
    if arguments.phase not in names:
        hint = nearest(arguments.phase, names)
        raise UserError(f"{arguments.recipe}: no phase {arguments.phase!r}{hint}; choose from {', '.join(names)}")
    for name in ("packs", "samples"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    phase = recipe.phase(arguments.phase)
    token = _token(arguments.at_token, phase)
    _show(recipe, phase, tokenizer_of(recipe), token, arguments)


def _token(text: str, phase: Phase) -> int:
    try:
        token = int(parse_count(text))
    except ValueError as error:
        raise UserError(f"--at-token {text}: {error}") from None
    if not 0 <= token < phase.tokens:
        raise UserError(f"--at-token {text}: phase {phase.name!r} has tokens 0 to {phase.tokens - 1:,}")
    return token


def _show(recipe: Recipe, phase: Phase, tokenizer: Tokenizer, token: int, wanted: argparse.Namespace) -> None:
    # These import torch, which takes seconds: not before the command is known to be good.
    from megatron_mmbert.checkpoint.discovery import resolve
    from megatron_mmbert.checkpoint.metadata import read_meta
    from megatron_mmbert.checkpoint.phase_transition import history_of
    from megatron_mmbert.data.loading.inspect import COUNTED_BLOCKS, packs_at
    from megatron_mmbert.data.loading.loader import PackLoader
    from megatron_mmbert.report.pack_text import LEGEND, pack_lines, plain_text, wants_colour

    stores = stores_of(recipe.data.stores, tokenizer)
    if wanted.checkpoint is None:
        places = planned_places(recipe, phase, stores)
    else:
        meta = read_meta(resolve(wanted.checkpoint))
        places = trained_resume_points(
            recipe, meta.history if meta.phase == phase.name else history_of(meta), stores, _warn
        )
    settings = data_phase(recipe, phase, stores, _warn, places)
    loader = PackLoader(stores, settings, token_ids(tokenizer))
    packs = itertools.islice(packs_at(loader, token, sys.maxsize if wanted.exact else COUNTED_BLOCKS), wanted.packs)
    if wanted.text_only:
        for pack in packs:
            for sample in pack.samples[: wanted.samples]:
                print(plain_text(sample, tokenizer), end="\n\n")
        return
    print(LEGEND)
    for pack in packs:
        print()
        for line in pack_lines(pack, tokenizer, token, wanted.samples, wants_colour(sys.stdout)):
            print(line)


def _warn(sentence: str) -> None:
    print(sentence, file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
