"""Cost and exactness of the mixture at the size of the real thing, beside Megatron-Core's blending index.

    python benchmarks/mixture.py LANGUAGES.tsv [--column tokens_decay_all] [--seconds 60]

The table has a row per language with its token count in ``--column`` (the row ``code`` is no language and left out).
The phase draws 10^9 samples of at most 1,024 tokens from them, at temperature 0.5 and with one that falls from 0.7 to
0.3. It takes about three minutes.

*A sample* is all that the loader needs of it: dataset, document, start, stop and key, in shuffled order. *Ready* is
from the document lengths to the first block that can be asked for, the reading of all lengths included. *Any sample at
once*: blocks are asked for at random indices, and no state is kept between them. Times are of one core, and of the
processor's clock, as other work on the machine shall not count; those of the wall stand beside them. Every
measurement runs in a process of its own, so that its memory is its own.

The corpus is synthetic: lengths are log-normal, and all counts are divided by one factor so that there are about
``--documents`` documents (shares depend on the ratios of the counts alone; the phase makes more epochs instead).
Memory grows by about 5.5 bytes per document, time per sample does not.

*Shares* compares the tokens that each language gives in windows of 2^30 tokens at random points with p_i, for all
languages that give 1,000 samples or more there: *expected*, samples times the language's mean length, from the table's
own counts; and *drawn*, with the actual length of every sample, from the synthetic corpus.

Megatron-Core's ``build_blending_indices`` runs on as many samples as take about ``--seconds``. Its cost is linear in
samples, so its time at 10^9 is that rate times 10^9: an extrapolation, and marked as one.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from results import machine, peak_megabytes, print_table, save

from megatron_mmbert.config.values import LinearRamp
from megatron_mmbert.data.sampling.mixture import Mixture, MixtureTotals
from megatron_mmbert.data.sampling.settings import DataPhase

SAMPLES = 10**9
MEAN_TOKENS = 700.0
MEASURED_BLOCKS = 150
PACK_TOKENS = 49_152
WINDOW = 2**30
TAUS = (1.0, 0.7, 0.5, 0.3, 0.1)
OFTEN = 1000


class _Name(NamedTuple):
    source: str
    language: str


class SyntheticSource:
    """Languages with given token counts in documents whose lengths are made when asked for; or all of a language in
    one document, which is enough for counting."""

    vocab_size = 256_000

    def __init__(self, tokens: dict[str, int], one_document: bool = False) -> None:
        self._tokens = tokens
        self._one_document = one_document
        self.datasets = [_Name("web", language) for language in tokens]
        drawn = np.random.default_rng(0).lognormal(0.0, 1.1, 1 << 16)
        self._template = np.maximum(1, drawn * (MEAN_TOKENS / drawn.mean())).astype(np.int32)

    def document_lengths(self, source: str, language: str) -> npt.NDArray[Any]:
        """int32 [documents]; their sum is the language's count but for the last document."""
        tokens = self._tokens[language]
        documents = max(1, round(tokens / MEAN_TOKENS))
        if documents == 1 or self._one_document:
            return np.array([tokens])
        times = -(-documents // len(self._template))
        return np.broadcast_to(self._template, (times, len(self._template))).reshape(-1)[:documents]

    def tokens(self, source: str, language: str, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        raise NotImplementedError("numbers only")


def read_counts(path: Path, column: str) -> dict[str, int]:
    """Tokens by language."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["code"] != "code"]
    return {row["code"]: int(row[column]) for row in rows if int(row[column] or 0) > 0}


def synthetic(counts: dict[str, int], documents: int) -> tuple[SyntheticSource, float]:
    """A corpus of about so many documents, and what the counts were divided by."""
    factor = max(1.0, sum(counts.values()) / (MEAN_TOKENS * documents))
    return SyntheticSource({language: max(1, round(count / factor)) for language, count in counts.items()}), factor


def phase(tokens: float, temperature: Any) -> DataPhase:
    return DataPhase("benchmark", int(tokens), 1024, PACK_TOKENS, temperature=LinearRamp.model_validate(temperature))


def measure_mixture(counts: dict[str, int], documents: int, temperature: Any) -> dict[str, Any]:
    """Figures of the mixture."""
    source, factor = synthetic(counts, documents)
    trial = Mixture(SyntheticSource({"a": 10**6}), phase(10**9, 1.0))  # imports and first calls done
    trial.block(0)
    before = peak_megabytes()
    tokens = 500.0 * SAMPLES
    mixture: Mixture | None = None
    for _ in range(2):  # first to learn how many tokens make 10^9 samples
        mixture = None
        started, started_cpu = time.perf_counter(), time.process_time()
        mixture = Mixture(source, phase(tokens, temperature))
        ready, ready_cpu = time.perf_counter() - started, time.process_time() - started_cpu
        tokens *= SAMPLES / sum(plan.samples for plan in mixture.expected())
    assert mixture is not None
    blocks = mixture.phase.tokens // mixture.block_tokens
    wall, cpu, drawn = [], [], 0
    for index in np.random.default_rng(1).integers(0, blocks, MEASURED_BLOCKS).tolist():
        started, started_cpu = time.perf_counter(), time.process_time()
        drawn += len(mixture.block(index).dataset)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    return {
        "languages": len(mixture.names),
        "documents": int(sum(len(source.document_lengths(*name)) for name in mixture.names)),
        "pieces": int(mixture.examples.sum()),
        "counts_divided_by": round(factor, 1),
        "samples_of_phase": round(sum(plan.samples for plan in mixture.expected())),
        "samples_per_block": round(drawn / MEASURED_BLOCKS),
        "ready_seconds": round(ready_cpu, 3),
        "ready_seconds_wall": round(ready, 3),
        "ns_per_sample": round(sum(cpu) / drawn * 1e9, 1),
        "ns_per_sample_wall_median": round(float(np.median(wall)) / (drawn / MEASURED_BLOCKS) * 1e9, 1),
        "random_block_milliseconds": round(float(np.median(cpu)) * 1e3, 2),
        "random_block_milliseconds_slowest": round(max(cpu) * 1e3, 2),
        "memory_megabytes": round(peak_megabytes() - before, 1),
        "blocks_measured": f"{MEASURED_BLOCKS} at random indices of {blocks}",
    }


def measure_shares(counts: dict[str, int], documents: int, tau: float) -> dict[str, Any]:
    """How far tokens are from p_i in windows of 2^30, relative to p_i: the worst of all languages and windows."""
    whole = MixtureTotals(SyntheticSource(counts, one_document=True), phase(2e12, tau))
    source, _ = synthetic(counts, documents)
    corpus = Mixture(source, phase(2e12, tau))
    blocks = -(-WINDOW // corpus.block_tokens)
    draw = np.random.default_rng(round(100 * tau))
    ahead = 2 * 10**12 // corpus.block_tokens - blocks
    expected = [_deviation(whole, *_expected(whole, first, blocks), tau) for first in draw.integers(0, ahead, 50)]
    drawn = [_deviation(corpus, *_drawn(corpus, first, blocks), tau) for first in draw.integers(0, ahead, 3)]
    every = np.concatenate(drawn)
    return {
        "temperature": tau,
        "languages_of_1000_samples": round(float(np.mean([len(each) for each in expected]))),
        "expected_worst_percent": round(100 * float(np.max(np.concatenate(expected))), 3),
        "expected_windows": len(expected),
        "drawn_worst_percent": round(100 * float(every.max()), 3),
        "drawn_median_percent": round(100 * float(np.median(every)), 3),
        "drawn_windows": len(drawn),
    }


def _expected(mixture: MixtureTotals, first: int, blocks: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    samples = mixture.samples_before(first + blocks) - mixture.samples_before(first)
    return samples, samples * mixture.mean_lengths


def _drawn(mixture: Mixture, first: int, blocks: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    samples, tokens = np.zeros(len(mixture.names)), np.zeros(len(mixture.names))
    for block in map(mixture.block, range(first, first + blocks)):
        samples += np.bincount(block.dataset, minlength=len(samples))
        tokens += np.bincount(block.dataset, weights=block.lengths, minlength=len(samples))
    return samples, tokens


def _deviation(
    mixture: MixtureTotals, samples: npt.NDArray[Any], tokens: npt.NDArray[Any], tau: float
) -> npt.NDArray[np.float64]:
    power = mixture.tokens.astype(np.longdouble) ** np.longdouble(tau)
    wanted = (power / power.sum()).astype(np.float64)
    often = samples >= OFTEN
    deviation: npt.NDArray[np.float64] = np.abs(tokens / tokens.sum() / wanted - 1)[often]
    return deviation


def measure_megatron(counts: dict[str, int], seconds: float) -> dict[str, Any]:
    """Figures of Megatron-Core's blending index on the same weights."""
    from megatron.core.datasets.helpers_cpp import build_blending_indices

    weights = np.array(list(counts.values()), dtype=np.float64) ** 0.5
    weights /= weights.sum()
    size, cpu = 100_000, 0.0
    while cpu < seconds / 2:
        size = round(size * min(8.0, 0.8 * seconds / cpu)) if cpu else size
        dataset, sample = np.zeros(size, dtype=np.int16), np.zeros(size, dtype=np.int64)
        started, started_cpu = time.perf_counter(), time.process_time()
        build_blending_indices(dataset, sample, weights, len(weights), size, False)
        wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    return {
        "datasets": len(weights),
        "samples_measured": size,
        "seconds": round(cpu, 2),
        "seconds_wall": round(wall, 2),
        "ns_per_sample": round(cpu / size * 1e9, 1),
        "start_up_seconds_at_1e9_extrapolated": round(cpu / size * SAMPLES),
        "index_gigabytes_at_1e9": 10.0,
    }


def alone(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """``measure`` in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--column", default="tokens_decay_all")
    parser.add_argument("--documents", type=int, default=12_000_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="for Megatron-Core's index")
    arguments = parser.parse_args()
    counts = read_counts(arguments.table, arguments.column)
    ours = alone(measure_mixture, counts, arguments.documents, 0.5)
    annealed = alone(measure_mixture, counts, arguments.documents, {"from": 0.7, "to": 0.3})
    peer = alone(measure_megatron, counts, arguments.seconds)
    shares = [alone(measure_shares, counts, arguments.documents // 4, tau) for tau in TAUS]
    ratios = {
        "per_sample": round(peer["ns_per_sample"] / ours["ns_per_sample"], 1),
        "start_up_at_1e9": round(peer["start_up_seconds_at_1e9_extrapolated"] / ours["ready_seconds"]),
    }
    where = machine("numpy", "megatron-core")
    options = f"--column {arguments.column} --seconds {arguments.seconds:g}"
    command = f"python benchmarks/mixture.py {arguments.table.name} {options}"
    figures = {"command": command, "machine": where, "mixture": ours, "mixture_annealed": annealed}
    path = save("mixture", {**figures, "megatron_core": peer, "times_faster": ratios, "shares_of_2_to_30": shares})
    rows = [(f"mixture: {name}", str(value)) for name, value in ours.items()]
    rows += [(f"annealed: {name}", str(value)) for name, value in annealed.items()]
    rows += [(f"megatron-core: {name}", str(value)) for name, value in peer.items()]
    rows += [(f"times faster: {name}", str(value)) for name, value in ratios.items()]
    rows += [
        (f"shares, tau {each['temperature']}: {name}", str(value)) for each in shares for name, value in each.items()
    ]
    print_table(rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
