"""The graph of jobs follows the recipe's ``from:`` for any chain of phases."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.plan.job_graph import Job, job_graph


def recipe(phases: dict[str, str | None], **sections: Any) -> Recipe:
    """Phases by name, and what each starts from (None: the one before it)."""
    batch = {"tokens_per_step": 256, "tokens_per_micro_batch": 128}
    common = {"tokens": 1000, "mask_ratio": 0.3, "max_length": 128, "lr": 1e-3, "batch": batch}
    listed = [{"name": name, **common, **({"from": start} if start else {})} for name, start in phases.items()]
    rest = {"name": "x", "model": {}, "tokenizer": {"path": "t"}, "data": {"stores": ["s"]}}
    return Recipe.model_validate({**rest, "phases": listed, **sections})


def waits(jobs: list[Job]) -> dict[str, tuple[str, ...]]:
    return {job.key: job.after for job in jobs}


def test_a_chain_of_five_phases() -> None:
    jobs = job_graph(recipe(dict.fromkeys(("pretrain", "midtrain", "longer", "cooler", "last"))))
    assert waits(jobs) == {
        "phase:pretrain": (),
        "phase:midtrain": ("phase:pretrain",),
        "phase:longer": ("phase:midtrain",),
        "phase:cooler": ("phase:longer",),
        "phase:last": ("phase:cooler",),
    }
    assert [(job.name, job.phase, job.script) for job in jobs[1:3]] == [
        ("midtrain", "midtrain", "midtrain.sh"),
        ("longer", "longer", "pretrain.sh"),
    ]


def test_a_fork_and_a_phase_from_scratch() -> None:
    of = recipe({"a": None, "b": None, "c": "a", "d": "scratch", "e": "d"})
    assert waits(job_graph(of)) == {
        "phase:a": (),
        "phase:b": ("phase:a",),
        "phase:c": ("phase:a",),
        "phase:d": (),
        "phase:e": ("phase:d",),
    }
    with_store = waits(job_graph(of, "store"))
    assert [key for key, after in with_store.items() if after == ("store",)] == ["phase:a", "phase:d"]


def test_variants_of_one_phase_are_an_array_and_the_merge_waits_for_all() -> None:
    phases = {"pretrain": None, "midtrain": None, "eng": "midtrain", "cont": "midtrain", "all": "midtrain"}
    jobs = job_graph(recipe(phases, merge={"base": "midtrain", "models": ["all", "eng", "cont"]}))
    assert [(job.key, job.after, job.array) for job in jobs[2:]] == [
        ("variants", ("phase:midtrain",), 3),
        ("merge", ("variants",), None),
        ("evaluate", ("merge",), None),
    ]
    assert [job.kind for job in jobs[2:]] == ["train", "cpu", "gpu"]


@pytest.mark.parametrize(
    ("phases", "merge", "after_merge"),
    [
        ({"a": None, "b": "a", "c": "b"}, {"base": "a", "models": ["b", "c"]}, ("phase:c",)),  # one leads to the other
        ({"a": None, "b": "a", "c": "a", "d": "c"}, {"base": "a", "models": ["b", "c"]}, ("phase:b", "phase:c")),
        ({"a": None, "b": "scratch", "c": "a"}, {"method": "linear", "models": ["b", "c"]}, ("phase:b", "phase:c")),
        ({"a": None, "b": "scratch"}, {"base": "a", "models": ["b"]}, ("phase:a", "phase:b")),  # the base is apart
        ({"a": None, "b": "a"}, {"base": "a", "models": ["b"]}, ("phase:b",)),
    ],
)
def test_merged_phases_that_are_no_array(
    phases: dict[str, str | None], merge: dict[str, Any], after_merge: tuple[str, ...]
) -> None:
    jobs = job_graph(recipe(phases, merge=merge))
    assert waits(jobs)["merge"] == after_merge
    assert not any(job.array for job in jobs)
    assert {job.phase for job in jobs} - {None} == set(phases)


def test_without_a_merge_the_phases_are_all() -> None:
    assert [job.key for job in job_graph(recipe({"one": None}))] == ["phase:one"]


def test_each_job_stands_after_those_it_waits_for() -> None:
    of = recipe({"a": None, "b": None, "c": "a", "d": "a"}, merge={"base": "a", "models": ["c", "d"]})
    seen: set[str] = set()
    for job in job_graph(of):
        assert set(job.after) <= seen
        seen.add(job.key)


def test_a_line_has_seven_fields_and_nothing_that_a_shell_reads() -> None:
    assert Job("merge", "merge", "merge_and_convert.sh", "cpu", ("phase:a", "phase:b")).line().split("\t") == [
        *("merge", "merge", "merge_and_convert.sh", "cpu", "phase:a,phase:b", "-", "-"),
    ]
    assert Job("variants", "decay", "decay.sh", "train", ("phase:a",), 3).line().split("\t")[5] == "0-2"
    for name in ("$(touch x)", "a b", "a;b", "a\tb", "-rf", "a\n"):
        with pytest.raises(ValidationError):
            recipe({name: None})
