"""Data sheets of published sources, one YAML in ``config/sources/`` for each name that the presets use."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from megatron_mmbert.config.base import Section
from megatron_mmbert.config.values import within

Positive = Annotated[float, within(0, 1e18, above=True)]
Reader = Literal["preprocess", "import-mds", "none"]
PLACEHOLDER = "{language}"
_CODE = re.compile(r"[a-z]{2,3}(_[A-Z][a-z]{3})?")
_ANY_SCRIPT = "????"
"""A script in a pattern: four letters, so that no ``fao_Latn_removed`` matches."""


class UrlList(Section):
    """A file of the repository that lists addresses, one a line; those with ``contains`` are the source's."""

    file: str
    """The path of the list in the repository."""
    contains: str
    """A part of the addresses."""


class Sheet(Section):
    """A published source. What is not known is not said."""

    # attributes: the lines of a data sheet

    title: str
    """The name that its makers gave it."""
    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """The repository on the Hugging Face hub."""
    gated: bool = False
    """Whether its terms must be accepted on the hub first."""
    licence: str
    """The licence that it names."""
    layout: str
    """Its folders and files."""
    include: tuple[str, ...] = ()
    """Patterns of its files, as the hub's client matches them; ``{language}`` stands for each language of a recipe."""
    url_list: UrlList | None = None
    """Where the files themselves are not on the hub."""
    not_languages: tuple[str, ...] = ()
    """Languages of a recipe that it does not have."""
    language: str | None = None
    """The language of all its text; unset: by its folders."""
    reader: Reader = "preprocess"
    """The command that makes a store of it; ``none``: no command reads it."""
    text_field: str = "text"
    """The column or key with the text."""
    folder: str = ""
    """The folder of the download to read."""
    tokens: dict[str, Positive] = Field(default_factory=dict)
    """Billions of tokens in mmBERT's tables, by phase."""
    published_tokens: Positive | None = None
    """Billions of tokens of what ``include`` takes, by its makers' tokenizer."""
    download_bytes: Positive | None = None
    """The size of the download."""
    text_bytes: Positive | None = None
    """The size of its text, before compression."""
    figures: str = ""
    """The sources of the figures."""
    note: str = ""
    """A sentence on what to mind."""

    @model_validator(mode="after")
    def _has_files(self) -> Sheet:
        if bool(self.include) == (self.url_list is not None):
            raise ValueError("needs either include or url_list")
        return self

    @property
    def by_language(self) -> bool:
        """True where each language has a folder of its own, so that single languages can be downloaded."""
        return any(PLACEHOLDER in pattern for pattern in self.include)

    def patterns(self, languages: list[str] | None) -> list[str]:
        """Return the patterns of the files for ``languages``, None for all that there are; codes alone count.

        A code without a script means each script of the language.
        """
        if not self.by_language:
            return list(self.include)
        wanted = ["*"] if languages is None else languages
        names = [
            code if "_" in code else f"{code}_{_ANY_SCRIPT}"
            for code in wanted
            if code == "*" or (_CODE.fullmatch(code) and code.split("_")[0] not in self.not_languages)
        ]
        return [pattern.replace(PLACEHOLDER, name) for name in dict.fromkeys(names) for pattern in self.include]


@cache
def sheets() -> dict[str, Sheet]:
    """Return all sheets by the names of their sources."""
    folder = files("megatron_mmbert.config").joinpath("sources")
    found = {path.name.removesuffix(".yaml"): path for path in folder.iterdir() if path.name.endswith(".yaml")}
    return {name: Sheet.model_validate(yaml.safe_load(found[name].read_text("utf-8"))) for name in sorted(found)}
