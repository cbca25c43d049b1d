"""Encoding tokens/s on a CPU: ours packed, against transformers with the same model and with other encoders' shapes.

    OMP_NUM_THREADS=2 python benchmarks/inference.py --corpus DIR --tokenizer DIR       # 10 minutes

Texts of the corpus cut to lengths drawn evenly from 8 to 512 tokens; embeddings are means over tokens. Peers run
in padded batches: in the texts' order, and sorted by length. Batches are of 8, so that few texts, sorted, have as
little padding as many have in larger ones. ModernBERT runs with the very weights ours has, its embeddings compared;
XLM-R-base and multilingual MiniLM are transformers' models of those shapes with random weights (all rows of 250,002
and 250,037 words), fed the same numbers of tokens. Last, one document of 8,192 tokens. Only real tokens count. All
take turns, pass by pass, so that what else the machine does slows all alike. Writes docs/results/inference.json, with
``--dtype bf16``, for all, inference-bf16.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlm_models import DTYPES, no_progress_bars, result_name
from mlm_samples import texts_of
from results import machine, save
from torch import Tensor

from megatron_mmbert.convert.hf_config import read_config
from megatron_mmbert.convert.import_hf import read_tensors
from megatron_mmbert.inference.network import Network
from megatron_mmbert.inference.run import encode_ids
from megatron_mmbert.kernels import fp32_matmul
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.errors import run_command
from megatron_mmbert.utils.text_table import table

BATCH = 8
MAY_DIFFER = {torch.float32: 1e-4, torch.bfloat16: 1e-2}  # an embedding's numbers
LONG = 8192
OURS = {
    "small": {"hidden_size": 384, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_attention_heads": 12},
}
OTHERS = {
    "XLM-R-base": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 250_002},
    "MiniLM-L12": {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 250_037},
}


@dataclass(frozen=True)
class Way:
    """One way to encode: what it does, and of how many tokens."""

    name: str
    work: Callable[[], Tensor]
    tokens: int


def main() -> None:
    args = _arguments()
    no_progress_bars()
    tokenizer = load_tokenizer(args.tokenizer)
    rng = np.random.default_rng(0)
    documents = [tokenizer.encode(text) for text in texts_of(args.corpus, 60 * args.texts)]
    lengths = rng.integers(8, 513, args.texts)
    long_enough = iter(sorted(documents, key=len, reverse=True)[: args.texts])
    samples = [next(long_enough)[:length] for length in lengths]
    long = np.resize(max(documents, key=len), LONG).tolist()
    figures: dict[str, Any] = {"machine": machine("torch", "transformers"), "threads": torch.get_num_threads()}
    figures |= {"dtype": args.dtype, "our_fp32_products": fp32_matmul.backend()}
    dtype = DTYPES[args.dtype]
    figures |= {"texts": len(samples), "tokens": sum(map(len, samples)), "batch": BATCH, "checks": {}}
    ways: list[Way] = []
    for name, changes in OURS.items():
        with tempfile.TemporaryDirectory() as scratch:
            ways += _of_our_shape(name, changes, Path(scratch), dtype, samples, long, figures["checks"])
    for name, changes in OTHERS.items():
        ways += _padded_and_sorted(f"{name} shape", _xlm_roberta(changes).to(dtype), samples)
    figures["tokens_per_s"] = rates = _rates_in_turn(ways, args.rounds)
    figures["ratios"] = _ratios(rates)
    print(table(["model", "tokens/s"], [[name, f"{rate:.0f}"] for name, rate in rates.items()], [False, True]))
    print("\n".join(f"{name}: {value:.2f}" for name, value in figures["ratios"].items()))
    print(f"wrote {save(result_name('inference', args.dtype), figures)}")


def _of_our_shape(
    name: str,
    changes: dict[str, int],
    folder: Path,
    dtype: torch.dtype,
    samples: list[list[int]],
    long: list[int],
    checks: dict[str, float],
) -> list[Way]:
    peer = _modern_bert(changes, folder).to(dtype)
    config = read_config(folder)
    thetas = (config.rope_theta, config.rope_theta_local)
    network = Network(config.model, thetas, read_tensors(folder, config.model), torch.device("cpu"), dtype)
    checks[f"{name}: largest difference of an embedding"] = _difference(network, peer, samples[:4])
    return [
        Way(f"{name}, ours, packed", lambda: encode_ids(network, samples), sum(map(len, samples))),
        Way(f"{name}, ours, one text of {LONG}", lambda: encode_ids(network, [long]), LONG),
        *_padded_and_sorted(f"{name}, transformers", peer, samples),
    ]


def _padded_and_sorted(name: str, model: Any, samples: list[list[int]]) -> list[Way]:
    tokens, ordered = sum(map(len, samples)), sorted(samples, key=len)
    return [
        Way(f"{name}, padded", lambda: padded(model, samples), tokens),
        Way(f"{name}, sorted", lambda: padded(model, ordered), tokens),
    ]


def _rates_in_turn(ways: list[Way], rounds: int) -> dict[str, float]:
    """Tokens/s of each over ``rounds`` passes, each of which all do before anyone does the next."""
    seconds = dict.fromkeys(ways, 0.0)
    for number in range(rounds):
        for way in ways:
            start = time.perf_counter()
            way.work()
            took = time.perf_counter() - start
            seconds[way] += took
            print(f"  round {number + 1} of {rounds}: {way.name}: {way.tokens / took:.0f} tokens/s", flush=True)
    return {way.name: rounds * way.tokens / seconds[way] for way in ways}


def _difference(network: Network, peer: Any, samples: list[list[int]]) -> float:
    theirs = padded(peer, samples)
    difference = float((encode_ids(network, samples) - theirs).abs().max())
    if not difference < MAY_DIFFER[theirs.dtype]:
        raise SystemExit(f"embeddings differ by {difference}; their speeds are not comparable")
    return difference


@torch.inference_mode()
def padded(model: Any, samples: Sequence[Sequence[int]]) -> Tensor:
    """Mean embeddings [N, D] by a model of transformers, in padded batches in the order given."""
    parts = []
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        longest = max(map(len, batch))
        ids = torch.tensor([[*each, *[0] * (longest - len(each))] for each in batch])
        mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in batch])
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        parts.append((hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))
    return torch.cat(parts)


def _modern_bert(changes: dict[str, int], folder: Path) -> Any:
    """Random weights, saved to ``folder``; returns the encoder without its head."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    torch.manual_seed(1)
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 1}
    config = ModernBertConfig(vocab_size=256_000, intermediate_size=1152, num_hidden_layers=22, **changes, **special)
    ModernBertForMaskedLM(config).save_pretrained(folder)
    return ModernBertForMaskedLM.from_pretrained(folder, attn_implementation="sdpa").eval().model


def _xlm_roberta(changes: dict[str, int]) -> Any:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig(num_hidden_layers=12, max_position_embeddings=514, type_vocab_size=1, **changes)
    config._attn_implementation = "sdpa"
    return XLMRobertaModel(config, add_pooling_layer=False).eval()


def _ratios(rates: dict[str, float]) -> dict[str, float]:
    ratios = {}
    for name in OURS:
        ours = rates[f"{name}, ours, packed"]
        ratios[f"{name} over transformers, padded (same model)"] = ours / rates[f"{name}, transformers, padded"]
        ratios[f"{name} over transformers, sorted (same model)"] = ours / rates[f"{name}, transformers, sorted"]
        ratios[f"{name} over XLM-R-base shape, padded"] = ours / rates["XLM-R-base shape, padded"]
        ratios[f"{name}: share of its rate kept at {LONG}"] = rates[f"{name}, ours, one text of {LONG}"] / ours
    return ratios


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of text files")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of tools/train_tokenizer.py")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="of all models (fp32)")
    parser.add_argument("--texts", type=int, default=64, help="texts to encode (64)")
    parser.add_argument("--rounds", type=int, default=2, help="passes of each (2)")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
