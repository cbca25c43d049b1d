"""The recipe: one typed, validated YAML file that says all of a run. Imported by every room, imports none."""

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.recipe import Phase, Recipe

__all__ = ["Phase", "Recipe", "load_recipe"]
