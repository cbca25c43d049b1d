"""Hook of mkdocs: pages that stand outside docs/ become pages of the site, and other links out of docs/ become text.

In the repository all of these links lead somewhere (``tools/checks/links.py``); on the site only those to its pages do.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "megatron_mmbert/data/sampling/epoch_order/README.md": "order_of_examples.md",
    "megatron_mmbert/resilience/README.md": "what_happens_when.md",
}
"""File in the repository: its page on the site."""

SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the links of a page, which are relative to its file in the repository, those of the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(here, f"docs/{here}"))

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        name = PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if name is None:
            return link[1]
        return f"[{link[1]}]({posixpath.relpath(name, posixpath.dirname(here))}{link[3] or ''})"

    return LINK.sub(on_site, markdown)
