"""Check that what the documentation points at is there: links, anchors, and paths of this repository.

    python tools/checks/links.py [--root DIR]

Read are all Markdown files; a link has to lead to a file, its anchor to a heading of it, and a path in backticks
(`` `tools/report.py` ``, or below the package `` `optim/schedule.py` ``) to something that exists. Links to other hosts
are not followed. Comments and docstrings are searched for paths of documents, scripts and tools too.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SKIPPED = {".venv", ".git", "runs", "site", "build", "dist", "node_modules"}
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
PATH = re.compile(
    r"(?<![\w./-])((?:docs|tools|tests|benchmarks|slurm|examples|megatron_mmbert)/[\w./-]+\.(?:py|md|sh|yaml|jsonl?|tsv))"
)
INLINE_PATH = re.compile(r"[\w.-]+(?:/[\w.*-]+)+/?")
PLACEHOLDER = re.compile(r"(?<![A-Za-z])(?!README|CONTRIBUTING|SECURITY|CHANGELOG|LICENSE)[A-Z]{2,}(?![A-Za-z])")
"""Stands for a name that the reader chooses, as in ``train_step-SHAPE.json``."""
FENCE = re.compile(r"^ *(```|~~~)")


def files(root: Path, *suffixes: str) -> list[Path]:
    """Return the files below ``root`` with one of the suffixes, without what is installed or built."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED)
        found += [Path(folder, name) for name in sorted(names) if name.endswith(suffixes)]
    return found


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a Markdown file outside of its fenced blocks."""
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            yield number, line


def slug(heading: str) -> str:
    """Return the anchor of a heading: lower case, without punctuation, hyphens for spaces."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text))


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors of a Markdown file's headings, repeated ones numbered as the renderers do."""
    counts: dict[str, int] = {}
    names = set()
    for _, line in prose(path):
        if match := re.match(r"#{1,6} +(.*?) *#*$", line):
            name = slug(match[1])
            names |= {name if not counts.get(name) else f"{name}-{counts[name]}", f"{name}_{counts.get(name, 0)}"}
            counts[name] = counts.get(name, 0) + 1
        names |= set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
    return frozenset(names)


def broken_links(path: Path, root: Path) -> Iterator[str]:
    """Yield a sentence for every link of a Markdown file that leads nowhere."""
    for number, line in prose(path):
        for target in LINK.findall(re.sub(r"`[^`]*`", "`code`", line)):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            there = (path.parent / name) if name else path
            where = f"{path.relative_to(root)}:{number}"
            if not there.exists():
                yield f"{where}: the link to {target} leads nowhere"
            elif anchor and there.suffix == ".md" and anchor not in anchors(there.resolve()):
                yield f"{where}: {target}: {there.name} has no heading of that anchor"


def missing_paths(path: Path, root: Path) -> Iterator[str]:
    """Yield a sentence for every path in backticks that begins in this repository and does not exist."""
    packages = {folder.name for folder in (root / "megatron_mmbert").glob("*/")}
    top = {folder.name for folder in root.glob("*/")} - SKIPPED
    for number, line in prose(path):
        for text in re.findall(r"`([^`]+)`", line):
            name = text.split("::")[0]
            if not INLINE_PATH.fullmatch(name) or PLACEHOLDER.search(name):
                continue
            bases = [root] if name.split("/")[0] in top else []
            bases += [root / "megatron_mmbert"] if name.split("/")[0] in packages else []
            if bases and not any(list(base.glob(name.rstrip("/"))) for base in bases):
                yield f"{path.relative_to(root)}:{number}: there is no `{name}`"


def missing_in_source(path: Path, root: Path) -> Iterator[str]:
    """Yield a sentence for every path of a document or script that a source file names and that does not exist."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for name in PATH.findall(line):
            if not PLACEHOLDER.search(name) and not (root / name).exists():
                yield f"{path.relative_to(root)}:{number}: there is no {name}"


def main() -> int:
    """Print every finding; return 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="the repository")
    root = parser.parse_args().root.resolve()
    pages = files(root, ".md")
    found = [line for page in pages for line in (*broken_links(page, root), *missing_paths(page, root))]
    for source in files(root, ".py", ".sh"):
        if source.name != "test_checks.py":  # its broken links are there on purpose
            found += missing_in_source(source, root)
    print("\n".join(found or [f"{len(pages)} pages: every link and path leads to something"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
