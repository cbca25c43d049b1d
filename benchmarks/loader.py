"""How full the packs of a real store are, and how fast one core makes them.

    python benchmarks/loader.py STORE --tokenizer DIR [--seconds 20]

At max_length 1,024 and 8,192 with the recipe's packs of 49,152 tokens, and with each masking unit: planning, packing,
reading ids and masking all run in this process (no workers), on one core. *Full* is real tokens by pack tokens over
whole blocks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from results import machine, print_table, save

from megatron_mmbert.builders.data import token_ids
from megatron_mmbert.config.data import MaskUnit
from megatron_mmbert.config.values import LinearRamp
from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.data.sampling.settings import DataPhase
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.tokenizer.load import load_tokenizer

PACK_TOKENS = 49_152


def measure(loader: PackLoader, seconds: float) -> dict[str, Any]:
    """Fill and tokens per second of one loader, over whole blocks."""
    start = loader.state_dict()
    loader.next_packs(1)  # maps the files
    loader.load_state_dict(start)
    started = time.perf_counter()
    packs = real = 0
    while time.perf_counter() - started < seconds or loader.state.pack:
        batch = loader.next_packs(1)[0]
        packs += 1
        real += batch.real_tokens
    took = time.perf_counter() - started
    full = loader.state.tokens / (loader.state.packs * PACK_TOKENS)
    return {
        "packs": packs,
        "blocks": loader.state.block,
        "full": round(full, 5),
        "tokens_per_second": round(real / took),
        "ns_per_token": round(took / real * 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="at least, for each row")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = Store.open(arguments.store)
    ids = token_ids(load_tokenizer(arguments.tokenizer), with_words=True)
    rows: dict[str, Any] = {}
    settings: list[tuple[int, MaskUnit]] = [(1024, "token"), (8192, "token"), (1024, "word"), (1024, "span")]
    for max_length, unit in settings:
        phase = DataPhase(
            "benchmark", 10**12, max_length, PACK_TOKENS, temperature=LinearRamp.constant(0.5), mask_unit=unit
        )
        rows[f"max_length {max_length}, {unit}"] = measure(PackLoader(store, phase, ids), arguments.seconds)
    corpus = {
        "groups": len(store.datasets),
        "documents": sum(dataset.documents for dataset in store.datasets),
        "tokens": sum(dataset.tokens for dataset in store.datasets),
        "vocabulary": store.vocab_size,
    }
    command = f"python benchmarks/loader.py STORE --tokenizer DIR --seconds {arguments.seconds:g}"
    path = save("loader", {"command": command, "machine": machine("numpy", "torch"), "store": corpus, **rows})
    print_table([(f"{name}: {key}", str(value)) for name, row in rows.items() for key, value in row.items()])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
