"""The card shows what a description holds, and nothing in it becomes a key, a link, HTML or another row."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from support.tiny_checkpoint import tiny_model

from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.convert.model_card import code, model_card, plain

PIECES = {"mask": "<mask>", "bos": "<bos>", "eos": "<eos>"}
ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](http://example.org)",
    "![see](http://example.org/x.png)",
    "http://example.org www.example.org",
    "a | b\n\n# heading\n\n| c |",
    "`code` *bold* _thin_ ~gone~ \\",
)


def card_of(attack: str, pieces: dict[str, str] = PIECES) -> str:
    phase: dict[str, Any] = {"name": attack, "tokens": attack, "max_length": 9, "rope_theta": attack, "lr": attack}
    phases = [phase | {"mask_ratio": attack, "temperature": attack, "languages": [attack, "fao_Latn"]}]
    recipe = {"name": attack, "phases": phases}
    model = {"model": tiny_model(), "rope_theta": 1e4, "rope_theta_local": 1e4, "max_length": 9}
    counters = {"phase": attack, "step": 3, "phase_tokens": 9, "total_tokens": 9}
    return model_card(CheckpointMeta.model_validate({**model, **counters, "recipe": recipe, "origin": attack}), pieces)


def without_code(card: str) -> str:
    """The card without its header, its code block, and inline code."""
    text = card.split("---\n", 2)[2]
    kept = text.split("```python")[0] + text.split("```\n")[-1]
    parts = kept.split("`")
    return "".join(parts[::2])


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_interpreted(attack: str) -> None:
    card = card_of(attack)
    harmless = card_of("harmless")
    assert len(card.splitlines()) == len(harmless.splitlines())
    assert card.count("\n|") == harmless.count("\n|") and card.count("\n#") == harmless.count("\n#")
    if "`" not in attack:
        shown = without_code(card)
        assert not any(sign in shown for sign in ("<", "](", "://", "www.", "*"))
    for line in card.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 8


@pytest.mark.parametrize(
    "piece", ['[X]"\nlicense: mit', "x\u2028license: mit", "\x85license: mit", '"', "\\", "<mask>"]
)
def test_the_header_has_its_keys_and_no_others(piece: str) -> None:
    header = yaml.safe_load(card_of("x", PIECES | {"mask": piece}).split("---\n")[1])
    assert set(header) == {"library_name", "pipeline_tag", "mask_token", "tags"}
    if piece.isprintable():
        assert header["mask_token"] == piece


def test_plain_text_and_code() -> None:
    assert plain("runs/my_model, step 7 (of 9).") == "runs/my_model, step 7 (of 9)."
    assert plain("a<b\n\tc") == "a&#60;b c" and plain("_x_") == "&#95;x&#95;"
    assert code("<mask>") == "`<mask>`" and code("a`b") == "``a`b``" and code("`") == "`` ` ``"


@pytest.mark.parametrize("recipe", [{"phases": 3}, {"phases": [3, {"name": 4}]}, {"phases": [{"name": "p"}]}])
def test_a_recipe_that_is_none(recipe: dict[str, Any]) -> None:
    model = {"model": tiny_model(), "rope_theta": 1e4, "rope_theta_local": 1e4, "max_length": 9, "phase": "p"}
    assert "# Encoder" in model_card(CheckpointMeta.model_validate({**model, "recipe": recipe}), PIECES)
