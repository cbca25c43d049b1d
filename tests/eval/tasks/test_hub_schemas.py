"""Tasks of the hub read files of the hub's schema: its columns, its numbers for labels, its names of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from megatron_mmbert.eval.tasks.data import TaskData
from megatron_mmbert.eval.tasks.loading import load_task
from megatron_mmbert.utils.errors import UserError

TEXTS = {"premise": "a", "hypothesis": "b"}
ROWS: dict[str, tuple[str, dict[str, Any], str, Any]] = {
    "xnli": ("xnli/en", {**TEXTS, "label": 1}, "label", "neutral"),
    "paws_x": ("paws-x/en", {"id": 1, "sentence1": "a", "sentence2": "b", "label": 1}, "label", "same"),
    "pan_x": (
        "xtreme/PAN-X.en",
        {"tokens": ["Rome", "is", "old"], "ner_tags": [5, 0, 0], "langs": ["en", "en", "en"]},
        "tags",
        ["B-LOC", "O", "O"],
    ),
}
"""Of each task the folder of its English files, a row as the hub has it, and what it must be read as."""


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_hub(name: str, tmp_path: Path) -> None:
    folder, row, role, expected = ROWS[name]
    data = TaskData(load_task(name, tmp_path), tmp_path)
    remedy = data.how_to_get()
    assert remedy is not None
    assert remedy.startswith("hf download ")
    assert remedy.endswith(f"--local-dir {tmp_path / Path(folder).parts[0]}")
    with pytest.raises(UserError, match="hf download"):
        _ = data.languages
    for split in ("train", "validation", "test"):
        path = tmp_path / folder / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row] * 3), path)
    assert data.how_to_get() is None
    assert data.languages == data.trained_languages() == ["en"]
    assert data.examples("test", "en")[0][role] == expected
    assert data.facts("en").name == "English"
