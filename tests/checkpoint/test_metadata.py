"""The description of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.step_folders import write

from megatron_mmbert.checkpoint.metadata import META_FILE, read_meta
from megatron_mmbert.utils.errors import UserError


def test_unknown_field_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "step-00000001")
    values = json.loads((path / META_FILE).read_text())
    (path / META_FILE).write_text(json.dumps({**values, "surprise": 1}))
    with pytest.raises(UserError, match="surprise"):
        read_meta(path)
