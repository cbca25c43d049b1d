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
def test_stripe_c_holds_every_document_with_that_remainder(documents: int, count: int) -> None:
    count = min(count, documents)
    stripes = np.split(by_stripe(np.arange(documents), count), first_documents(documents, count)[1:])
    assert [stripe.tolist() for stripe in stripes] == [list(range(c, documents, count)) for c in range(count)]


def test_many_rows_are_turned_in_several_steps() -> None:
    documents = 3 * 4096 * 5 + 2
    assert (by_stripe(np.arange(documents), 5)[: documents // 5 + 1] == np.arange(0, documents, 5)).all()


def phase(**more: object) -> DataPhase:
    return DataPhase(**{"name": "p", "tokens": 10**6, "max_length": 128, "pack_tokens": 1024, **more})  # type: ignore[arg-type]


def test_stripes_of_datasets() -> None:
    source = small_source()
    stripes, lengths = divide_into_stripes(source, phase(min_stripe_tokens=20_000))
    assert stripes.names == [("books", "eng"), ("web", "deu"), ("web", "eng"), ("web", "smo"), ("web", "srp_Cyrl")]
    assert stripes.stripes.tolist() == [
        max(1, min(MAX_STRIPES, len(documents), int(documents.sum()) // 20_000))
        for documents in (source.document_lengths(*name) for name in stripes.names)
    ]
    for dataset, name in enumerate(stripes.names):
        documents = source.document_lengths(*name)
        assert stripes.tokens[dataset] == documents.sum()
        assert stripes.examples[dataset] == count_examples(documents, 128)
        first = stripes.first_stripe[dataset]
        for c in range(stripes.stripes[dataset]):
            striped = documents[c :: stripes.stripes[dataset]]
            begin = stripes.first_document[first + c]
            assert lengths[begin : begin + len(striped)].tolist() == striped.tolist()
            assert stripes.stripe_tokens[first + c] == striped.sum()
            assert stripes.stripe_examples[first + c] == count_examples(striped, 128)
    assert stripes.stripe_start.tolist() == [0, *np.cumsum(stripes.stripe_examples)[:-1].tolist()]


def test_a_document_beyond_int32() -> None:
    source = MemorySource({("w", "a"): [5, 6], ("w", "b"): [2**31 + 1, 3], ("w", "c"): [9]})
    lengths = divide_into_stripes(source, phase())[1]
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [5, 6, 2**31 + 1, 3, 9]


def test_stripes_depend_on_the_text_alone() -> None:
    cuts = [
        divide_into_stripes(small_source(), phase(min_stripe_tokens=20_000, max_length=length))[0]
        for length in (16, 128, 1024)
    ]
    assert all((each.stripes == cuts[0].stripes).all() for each in cuts)
    assert all((each.stripe_tokens == cuts[0].stripe_tokens).all() for each in cuts)


@pytest.mark.parametrize(
    ("point", "counts"),
    [
        (ResumePoint(0, 1, 5, 64, 0), True),  # another cut
        (ResumePoint(0, 1, 5, 128, 7), True),  # another order
        (ResumePoint(3, 1, 5, 128, 0), False),  # continues
        (ResumePoint(0, 1, 0, 64, 0), False),  # a stripe not begun
    ],
)
def test_examples_of_a_begun_stripe(point: ResumePoint, counts: bool) -> None:
    documents = lognormal_lengths(900, 100)
    source = MemorySource({("w", "x"): documents})
    stripes, _ = divide_into_stripes(source, phase(min_stripe_tokens=20_000, resume_points={("w", "x"): point}))
    assert stripes.stripes[0] > 1
    expected = count_examples(documents[1 :: stripes.stripes[0]], point.max_length) if counts else 0
    assert stripes.begun_examples.tolist() == [expected]
