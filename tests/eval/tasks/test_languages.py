"""Facts of languages by the names that tasks have for them."""

from __future__ import annotations

import pytest

from megatron_mmbert.eval.tasks.languages import UNKNOWN, language_of, script_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eng_Latn", ("eng", "English", "Latn", "Indo-European", "1", "high")),
        ("en", ("eng", "English", "Latn", "Indo-European", "1", "high")),
        ("zho_Hans", ("zho", "Mandarin Chinese", "Hans", "Sino-Tibetan", "1", "high")),
        ("fao", ("fao", "Faroese", "Latn", "Indo-European", "3", "low")),
        ("xyz_Qaaa", ("xyz", "xyz_Qaaa", "Qaaa", UNKNOWN, UNKNOWN, UNKNOWN)),
    ],
)
def test_facts(name: str, expected: tuple[str, ...]) -> None:
    found = language_of(name, "Latn")
    assert (found.code, found.name, found.script, found.family, found.phase, found.resources) == expected


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("ein Satz", "Latn"),
        ("слово 12", "Cyrl"),
        ("漢字", "Hani"),
        ("漢字とかな", "Jpan"),
        ("ภาษา", "Thai"),
        ("1 + 1", UNKNOWN),
    ],
)
def test_scripts(text: str, script: str) -> None:
    assert script_of([text]) == script
