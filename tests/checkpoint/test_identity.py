"""Two identities: what differs is named, what is not known is not compared, and the user can mean it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.run_to_save import META, MODEL

from megatron_mmbert.checkpoint.identity import (
    NAMES,
    Identity,
    check_names,
    check_same,
    check_thetas,
    differing,
    intended_changes,
    of_checkpoint,
)
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.utils.errors import UserError

BATCH = {"tokens_per_step": 1024, "tokens_per_micro_batch": 512}
PHASE = {"name": "p", "tokens": 512, "mask_ratio": 0.3, "max_length": 256, "lr": 1e-3, "batch": BATCH}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"rope_theta": 500.0}, "rope_theta"),
        ({"rope_theta_local": 500.0}, "rope_theta_local"),
        ({"tokenizer_fingerprint": "b" * 64}, "tokenizer"),
        ({"model": MODEL.model_copy(update={"window_each_side": 32})}, "window_each_side"),
        ({"model": MODEL.model_copy(update={"global_attention_every": 1})}, "global_layers"),
        ({"model": MODEL.model_copy(update={"norm_eps": 1e-6})}, "norm_eps"),
        ({"model": MODEL.model_copy(update={"vocab_size": 301})}, "vocab_size"),
    ],
)
def test_each_value_is_named_and_can_be_allowed(change: dict, name: str) -> None:
    meta = META.model_copy(update={"tokenizer_fingerprint": "a" * 64})
    one, other = of_checkpoint(Path("one"), meta), of_checkpoint(Path("other"), meta.model_copy(update=change))
    assert differing(one, other) == [name] and name in NAMES
    with pytest.raises(UserError, match=rf"other: differs from one in {name} \(.*--allow-different {name} if you"):
        check_same(other, one, "merge others")
    check_same(other, one, "merge others", [name])


def test_what_changes_no_function_is_not_compared() -> None:
    model = MODEL.model_copy(update={"max_length": 8192, "attention_output_dropout": 0.5, "init_std": 0.5})
    change = {"model": model, "max_length": 8192, "phase": "q", "step": 7}
    assert not differing(of_checkpoint(Path("a"), META), of_checkpoint(Path("b"), META.model_copy(update=change)))


def test_what_is_not_recorded_is_not_compared() -> None:
    known = of_checkpoint(Path("b"), META.model_copy(update={"tokenizer_fingerprint": "a" * 64}))
    assert not differing(of_checkpoint(Path("a"), META), known)
    assert not differing(Identity("c", {}), known)


def test_pattern_of_layers_counts_and_not_how_it_is_written() -> None:
    few = [MODEL.model_copy(update={"global_attention_every": every}) for every in (2, 9)]  # of two layers
    one, other = (of_checkpoint(Path("a"), META.model_copy(update={"model": model})) for model in few)
    assert not differing(one, other)


def test_thetas_change_where_the_recipe_says_so() -> None:
    released = META.model_copy(update={"rope_theta": 160_000.0, "rope_theta_local": 10_000.0})
    unsaid, stated = Phase.model_validate(PHASE), Phase.model_validate({**PHASE, "rope_theta": 160_000})
    assert intended_changes(unsaid, META) == set()
    assert intended_changes(stated, META) == {"rope_theta", "rope_theta_local"}, "both were one, as mmBERT extends them"
    with pytest.raises(
        UserError, match=r"p: differs .* in rope_theta \(160000, not 10000\).*rope_theta_local: 10000 k"
    ):
        check_thetas(Path("p"), released, unsaid, intended_changes(unsaid, released))
    with pytest.raises(UserError, match=r"in rope_theta_local \(10000, not 160000\); state in the phase"):
        check_thetas(Path("p"), released, stated, intended_changes(stated, released))
    both = Phase.model_validate({**PHASE, "rope_theta": 50_000, "rope_theta_local": 20_000})
    check_thetas(Path("p"), released, both, intended_changes(both, released))


def test_unknown_names_have_a_hint() -> None:
    with pytest.raises(UserError, match=r"--allow-different tokeniser: no such value \(did you mean 'tokenizer'\?\)"):
        check_names(["rope_theta", "tokeniser"])
