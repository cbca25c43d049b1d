"""Look at a token store: a page that lists every language, shows text of it, and marks what is suspicious.

Writes index.html (one file, which needs no server and loads nothing), plots, and data_report.json. Tokens, documents,
lengths and duplicates are counted over all documents; scripts, byte fallback, repeated lines and the text to read are
those of a seeded sample, so that a store of any size takes minutes. With a recipe or a preset, the page also says how
often each of its phases reads each language.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mmbert.commands.arguments import Whole, add_output, add_overrides
from megatron_mmbert.utils.bounds import MAX_LENGTH
from megatron_mmbert.utils.errors import UserError

if TYPE_CHECKING:
    from megatron_mmbert.config.recipe import Recipe
    from megatron_mmbert.data.store.reader import Store
    from megatron_mmbert.report.store.build import RecipeUses
    from megatron_mmbert.tokenizer.load import Tokenizer

EXAMPLES = """
mmbert data-report store/ --output look
mmbert data-report store/ --output look --recipe recipe.yaml
mmbert data-report store/ --output look --preset mmbert_base-paper --sample 20 --tokenizer tokenizer/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add("store", type=Path, metavar="STORE", help="a token store")
    add_output(parser)
    add(
        "--tokenizer",
        type=Path,
        metavar="DIR_OR_FILE",
        help="the store's tokenizer (default: the path in its manifest)",
    )
    recipe = parser.add_mutually_exclusive_group()
    recipe.add_argument(
        "--recipe", type=Path, metavar="RECIPE.yaml", help="show how often its phases read each language"
    )
    recipe.add_argument("--preset", metavar="NAME", help="the same for a preset, on this store alone")
    some = Whole(1, 10**6)
    add("--sample", type=some, default=100, metavar="N", help="documents of each language to decode (%(default)s)")
    help_tokens = "tokens of each, from its start (%(default)s)"
    add("--sample-tokens", type=Whole(1, MAX_LENGTH), default=1000, metavar="N", help=help_tokens)
    add("--seed", type=Whole(0, 2**31 - 1), default=18, metavar="N", help="of the sample (%(default)s)")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the report, and print what is marked."""
    from megatron_mmbert.builders.data import stores_of
    from megatron_mmbert.report.store.build import summary_text, write_data_report
    from megatron_mmbert.report.store.sample import SampleSize
    from megatron_mmbert.utils.output_kinds import DATA_REPORT
    from megatron_mmbert.utils.outputs import check_output

    if arguments.overrides and arguments.recipe is None:
        raise UserError(f"{arguments.overrides[0]}: replaces a recipe's value; give --recipe too")
    check_output(arguments.output, DATA_REPORT, (arguments.store,), arguments.overwrite)
    tokenizer = _tokenizer(arguments.store, arguments.tokenizer)
    (store,) = stores_of([arguments.store], tokenizer).stores
    recipe = _recipe(arguments, tokenizer)
    uses = _uses(recipe, store) if recipe else None
    size = SampleSize(arguments.sample, arguments.sample_tokens, arguments.seed)
    reports = write_data_report(store, tokenizer, arguments.output, size, uses, arguments.overwrite)
    print(summary_text(reports))
    print(f"wrote {arguments.output}; open {arguments.output / 'index.html'} in a browser")


def _tokenizer(store: Path, path: Path | None) -> Tokenizer:
    """Load the tokenizer that is named, or that the store's manifest names."""
    from megatron_mmbert.data.store.manifest import load_manifest
    from megatron_mmbert.tokenizer.load import load_tokenizer

    recorded = Path(load_manifest(store).tokenizer.path)
    if path is None and not recorded.exists():
        raise UserError(f"{store}: its tokenizer was at {str(recorded)!r}, where nothing is; pass --tokenizer")
    return load_tokenizer(recorded if path is None else path)


def _recipe(arguments: argparse.Namespace, tokenizer: Tokenizer) -> Recipe | None:
    from megatron_mmbert.config.loading import load_recipe, preset_recipe

    if arguments.preset is not None:
        return preset_recipe(arguments.preset, tokenizer.path, [arguments.store])
    if arguments.recipe is None:
        return None
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.store.resolve() not in [path.resolve() for path in recipe.data.stores]:
        named = ", ".join(map(str, recipe.data.stores))
        raise UserError(
            f"{arguments.recipe}: trains on {named} and not on {arguments.store}; add data.stores=[{arguments.store}]"
        )
    return recipe


def _uses(recipe: Recipe, store: Store) -> RecipeUses:
    """Return how the recipe's phases read the datasets of ``store``."""
    from megatron_mmbert.plan.cost import Machine
    from megatron_mmbert.plan.run_plan import make_plan
    from megatron_mmbert.report.store.build import RecipeUses
    from megatron_mmbert.report.store.marks import MAX_EPOCHS, PhaseUse

    gpus = recipe.parallel.tensor * recipe.parallel.pipeline
    plan = make_plan(recipe, Machine(gpus), MAX_EPOCHS)
    here = {(dataset.source, dataset.language) for dataset in store.datasets}
    uses: dict[tuple[str, str], list[PhaseUse]] = {}
    for phase in plan.phases:
        for group in phase.groups:
            if (group.source, group.language) in here:
                share = group.tokens / phase.phase.tokens
                use = PhaseUse(phase.phase.name, share, group.epochs, group.run_epochs)
                uses.setdefault((group.source, group.language), []).append(use)
    return RecipeUses(recipe.name, tuple(phase.phase.name for phase in plan.phases), uses, plan.warnings)
