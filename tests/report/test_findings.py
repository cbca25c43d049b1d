"""Groups, columns and verdicts on scores made up so that every number is known."""

from __future__ import annotations

import numpy as np

from megatron_mmbert.report.findings import findings
from megatron_mmbert.report.language_groups import columns, language_groups
from megatron_mmbert.report.run_reader import PhaseRun, Run, Scores
from megatron_mmbert.report.tables import group_table, last_group, summary, tables_text

_NO_STEPS = {name: np.zeros(0) for name in ("loss", "phase_tokens", "goal_tokens", "total_tokens")}


def _phase(name: str, origin: str | None, stage: int, trained: str, before: Scores, after: Scores) -> PhaseRun:
    shares = dict.fromkeys(trained.split(), 1 / len(trained.split()))
    sizes = {language: 100.0 - number for number, language in enumerate(trained.split())}
    return PhaseRun(name, origin, stage, _NO_STEPS, shares, sizes, before, after)


def _scores(**values: float) -> Scores:
    return dict(values)


START = _scores(a=5, b=6, c=7, d=8, e=4)
FIRST = _scores(a=3, b=4, c=7, d=8, e=4)
SECOND = _scores(a=2, b=4.5, c=5, d=7, e=4)
NARROW = _scores(a=1.5, b=4, c=4, d=7, e=3)
WIDE = _scores(a=1.75, b=4, c=4.5, d=5, e=3.5)


def full_run() -> Run:
    """Stage names that tell nothing: groups must come from what was trained."""
    return Run(
        "r",
        (
            _phase("one", None, 0, "a b", START, FIRST),
            _phase("two", "one", 1, "a b c", FIRST, SECOND),
            _phase("x_narrow", "two", 2, "a b c", SECOND, NARROW),
            _phase("x_wide", "two", 2, "a b c d e", SECOND, WIDE),
        ),
        merged=_scores(a=1.5, b=4, c=4, d=6, e=3),
    )


def test_languages_group_by_the_first_stage_that_trains_them() -> None:
    found = [(group.label, group.languages) for group in language_groups(full_run())]
    assert found == [("from one on", ("a", "b")), ("added in two", ("c",)), ("only in x_wide", ("d", "e"))]


def test_untrained_languages_stand_apart() -> None:
    run = Run("r", (_phase("one", None, 0, "a b", START, FIRST),))
    assert [(g.label, g.languages) for g in language_groups(run)][-1] == ("not trained", ("c", "d", "e"))


def test_a_measurement_equal_to_the_one_before_is_not_repeated() -> None:
    titles = [column.title for column in columns(full_run())]
    assert titles == ["before one", "after one", "after two", "after x_narrow", "after x_wide", "merged"]
    moved = {**FIRST, "a": FIRST["a"] + 0.01}
    run = full_run()
    changed = Run("r", (run.phases[0], _phase("two", "one", 1, "a b c", moved, SECOND)))
    assert [column.title for column in columns(changed)][2] == "before two"


def test_phase_verdicts_count_the_phases_own_languages() -> None:
    found = {finding.subject: finding for finding in findings(full_run()) if finding.kind == "phase"}
    assert (
        found["one"].text
        == "held-out bits per byte fell in phase one for 2 of 2 languages it trains (mean 5.500 → 3.500)"
    )
    assert (found["two"].better, found["two"].languages) == (2, 3)
    assert found["two"].text.endswith("; not for b")
    assert (found["x_wide"].better, found["x_wide"].languages) == (5, 5)


def test_an_unchanged_score_did_not_fall() -> None:
    run = Run("r", (_phase("one", None, 0, "a b", START, {**FIRST, "b": START["b"]}),))
    finding = findings(run)[0]
    assert finding.better == 1 and finding.text.endswith("; not for b")


def test_the_widest_variant_is_measured_on_what_only_it_sees() -> None:
    found = [finding for finding in findings(full_run()) if finding.kind == "variant"]
    assert [finding.text for finding in found] == [
        "for the 2 languages that only x_wide sees, x_wide (4.250) beats x_narrow (5.000) on 1 of 2"
    ]


def test_a_lost_comparison_is_not_called_a_win() -> None:
    run = full_run()
    worse = _phase("x_wide", "two", 2, "a b c d e", SECOND, {**WIDE, "d": 9.0})
    lost = Run("r", (*run.phases[:3], worse))
    text = next(finding.text for finding in findings(lost) if finding.kind == "variant")
    assert "does not beat x_narrow (5.000) in the mean, only on 0 of 2" in text


def test_the_ends_are_ranked_over_all_languages() -> None:
    overall = findings(full_run())[-1]
    assert (overall.kind, overall.subject, overall.rival) == ("overall", "merged", "x_wide")
    assert overall.text.startswith(
        "over all 5 languages with held-out text: merged 3.700, x_wide 3.750, x_narrow 3.900"
    )


def test_before_falls_back_to_the_origin() -> None:
    run = Run("r", (full_run().phases[0], _phase("two", "one", 1, "a b c", {}, SECOND)))
    assert findings(run)[1].rival_mean == (3 + 4 + 7) / 3


def test_the_table_shows_means_of_the_same_languages() -> None:
    lines = group_table(full_run()).splitlines()
    assert lines[3].split() == "from one on 2 5.500 3.500 3.250 2.750 2.875 2.750".split()
    assert lines[-1].split()[:3] == ["all", "5", "6.000"]
    run = full_run()
    partly = Run("r", run.phases, merged={"a": 1.0})
    # b has no score in the last column: the row is then of a alone, in every column
    assert (
        group_table(partly).splitlines()[3].split() == "from one on 1 of 2 5.000 3.000 2.000 1.500 1.750 1.000".split()
    )


def test_the_last_group_is_listed_by_language() -> None:
    group = last_group(full_run())
    assert group is not None and group.languages == ("d", "e")
    text = tables_text(full_run())
    row = next(line for line in text.splitlines() if line.startswith("d "))
    assert row.split() == "d 7.000 7.000 5.000 6.000 x_wide".split()
    assert "... and 1 more" in tables_text(full_run(), max_languages=1)


def test_summary_has_the_same_numbers() -> None:
    found = summary(full_run())
    assert found["groups"][2]["mean_bits_per_byte"]["after x_wide"] == 4.25
    assert found["bits_per_byte"]["merged"]["e"] == 3
    assert [finding["kind"] for finding in found["verdicts"]] == ["phase"] * 4 + ["variant", "overall"]


def test_a_run_without_scores_says_how_to_have_them() -> None:
    run = Run("r", (_phase("one", None, 0, "a b", {}, {}),))
    assert "evaluation.stores" in tables_text(run)
    assert findings(run) == []
