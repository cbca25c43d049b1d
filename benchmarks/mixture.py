"""Cost of the mixture at the size of the real thing, beside Megatron-Core's blending index.

    python benchmarks/mixture.py LANGUAGES.tsv [--column tokens_decay_all] [--seconds 60]

The table has a row per language with its token count in ``--column`` (the row ``code`` is no language and left out).
The phase draws 10^9 samples of at most 1,024 tokens from them at temperature 0.5.

*A sample* is all that the loader needs of it: group, document, start, stop and key, in shuffled order.
*Ready* is from the document lengths to the first block that can be asked for, the reading of all lengths included.
The corpus is synthetic: lengths are log-normal, and all counts are divided by one factor so that there are about
``--documents`` documents (shares depend on the ratios of the counts alone; the phase makes more epochs instead).
Memory grows by about 4.5 bytes per document, time per sample does not.

Megatron-Core's ``build_blending_indices`` runs in the same process on as many samples as take about ``--seconds``. Its
cost is linear in samples, so its time at 10^9 is that rate times 10^9: an extrapolation, and marked as one.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from results import machine, peak_megabytes, print_table, save

from megatron_mmbert.data.mixture import Mixture
from megatron_mmbert.data.phase import DataPhase

SAMPLES = 10**9
MEAN_TOKENS = 700.0
MEASURED_BLOCKS = 150


class _Name(NamedTuple):
    source: str
    language: str


class SyntheticSource:
    """Languages with given token counts in documents whose lengths are made when asked for."""

    vocab_size = 256_000

    def __init__(self, tokens: dict[str, int]) -> None:
        self._tokens = tokens
        self.groups = [_Name("web", language) for language in tokens]
        drawn = np.random.default_rng(0).lognormal(0.0, 1.1, 1 << 16)
        self._template = np.maximum(1, drawn * (MEAN_TOKENS / drawn.mean())).astype(np.int32)

    def document_lengths(self, source: str, language: str) -> npt.NDArray[Any]:
        """int32 [documents]; their sum is the language's count but for the last document."""
        tokens = self._tokens[language]
        documents = max(1, round(tokens / MEAN_TOKENS))
        if documents == 1:
            return np.array([tokens], dtype=np.int32)
        times = -(-documents // len(self._template))
        return np.broadcast_to(self._template, (times, len(self._template))).reshape(-1)[:documents]

    def tokens(self, source: str, language: str, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        raise NotImplementedError("numbers only")


def read_counts(path: Path, column: str) -> dict[str, int]:
    """Tokens by language."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["code"] != "code"]
    return {row["code"]: int(row[column]) for row in rows if int(row[column] or 0) > 0}


def measure_mixture(counts: dict[str, int], documents: int, temperature: Any) -> dict[str, Any]:
    """Figures of the mixture."""
    factor = max(1.0, sum(counts.values()) / (MEAN_TOKENS * documents))
    source = SyntheticSource({language: max(1, round(count / factor)) for language, count in counts.items()})

    def phase(tokens: float) -> DataPhase:
        return DataPhase("benchmark", int(tokens), 1024, 49_152, temperature=temperature)

    trial = Mixture(SyntheticSource({"a": 10**6}), phase(10**9))  # imports and first calls done
    trial.block(0)
    before = peak_megabytes()
    tokens = 500.0 * SAMPLES
    mixture: Mixture | None = None
    for _ in range(2):  # first to learn how many tokens make 10^9 samples
        mixture = None
        started = time.perf_counter()
        mixture = Mixture(source, phase(tokens))
        ready = time.perf_counter() - started
        tokens *= SAMPLES / sum(plan.samples for plan in mixture.expected())
    assert mixture is not None
    blocks = mixture.phase.tokens // mixture.block_tokens
    numbers = np.random.default_rng(1).integers(0, blocks, MEASURED_BLOCKS).tolist()
    times, drawn = [], 0
    for number in numbers:
        started = time.perf_counter()
        drawn += len(mixture.block(number).group)
        times.append(time.perf_counter() - started)
    return {
        "languages": len(mixture.names),
        "documents": int(sum(len(source.document_lengths(*name)) for name in mixture.names)),
        "pieces": int(mixture.pieces.sum()),
        "counts_divided_by": round(factor, 1),
        "samples_of_phase": round(sum(plan.samples for plan in mixture.expected())),
        "samples_per_block": round(drawn / len(numbers)),
        "ready_seconds": round(ready, 3),
        "ns_per_sample": round(sum(times) / drawn * 1e9, 1),
        "ns_per_sample_median_block": round(float(np.median(times)) / (drawn / len(numbers)) * 1e9, 1),
        "random_block_milliseconds_slowest": round(max(times) * 1e3, 2),
        "memory_megabytes": round(peak_megabytes() - before, 1),
        "blocks_measured": f"{len(numbers)} at random places of {blocks}",
    }


def measure_megatron(counts: dict[str, int], seconds: float) -> dict[str, Any]:
    """Figures of Megatron-Core's blending index on the same weights."""
    from megatron.core.datasets.helpers_cpp import build_blending_indices

    weights = np.array(list(counts.values()), dtype=np.float64) ** 0.5
    weights /= weights.sum()
    size, took = 100_000, 0.0
    while took < seconds / 2:
        size = round(size * min(8.0, 0.8 * seconds / took)) if took else size
        dataset, sample = np.zeros(size, dtype=np.int16), np.zeros(size, dtype=np.int64)
        started = time.perf_counter()
        build_blending_indices(dataset, sample, weights, len(weights), size, False)
        took = time.perf_counter() - started
    return {
        "datasets": len(weights),
        "samples_measured": size,
        "seconds": round(took, 2),
        "ns_per_sample": round(took / size * 1e9, 1),
        "start_up_seconds_at_1e9_extrapolated": round(took / size * SAMPLES),
        "index_gigabytes_at_1e9": 10.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--column", default="tokens_decay_all")
    parser.add_argument("--documents", type=int, default=12_000_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="for Megatron-Core's index")
    arguments = parser.parse_args()
    counts = read_counts(arguments.table, arguments.column)
    ours = measure_mixture(counts, arguments.documents, 0.5)
    annealed = measure_mixture(counts, arguments.documents, {"from": 0.7, "to": 0.3})
    peer = measure_megatron(counts, arguments.seconds)
    ratios = {
        "per_sample": round(peer["ns_per_sample"] / ours["ns_per_sample"], 1),
        "start_up_at_1e9": round(peer["start_up_seconds_at_1e9_extrapolated"] / ours["ready_seconds"]),
    }
    where = machine("numpy", "megatron-core")
    options = f"--column {arguments.column} --seconds {arguments.seconds:g}"
    command = f"python benchmarks/mixture.py {arguments.table.name} {options}"
    figures = {"command": command, "machine": where, "mixture": ours, "mixture_annealed": annealed}
    path = save("mixture", {**figures, "megatron_core": peer, "times_faster": ratios})
    rows = [(f"mixture: {name}", str(value)) for name, value in ours.items()]
    rows += [(f"annealed: {name}", str(annealed[name])) for name in ("ready_seconds", "ns_per_sample")]
    rows += [(f"megatron-core: {name}", str(value)) for name, value in peer.items()]
    print_table([*rows, *((f"times faster: {name}", str(value)) for name, value in ratios.items())])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
