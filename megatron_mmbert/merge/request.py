"""A merge as it is asked for, by a recipe or by the command's flags, before any file is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.merge import KEYS, InvalidMerge, MergeOptions, check_merge
from megatron_mmbert.utils.errors import UserError

FLAGS = {part: f"--{key.replace('_', '-')}" for part, key in KEYS.items()}


@dataclass(frozen=True)
class MergeRequest:
    """A method, the folders it works on, and its numbers.

    Attributes:
        base: the checkpoint that all models started from; it gives the configuration and tokenizer files too, else the
            first model does.
        allow_different: names of values in which the models may differ though it changes their function.
        models: checkpoints, phases' folders or Hugging Face folders; for ``ema`` the oldest first.
    """

    method: str = "ties"
    base: Path | None = None
    models: tuple[Path, ...] = ()
    options: MergeOptions = field(default_factory=MergeOptions)
    allow_different: tuple[str, ...] = ()

    def changed(
        self,
        method: str | None,
        base: Path | None,
        models: Sequence[Path] | None,
        options: Mapping[str, Any],
        allow_different: Sequence[str] = (),
    ) -> MergeRequest:
        """Return the request with all that is not None in place of its own.

        Another method begins with its default options, as it reads others.
        """
        new_method = method or self.method
        kept = self.options if new_method == self.method else MergeOptions()
        given = {name: value for name, value in options.items() if value is not None}
        allowed = (*self.allow_different, *allow_different)
        new_base, new_models = base or self.base, tuple(models or self.models)
        return MergeRequest(new_method, new_base, new_models, replace(kept, **given), allowed)

    def check(self) -> None:
        """Check the request before any file is read.

        Raises:
            UserError: one sentence that names the flag, its value and the remedy.
        """
        try:
            check_merge(self.method, len(self.models), self.base is not None, self.options, FLAGS)
        except InvalidMerge as error:
            raise UserError(str(error)) from None


def request_from_recipe(path: Path, overrides: Sequence[str], run: Path) -> MergeRequest:
    """Return the merge that a recipe's ``merge`` section describes.

    Args:
        overrides: ``key.path=value``, as for training.
        run: the output folder in which the recipe's phases were trained.

    Raises:
        UserError: a bad recipe, or one without that section.
    """
    section = load_recipe(path, overrides).merge
    if section is None:
        raise UserError(f"{path}: has no merge section; add one with its models, or name them with --models")
    base = None if section.base is None else PhaseFolder(run, section.base).path
    models = tuple(PhaseFolder(run, name).path for name in section.models)
    return MergeRequest(section.method, base, models, section.options, tuple(section.allow_different))
