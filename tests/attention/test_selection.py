"""Choosing an engine: by name, by what it refuses, by speed among the correct ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from megatron_mmbert import attention
from megatron_mmbert.attention import AUTO, ENGINES, Engine, Request, SequenceLayout, choose
from megatron_mmbert.attention.selection import Trial, check_engine, fastest, joint_trials, try_engine
from megatron_mmbert.utils.errors import UserError

HERE = Request("cpu", torch.float32, 16, 64, backward=True)


def test_auto_takes_the_cpu_engine_on_a_cpu() -> None:
    assert choose(AUTO, HERE, 2).name == "cpu"
    assert choose(AUTO, replace(HERE, dtype=torch.float16), 2).name == "torch", "the CPU engine refuses fp16"


def test_a_name_is_obeyed_or_refused_in_one_sentence() -> None:
    assert choose("eager", HERE, 2).name == "eager"
    with pytest.raises(UserError, match=r"'varln': unknown \(did you mean 'varlen'\?\)"):
        choose("varln", HERE, 2)
    with pytest.raises(UserError, match="'varlen': runs on CUDA devices only; choose another"):
        choose("varlen", HERE, 2)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("varlen", {"device": "cuda", "dtype": torch.float32}, "takes bf16 or fp16, not float32"),
        ("varlen", {"device": "cuda", "dtype": torch.bfloat16, "head_width": 20}, "multiples of 8"),
        ("flex", {"dtype": torch.float64}, "not float64"),
        ("flex", {}, "has no backward on a CPU"),
        ("cpu", {"device": "cuda"}, "runs on CPUs only"),
    ],
)
def test_an_engine_says_what_it_cannot_do(name: str, change: dict[str, object], reason: str) -> None:
    said = ENGINES[name].unsupported_reason(replace(HERE, **change))  # type: ignore[arg-type]
    assert said is not None
    assert reason in said


def test_flex_refuses_a_gradient_on_a_cpu_also_when_called() -> None:
    q = torch.randn(4, 1, 16, requires_grad=True)
    with pytest.raises(NotImplementedError, match="no backward on a CPU"):
        ENGINES["flex"](q, q, q, SequenceLayout(torch.tensor([0, 4], dtype=torch.int32), 4), None)


def engine_of(attend: Callable[..., torch.Tensor]) -> Engine:
    return Engine("trial", attend, lambda request: None)


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("window", [None, 64])
def test_a_trial_passes_what_is_right(window: int | None, backward: bool) -> None:
    verdict = try_engine(ENGINES["cpu"], replace(HERE, window_each_side=window, backward=backward), 2, [70, 30])
    assert verdict.usable
    assert verdict.milliseconds is not None
    assert verdict.error is not None
    assert verdict.error < 1e-5


def test_a_trial_finds_a_window_off_by_one_a_leak_and_a_crash() -> None:
    eager = ENGINES["eager"].attend
    off_by_one = engine_of(lambda q, k, v, layout, window: eager(q, k, v, layout, window - 1))
    leaking = engine_of(
        lambda q, k, v, layout, window: eager(q, k, v, SequenceLayout(layout.cu_seqlens[[0, -1]], len(q)), window)
    )

    def crash(*_: object) -> torch.Tensor:
        raise RuntimeError("no kernel image\nand more")

    for engine, reason in ((off_by_one, "wrong by"), (leaking, "wrong by"), (engine_of(crash), "no kernel image")):
        verdict = try_engine(engine, HERE, 2, [70, 30])
        assert verdict.unsupported_reason is not None
        assert reason in verdict.unsupported_reason
        assert not verdict.usable
        assert "\n" not in verdict.unsupported_reason


def test_the_fastest_is_chosen_among_the_correct() -> None:
    verdicts = [Trial("a", "wrong", 1.0), Trial("b", None, 0.0, 3.0), Trial("c", None, 0.0, 2.0)]
    assert fastest(verdicts).engine == "c"


def test_on_a_gpu_engines_are_timed_on_samples_of_the_phases_length(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, list[int]]] = []

    def record(engine: Engine, request: Request, heads: int, lengths: list[int]) -> Trial:
        tried.append((engine.name, lengths))
        return Trial(engine.name, None, 0.0, 1.0 if engine.name == "te" else 2.0)

    monkeypatch.setattr(attention, "try_engine", record)
    monkeypatch.setattr(attention, "_fastest_here", functools.cache(attention._fastest_here.__wrapped__))
    request = Request("cuda", torch.bfloat16, 64, None, backward=True, sample_tokens=8192)
    assert choose(AUTO, request, 12).name == choose(AUTO, request, 12).name == "te"
    assert {name for name, _ in tried} == ENGINES.keys() - {"eager"}
    assert len(tried) == len(ENGINES) - 1, "tried once for both"
    assert all(lengths == [8192] * 4 for _, lengths in tried)


def test_ranks_take_the_engine_that_is_correct_on_all_and_fastest_on_the_slowest() -> None:
    ranks = [
        [Trial("te", None, 0.0, 1.0), Trial("varlen", None, 0.1, 2.0), Trial("torch", None, 0.0, 3.0)],
        [Trial("te", "fails here: out of memory"), Trial("varlen", None, 0.2, 9.0), Trial("torch", None, 0.0, 3.0)],
    ]
    te, varlen, torch_ = joint_trials(ranks)
    assert te.unsupported_reason == "on rank 1 it fails here: out of memory"
    assert (varlen.error, varlen.milliseconds) == (0.2, 9.0)
    assert fastest([te, varlen, torch_]) is torch_


def test_where_no_engine_is_correct_on_every_rank_all_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank alone with its failure would end with a traceback, and the others would wait for it."""

    def sick(trials: list[Trial]) -> list[list[Trial]]:
        """Rank 0 is this process, and rank 3 has another trouble."""
        return [trials, trials, trials, [Trial(each.engine, "fails here: ECC error") for each in trials]]

    monkeypatch.setattr(attention, "all_ranks", sick)
    monkeypatch.setattr(attention, "try_engine", lambda engine, *_: Trial(engine.name, None, 0.0, 1.0))
    monkeypatch.setattr(attention, "_fastest_here", functools.cache(attention._fastest_here.__wrapped__))
    with pytest.raises(
        UserError, match=r"none is correct on every rank \(.*varlen: on rank 3 it fails here: ECC error"
    ):
        choose(AUTO, Request("cuda", torch.bfloat16, 64, None, backward=True), 12)


def test_a_check_alone_times_nothing() -> None:
    assert check_engine(ENGINES["cpu"], HERE, 2).milliseconds is None
    assert not check_engine(engine_of(lambda q, k, v, layout, window: q), HERE, 2).usable
