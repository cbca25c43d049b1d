"""Facts of languages for the rows and groups of tables: name, script, family, mmBERT's phase, amount of text.

The script of a language whose name in a task does not tell it is that of most letters of its text.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_OTHER_CODES = {
    **{"aka": "twi", "ara": "arb", "ber": "zgh", "est": "ekk", "kur": "kmr", "mon": "khk", "pes": "fas"},
    **{"sqi": "als", "tgl": "fil", "zho": "cmn", "msa": "zsm", "lav": "lvs", "nep": "npi", "swa": "swh"},
}
"""Codes of FLORES-200, Tatoeba and XTREME, and the ones that mmBERT has for the same languages."""

_TWO_LETTERS = {
    **{"af": "afr", "am": "amh", "ar": "arb", "az": "azj", "be": "bel", "bg": "bul", "bn": "ben", "ca": "cat"},
    **{"cs": "ces", "cy": "cym", "da": "dan", "de": "deu", "el": "ell", "en": "eng", "es": "spa", "et": "ekk"},
    **{"eu": "eus", "fa": "fas", "fi": "fin", "fo": "fao", "fr": "fra", "ga": "gle", "gl": "glg", "gu": "guj"},
    **{"ha": "hau", "he": "heb", "hi": "hin", "hr": "hrv", "ht": "hat", "hu": "hun", "hy": "hye", "id": "ind"},
    **{"is": "isl", "it": "ita", "ja": "jpn", "jv": "jav", "ka": "kat", "kk": "kaz", "km": "khm", "kn": "kan"},
    **{"ko": "kor", "lt": "lit", "lv": "lvs", "ml": "mal", "mn": "khk", "mr": "mar", "ms": "zsm", "my": "mya"},
    **{"nl": "nld", "no": "nob", "pa": "pan", "pl": "pol", "pt": "por", "qu": "quy", "ro": "ron", "ru": "rus"},
    **{"sk": "slk", "sl": "slv", "so": "som", "sq": "als", "sr": "srp", "sv": "swe", "sw": "swh", "ta": "tam"},
    **{"te": "tel", "th": "tha", "ti": "tir", "tl": "fil", "tr": "tur", "uk": "ukr", "ur": "urd", "uz": "uzn"},
    **{"vi": "vie", "wo": "wol", "xh": "xho", "yi": "ydd", "yo": "yor", "zh": "cmn", "zu": "zul"},
}

_SCRIPT_OF_NAME = {
    **{"LATIN": "Latn", "CYRILLIC": "Cyrl", "ARABIC": "Arab", "GREEK": "Grek", "HEBREW": "Hebr", "CJK": "Hani"},
    **{"HIRAGANA": "Jpan", "KATAKANA": "Jpan", "HANGUL": "Hang", "DEVANAGARI": "Deva", "BENGALI": "Beng"},
    **{"GUJARATI": "Gujr", "GURMUKHI": "Guru", "TAMIL": "Taml", "TELUGU": "Telu", "KANNADA": "Knda"},
    **{"MALAYALAM": "Mlym", "SINHALA": "Sinh", "THAI": "Thai", "LAO": "Laoo", "KHMER": "Khmr", "MYANMAR": "Mymr"},
    **{"TIBETAN": "Tibt", "GEORGIAN": "Geor", "ARMENIAN": "Armn", "ETHIOPIC": "Ethi", "TIFINAGH": "Tfng"},
    **{"ORIYA": "Orya", "MONGOLIAN": "Mong", "CHEROKEE": "Cher", "COPTIC": "Copt", "THAANA": "Thaa", "NKO": "Nkoo"},
}
UNSPACED = frozenset({"Hani", "Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})
"""Scripts that write no space between words."""
_CLASSES = ((10e9, "high"), (1e9, "medium"), (10e6, "low"), (0, "very low"))
UNKNOWN = "not known"


@dataclass(frozen=True)
class Language:
    """Facts of a language; ``phase`` is mmBERT's, ``resources`` a class by the tokens of its text there."""

    code: str
    name: str
    script: str
    family: str
    phase: str
    resources: str


def language_of(name: str, script: str) -> Language:
    """Return what is known of the language that a task calls ``name``, in ``script`` where the name does not tell."""
    code, _, told = name.replace("-", "_").partition("_")
    code = _TWO_LETTERS.get(code, code)
    facts = _table().get(_OTHER_CODES.get(code, code))
    known_script = told if len(told) == 4 and told.isalpha() else script
    if facts is None:
        return Language(code, name, known_script, UNKNOWN, UNKNOWN, UNKNOWN)
    title, family, phase, tokens = facts
    resources = next(label for bound, label in _CLASSES if tokens >= bound)
    return Language(code, title, known_script, family or UNKNOWN, phase, resources)


def script_of(texts: Iterable[str]) -> str:
    """Return the ISO 15924 code of the script that most letters of ``texts`` are written in; Japanese by its kana."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_script_of_letter(letter) for letter in text if letter.isalpha())
    counts.pop("", None)
    if counts["Jpan"] * 5 > sum(counts.values()):
        return "Jpan"
    return max(counts, key=counts.__getitem__) if counts else UNKNOWN


@cache
def _script_of_letter(letter: str) -> str:
    return _SCRIPT_OF_NAME.get(unicodedata.name(letter, "").split(" ")[0].split("-")[0], "")


@cache
def _table() -> dict[str, tuple[str, str, str, float]]:
    """Return name, family, phase and tokens by code."""
    text = files(__package__).joinpath("languages.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return {code: (name, family, phase, float(tokens)) for code, name, family, phase, tokens in rows[1:]}
