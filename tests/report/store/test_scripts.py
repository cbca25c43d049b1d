"""Scripts of letters, and those that a language's code says."""

from __future__ import annotations

import unicodedata

import pytest

from megatron_mmbert.data.text.inputs.codes import is_code
from megatron_mmbert.report.store.scripts import CODES, expected_scripts, script_counts


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("Straße, naïve 123 ½ …", {"Latn": 11}),
        ("мир peace", {"Latn": 5, "Cyrl": 3}),
        ("日本語のテキスト", {"Kana": 4, "Hani": 3, "Hira": 1}),
        ("한국어 漢字", {"Hang": 3, "Hani": 2}),
        ("हिन्दी", {"Deva": 3}),
        ("𞤀𞤣 ⵜⵉⴼ ߒߞߏ ᱚᱞ ꆈ ჰ", {"Nkoo": 3, "Tfng": 3, "Adlm": 2, "Olck": 2, "Geor": 1, "Yiii": 1}),
        ("𠀀𰀀 ﬁ ａ", {"Hani": 2, "Latn": 2}),
        ("1234 !? \0\ufffd 😀", {}),
        ("", {}),
        ("half \ud800 pair", {"Latn": 8}),
    ],
)
def test_letters_are_counted_by_script(text: str, scripts: dict[str, int]) -> None:
    assert script_counts(text) == scripts


def test_nearly_every_letter_of_unicode_has_a_script() -> None:
    letters = [chr(point) for point in range(0x32000) if unicodedata.category(chr(point))[0] == "L"]
    without = [letter for letter in letters if not script_counts(letter)]
    assert len(without) < 1300 and all(unicodedata.name(letter).split()[0] in _OF_NONE for letter in without)


_OF_NONE = {
    *("MATHEMATICAL", "MODIFIER", "VEDIC", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER", "VERTICAL", "SUPERSCRIPT"),
    *(
        "PLANCK",
        "FEMININE",
        "MICRO",
        "MASCULINE",
        "CARON",
        "EULER",
        "OHM",
        "KELVIN",
        "ANGSTROM",
        "TURNED",
        "ALEF",
        "BET",
    ),
    *("GIMEL", "DALET", "INFORMATION", "ROMAN", "MASU", "KATAKANA-HIRAGANA", "HALFWIDTH", "OLD"),
}


@pytest.mark.parametrize(
    ("language", "scripts"),
    [
        ("fao_Latn", {"Latn"}),
        ("jpn_Jpan", {"Hani", "Hira", "Kana"}),
        ("zh-Hans", {"Hani"}),
        ("zh-Hant-TW", {"Hani"}),
        ("kor_Kore", {"Hang", "Hani"}),
        ("kat_Geok", {"Geor"}),
        ("eng", set()),
        ("code", set()),
        ("x_Zyyy", set()),
        ("my_Text", set()),
    ],
)
def test_scripts_of_a_code(language: str, scripts: set[str]) -> None:
    assert expected_scripts(language) == scripts


def test_codes_are_those_of_iso_15924() -> None:
    assert all(is_code(f"abc_{code}") for code in CODES[1:])
