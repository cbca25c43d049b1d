"""Every number of a recipe has a range, and what is out of it is refused when the recipe is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import pytest
from pydantic import BaseModel

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.config.values import LinearRamp, Within
from megatron_mmbert.utils.bounds import Range
from megatron_mmbert.utils.errors import UserError

RECIPE = "preset: tiny\nname: x\ntokenizer: {path: tok}\ndata: {stores: [a]}\n"
VALUES = {
    "-1": -1.0,
    "0": 0.0,
    ".nan": math.nan,
    ".inf": math.inf,
    "-.inf": -math.inf,
    "1.0e+30": 1e30,
    "1e30": 1e30,
    f"{10**18}": 1e18,
    "1" + "0" * 400: math.inf,
    "-0.5": -0.5,
}


class Key(NamedTuple):
    """A number of the recipe: ``path=pattern % value`` sets it."""

    path: str
    pattern: str
    range: Range | None


def numbers(section: type[BaseModel], path: str = "") -> Iterator[Key]:
    for name, field in section.model_fields.items():
        key = f"{path}{field.alias or name}"
        yield from numbers_in(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation, key)


def numbers_in(annotation: Any, key: str, pattern: str = "%s", within: Range | None = None) -> Iterator[Key]:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        ranges = [each.func.range for each in arguments[1:] if isinstance(getattr(each, "func", None), Within)]
        yield from numbers_in(arguments[0], key, pattern, ranges[0] if ranges else within)
    elif annotation in (int, float):
        yield Key(key, pattern, within)
    elif annotation is LinearRamp:
        yield from (Key(key, each, within) for each in ("%s", "{from: %s, to: 0.5}", "{from: 0.5, to: %s}"))
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from numbers(annotation, f"{key}.")
    elif get_origin(annotation) is list and isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
        yield from numbers(arguments[0], f"{key}.pretrain.")
    elif get_origin(annotation) is list:
        yield from numbers_in(arguments[0], key, f"[{pattern}]", within)
    elif get_origin(annotation) is tuple:
        yield from numbers_in(arguments[0], key, f"[{pattern}, 0.9]", within)
    elif get_origin(annotation) is dict:
        yield from numbers_in(arguments[1], key, f"{{eng: {pattern}}}", within)
    else:
        for each in arguments:
            yield from numbers_in(each, key, pattern, within)


def test_every_number_has_a_range() -> None:
    keys = list(numbers(Recipe))
    assert len(keys) > 60
    assert not [key.path for key in keys if key.range is None]
    assert all(math.isfinite(key.range.low) and math.isfinite(key.range.high) for key in keys if key.range)


@pytest.mark.parametrize("key", numbers(Recipe), ids=lambda key: f"{key.path} {key.pattern}")
def test_out_of_range_is_refused_when_read(tmp_path: Path, key: Key) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    assert key.range is not None
    for text, value in VALUES.items():
        if value in key.range:
            continue
        with pytest.raises(UserError) as caught:
            load_recipe(recipe, [f"{key.path}={key.pattern % text}"])
        sentence = str(caught.value)
        assert key.path in sentence and str(key.range) in sentence and "\n" not in sentence, sentence
        assert len(sentence) < 1500


def test_a_phase_names_a_language(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    with pytest.raises(UserError, match="languages: names no language"):
        load_recipe(recipe, ["phases.pretrain.languages=[]"])
