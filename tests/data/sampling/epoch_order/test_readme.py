"""The numbers of the package's README are those that the code gives."""

from __future__ import annotations

import doctest

from support import ROOT

README = ROOT / "megatron_mmbert" / "data" / "sampling" / "epoch_order" / "README.md"


def test_the_worked_example() -> None:
    results = doctest.testfile(str(README), module_relative=False)
    assert results.failed == 0 and results.attempted > 15


def test_the_drawing_of_the_three_documents() -> None:
    """Each line of the drawing that names a document, against the table of examples and the stripes."""
    import numpy as np

    from megatron_mmbert.data.sampling.examples import ExampleTable

    lengths = np.array([5, 12, 2])
    document, start, stop = (column.tolist() for column in ExampleTable(lengths, 7).locate(np.arange(5)))
    text = README.read_text(encoding="utf-8")
    for index, length in enumerate(lengths.tolist()):
        spans = [f"[{a}, {b})" for d, a, b in zip(document, start, stop, strict=True) if d == index]
        (line,) = (line for line in text.splitlines() if line.startswith(f" document {index} "))
        assert f"{length} ids" in line and f"stripe {index % 2}" in line and f"{len(spans)} example" in line
        assert line.endswith("  ".join(spans))
