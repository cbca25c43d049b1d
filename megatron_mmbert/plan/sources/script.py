"""Downloads as a shell script: comments say what each source is, its commands resume where they were stopped."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from megatron_mmbert.plan.sources.downloads import Download, Downloads
from megatron_mmbert.plan.sources.sheets import Sheet
from megatron_mmbert.report.style import short_count

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def download_script(downloads: Downloads) -> str:
    """Return the whole script; it stops at the first command that fails."""
    lines = ["#!/bin/bash", "set -euo pipefail", "", *_summary(downloads)]
    for each in downloads.sources:
        lines += ["", *_about(each, downloads)]
        if each.sheet and not each.here.has_store:
            run = commands(each, each.sheet, downloads.recipe.tokenizer.path)
            lines += run if each.sheet.reader != "none" else map(_comment, run)
    stores = [str(each.store) for each in downloads.sources if each.sheet and each.sheet.reader != "none"]
    lines += ["", _comment(f"Then in the recipe: data: {{stores: [{', '.join(stores)}]}}")]
    return "\n".join(lines)


def commands(download: Download, sheet: Sheet, tokenizer: Path) -> list[str]:
    """Return the commands that download a source and make its store, as lines for a shell."""
    folder = str(download.folder)
    fetch = ["hf", "download", sheet.hub, "--repo-type", "dataset"]
    if sheet.url_list is not None:
        listed = str(download.folder / sheet.url_list.file)
        files = str(download.folder / "files")
        lines = [
            shlex.join([*fetch, "--include", sheet.url_list.file, "--local-dir", folder]),
            shlex.join(["grep", "-F", "--", sheet.url_list.contains, listed])
            + " | "
            + shlex.join(["wget", "--continue", "--no-verbose", "--directory-prefix", files, "--input-file", "-"]),
        ]
        return [*lines, *_store_command(download, sheet, tokenizer, files)]
    patterns = sheet.patterns(None if download.languages is None else list(download.languages))
    if not patterns:
        return [_comment("it has none of the languages that the recipe reads of it")]
    # One call for a pattern: versions of the client read several of them in different ways.
    lines = [
        f"for include in {shlex.join(patterns)}; do",
        f'    {shlex.join(fetch)} --include "$include" --local-dir {shlex.quote(folder)}',
        "done",
    ]
    return [*lines, *_store_command(download, sheet, tokenizer, str(download.folder / sheet.folder))]


def _store_command(download: Download, sheet: Sheet, tokenizer: Path, folder: str) -> list[str]:
    if sheet.reader == "none":
        return ["no command makes a store of it"]
    command = ["mmbert", sheet.reader, "--input", folder, "--source", download.name, "--tokenizer", str(tokenizer)]
    command += ["--output", str(download.store)]
    command += ["--language", sheet.language] if sheet.language else []
    if sheet.reader == "preprocess" and sheet.text_field != "text":
        command += ["--text-field", sheet.text_field]
    return [shlex.join(command)]


def _summary(downloads: Downloads) -> Iterator[str]:
    recipe = downloads.recipe
    known = [each for each in downloads.sources if each.sheet]
    yield _comment(f"Sources of the recipe {recipe.name}: {len(downloads.sources)}, published {len(known)}")
    missing = [each.name for each in downloads.missing()]
    yield _comment(f"without a store in {downloads.folder / 'stores'}: {', '.join(missing) or 'none'}")
    needed, unknown = downloads.needed_bytes()
    lacking = f", and what is not known: {', '.join(unknown)}" if unknown else ""
    yield _comment(f"disk still needed for downloads and stores: {size_text(needed)}{lacking}")
    short = needed - downloads.free_bytes
    enough = f"; {size_text(short)} too little" if short > 0 else ""
    yield _comment(f"disk free at {downloads.folder}: {size_text(downloads.free_bytes)}{enough}")


def _about(download: Download, downloads: Downloads) -> Iterator[str]:
    sheet = download.sheet
    if sheet is None:
        yield _comment(f"{download.name}: no published data set is known by this name; preprocess your own text")
        return
    yield _comment(f"{download.name}: {sheet.title}, {sheet.licence}")
    yield _comment(f"https://huggingface.co/datasets/{sheet.hub}; {sheet.layout}")
    if download.tokens:
        read = ", ".join(f"{phase} {short_count(count)}" for phase, count in download.tokens.items())
        yield _comment(f"tokens read: {read}")
    yield _comment(_sizes(sheet, downloads.item_bytes))
    if sheet.gated:
        yield _comment("accept its terms on the hub first, then `hf auth login`")
    if sheet.note:
        yield _comment(sheet.note)
    if download.here.has_store:
        yield _comment(f"here: its store {download.store}")
    elif download.here.files:
        yield _comment(f"here: {download.here.files:,} files, {size_text(download.here.bytes)}; the commands continue")


def _sizes(sheet: Sheet, item_bytes: int) -> str:
    """Return the sentence on what a source takes on the disk."""
    tokens = sheet.published_tokens
    parts = [
        f"download {size_text(sheet.download_bytes) if sheet.download_bytes else 'not known'}",
        f"text {size_text(sheet.text_bytes)}" if sheet.text_bytes else "",
        f"store about {size_text(tokens * 1e9 * item_bytes)} ({short_count(tokens * 1e9)} tokens)" if tokens else "",
    ]
    return ", ".join(filter(None, parts)) + (f"; {sheet.figures}" if sheet.figures else "")


def size_text(size: float) -> str:
    """Return bytes as ``8 TB``: at most three digits."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} bytes"


def _comment(text: str) -> str:
    """Return a comment of one line, whatever the text holds."""
    return f"# {text}" if text.isprintable() else f"# {text!a}"
