"""Language codes: ISO 639-3 or two letters, with a script (``fao_Latn``, ``zh-Hans``) or without (``fao``, ``fo``).

A code without a script is no more than two or three letters, and many words are: it must be in ISO 639-3's table
(``iso639_3.tsv``), and be none of the words that people name folders by.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from megatron_mmbert.config.data import LANGUAGE_SETS
from megatron_mmbert.utils.errors import UserError

SOURCE_CODE = "code"
"""The language of text that is no natural language, as mmBERT has it."""

_WORDS = frozenset(
    """
ada all and any api app are ash asm awk bag big bin bit bot box boy bus buy can car cds col com con css csv cut dad
day dec del dev dir doc dot dup emb end era ext far fly for fun get git god gov gui had has her him hit hot how hub int
its jan job jul jun key kid law let lib llc llm log lot low lua man max med men met mid mit mix mlm mod msg neg net new
non not nov now num old one opt org our out own par pas per pig png pop pos pre pro pub put raw rem res row run sam say
sci see seg sep seq set she sim six sky sow src std sub sum sys tab tag tar tea tex the thu too top toy try tsv two txt
uni url use val van var vec vol was way wed wet who win xml yes you
""".split()
)
"""Words of English and of programs; those that are codes too need their script, or an argument that says so."""

_MAIN_MEMBER = {
    code: main
    for main, code in (
        pair.split("/")
        for pair in (
            "arb/ara ayr/aym azj/aze bxr/bua dik/din ekk/est gug/grn ike/iku knc/kau kmr/kur lvs/lav plt/mlg khk/mon "
            "zsm/msa npi/nep nob/nor ory/ori gaz/orm pbt/pus als/sqi sro/srd swh/swa uzn/uzb ydd/yid cmn/zho diq/zza"
        ).split()
    )
}
"""Macro-languages, and the member that FineWeb2 and the recipe's named sets file their text under."""

_WIKIS = {"zh_min_nan": "nan", "zh_yue": "yue", "zh_classical": "lzh", "roa_rup": "rup", "bat_smg": "sgs"} | {
    "fiu_vro": "vro",
    "cbk_zam": "cbk",
    "als": "gsw",
}
"""Wikipedias whose names are no codes, or another language's."""

_CODE = re.compile(r"([a-z]+)(?:[-_]([A-Z][a-z]{3}))?(?:[-_][A-Z]{2})?")
_NUMBERED = re.compile(r"(.+?)(?:[-_](?:\d+|of))+", re.ASCII)
_NUMBERED_PART = re.compile(
    r"(.+?)(?:[-_](?:\d+|of|part|shard|chunk|file|train|test|validation|valid|val|dev|eval)\d*)+", re.ASCII
)


class _Iso(NamedTuple):
    """A row of ISO 639-3: the two-letter code and the macro-language of a code, if it has them."""

    short: str
    macro: str


@cache
def _scripts() -> frozenset[str]:
    """Return the scripts of ISO 15924."""
    return frozenset(Path(__file__).with_name("iso15924.txt").read_text(encoding="utf-8").split())


@cache
def _iso() -> Mapping[str, _Iso]:
    lines = Path(__file__).with_name("iso639_3.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {code: _Iso(*rest) for code, *rest in ((line + "\t\t").split("\t")[:3] for line in lines)}


@cache
def _by_short() -> Mapping[str, str]:
    return {row.short: code for code, row in _iso().items() if row.short}


def is_code(name: str) -> bool:
    """Tell if ``name`` is a language code, or ``code``."""
    match = _CODE.fullmatch(name)
    if match is None:
        return name == SOURCE_CODE
    base, script = match.groups()
    if script is not None:
        return script in _scripts()  # a name of one's own with a script is meant as a language
    if any(base in names for names in LANGUAGE_SETS.values()):
        return True
    return base in _by_short() or (base in _iso() and base not in _WORDS)


def has_script(code: str) -> bool:
    """Tell if a code names its script, which no word does by chance."""
    match = _CODE.fullmatch(code)
    return match is not None and match.group(2) is not None


def code_of_folder(name: str) -> str | None:
    """Return the code that a folder's name is, or None: also of Wikipedia's ``enwiki`` and ``20231101.en``."""
    name = name.removesuffix("_removed")
    if is_code(name):
        return name
    match = re.fullmatch(r"(?:\d{8}\.)(.+)|(.+)wiki", name, re.ASCII)
    if match is None:
        return None
    wiki = (match.group(1) or match.group(2)).replace("-", "_")
    wiki = _WIKIS.get(wiki, wiki)
    return wiki if is_code(wiki) else None


def code_of_file(name: str) -> str | None:
    """Return the code that a file's name begins with, numbers and words of a split after it, or None."""
    stem = name.split(".", 1)[0]
    if is_code(stem):
        return stem
    match = _NUMBERED_PART.fullmatch(stem)
    if match is not None and has_script(match.group(1)) and is_code(match.group(1)):
        return match.group(1)
    match = _NUMBERED.fullmatch(stem)
    # Two letters before a single number are more often a word: my_1, no_2.
    if match is None or (len(match.group(1)) == 2 and "-of-" not in stem):
        return None
    return match.group(1) if is_code(match.group(1)) else None


def same_language(one: str, other: str) -> bool:
    """Tell if two codes are of one language, whatever their scripts and lengths."""
    return _long(one) == _long(other)


def check_spellings(languages: Iterable[str], seen: dict[str, str] | None = None) -> None:
    """Refuse one language in two spellings, which would be sampled as two.

    ``seen``: those of earlier calls, to which these are added.

    Raises:
        UserError: two names differ only in case or hyphens.
    """
    seen = {} if seen is None else seen
    for language in languages:
        other = seen.setdefault(language.casefold().replace("-", "_"), language)
        if other != language:
            raise UserError(f"{other!r} and {language!r} are one language in two spellings; write it in one")


def aliases(languages: Collection[str]) -> list[str]:
    """Return a sentence for each kind of name that means something else elsewhere: none is changed by a guess."""
    bases = {language: _base(language) for language in languages}
    long = {language: _long(language) for language in languages}
    sentences = []
    for what, renamed in (
        ("two-letter codes", {name: code for name, code in long.items() if len(bases[name]) == 2}),
        ("macro-languages", {name: _MAIN_MEMBER[code] for name, code in long.items() if code in _MAIN_MEMBER}),
    ):
        if renamed:
            named = ", ".join(f"{name} ({code})" for name, code in sorted(renamed.items())[:5])
            more = f" and {len(renamed) - 5} more" if len(renamed) > 5 else ""
            sentences.append(
                f"{what}, which FineWeb2 and the recipe's named sets know by another code: {named}{more}; "
                "a phase must name them as they are here"
            )
    own = sorted(name for name, code in long.items() if len(code) > 3 and name != SOURCE_CODE)
    if own:
        more = f" and {len(own) - 5} more" if len(own) > 5 else ""
        sentences.append(f"names that are no ISO 639-3 codes, taken for their scripts: {', '.join(own[:5])}{more}")
    for names in _groups(long).values():
        if len({bases[name] for name in names}) > 1:
            sentences.append(f"one language under two codes: {', '.join(names)}; they are sampled as different ones")
    for macro, names in _groups({name: _macro(code) for name, code in long.items()}).items():
        if macro in _MAIN_MEMBER and len({long[name] for name in names}) > 1 and macro in map(long.get, names):
            sentences.append(f"{macro} holds the others of {', '.join(names)}; they are sampled as different languages")
    return sentences


def _groups(keys: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names by their key, sorted."""
    groups: dict[str, list[str]] = {}
    for name in sorted(keys):
        groups.setdefault(keys[name], []).append(name)
    return groups


def _macro(code: str) -> str:
    row = _iso().get(code)
    return row.macro or code if row else code


def _base(code: str) -> str:
    return re.split("[-_]", code)[0]


def _long(code: str) -> str:
    """Return the three-letter code of a language."""
    return _by_short().get(_base(code), _base(code))
