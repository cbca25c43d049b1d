"""The description of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"step": -1}, "step"),
        ({"phase_tokens": -7}, "phase_tokens"),
        ({"phase_tokens": 9, "total_tokens": 8}, "total_tokens 8 is less"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta_local": float("inf")}, "rope_theta_local"),
        ({"max_length": 0}, "max_length"),
        ({"phase_tokens": 9, "total_tokens": 9, "loader": {"tokens": 8}}, "loader.tokens 8 is not phase_tokens 9"),
        ({"history": [{"phase": {}, "sources": {}, "seed": 0, "blocks": -1, "fingerprint": ""}]}, "blocks"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = write(tmp_path / "step-00000001")
    values = json.loads((path / META_FILE).read_text())
    (path / META_FILE).write_text(json.dumps(values | change))
    with pytest.raises(UserError, match=named):
        read_meta(path)
