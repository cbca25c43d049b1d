"""Hook of mkdocs: CONTRIBUTING.md and CHANGELOG.md become pages of the site, and links out of docs/ become text.

In the repository all of these links lead somewhere (``tools/checks/links.py``); on the site only those within it do.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages to those of docs/."""
    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links to files outside docs/ by their text, or by the page that the site has of them."""

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), link[2]))
        source = target.removeprefix("../")
        if source in PAGES:
            return (
                f"[{link[1]}]({posixpath.relpath(PAGES[source], posixpath.dirname(page.file.src_uri))}{link[3] or ''})"
            )
        outside = target.startswith("../") or (page.file.src_uri in PAGES.values() and (ROOT / target).exists())
        return link[1] if outside else link[0]

    return LINK.sub(on_site, markdown)
