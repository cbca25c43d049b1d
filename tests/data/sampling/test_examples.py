from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_mmbert.data.sampling.examples import ExampleTable, count_examples


@given(st.lists(st.integers(0, 60), max_size=150), st.integers(3, 40))
@settings(max_examples=100, deadline=None)
def test_documents_are_covered_once_by_balanced_pieces(lengths: list[int], max_length: int) -> None:
    table = ExampleTable(np.array(lengths, dtype=np.int64), max_length)
    document, start, stop = table.locate(np.arange(table.pieces))
    assert count_examples(np.array(lengths, dtype=np.int64), max_length) == table.pieces
    at = 0
    for number, length in enumerate(lengths):
        mine = document[at:] == number
        pieces = int(mine.sum())
        assert pieces == -(-length // (max_length - 2))
        edges = [0, *stop[at : at + pieces].tolist()]
        assert edges[-1] == length
        assert start[at : at + pieces].tolist() == edges[:-1]
        sizes = np.diff(edges)
        assert pieces == 0 or (sizes.max() - sizes.min() <= 1 and 1 <= sizes.min() and sizes.max() <= max_length - 2)
        at += pieces
    assert at == table.pieces


def test_any_order_of_asking_gives_the_same() -> None:
    table = ExampleTable(np.random.default_rng(0).integers(0, 3000, 5000), 130)
    whole = np.stack(table.locate(np.arange(table.pieces)))
    asked = np.random.default_rng(1).integers(0, table.pieces, 4000)
    assert (np.stack(table.locate(asked)) == whole[:, asked]).all()


def test_many_documents_pass_the_chunk_of_the_first_pass() -> None:
    lengths = np.full(600_001, 5)
    lengths[-1] = 6
    table = ExampleTable(lengths, 7)
    assert table.pieces == 600_002
    document, start, stop = table.locate(np.array([524_287, 524_288, 600_001]))
    assert document.tolist() == [524_287, 524_288, 600_000]
    assert (start.tolist(), stop.tolist()) == ([0, 0, 3], [5, 5, 6])


def test_a_document_beyond_int32() -> None:
    table = ExampleTable(np.array([3, 2**31 + 5]), 8192)
    document, start, stop = table.locate(np.array([table.pieces - 1]))
    assert (document[0], stop[0]) == (1, 2**31 + 5)
    assert 8000 < stop[0] - start[0] <= 8190


def test_bad_arguments() -> None:
    table = ExampleTable(np.array([4, 4]), 6)
    for piece in (-1, 2):
        with pytest.raises(IndexError):
            table.locate(np.array([piece]))
    with pytest.raises(ValueError):
        ExampleTable(np.array([4]), 2)


@given(st.lists(st.sampled_from([0, 0, 1, 7, 500, 4000, 9000]), max_size=400))
@settings(max_examples=50, deadline=None)
def test_documents_of_many_words_of_pieces(lengths: list[int]) -> None:
    """Documents that span whole words of the bit table, and runs of empty ones, against the definition."""
    expected = [
        (document, number * least + min(number, longer), (number + 1) * least + min(number + 1, longer))
        for document, length in enumerate(lengths)
        for count in [-(-length // 5)]
        for least, longer in [divmod(length, max(count, 1))]
        for number in range(count)
    ]
    table = ExampleTable(np.array(lengths, dtype=np.int64), 7)
    found = [column.tolist() for column in table.locate(np.arange(table.pieces))]
    assert list(zip(*found, strict=True)) == expected
