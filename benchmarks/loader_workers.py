"""Blocks planned ahead by our worker processes and by ``torch.utils.data.DataLoader``'s, in turns.

    python benchmarks/loader_workers.py [--repetitions 20] [--blocks 12] [--workers 2]

Both compute the same function of a block's index, ``PackLoader.plan``, in forked processes and give results in order.
Ours is ``data.loading.prefetch.ProcessMap``; PyTorch's is a map-style ``DataLoader`` over block indices with
``batch_size=None``, its own generator (else it would take a number from the program's random state) and a
``worker_init_fn`` that ignores the signals which the trainer answers.

*Plans* asks for one block after another and does nothing else: the rate at which every rank of a large run needs them.
*Packs* takes the packs of rank 0 of ``--ranks``, and of a single rank, from a whole loader, which reads ids and masks
in a thread beside. A turn starts the workers, takes a first item, times ``--blocks`` blocks or ``--packs`` packs more,
and ends the workers; both take a turn, then both another, the first one alternating. The ratio is the median of the
turns' ratios, PyTorch's seconds by ours. The corpus is synthetic: the languages' tokens fall as 1 / rank, with
log-normal documents.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mixture import PACK_TOKENS, SyntheticSource, phase
from results import machine, print_table, save
from torch.utils.data import DataLoader, Dataset

from megatron_mmbert.data.loading.loader import BlockPlan, PackLoader
from megatron_mmbert.data.loading.prefetch import ProcessMap
from megatron_mmbert.data.sampling.settings import TokenizerIds
from megatron_mmbert.utils.process_pool import exit_with_parent

IDS = TokenizerIds(pad=0, bos=2, eos=1, mask=4, specials=frozenset(range(6)), vocab_size=256_000)
TOKENS = 200_000_000
CORPORA = {"1833 languages": 1833, "12 languages": 12}


class Source(SyntheticSource):
    """A synthetic corpus with ids, which are the same in every document."""

    def __init__(self, tokens: dict[str, int]) -> None:
        super().__init__(tokens)
        self._ids = np.random.default_rng(1).integers(6, self.vocab_size, 1 << 20)

    def tokens(self, source: str, language: str, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        return self._ids[start:stop]


class _Plans(Dataset[BlockPlan]):
    def __init__(self, plan: Callable[[int], BlockPlan]) -> None:
        self._plan = plan

    def __getitem__(self, index: int) -> BlockPlan:
        return self._plan(index)


def _start_worker(_: int) -> None:
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    exit_with_parent()


class TorchMap:
    """PyTorch's loader with the interface of :class:`ProcessMap`."""

    def __init__(self, function: Callable[[int], BlockPlan], first: int, workers: int) -> None:
        loader = DataLoader(
            _Plans(function),
            batch_size=None,
            sampler=itertools.count(first),  # type: ignore[arg-type]  # any iterable of indices; it has no length
            num_workers=workers,
            worker_init_fn=_start_worker,
            multiprocessing_context="fork",
            generator=torch.Generator(),
        )
        self._items: Any = iter(loader)

    def __iter__(self) -> Iterator[BlockPlan]:
        return self

    def __next__(self) -> BlockPlan:
        plan: BlockPlan = next(self._items)
        return plan

    def close(self) -> None:
        self._items._shutdown_workers()


def turn(start: Callable[[], Any], take: Callable[[Any], object], items: int) -> dict[str, float]:
    """Return the seconds until the first item, of the next ``items``, of ending the workers, and of processor time."""
    cpu_before = _cpu_seconds()
    began = time.perf_counter()
    workers = start()
    take(workers)
    first = time.perf_counter()
    for _ in range(items):
        take(workers)
    last = time.perf_counter()
    workers.close()
    ended = time.perf_counter()
    return {"first": first - began, "items": last - first, "close": ended - last, "cpu": _cpu_seconds() - cpu_before}


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def compare(run: Callable[[type], dict[str, float]], repetitions: int) -> dict[str, float]:
    """Return the medians of both, and of the turns' ratios."""
    ours: list[dict[str, float]] = []
    torchs: list[dict[str, float]] = []
    for repetition in range(repetitions):
        pair = [(ProcessMap, ours), (TorchMap, torchs)]
        for kind, turns in pair if repetition % 2 else reversed(pair):
            turns.append(run(kind))
    figures = {}
    for name in ours[0]:
        figures[f"ours_{name}_seconds"] = round(statistics.median(each[name] for each in ours), 4)
        figures[f"torch_{name}_seconds"] = round(statistics.median(each[name] for each in torchs), 4)
        ratios = [there[name] / here[name] for here, there in zip(ours, torchs, strict=True)]
        figures[f"{name}_ratio"] = round(statistics.median(ratios), 3)
        low, high = np.quantile(ratios, [0.25, 0.75])
        figures[f"{name}_ratio_quartiles"] = [round(float(low), 3), round(float(high), 3)]
    return figures


def compare_plans(loader: PackLoader, workers: int, blocks: int, repetitions: int) -> dict[str, float]:
    """Return the comparison of workers that plan blocks of ``loader`` and nothing else."""
    return compare(lambda kind: turn(lambda: kind(loader.plan, 0, workers), next, blocks), repetitions)


class _Loader(PackLoader):
    kind: type = ProcessMap

    def _plan_ahead(self) -> ProcessMap[BlockPlan]:
        workers: ProcessMap[BlockPlan] = self.kind(self.plan, self.state.block, self._num_workers)
        return workers


def compare_packs(loader: _Loader, packs: int, repetitions: int) -> dict[str, float]:
    """Return the comparison of whole loaders, each turn from the phase's start."""
    start = loader.state_dict()

    def begin(kind: type) -> _Loader:
        loader.load_state_dict(start)
        loader.kind = kind
        return loader

    return compare(lambda kind: turn(lambda: begin(kind), lambda each: each.next_packs(1), packs), repetitions)


def synthetic_source(languages: int) -> Source:
    """Return a corpus of ``TOKENS`` in languages whose counts fall as 1 / rank."""
    counts = 1.0 / np.arange(1, languages + 1)
    counts *= TOKENS / counts.sum()
    return Source({f"l{index:04d}": max(1, round(count)) for index, count in enumerate(counts)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=16, help="of one turn; and packs, where there are many ranks")
    parser.add_argument("--packs", type=int, default=256, help="of one turn of a single rank")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=256, help="data-parallel ranks, of which rank 0 is measured")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    for name, languages in CORPORA.items():
        source = synthetic_source(languages)
        for ranks in (arguments.ranks, 1):
            settings = {"dp_size": ranks, "num_workers": arguments.workers}
            loader = _Loader(source, phase(1e12, 0.5), IDS, **settings)
            if ranks > 1:
                repetitions = arguments.repetitions
                rows[f"plans, {name}"] = compare_plans(loader, arguments.workers, arguments.blocks, repetitions)
                print(f"plans, {name}: {rows[f'plans, {name}']}", flush=True)
            row = f"packs of 1 of {ranks} ranks, {name}"
            rows[row] = compare_packs(loader, arguments.blocks if ranks > 1 else arguments.packs, arguments.repetitions)
            print(f"{row}: {rows[row]}", flush=True)
    options = " ".join(f"--{name} {value}" for name, value in vars(arguments).items())
    command = f"python benchmarks/loader_workers.py {options}"
    figures = {"command": command, "machine": machine("numpy", "torch"), "pack_tokens": PACK_TOKENS, **rows}
    path = save("loader_workers", figures)
    print_table([(f"{name}: {key}", str(value)) for name, row in rows.items() for key, value in row.items()])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
