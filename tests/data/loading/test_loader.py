from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.packs import digests
from support.synthetic_source import IDS, VOCAB, MemorySource, data_phase, small_source
from support.tokenized import tokenized

from megatron_mmbert.data.loading.batch import EMPTY_PACK, PackedBatch, join_packs
from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.data.loading.step_split import StepPacks, StepSplit
from megatron_mmbert.data.sampling.settings import DataPhase, TokenizerIds, default_block_tokens
from megatron_mmbert.utils.errors import UserError

L, T = 128, 1024
SOURCE = small_source()


def phase(**settings: Any) -> DataPhase:
    return data_phase(
        **{"name": "p", "tokens": 10**6, "max_length": L, "pack_tokens": T, "temperature": 0.5, **settings}
    )


def loader(chosen: DataPhase | None = None, **settings: Any) -> PackLoader:
    return PackLoader(SOURCE, chosen or phase(), IDS, **settings)


@pytest.fixture(scope="module")
def reference() -> list[str]:
    """The digests of packs 0 ... 319, five blocks of 64 packs and more."""
    return digests(loader().next_packs(320))


@pytest.mark.parametrize("dp_size", [2, 4, 5])
def test_ranks_share_the_same_packs(reference: list[str], dp_size: int) -> None:
    ranks = [loader(dp_rank=rank, dp_size=dp_size) for rank in range(dp_size)]
    first = 0
    for count in (1, 3, 7, 20, 33):  # a batch-size ramp
        by_rank = [digests(rank.next_packs(count)) for rank in ranks]
        step = [pack for packs in zip(*by_rank, strict=True) for pack in packs]
        assert step == reference[first : first + count * dp_size]
        first += count * dp_size
        states = [rank.state_dict() for rank in ranks]
        assert all(state == states[0] for state in states)
        assert states[0]["packs"] == first


@pytest.mark.parametrize("max_packs", [1, 3])
@pytest.mark.parametrize("dp_size", [1, 3, 4, 7])
@pytest.mark.parametrize("workers", [0, 1])
def test_any_number_of_ranks_takes_the_same_steps(
    reference: list[str], dp_size: int, max_packs: int, workers: int
) -> None:
    """Steps of 10 packs, after a while of 13; the ranks' packs in turn are those of the step, then come empty ones."""

    def of(tokens: int) -> StepPacks:
        return StepSplit(dp_size, max_packs).split(10 if tokens < 50 * T else 13)

    ranks = [
        loader(dp_rank=rank, dp_size=dp_size, step_packs=of, num_workers=workers if not rank else 0)
        for rank in range(dp_size)
    ]
    first = 0
    for _ in range(8):
        tokens = ranks[0].state.tokens
        step = of(tokens)
        taken = [rank.next_step() for rank in ranks]
        assert [[len(batch.tokens_T) // T for batch in batches] for batches in taken] == [
            list(step.micro_batches)
        ] * dp_size
        indices = [[index for batch in batches for index in batch.pack_indices] for batches in taken]
        in_turn = [index for round_ in zip(*indices, strict=True) for index in round_]
        assert in_turn[: step.total] == list(range(first, first + step.total))
        assert set(in_turn[step.total :]) <= {EMPTY_PACK}
        real = sum(batch.real_tokens for batches in taken for batch in batches)
        first += step.total
        assert [(rank.state.packs, rank.state.tokens) for rank in ranks] == [(first, tokens + real)] * dp_size
    whole = loader().next_packs(10)
    again = loader(step_packs=lambda _: StepPacks(10, (4, 4, 2))).next_step()
    for batch, (start, stop) in zip(again, [(0, 4), (4, 8), (8, 10)], strict=True):
        assert digests([batch]) == digests([join_packs(whole[start:stop])])
    for rank in ranks:
        rank.close()


def test_joined_packs_keep_their_sequences_and_labels() -> None:
    packs = loader().next_packs(3)
    joined = join_packs(packs)
    assert joined.pack_indices == (0, 1, 2) and joined.real_tokens == sum(pack.real_tokens for pack in packs)
    assert joined.cu_seqlens.diff().tolist() == [n for pack in packs for n in pack.cu_seqlens.diff().tolist()]
    assert joined.cu_seqlens.dtype == torch.int32 and joined.cu_seqlens[-1] == 3 * T
    whole = torch.cat([pack.tokens_T for pack in packs])
    assert torch.equal(joined.tokens_T, whole)
    for number, pack in enumerate(packs):
        kept = slice(number * len(pack.label_K), (number + 1) * len(pack.label_K))
        assert torch.equal(joined.masked_index_K[kept], pack.masked_index_K + number * T)
        assert torch.equal(joined.label_K[kept], pack.label_K)


@given(stop=st.integers(0, 150), dp_before=st.sampled_from([1, 2, 3]), dp_after=st.sampled_from([1, 2, 4]))
@settings(max_examples=12, deadline=None)
def test_resume_anywhere_with_another_dp(reference: list[str], stop: int, dp_before: int, dp_after: int) -> None:
    before = loader(dp_rank=dp_before - 1, dp_size=dp_before)
    before.next_packs(stop // dp_before)
    saved = json.dumps(before.state_dict())
    assert len(saved) < 1024
    first = stop // dp_before * dp_before
    rank = stop % dp_after
    after = loader(dp_rank=rank, dp_size=dp_after, state=json.loads(saved))
    assert digests(after.next_packs(9)) == reference[first + rank : first + 9 * dp_after : dp_after]


def test_state_counts_real_tokens_of_all_ranks() -> None:
    one, quarter = loader(), loader(dp_rank=2, dp_size=4)
    batches = one.next_packs(140)
    quarter.next_packs(35)
    assert one.state == quarter.state
    assert one.state.tokens == sum(batch.real_tokens for batch in batches)
    assert one.state.block == 2


def test_loading_a_state_into_a_running_loader(reference: list[str]) -> None:
    running = loader()
    running.next_packs(10)
    saved = running.state_dict()
    running.next_packs(90)
    running.load_state_dict(saved)
    assert digests(running.next_packs(5)) == reference[10:15]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same(reference: list[str], workers: int) -> None:
    ahead = loader(num_workers=workers)
    assert digests(ahead.next_packs(150)) == reference[:150]
    saved = ahead.state_dict()
    assert saved["packs"] == 150
    ahead.load_state_dict(saved)
    assert digests(ahead.next_packs(10)) == reference[150:160]
    ahead.close()
    assert digests(ahead.next_packs(10)) == reference[160:170]
    ahead.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_pinned_where_asked(workers: int, monkeypatch: pytest.MonkeyPatch, reference: list[str]) -> None:
    """In the thread that works ahead, where there is one, so that the trainer does not wait for it."""
    threads = []

    def pin(batch: PackedBatch) -> PackedBatch:
        threads.append(threading.current_thread().name)
        return batch

    monkeypatch.setattr(PackedBatch, "pin_memory", pin)
    pinned = loader(num_workers=workers, pin_memory=True)
    assert digests(pinned.next_packs(3)) == reference[:3]
    pinned.close()
    assert set(threads) == {"data prefetch" if workers else threading.current_thread().name}


class Failing(MemorySource):
    def tokens(self, source: str, language: str, document: int, start: int, stop: int) -> np.ndarray:
        if language == "deu":
            raise OSError("the disk is gone")
        return super().tokens(source, language, document, start, stop)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_reach_the_caller(workers: int) -> None:
    source = Failing({("w", "eng"): [300] * 900, ("w", "deu"): [300] * 3})
    failing = PackLoader(source, phase(), IDS, num_workers=workers)
    with pytest.raises(OSError, match="disk"):
        failing.next_packs(600)
    failing.close()


def test_masks_differ_by_phase_and_epoch_but_text_does_not() -> None:
    one, other = loader().next_packs(3), loader(phase(name="decay")).next_packs(3)
    for a, b in zip(one, other, strict=True):
        assert (a.cu_seqlens == b.cu_seqlens).all() and (a.dataset_S == b.dataset_S).all()
        assert not torch.equal(a.masked_index_K, b.masked_index_K)
    source = MemorySource({("w", "eng"): [126]})
    again = PackLoader(source, phase(), IDS).next_packs(1)[0]
    rows = again.tokens_T[: 8 * L].view(8, L)
    assert len({tuple(row.tolist()) for row in rows}) == 8  # eight epochs of one sample, eight masks


def test_mask_ratio_on_a_schedule() -> None:
    ramped = loader(phase(tokens=200_000, mask_ratio={"from": 0.3, "to": 0.1}))
    scored = [len(batch.label_K) for batch in ramped.next_packs(250)]
    assert scored[0] == round(0.3 * T) and scored[-1] == round(0.1 * T)
    assert all(a >= b for a, b in itertools.pairwise(scored))
    second = loader(phase(tokens=200_000, mask_ratio={"from": 0.3, "to": 0.1}), dp_rank=1, dp_size=2)
    assert [len(batch.label_K) for batch in second.next_packs(100)] == scored[1:200:2]


def test_consumed_and_epochs() -> None:
    running = loader()
    batches = running.next_packs(200)
    whole = running.state.packs - running.state.pack
    count = np.zeros(len(running.names), dtype=int)
    for batch in batches[:whole]:
        np.add.at(count, batch.dataset_S[batch.dataset_S >= 0].numpy(), 1)
    assert [use.samples for use in running.consumed()] == count.tolist()
    assert [(use.source, use.language) for use in running.consumed()] == running.names
    assert running.epochs()[("web", "smo")] == count[running.names.index(("web", "smo"))] / 2


def test_packs_are_full() -> None:
    assert sum(batch.real_tokens for batch in loader().next_packs(192)) / (192 * T) > 0.985  # 64 packs a block: 99.2 %


def test_a_state_of_other_settings_is_refused() -> None:
    saved = loader().state_dict()
    for other in (phase(seed=1), phase(temperature=0.6), phase(max_length=64), phase(languages=("eng",))):
        with pytest.raises(UserError, match="not those of the checkpoint"):
            loader(other, state=saved)
    loader(phase(tokens=10**6 + 5, mask_ratio=0.1), state=saved)  # a longer phase, other masks: the same order


def test_empty_blocks() -> None:
    """Blocks of one pack of one sample, and ten datasets that take turns: some blocks hold nothing."""
    source = MemorySource({("w", f"l{i}"): [126] * 5 for i in range(10)})
    tiny_blocks = phase(tokens=100_000, pack_tokens=L, block_tokens=L, temperature=1.0)
    whole = PackLoader(source, tiny_blocks, IDS)
    assert 0 in {len(whole.plan(block).packs) for block in range(50)}
    expected = digests(whole.next_packs(60))
    first = PackLoader(source, tiny_blocks, IDS)
    for index in range(60):
        again = PackLoader(source, tiny_blocks, IDS, state=first.state_dict())
        assert digests(again.next_packs(1)) == [expected[index]]
        first.next_packs(1)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError):
        loader(dp_rank=2, dp_size=2)
    small = TokenizerIds(0, 2, 1, 4, frozenset(), VOCAB - 1)
    with pytest.raises(UserError, match="tokenizer"):
        PackLoader(SOURCE, phase(), small)
    for bad in (
        {"max_length": 2048},
        {"tokens": 0},
        {"mask_ratio": 0.0},
        {"mask_ratio": {"from": 0.3, "to": 0.0}},
        {"temperature": 1.5},
        {"max_epochs": 0.0},
        {"block_tokens": 10},
        {"mask_policy": "theirs"},
    ):
        with pytest.raises(UserError):
            phase(**bad)


def test_default_block() -> None:
    assert default_block_tokens(10**12, 8192) == 256 * 8192
    assert default_block_tokens(16 * 100 * 8192, 8192) == 100 * 8192
    assert default_block_tokens(1000, 8192) == 64 * 8192


def test_with_a_real_store(tmp_path: Path) -> None:
    writer_module = pytest.importorskip("megatron_mmbert.data.store.writer")
    from megatron_mmbert.data.store.manifest import Manifest, TokenizerEntry, save_manifest
    from megatron_mmbert.data.store.reader import Store

    writer = writer_module.StoreWriter(tmp_path, "web", "uint16", shard_bytes=60_000)
    lengths = {name: SOURCE.document_lengths(*name) for name in SOURCE.datasets if name.source == "web"}
    memory = MemorySource({name: some[some > 0][:300] for name, some in lengths.items()})
    for name in memory.datasets:
        for document, length in enumerate(memory.document_lengths(*name).tolist()):
            ids = memory.tokens(*name, document, 0, length)
            writer.add(tokenized(name.language, ids.astype(np.uint16), length, length))
    groups = writer.finish()
    assert len(writer.shards) > 1
    save_manifest(tmp_path, Manifest("uint16", TokenizerEntry("t", "f", VOCAB), groups, tuple(writer.shards)))
    from_store = PackLoader(Store.open(tmp_path), phase(), IDS, num_workers=1)
    from_memory = PackLoader(memory, phase(), IDS)
    assert digests(from_store.next_packs(100)) == digests(from_memory.next_packs(100))
    from_store.close()


@pytest.mark.parametrize(
    "change",
    [
        {"block": 10**18},
        {"pack": 10**9},
        {"tokens": -7},
        {"tokens": 10**9},
        {"block": -5},
        {"pack": -1},
        {"packs": -1},
        {"block": "x"},
        {"block": None},
    ],
    ids=str,
)
def test_a_state_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    """Such a state counted for ever, ended in a traceback, or trained another number of steps."""
    running = loader()
    running.next_packs(3)
    good = running.state_dict()
    loader().load_state_dict(good)
    with pytest.raises(UserError, match="take another checkpoint"):
        loader().load_state_dict(good | change)
    with pytest.raises(UserError, match="take another checkpoint"):
        loader().load_state_dict({"fingerprint": good["fingerprint"]})
