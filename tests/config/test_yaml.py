"""YAML that is none, or stands for too much: one sentence with file and line, in a recipe and in ``key=value``."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.utils.errors import UserError

RECIPE = "preset: tiny\nname: x\ntokenizer: {path: tok}\ndata: {stores: [a]}\n"
NINE = [", ".join([f"*a{n}"] * 9) for n in range(9)]
LAUGHS = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{n + 1}: &a{n + 1} [{NINE[n]}]" for n in range(9))])
CHAIN = "\n".join(["b0: &b0 [x]", *(f"b{n}: &b{n} [*b{n - 1}]" for n in range(1, 3000))])
BAD = {
    "billion laughs": (LAUGHS, 10, "stands for more than 100,000 values"),
    "chain of anchors": (CHAIN, 54, "nested more than 50 deep"),
    "anchor in itself": ("q: &a [*a]", 5, "an anchor that holds itself"),
    "anchor in itself, as a mapping": ("q: &a {b: {c: *a}}", 5, "an anchor that holds itself"),
    "brackets": ("q: " + "[" * 3000 + "]" * 3000, 5, "nested more than 50 deep"),
    "open brackets": ("q: " + "[" * 3000, 5, "nested more than 50 deep"),
    "mappings": ("q: " + "{a: " * 3000 + "1" + "}" * 3000, 5, "nested more than 50 deep"),
    "date": ("q: 2001-99-99", 5, "'2001-99-99' is no timestamp"),
    "time": ("q: 2001-01-01 99:99:99", 5, "is no timestamp"),
    "digits": ("q: " + "9" * 5000, 5, "... is no int"),
    "int": ("q: !!int abc", 5, "'abc' is no int"),
    "float": ("q: !!float abc", 5, "'abc' is no float"),
    "timestamp": ("q: !!timestamp 5", 5, "'5' is no timestamp"),
    "bool": ("q: !!bool abc", 5, "'abc' is no bool"),
    "set of a word": ("q: !!set abc", 5, "expected a mapping node"),
    "binary": ("q: !!binary é", 5, "ascii"),
    "python": ("q: !!python/object/apply:os.system [ls]", 5, "could not determine a constructor"),
    "control character": ("q: a\x07b", 5, "the control character 0x7"),
    "nul": ("q: a\0b", 5, "the control character 0x0"),
    "two documents": ("q: 1\n---\nq: 2", 6, "another document"),
    "unknown alias": ("q: *nobody", 5, "undefined alias"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "words"), BAD.values(), ids=BAD)
def test_in_a_recipe(text: str, line: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE + text + "\n", encoding="utf-8")
    started = time.perf_counter()
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert time.perf_counter() - started < 3
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}:") and words in sentence and "\n" not in sentence and len(sentence) < 500
    assert int(sentence.removeprefix(f"{path}:").partition(":")[0]) in (line, line + 1), sentence


@pytest.mark.parametrize("name", [name for name, (text, _, _) in BAD.items() if "\n" not in text])
def test_in_an_override(name: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    text, _, words = BAD[name]
    with pytest.raises(UserError) as caught:
        load_recipe(path, [f"model.init_std={text.removeprefix('q: ')}"])
    sentence = str(caught.value)
    assert "the value is not valid YAML" in sentence and words in sentence and len(sentence) < 500


@pytest.mark.parametrize("override", [".".join("a" * 5000) + "=1", "model.num_layers=0x" + "f" * 5000])
def test_overrides_of_any_size(override: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    with pytest.raises(UserError) as caught:
        load_recipe(path, [override])
    assert len(str(caught.value)) < 11_000 and "\n" not in str(caught.value)


def test_anchors_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE + "logging: &l {every_steps: 7}\nevaluation: {rounds: 3}\n")
    assert load_recipe(path, ["checkpoint={keep_last: 4}"]).logging.every_steps == 7
