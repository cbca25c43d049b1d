"""The words of docs/glossary.md: docstrings begin with a verb or a noun, and words that are not used stay unused."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

SOURCES = sorted((ROOT / "megatron_mmbert").rglob("*.py"))
FIRST_WORDS = re.compile(
    r"(of|what|where|how|whether|which|the same|in|on|as|so|for|at|by|that|those|it)\b", re.IGNORECASE
)
"""A docstring that begins so has no subject; an editor's tooltip then says nothing."""

# Each pattern is searched in identifiers (split at underscores and capitals), docstrings, comments and messages.
UNUSED = {
    r"course(?!s of)": "epoch position",
    r"rests?(?= of (the )?(class|stripe))": "carry-over",
    r"filling": "tokenize, merge",
    r"whereabouts": "progress marker",
    r"agreement": "consistency check",
    r"verdicts?": "result, decision, finding",
    r"clocks": "counters",
    r"sessions?": "trainer",
    r"take[sn]? up|took up|taking up": "resume, accept",
    r"go(es)? on|going on|went on|gone on": "resume, continue",
    r"behind": "after",
    r"sound": "valid",
    r"mend(ed|s)?": "fix",
    r"in all(?! )|in all$": "total",
    r"settled?|settles": "wait for, resolve",
    r"relay": "evaluation",
    r"linears": "linear layers",
    r"strips": "local blocks",
    r"held off": "disabled",
    r"refusals?": "unsupported reason",
    r"misfits?": "incompatibility",
    r"seal(ed|s)?": "finalize",
    r"twins?": "exported tokenizer",
    r"deaf": "special tokens not parsed from text",
    r"pictures?": "plot",
    r"text there is": "available token counts",
    r"peak share": "mfu",
    r"house|doors?": "codebase, entry point",
    r"world(?! size)": "process group",
}
UNUSED_NAMES = {r"least|most": "min, max", r"aside": "staging"}
"""In identifiers alone; the sentences "at least" and "set aside" are plain English."""
ALLOWED = {
    # (file, word): why
    ("commands/run/plan.py", "picture"): "the former name of a flag",
    ("config/renamed_keys.py", "linears"): "the former name of a key",
    ("report/store/scripts.py", "mend"): "a script",
    ("report/tables.py", "verdicts"): "a key of summary.json, which other programs read",
}


def documented(path: Path) -> Iterator[tuple[int, str]]:
    """(line, docstring) of the module, its classes and functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_name_their_subject(path: Path) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for line, text in documented(path)
        if FIRST_WORDS.match(text)
    ]
    assert not found, "begin with a verb or a noun with its article:\n" + "\n".join(found)


def spoken(path: Path) -> Iterator[tuple[int, bool, str]]:
    """(line, whether it is a name, words) of every identifier, string and comment."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], True, re.sub(r"([a-z])([A-Z])", r"\1 \2", token.string).replace("_", " ").lower()
        elif token.type in (tokenize.STRING, tokenize.COMMENT):
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, False, line.replace("_", " ").lower()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_unused_words(path: Path) -> None:
    name = path.relative_to(ROOT / "megatron_mmbert").as_posix()
    found = set()
    for line, is_name, words in spoken(path):
        for pattern, instead in (UNUSED | UNUSED_NAMES if is_name else UNUSED).items():
            match = re.search(rf"\b(?:{pattern})\b", words)
            if match and (name, match[0].strip()) not in ALLOWED:
                found.add(f"megatron_mmbert/{name}:{line}: {match[0]!r}; write {instead}")
    assert not found, "\n".join(sorted(found))
