from __future__ import annotations

import numpy as np
import pytest
import torch
from support.synthetic_source import IDS, data_phase, small_source

from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.data.loading.batch import PackedBatch, pad_sequences
from megatron_mmbert.data.loading.loader import PackLoader

L, T = 128, 1024


@pytest.fixture(scope="module")
def loader() -> PackLoader:
    return PackLoader(small_source(), data_phase("p", 500_000, L, T, temperature=0.5), IDS)


@pytest.fixture(scope="module")
def batches(loader: PackLoader) -> list[PackedBatch]:
    return loader.next_packs(150)


def test_shapes_and_types(batches: list[PackedBatch]) -> None:
    scored = round(0.3 * T)
    for index, batch in enumerate(batches):
        assert (batch.tokens_T.shape, batch.tokens_T.dtype) == ((T,), torch.int64)
        assert (batch.position_T.shape, batch.position_T.dtype) == ((T,), torch.int64)
        assert (batch.masked_index_K.shape, batch.masked_index_K.dtype) == ((scored,), torch.int64)
        assert (batch.label_K.shape, batch.label_K.dtype) == ((scored,), torch.int64)
        assert batch.cu_seqlens.dtype == batch.dataset_S.dtype == torch.int32
        assert len(batch.cu_seqlens) == len(batch.dataset_S) + 1
        assert batch.pack_indices == (index,)


def test_sequences(batches: list[PackedBatch]) -> None:
    assert any(batch.real_tokens < T for batch in batches)
    for batch in batches:
        edges = batch.cu_seqlens.tolist()
        sizes = np.diff(edges)
        assert edges[0] == 0 and edges[-1] == T and sizes.min() > 0
        assert batch.max_seqlen == sizes.max() <= L
        assert batch.position_T.tolist() == [position for size in sizes for position in range(size)]
        real = batch.dataset_S >= 0
        assert real[: int(real.sum())].all()  # padding comes last
        assert edges[int(real.sum())] == batch.real_tokens
        assert (batch.tokens_T[batch.real_tokens :] == IDS.pad).all()


def test_content_is_the_documents_with_their_specials(loader: PackLoader, batches: list[PackedBatch]) -> None:
    source = small_source()
    plan = loader.plan(0)
    for batch, pack in zip(batches[: len(plan.packs)], plan.packs, strict=False):
        tokens = batch.tokens_T.clone()
        scored = batch.label_K != IGNORED_LABEL
        tokens[batch.masked_index_K[scored]] = batch.label_K[scored]
        for sequence, sample in enumerate(pack.tolist()):
            start, stop = batch.cu_seqlens[sequence : sequence + 2].tolist()
            block = plan.block
            dataset = int(block.dataset[sample])
            span = (int(block.document[sample]), int(block.start[sample]), int(block.stop[sample]))
            ids = source.tokens(*loader.names[dataset], *span)
            assert tokens[start:stop].tolist() == [IDS.bos, *ids.tolist(), IDS.eos]
            assert batch.dataset_S[sequence] == dataset


def test_padding_is_cut_like_samples() -> None:
    assert pad_sequences(0, 128).tolist() == []
    assert pad_sequences(5, 128).tolist() == [5]
    assert pad_sequences(256, 128).tolist() == [128, 128]
    assert pad_sequences(300, 128).tolist() == [128, 128, 44]


def test_moving(batches: list[PackedBatch]) -> None:
    moved = batches[0].to("meta")
    assert moved.tokens_T.device.type == moved.dataset_S.device.type == "meta"
    assert (moved.real_tokens, moved.max_seqlen) == (batches[0].real_tokens, batches[0].max_seqlen)
    assert batches[0].tokens_T.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_pinning(batches: list[PackedBatch]) -> None:
    assert batches[0].pin_memory().label_K.is_pinned()
