"""The recipe: one typed, validated YAML file that describes a whole run. Imports nothing of the project but ``utils``.

``recipe`` has the sections together, and a module each: ``model``, ``data`` (with the tokenizer), ``phase`` (with the
optimizer), ``parallel``, ``precision``, ``stability`` (with resilience), ``outputs`` (checkpoint, logging, evaluation)
and ``merge``. ``loading`` reads YAML, presets and overrides; ``renamed_keys`` has the names of earlier versions.
"""

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe

__all__ = ["Phase", "Recipe", "load_recipe"]
