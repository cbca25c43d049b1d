"""Sentences about a run, computed from its held-out scores; they also say when the run did not do what it should."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_mmbert.report.language_groups import Group, before_of, columns, language_groups
from megatron_mmbert.report.run_reader import PhaseRun, Run, Scores

_MAX_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """A sentence with its numbers.

    Attributes:
        kind: ``phase`` (a phase against its start), ``variant`` (one decay against another), ``overall`` (all ends).
        subject, rival: what is compared; lower means are better.
        better: languages for which ``subject`` is better, of ``languages``.
    """

    kind: str
    text: str
    subject: str
    rival: str
    better: int
    languages: int
    subject_mean: float
    rival_mean: float


def findings(run: Run) -> list[Finding]:
    """Return all findings that the scores of ``run`` allow."""
    found = [finding for phase in run.phases if (finding := _phase_finding(run, phase))]
    groups = language_groups(run)
    for stage in run.stages():
        found += _variant_findings(stage, groups)
    overall = _overall_finding(run)
    return [*found, overall] if overall else found


def _phase_finding(run: Run, phase: PhaseRun) -> Finding | None:
    before = before_of(run, phase)
    languages = [name for name in phase.shares if name in before and name in phase.after]
    if not languages:
        return None
    finding = _compare("phase", phase.name, "its start", phase.after, before, languages)
    rose = [name for name in languages if phase.after[name] >= before[name]]
    text = (
        f"held-out bits per byte fell in phase {phase.name} for {finding.better} of {len(languages)} languages it "
        f"trains (mean {finding.rival_mean:.3f} → {finding.subject_mean:.3f})"
    )
    if rose:
        text += f"; not for {_some(rose)}"
    return _said(finding, text)


def _variant_findings(stage: list[PhaseRun], groups: list[Group]) -> list[Finding]:
    """Compare the variant with most languages with each other one, on the languages that it alone sees."""
    if len(stage) < 2:
        return []
    widest = max(stage, key=lambda phase: len(phase.shares))
    own = next((group.languages for group in groups if group.phases == (widest.name,)), ())
    found = []
    for rival in stage:
        languages = [name for name in own if name in widest.after and name in rival.after]
        if rival is widest or not languages:
            continue
        finding = _compare("variant", widest.name, rival.name, widest.after, rival.after, languages)
        beats = "beats" if finding.subject_mean < finding.rival_mean else "does not beat"
        is_better = "on" if beats == "beats" else "in the mean, only on"
        found.append(
            _said(
                finding,
                f"for the {len(languages)} languages that only {widest.name} sees, {widest.name} "
                f"({finding.subject_mean:.3f}) {beats} {rival.name} ({finding.rival_mean:.3f}) {is_better} "
                f"{finding.better} of {len(languages)}",
            )
        )
    return found


def _overall_finding(run: Run) -> Finding | None:
    """Compare the best end of the run with the second best, over the languages that every end has scores of."""
    last = [phase.name for phase in run.stages()[-1]]
    ends = {column.subject: column.scores for column in columns(run) if column.moment != "before"}
    ends = {name: scores for name, scores in ends.items() if name in (*last, "merged")}
    languages = sorted(set.intersection(*map(set, ends.values()))) if len(ends) > 1 else []
    if not languages:
        return None
    means = {name: sum(scores[each] for each in languages) / len(languages) for name, scores in ends.items()}
    best, second = sorted(means, key=lambda name: means[name])[:2]
    finding = _compare("overall", best, second, ends[best], ends[second], languages)
    listed = ", ".join(f"{name} {value:.3f}" for name, value in sorted(means.items(), key=lambda item: item[1]))
    return _said(finding, f"over all {len(languages)} languages with held-out text: {listed}; lower is better")


def _compare(kind: str, subject: str, rival: str, mine: Scores, theirs: Scores, languages: list[str]) -> Finding:
    better = sum(mine[name] < theirs[name] for name in languages)
    count = len(languages)
    my_mean, their_mean = (sum(scores[name] for name in languages) / count for scores in (mine, theirs))
    return Finding(kind, "", subject, rival, better, count, my_mean, their_mean)


def _said(finding: Finding, text: str) -> Finding:
    return Finding(**{**vars(finding), "text": text})


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
