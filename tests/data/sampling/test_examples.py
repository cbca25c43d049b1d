from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_mmbert.data.sampling.examples import ExampleTable, count_examples


@given(st.lists(st.integers(0, 60), max_size=150), st.integers(3, 40))
@settings(max_examples=100, deadline=None)
def test_documents_are_covered_once_by_balanced_examples(lengths: list[int], max_length: int) -> None:
    table = ExampleTable(np.array(lengths, dtype=np.int64), max_length)
    document, start, stop = table.locate(np.arange(table.examples))
    assert count_examples(np.array(lengths, dtype=np.int64), max_length) == table.examples
    first = 0
    for index, length in enumerate(lengths):
        examples = int((document[first:] == index).sum())
        assert examples == -(-length // (max_length - 2))
        edges = [0, *stop[first : first + examples].tolist()]
        assert edges[-1] == length
        assert start[first : first + examples].tolist() == edges[:-1]
        sizes = np.diff(edges)
        assert examples == 0 or (sizes.max() - sizes.min() <= 1 and 1 <= sizes.min() and sizes.max() <= max_length - 2)
        first += examples
    assert first == table.examples


def test_any_order_of_asking_gives_the_same() -> None:
    table = ExampleTable(np.random.default_rng(0).integers(0, 3000, 5000), 130)
    whole = np.stack(table.locate(np.arange(table.examples)))
    asked = np.random.default_rng(1).integers(0, table.examples, 4000)
    assert (np.stack(table.locate(asked)) == whole[:, asked]).all()


def test_many_documents_pass_the_chunk_of_the_first_pass() -> None:
    lengths = np.full(600_001, 5)
    lengths[-1] = 6
    table = ExampleTable(lengths, 7)
    assert table.examples == 600_002
    document, start, stop = table.locate(np.array([524_287, 524_288, 600_001]))
    assert document.tolist() == [524_287, 524_288, 600_000]
    assert (start.tolist(), stop.tolist()) == ([0, 0, 3], [5, 5, 6])


def test_a_document_beyond_int32() -> None:
    table = ExampleTable(np.array([3, 2**31 + 5]), 8192)
    document, start, stop = table.locate(np.array([table.examples - 1]))
    assert (document[0], stop[0]) == (1, 2**31 + 5)
    assert 8000 < stop[0] - start[0] <= 8190


def test_bad_arguments() -> None:
    table = ExampleTable(np.array([4, 4]), 6)
    for example in (-1, 2):
        with pytest.raises(IndexError):
            table.locate(np.array([example]))
    with pytest.raises(ValueError):
        ExampleTable(np.array([4]), 2)


@given(st.lists(st.sampled_from([0, 0, 1, 7, 500, 4000, 9000]), max_size=400))
@settings(max_examples=50, deadline=None)
def test_documents_of_many_words_of_the_bit_table(lengths: list[int]) -> None:
    """Documents that span whole words of the bit table, and runs of empty ones, against the definition."""
    expected = [
        (document, index * shorter + min(index, longer), (index + 1) * shorter + min(index + 1, longer))
        for document, length in enumerate(lengths)
        for count in [-(-length // 5)]
        for shorter, longer in [divmod(length, max(count, 1))]
        for index in range(count)
    ]
    table = ExampleTable(np.array(lengths, dtype=np.int64), 7)
    located = [column.tolist() for column in table.locate(np.arange(table.examples))]
    assert list(zip(*located, strict=True)) == expected
