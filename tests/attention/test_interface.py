"""Where the samples of a pack lie."""

from __future__ import annotations

import torch

from megatron_mmbert.attention import SequenceLayout
from megatron_mmbert.attention.interface import with_empty_sequences


def test_lengths_and_samples() -> None:
    layout = SequenceLayout(torch.tensor([0, 2, 3, 7], dtype=torch.int32), 4)
    assert layout.lengths == [2, 1, 4]
    assert layout.tokens == 7
    assert layout.sample_of_token.tolist() == [0, 0, 1, 2, 2, 2, 2]
    assert layout.sample_of_token.dtype == torch.int64


def test_what_engines_derive_is_made_once_per_pack() -> None:
    layout = SequenceLayout(torch.tensor([0, 2], dtype=torch.int32), 2)
    made = []
    for _ in range(3):
        assert layout.derive("mask", lambda: made.append(1) or "value") == "value"
    assert layout.derive("other", lambda: "another") == "another"
    assert len(made) == 1
    assert SequenceLayout(layout.cu_seqlens, 2).cache == {}, "packs share nothing"


def test_bounds_have_few_shapes() -> None:
    for sequences, padded in ((1, 64), (63, 64), (64, 64), (65, 128)):
        bounds = torch.arange(sequences + 1, dtype=torch.int32)
        found = with_empty_sequences(bounds, sequences)
        assert len(found) == padded + 1
        assert torch.equal(found[: sequences + 1], bounds) and bool((found[sequences:] == sequences).all())
        layout = SequenceLayout(found, 1)
        assert layout.lengths == [1] * sequences and layout.tokens == sequences
