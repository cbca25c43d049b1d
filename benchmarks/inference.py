"""Encoding tokens/s on a CPU: ours packed, against transformers with the same model and with other encoders' shapes.

    OMP_NUM_THREADS=2 python benchmarks/inference.py --corpus DIR --tokenizer DIR       # 6 minutes

Texts of the corpus cut to lengths drawn evenly from 8 to 512 tokens; embeddings are means over tokens, fp32. Peers run
in batches of 32, padded: in the texts' order, and sorted by length. ModernBERT runs with the very weights ours has, its
embeddings compared; XLM-R-base and multilingual MiniLM are transformers' models of those shapes with random weights
(all rows of 250,002 and 250,037 words), fed the same numbers of tokens. Last, one document of 8,192 tokens. Only real
tokens count; the best of two passes is kept. Writes docs/results/inference.json.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlm_samples import texts_of
from results import machine, save
from torch import Tensor

from megatron_mmbert.convert.from_hf import read_tensors
from megatron_mmbert.convert.hf_config import read_config
from megatron_mmbert.encode.network import Network
from megatron_mmbert.encode.run import encode_ids
from megatron_mmbert.errors import run_command
from megatron_mmbert.report.text_table import table
from megatron_mmbert.tokenizer.load import load_tokenizer

BATCH = 32
LONG = 8192
OURS = {
    "small": {"hidden_size": 384, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_attention_heads": 12},
}
OTHERS = {
    "XLM-R-base": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 250_002},
    "MiniLM-L12": {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 250_037},
}


def main() -> None:
    args = _arguments()
    tokenizer = load_tokenizer(args.tokenizer)
    rng = np.random.default_rng(0)
    documents = tokenizer.encode_batch(texts_of(args.corpus, 60 * args.texts))
    lengths = rng.integers(8, 513, args.texts)
    long_enough = iter(sorted(documents, key=len, reverse=True)[: args.texts])
    samples = [next(long_enough)[:length] for length in lengths]
    long = np.resize(max(documents, key=len), LONG).tolist()
    tokens = sum(map(len, samples))
    figures: dict[str, Any] = {"machine": machine("torch", "transformers"), "threads": torch.get_num_threads()}
    figures |= {"texts": len(samples), "tokens": tokens, "batch": BATCH, "tokens_per_s": {}, "checks": {}}
    rates = figures["tokens_per_s"]
    for name, changes in OURS.items():
        with tempfile.TemporaryDirectory() as scratch:
            _measure_ours(name, changes, Path(scratch), samples, long, figures)
        gc.collect()
    for name, changes in OTHERS.items():
        model = _xlm_roberta(changes)
        rates[f"{name} shape, padded"] = _rate(lambda m=model: padded(m, samples), tokens)  # type: ignore[misc]
        rates[f"{name} shape, sorted"] = _rate(lambda m=model: padded(m, sorted(samples, key=len)), tokens)  # type: ignore[misc]
        print(f"  {name}: {rates[f'{name} shape, padded']:.0f} tokens/s padded", flush=True)
        del model
        gc.collect()
    figures["ratios"] = _ratios(rates)
    print(table(["model", "tokens/s"], [[name, f"{rate:.0f}"] for name, rate in rates.items()], [False, True]))
    print("\n".join(f"{name}: {value:.2f}" for name, value in figures["ratios"].items()))
    print(f"wrote {save('inference', figures)}")


def _measure_ours(
    name: str, changes: dict[str, int], folder: Path, samples: list[list[int]], long: list[int], figures: dict[str, Any]
) -> None:
    peer = _modern_bert(changes, folder)
    config = read_config(folder)
    thetas = (config.rope_theta, config.rope_theta_local)
    network = Network(config.model, thetas, read_tensors(folder, config.model), torch.device("cpu"), torch.float32)
    rates, tokens = figures["tokens_per_s"], sum(map(len, samples))
    figures["checks"][f"{name}: largest difference of an embedding"] = _difference(network, peer, samples[:4])
    rates[f"{name}, ours, packed"] = _rate(lambda: encode_ids(network, samples), tokens)
    rates[f"{name}, ours, one text of {LONG}"] = _rate(lambda: encode_ids(network, [long]), LONG)
    rates[f"{name}, transformers, padded"] = _rate(lambda: padded(peer, samples), tokens)
    rates[f"{name}, transformers, sorted"] = _rate(lambda: padded(peer, sorted(samples, key=len)), tokens)
    print(f"  {name}: {rates[f'{name}, ours, packed']:.0f} tokens/s packed", flush=True)


def _difference(network: Network, peer: Any, samples: list[list[int]]) -> float:
    difference = float((encode_ids(network, samples) - padded(peer, samples)).abs().max())
    if not difference < 1e-4:
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


def _rate(work: Callable[[], Any], tokens: int) -> float:
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return tokens / min(seconds)


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
    parser.add_argument("--texts", type=int, default=64, help="texts to encode (64)")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
