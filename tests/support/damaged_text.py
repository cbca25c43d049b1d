"""Files of text that are damaged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_mmbert.data.text.documents import read_documents
from megatron_mmbert.data.text.records import SkippedLines
from megatron_mmbert.utils.errors import UserError


def assert_damage_is_told(path: Path, match: str) -> None:
    """The file ends the reading, or is counted as one bad line where bad lines are left out."""
    with pytest.raises(UserError, match=match):
        list(read_documents(path))
    skipped = SkippedLines()
    list(read_documents(path, skip_bad=skipped))
    assert skipped.count == 1 and re.search(match, str(skipped.first[0]))
