"""Fork servers and the inputs of all commands."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.fault_matrix.matrix import Matrix


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """The benches, one for each of at most two cores."""
    made = Matrix(tmp_path_factory.mktemp("matrix"), servers=min(2, os.cpu_count() or 1))
    yield made
    made.close()
