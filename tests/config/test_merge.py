"""The merge section: what its method cannot do is refused when the recipe is read, at the key that is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from megatron_mmbert.config.loading import load_recipe, save_recipe
from megatron_mmbert.config.merge import METHODS, InvalidMerge, MergeOptions, check_merge
from megatron_mmbert.utils.errors import UserError

RECIPE = "preset: tiny\nname: x\ntokenizer: {path: tok}\ndata: {stores: [a]}\nmerge:\n"


@pytest.mark.parametrize(
    ("section", "where", "words"),
    [
        ("method: tise", "r.yaml:6: merge.method: ", ["method tise: unknown", "did you mean 'ties'", "linear"]),
        ("base: null", "r.yaml:5: merge.method: ", ["method ties", "name it with base"]),
        ("method: slerp", "r.yaml:5: merge.models: ", ["has 3 entries and slerp takes exactly 2"]),
        ("density: 0", "r.yaml:6: merge.density 0: ", ["must be above 0 and at most 1"]),
        ("density: 1.5", "r.yaml:6: merge.density 1.5: ", ["must be above 0 and at most 1"]),
        ("lambda: .inf", "r.yaml:6: merge.lambda inf: ", ["must be between -1e+06 and 1e+06"]),
        ("lambda: .nan", "r.yaml:6: merge.lambda nan: ", ["must be between -1e+06 and 1e+06"]),
        ("weights: [1, 2]", "r.yaml:6: merge.weights: ", ["2 given for 3 models"]),
        ("weights: [1, 2, -1]", "r.yaml:6: merge.weights.2 -1: ", ["must be between 0 and 1e+06"]),
        ("weights: [0, 0, 0]", "r.yaml:6: merge.weights: ", ["all are 0"]),
        ("t: 0.3", "r.yaml:6: merge.t: ", ["t 0.3 is not read by method ties, only density, weights, lambda"]),
        ("ema_decay: 0.9", "r.yaml:6: merge.ema_decay: ", ["ema_decay 0.9 is not read by method ties"]),
        ("{method: linear, lambda: 0.5}", "r.yaml:6: merge.lambda: ", ["not read by method linear, only weights"]),
        ("{method: ema, ema_decay: 0}", "r.yaml:6: merge.ema_decay 0: ", ["above 0"]),
        ("{method: slerp, models: [decay_eng, decay_all], t: 2}", "r.yaml:6: merge.t 2: ", ["between 0"]),
    ],
)
def test_what_a_method_cannot_do_is_refused_at_its_key(
    tmp_path: Path, section: str, where: str, words: list[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"{RECIPE}  {section}\n")
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    sentence = str(caught.value).replace(f"{tmp_path}/", "")
    assert sentence.startswith(where) and all(word in sentence for word in words), sentence


def test_every_number_can_be_said_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    said = {
        "{density: 0.4, lambda: 0.3, weights: [1, 2, 3]}": MergeOptions(0.4, (1.0, 2.0, 3.0), 0.3),
        "{method: slerp, base: null, models: [decay_eng, decay_all], t: 0.3}": MergeOptions(t=0.3),
        "{method: ema, ema_decay: 0.9}": MergeOptions(ema_decay=0.9),
    }
    for section, options in said.items():
        path.write_text(f"{RECIPE}  {section}\n")
        recipe = load_recipe(path)
        save_recipe(recipe, tmp_path / "saved.yaml")
        saved = load_recipe(tmp_path / "saved.yaml")
        assert recipe.merge is not None and saved.merge == recipe.merge
        assert recipe.merge.options == options


@pytest.mark.parametrize("method", METHODS)
def test_a_method_reads_what_it_declares_and_nothing_else(method: str) -> None:
    changed = {"density": 0.3, "weights": (1.0, 2.0), "scale": 0.3, "t": 0.3, "ema_decay": 0.3}
    for option, value in changed.items():
        options = MergeOptions(**{option: value})
        if option in METHODS[method].options:
            check_merge(method, 2, True, options)
        else:
            with pytest.raises(InvalidMerge, match="is not read by") as caught:
                check_merge(method, 2, True, options)
            assert caught.value.part == option


def test_a_number_that_is_none_is_refused_for_all() -> None:
    for method, rules in METHODS.items():
        for option in set(rules.options) - {"weights"}:
            with pytest.raises(InvalidMerge):
                check_merge(method, 2, True, MergeOptions(**{option: math.nan}))
