"""Hook of mkdocs: pages of the repository's root, CONTRIBUTING.md and CHANGELOG.md, become pages of the site.

Their links into ``docs/`` are relative to the root, and on the site to ``docs/``; other links of theirs stay text.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages to those of docs/."""
    for name, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=for_the_site(text)))
    return files


def for_the_site(text: str) -> str:
    """Return a page of the root with the links that the site has."""
    text = re.sub(r"\]\(docs/", "](", text)
    for name, source in PAGES.items():
        text = text.replace(f"]({source}", f"]({name}")
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", keep_inside, text)


def keep_inside(link: re.Match[str]) -> str:
    """Return a link that the site has unchanged, and of any other its text."""
    name = link[2].split("#")[0]
    return link[0] if name in PAGES or (ROOT / "docs" / name).exists() else link[1]
