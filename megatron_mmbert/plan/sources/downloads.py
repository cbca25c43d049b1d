"""The downloads that a recipe needs: of its published sources those languages and parts that its phases read."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from megatron_mmbert.builders.data import wanted_languages
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.store.manifest import ITEM_BYTES, MANIFEST_NAME
from megatron_mmbert.data.store.tokenized_documents import store_dtype
from megatron_mmbert.plan.sources.sheets import Sheet, sheets
from megatron_mmbert.utils.errors import UserError


@dataclass(frozen=True)
class Here:
    """The part of a source that lies on this disk: files and bytes of its download, and whether its store is made."""

    files: int
    bytes: int
    has_store: bool


@dataclass(frozen=True)
class Download:
    """A source of a recipe.

    Attributes:
        sheet: its data sheet; None where no published data set is known by its name.
        languages: those that phases read of it; None for all.
        tokens: what each phase reads of it, by the phase's name.
        folder, store: where its download and its store are.
    """

    name: str
    sheet: Sheet | None
    languages: tuple[str, ...] | None
    tokens: dict[str, float]
    folder: Path
    store: Path
    here: Here


@dataclass(frozen=True)
class Downloads:
    """All sources of a recipe, in its order, below ``folder``.

    Attributes:
        item_bytes: of a token in a store.
        free_bytes: on the disk of ``folder``.
    """

    recipe: Recipe
    folder: Path
    sources: tuple[Download, ...]
    item_bytes: int
    free_bytes: int

    def missing(self) -> list[Download]:
        """Return the sources that have no store yet and that a sheet says how to get."""
        return [each for each in self.sources if each.sheet and each.sheet.reader != "none" and not each.here.has_store]

    def needed_bytes(self) -> tuple[float, list[str]]:
        """Return the bytes that downloads and stores still need, as far as known, and the sources without a figure."""
        total, unknown = 0.0, []
        for each in self.missing():
            assert each.sheet is not None
            download, tokens = each.sheet.download_bytes, each.sheet.published_tokens
            total += max(0.0, (download or 0.0) - each.here.bytes) + (tokens or 0.0) * 1e9 * self.item_bytes
            if download is None or tokens is None:
                unknown.append(each.name)
        return total, unknown


def plan_downloads(recipe: Recipe, folder: Path) -> Downloads:
    """Return what ``recipe`` needs, and what of it is below ``folder``.

    Raises:
        UserError: the recipe names no source, or a table of languages cannot be read.
    """
    names = list(dict.fromkeys([*(name for phase in recipe.phases for name in phase.sources), *recipe.data.sources]))
    if not names:
        raise UserError(
            f"recipe {recipe.name!r}: names no source; name some under phases.NAME.sources or data.sources, of "
            f"{', '.join(sheets())}"
        )
    sources = tuple(_download(recipe, name, folder) for name in names)
    item_bytes = ITEM_BYTES[store_dtype(recipe.model.vocab_size)]
    return Downloads(recipe, folder, sources, item_bytes, shutil.disk_usage(_existing(folder)).free)


def _download(recipe: Recipe, name: str, folder: Path) -> Download:
    phases = [phase for phase in recipe.phases if not phase.sources or phase.sources.get(name)]
    languages: dict[str, None] | None = {}
    for phase in phases:
        wanted = wanted_languages(phase)
        languages = None if wanted is None or languages is None else languages | dict.fromkeys(wanted)
    tokens = {
        phase.name: phase.tokens * phase.sources[name] / sum(phase.sources.values())
        for phase in phases
        if name in phase.sources
    }
    download, store = folder / name, folder / "stores" / name
    return Download(
        name,
        sheets().get(name),
        None if languages is None else tuple(languages),
        tokens,
        download,
        store,
        Here(*_files_below(download), (store / MANIFEST_NAME).is_file()),
    )


def _files_below(folder: Path) -> tuple[int, int]:
    """Return the files below ``folder`` and their bytes, without what the hub's client has not finished."""
    count = size = 0
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != ".cache"]
        for name in names:
            count, size = count + 1, size + os.lstat(os.path.join(path, name)).st_size
    return count, size


def _existing(folder: Path) -> Path:
    """Return the nearest folder above that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
