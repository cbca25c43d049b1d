"""The recipe's ``data`` and ``tokenizer`` sections, and the languages that a phase may name.

Named sets let a phase say ``@mmbert_pretrain`` instead of 60 codes: ISO 639-3 codes without script, as
``statistics/language_counts.csv`` of the mmBERT repository has them; ``code`` is the language of sources that are no
natural language (StarCoder). The csv has 60 and 109 languages plus code; the paper's text says 110 plus code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from megatron_mmbert.config.base import Section
from megatron_mmbert.config.values import within
from megatron_mmbert.utils.errors import nearest

MaskPolicy = Literal["ours", "paper"]
MaskUnit = Literal["token", "word", "span"]


class TokenizerConfig(Section):
    """The tokenizer of the run."""

    path: Path
    """A folder that tools/train_tokenizer.py made, a SentencePiece ``.model``, or a ``tokenizer.json``."""


class SourceConfig(Section):
    """The sampling of one source of the stores."""

    tempered: bool = True
    """Whether its languages are weighted by n_i^temperature (FineWeb2 is); otherwise by their tokens."""


class DataConfig(Section):
    """The text to train on, and how samples are masked."""

    stores: Annotated[list[Path], Field(min_length=1)]
    """Folders that tools/preprocess_data.py made; their documents are sampled as one corpus."""
    sources: dict[str, SourceConfig] = {}
    """Settings of single sources, by their names in the stores."""
    masking: MaskPolicy = "ours"
    """``paper``: <bos>/<eos> are maskable, random ids up to the batch's largest; ``ours``: neither."""
    masking_unit: MaskUnit = "token"
    """The unit of masking: single tokens, words (from one space to the next; single tokens in scripts without
    spaces), or spans of geometric length with mean 3. Exactly mask_ratio of the positions are scored with each."""
    allow_missing_languages: bool = False
    """Train although the stores lack some of a phase's languages (named in the log)."""
    allow_missing_sources: bool = False
    """Train although the stores lack some of a phase's sources (named in the log); the others share their part."""
    workers: Annotated[int, within(0, 128)] | Literal["auto"] = "auto"
    """Processes per rank that plan packs ahead; 0 does all work between the steps. ``auto``: 2 where a GPU would wait
    for it, 0 on CPUs, which it would take from the training."""
    check_share: Annotated[float, within(0, 1)] | None = None
    """The share of documents that are compared with their checksums when they are first read; unset: all of a store of
    up to a million documents, a million of a larger one, but at least a tenth."""

    def workers_on(self, device: str) -> int:
        """Return the processes for a rank that trains on a ``cuda`` or a ``cpu`` device."""
        if self.workers != "auto":
            return self.workers
        return 2 if device == "cuda" else 0


class LanguageTable(Section):
    """Languages read from a table: the ``column`` of rows of a TSV whose columns match ``where``."""

    table: Path
    """A TSV file with a header line."""
    column: str
    """The column that has the language codes."""
    where: dict[str, list[str]] = {}
    """Columns and the values that a row may have in them; empty takes all rows."""


_PRETRAIN = """
afr arb azj ben bul ces cmn dan deu ekk ell eng fas fil fin fra gle glg guj heb hin hrv hun ind ita jpn kat kaz khk khm
kor lit lvs mal mar mkd mya nld nob npi pbt pol por ron rus sin slk slv spa swe swh tam tel tha tur ukr urd vie xho zsm
code
"""
_ADDED_IN_MIDTRAIN = """
als amh anp ars ary arz bel bew bod bos cat ceb ckb cym epo eus fry gla gmh gsw hat hif hye isl jav kan kir kmr lao lat
ltz mlt mri mww nap nno nrm ory pan pcm plt rmy snd som srp tat tgk uzn yue
"""

LANGUAGE_SETS: dict[str, tuple[str, ...]] = {
    "@mmbert_pretrain": tuple(_PRETRAIN.split()),
    "@mmbert_midtrain": tuple((_PRETRAIN + _ADDED_IN_MIDTRAIN).split()),
}


def expand(entries: Sequence[str]) -> list[str]:
    """Return the entries with each ``@name`` replaced by its languages, each once, in the order of first mention.

    Raises:
        ValueError: no set of that name.
    """
    found: dict[str, None] = {}
    for entry in entries:
        if entry.startswith("@") and entry not in LANGUAGE_SETS:
            known = ", ".join(LANGUAGE_SETS)
            raise ValueError(f"no language set {entry!r}{nearest(entry, LANGUAGE_SETS)}; choose from {known}")
        found.update(dict.fromkeys(LANGUAGE_SETS.get(entry, (entry,))))
    return list(found)
