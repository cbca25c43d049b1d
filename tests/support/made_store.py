"""A store made by preprocessing, opened, and its manifest for a test to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_mmbert.data.mds.importing import ImportJob, import_mds
from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess
from megatron_mmbert.data.store.reader import Store


def made_store(job: PreprocessJob) -> Store:
    """Run ``job`` and open its store."""
    preprocess(job)
    return Store.open(job.output)


def imported_store(job: ImportJob) -> Store:
    """Import the shards of ``job`` and open their store."""
    import_mds(job)
    return Store.open(job.output)


def manifest_without_checksum(store: Path) -> dict[str, Any]:
    """Return a manifest's values without their checksum, as whoever changes them on purpose leaves them."""
    values: dict[str, Any] = json.loads((store / "manifest.json").read_text())
    del values["sha256"]
    return values
