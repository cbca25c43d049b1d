"""The pages of an evaluation: ``report.md`` for reading, ``report.html`` with every language, sortable, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from megatron_mmbert.eval.cells.summary import GROUPS, group_means

NO_VALUE = "–"
_NAMES = {
    **{"chance": "chance", "majority": "most frequent label"},
    **{"ngrams": "character n-grams", "random": "random weights"},
}
_METRICS = {
    "accuracy": "accuracy",
    "mrr": "mean reciprocal rank",
    "span_f1": "span F1",
    "bits_per_byte": "bits per byte",
}
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:.6rem 0 1.6rem}th,td{padding:.2rem .55rem;border-bottom:1px solid #ddd;
text-align:left;white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
th{position:sticky;top:0;background:#f3f5f8}
th button{font:inherit;font-weight:600;border:0;background:none;cursor:pointer}
.better{color:#00664b}.worse{color:#a33d00}.wide{overflow-x:auto}
"""
_SORT = """
for(const table of document.querySelectorAll('table.sortable'))table.querySelectorAll('th').forEach((head,at)=>{
const button=head.querySelector('button');let up=false;button.addEventListener('click',()=>{up=!up;
const body=table.tBodies[0],value=row=>row.cells[at].dataset.v??row.cells[at].textContent;
const rows=[...body.rows].sort((a,b)=>{const x=value(a),y=value(b),n=x-y;
if(x===''||y==='')return (x==='')-(y==='');const c=Number.isNaN(n)?x.localeCompare(y):n;return up?c:-c});
rows.forEach(row=>body.append(row));
table.querySelectorAll('th').forEach(each=>each.removeAttribute('aria-sort'));
head.setAttribute('aria-sort',up?'ascending':'descending')})})
"""


def summary_lines(row: Mapping[str, Any]) -> str:
    """Return what a row says in a sentence: better than chance, than n-grams, or not."""
    said = []
    guess = _guess(row)
    for name in filter(None, (guess, "ngrams", "random")):
        compared = row["compared"].get(name)
        if compared:
            said.append(f"{_phrase(compared['finding'])} {_NAMES[name]} (p {compared['p_examples']:.3f})")
    return f"{row['task']}, {row['setting']}: {'; '.join(said) or 'nothing to compare with'}"


def markdown(results: Mapping[str, Any]) -> str:
    """Return ``report.md``."""
    parts = [f"# Evaluation: suite {results['suite']}, tier {results['tier']}", "", _state(results), ""]
    for model in results["models"]:
        rows = [row for row in results["rows"] if row["model"] == model]
        header = [*_HEADER, "finding"]
        parts += [f"## {_plain(model)}", "", _markdown_table(header, [_cells(row) for row in rows]), ""]
    parts += _markdown_groups(results)
    if results["models_compared"]:
        table = _markdown_table(_COMPARED_HEADER, [_compared_cells(each) for each in results["models_compared"]])
        parts += ["## Models compared", "", table, ""]
    return "\n".join([*parts, *_notes(results)]) + "\n"


def html(results: Mapping[str, Any]) -> str:
    """Return ``report.html``: all styles and the script are in it, and every text is escaped."""
    title = f"Evaluation: suite {results['suite']}, tier {results['tier']}"
    parts = [f"<h1>{escape(title)}</h1><p>{escape(_state(results))}</p>"]
    header = ["model", *_HEADER, "finding"]
    parts.append(_html_table(header, [[row["model"], *_cells(row)] for row in results["rows"]], len(_HEADER)))
    if results["models_compared"]:
        parts.append("<h2>Models compared</h2>")
        rows = [_compared_cells(each) for each in results["models_compared"]]
        parts.append(_html_table(_COMPARED_HEADER, rows, len(_COMPARED_HEADER) - 1))
    parts.append("<h2>Languages</h2>" + _language_table(results))
    parts += [f"<p>{escape(line)}</p>" for line in _notes(results) if line]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}<script>{_SORT}</script></body></html>\n"
    )


_COMPARED_HEADER = (
    *("task", "setting", "model", "than", "difference", "95 %"),
    *("p by examples", "p by languages", "finding"),
)
_HEADER = (
    *("task", "setting", "metric", "languages", "score", "95 %", "seeds", "over seeds", "C on dev"),
    *(_NAMES[name] for name in ("chance", "majority", "ngrams", "random")),
)


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row's texts, in the order of the header."""
    low, high = row["interval"]
    spread = f"{min(row['seed_scores']):.3f}–{max(row['seed_scores']):.3f}" if len(row["seed_scores"]) > 1 else NO_VALUE
    missing = row["languages_wanted"] - row["languages"]
    return [
        row["task"],
        row["setting"],
        _METRICS[row["metric"]] + (" (less is better)" if row["lower_is_better"] else ""),
        f"{row['languages']} of {row['languages_wanted']}" if missing else str(row["languages"]),
        _number(row["score"]),
        f"{low:.3f}–{high:.3f}",
        str(row["seeds"]),
        spread,
        ", ".join(f"{value:g}" for value in row["chosen_on_dev"]) or NO_VALUE,
        *(_number(row["beside"].get(name)) for name in ("chance", "majority", "ngrams", "random")),
        summary_lines(row).partition(": ")[2],
    ]


def _compared_cells(each: Mapping[str, Any]) -> list[str]:
    return [
        *(each["task"], each["setting"], each["model"], each["than"], f"{each['difference']:+.3f}"),
        *(f"{each['low']:+.3f} to {each['high']:+.3f}", f"{each['p_examples']:.3f}"),
        *(_number(each["p_languages"]), each["finding"]),
    ]


def _markdown_groups(results: Mapping[str, Any]) -> list[str]:
    parts = []
    subjects = results["subjects"]
    for task, setting in dict.fromkeys((row["task"], row["setting"]) for row in results["rows"]):
        rows = [row for row in results["languages"] if (row["task"], row["setting"]) == (task, setting)]
        found = [
            [group, each["group"], str(each["languages"]), *(_number(each["scores"].get(name)) for name in subjects)]
            for group in GROUPS[:2]
            for each in group_means(rows, group, subjects)
        ]
        parts += [f"### {task}, {setting}", "", _markdown_table(["by", "group", "languages", *subjects], found), ""]
    return ["## By group of languages", "", *parts] if parts else []


def _language_table(results: Mapping[str, Any]) -> str:
    subjects = results["subjects"]
    header = ["task", "setting", "language", "name", *GROUPS, *subjects]
    rows = [
        [row["task"], row["setting"], row["language"], row["name"], *(row[group] for group in GROUPS)]
        + [_number(row["scores"].get(name)) for name in subjects]
        for row in results["languages"]
    ]
    return _html_table(header, rows, len(header))


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]], plain: int) -> str:
    """Return a sortable table; cells from column ``plain`` on that begin with a finding are coloured."""
    heads = "".join(f"<th><button>{escape(each)}</button></th>" for each in header)
    body = "".join(f"<tr>{''.join(_html_cell(cell, at >= plain) for at, cell in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _html_cell(text: str, is_finding: bool) -> str:
    kind = text.partition(" ")[0]
    if is_finding and kind in ("better", "worse"):
        return f'<td class="{kind}">{escape(text)}</td>'
    number = text.partition("–")[0].partition(" of ")[0].partition(" to ")[0]
    try:
        float(number)
    except ValueError:
        return f'<td data-v="">{NO_VALUE}</td>' if text == NO_VALUE else f"<td>{escape(text)}</td>"
    return f'<td class="n" data-v="{escape(number, quote=True)}">{escape(text)}</td>'


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Return a text that Markdown takes for nothing else."""
    for character in "\\|<>`*_[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _state(results: Mapping[str, Any]) -> str:
    there, wanted = results["cells"]["there"], results["cells"]["wanted"]
    whole = "" if there == wanted else f" of {wanted:,}; run the same command again for the others"
    return f"{there:,} results{whole}. Vectors are frozen, and all choices were made on dev data."


def _notes(results: Mapping[str, Any]) -> list[str]:
    notes = [f"Not scored: {each['task']} by {each['model']}: {each['reason']}." for each in results["unable"]]
    for row in results["rows"]:
        for each in row["published"]:
            line = f"Published, {row['task']}: {each['model']} {each['score']:g} ({each['metric']}; {each['protocol']})"
            notes.append(f"{line}: {each['source']}.")
    return list(dict.fromkeys(notes))


def _guess(row: Mapping[str, Any]) -> str | None:
    """Return the better of the two answers that do not look at the text."""
    found = {name: row["beside"][name] for name in ("chance", "majority") if name in row["beside"]}
    if not found:
        return None
    return (min if row["lower_is_better"] else max)(found, key=lambda name: found[name])


def _phrase(finding: str) -> str:
    return {"better": "better than", "worse": "worse than"}.get(finding, "no difference shown from")


def _number(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.3f}"
