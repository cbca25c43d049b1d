"""One tiny run's data for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_run import make_run


@pytest.fixture(scope="session")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("tiny"))
