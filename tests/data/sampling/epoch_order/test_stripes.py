from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synthetic_source import MemorySource, lognormal_lengths, small_source

from megatron_mmbert.data.sampling.epoch_order.stripes import (
    MAX_STRIPES,
    by_stripe,
    divide_into_stripes,
    first_documents,
)
from megatron_mmbert.data.sampling.examples import count_examples
from megatron_mmbert.data.sampling.settings import DataPhase, ResumePoint


@given(st.integers(1, 300), st.integers(1, 64))
def test_class_c_holds_every_document_with_that_remainder(documents: int, classes: int) -> None:
    classes = min(classes, documents)
    parts = np.split(by_stripe(np.arange(documents), classes), first_documents(documents, classes)[1:])
    assert [part.tolist() for part in parts] == [list(range(c, documents, classes)) for c in range(classes)]


def test_many_rows_are_turned_in_several_steps() -> None:
    documents = 3 * 4096 * 5 + 2
    assert (by_stripe(np.arange(documents), 5)[: documents // 5 + 1] == np.arange(0, documents, 5)).all()


def phase(**more: object) -> DataPhase:
    return DataPhase(**{"name": "p", "tokens": 10**6, "max_length": 128, "pack_tokens": 1024, **more})  # type: ignore[arg-type]


def test_division_of_groups() -> None:
    source = small_source()
    division, lengths = divide_into_stripes(source, phase(class_tokens=20_000))
    assert division.names == [("books", "eng"), ("web", "deu"), ("web", "eng"), ("web", "smo"), ("web", "srp_Cyrl")]
    assert division.classes.tolist() == [
        max(1, min(MAX_STRIPES, len(found), int(found.sum()) // 20_000))
        for found in (source.document_lengths(*name) for name in division.names)
    ]
    for number, name in enumerate(division.names):
        found = source.document_lengths(*name)
        assert division.tokens[number] == found.sum()
        assert division.pieces[number] == count_examples(found, 128)
        first = division.first_class[number]
        for c in range(division.classes[number]):
            mine = found[c :: division.classes[number]]
            at = division.first_document[first + c]
            assert lengths[at : at + len(mine)].tolist() == mine.tolist()
            assert division.class_tokens[first + c] == mine.sum()
            assert division.class_pieces[first + c] == count_examples(mine, 128)
    assert division.class_start.tolist() == [0, *np.cumsum(division.class_pieces)[:-1].tolist()]


def test_a_document_beyond_int32() -> None:
    source = MemorySource({("w", "a"): [5, 6], ("w", "b"): [2**31 + 1, 3], ("w", "c"): [9]})
    lengths = divide_into_stripes(source, phase())[1]
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [5, 6, 2**31 + 1, 3, 9]


def test_classes_depend_on_the_text_alone() -> None:
    shapes = [
        divide_into_stripes(small_source(), phase(class_tokens=20_000, max_length=length))[0]
        for length in (16, 128, 1024)
    ]
    assert all((each.classes == shapes[0].classes).all() for each in shapes)
    assert all((each.class_tokens == shapes[0].class_tokens).all() for each in shapes)


@pytest.mark.parametrize(
    ("place", "counts"),
    [
        (ResumePoint(0, 1, 5, 64, 0), True),  # another cut
        (ResumePoint(0, 1, 5, 128, 7), True),  # another order
        (ResumePoint(3, 1, 5, 128, 0), False),  # goes on
        (ResumePoint(0, 1, 0, 64, 0), False),  # a class not begun
    ],
)
def test_rest_of_a_class(place: ResumePoint, counts: bool) -> None:
    found = lognormal_lengths(900, 100)
    source = MemorySource({("w", "x"): found})
    division, _ = divide_into_stripes(source, phase(class_tokens=20_000, places={("w", "x"): place}))
    assert division.classes[0] > 1
    expected = count_examples(found[1 :: division.classes[0]], place.max_length) if counts else 0
    assert division.rest_pieces.tolist() == [expected]
