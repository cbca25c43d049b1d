"""Training tokens/s (forward and backward, fp32): our encoder and transformers' ModernBERT, same weights and texts.

    OMP_NUM_THREADS=2 python benchmarks/train_step.py --corpus DIR --tokenizer DIR --shape small     # 7 minutes
    OMP_NUM_THREADS=2 python benchmarks/train_step.py --corpus DIR --tokenizer DIR --shape base4     # 7 minutes

Only real tokens count. Ours trains on packs. The peer runs (1) as its own MLM training runs it: documents in random
order, padded batches, dense head; (2) at its best: grouped by length, ``sparse_prediction``, its fastest attention.
Both peers get the best of several batch sizes that fit ``--memory-gb``: dense logits of n padded tokens take three
times n x 256,000 x 4 bytes, so samples that do not fit alone are left out of (1), which only helps its rate. Every
measurement is a process of its own, so that its peak memory is its own. The optimizer is left out on both sides. Loss
and gradients are compared on one batch first. Writes docs/results/train_step-SHAPE.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlm_models as models
import numpy as np
import torch
from mlm_samples import Sample, load_samples, masked, pieces, representative, save_samples, texts_of
from mm_ceiling import ceiling_gflops
from results import machine, peak_megabytes, save

from megatron_mmbert.errors import UserError, run_command
from megatron_mmbert.model.flops import training_flops
from megatron_mmbert.tokenizer.load import load_tokenizer

RATIOS = {1024: 0.30, 8192: 0.15}
SAMPLES = {1024: 24, 8192: 16}
PACK_TOKENS = {1024: 2048, 8192: 4096}  # a longer sample is a pack of its own
PADDED_TOKENS = {1024: (2048, 4096), 8192: (2048, 8192)}
DENSE_PADDED_TOKENS = {1024: (2048, 4096), 8192: (2048, 5120)}
ATTENTIONS = {1024: ("sdpa", "eager"), 8192: ("sdpa",)}
"""Eager attention keeps every layer's scores for the backward pass: 35 GB for one sample of 8,192 tokens."""
DENSE_COPIES = 3.2  # logits, their softmax and its gradient, and what else is there
SECONDS = 25.0  # at most, of each measurement, whose batches come in random order


def main() -> None:
    args = _arguments()
    if args.worker:
        print(json.dumps(_measure(json.loads(args.worker))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        figures = _compare(args, Path(scratch))
    if args.shape != "tiny":
        print(f"wrote {save(f'train_step-{args.shape}', figures)}")


def _compare(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    models.make_peer(args.shape, scratch / "model")
    tokenizer = load_tokenizer(args.tokenizer)
    documents = tokenizer.encode_batch(texts_of(args.corpus, args.documents))
    figures: dict[str, Any] = {"machine": machine("torch", "transformers", "megatron-core"), "shape": args.shape}
    figures |= {"threads": torch.get_num_threads(), "dtype": "float32", "lengths": {}}
    for length in args.lengths:
        rng = np.random.default_rng(length)
        chosen = representative([p for each in documents for p in pieces(each, length, tokenizer)], SAMPLES[length])
        samples = [masked(chosen[i], RATIOS[length], tokenizer, rng) for i in rng.permutation(len(chosen))]
        save_samples(scratch / f"{length}.npz", samples)
        job = {"shape": args.shape, "folder": str(scratch / "model"), "samples": str(scratch / f"{length}.npz")}
        figures["lengths"][str(length)] = _one_length(job | {"length": length}, samples, args.memory_gb)
    return figures


def _one_length(job: dict[str, Any], samples: list[Sample], memory_gb: float) -> dict[str, Any]:
    length = job["length"]
    tokens = sum(map(len, samples))
    print(f"\n{job['shape']}, up to {length} tokens: {len(samples)} samples, {tokens:,} tokens", flush=True)
    same = _run(job | {"what": "check"})
    print(f"  loss differs by {same['loss_difference']:.1e}, gradients by {same['worst_gradient_difference']:.1e}")
    if same["loss_difference"] > 1e-4 or same["worst_gradient_difference"] > 1e-3:
        raise UserError(f"the two models disagree ({same}); their speeds are not comparable")
    ours = _row("ours, packed", _run(job | {"what": "ours", "pack_tokens": PACK_TOKENS[length]}))
    vocab = models.SHAPES[job["shape"]].vocab_size
    longest_dense = int(memory_gb * 1e9 / DENSE_COPIES / 4 / vocab)
    dense, sparse = [], []
    for budget in (budget for budget in DENSE_PADDED_TOKENS[length] if budget <= longest_dense):
        peer = job | {"what": "peer", "attention": "sdpa", "padded_tokens": budget, "longest": longest_dense}
        dense.append(_row(f"peer, padded, dense, {budget}", _run(peer | {"sparse": False, "grouped": False})))
    attention = _fastest_attention(job, length)
    for budget in PADDED_TOKENS[length]:
        peer = job | {"what": "peer", "attention": attention, "padded_tokens": budget, "sparse": True, "grouped": True}
        sparse.append(_row(f"peer, grouped, sparse, {attention}, {budget}", _run(peer)))
    own, best = (max(rows, key=lambda row: row["tokens_per_s"]) for rows in (dense, sparse))
    ratios = {
        "over_padded_dense": ours["tokens_per_s"] / own["tokens_per_s"],
        "over_best": ours["tokens_per_s"] / best["tokens_per_s"],
        "memory_of_best": ours["peak_mb"] / best["peak_mb"],
        "share_of_mm_ceiling": ours["gflops"] / ours["ceiling_gflops"],
    }
    print("  " + ", ".join(f"{name} {value:.2f}" for name, value in ratios.items()), flush=True)
    lengths = sorted(map(len, samples))
    return {"sample_lengths": lengths, "same": same, "ours": ours, "dense": dense, "sparse": sparse, "ratios": ratios}


def _fastest_attention(job: dict[str, Any], length: int) -> str:
    """By a short run of each that fits."""
    names = ATTENTIONS[length]
    if len(names) == 1:
        return names[0]
    peer = job | {"what": "peer", "sparse": True, "grouped": True, "padded_tokens": 2048, "most_seconds": 8.0}
    rates = {name: _run(peer | {"attention": name})["tokens_per_s"] for name in names}
    print("  peer's attention: " + ", ".join(f"{k} {v:.0f} tokens/s" for k, v in rates.items()), flush=True)
    return max(rates, key=lambda name: rates[name])


def _row(name: str, result: dict[str, Any]) -> dict[str, Any]:
    print(f"  {name:<36} {result['tokens_per_s']:8.0f} tokens/s  {result['peak_mb']:8.0f} MB", flush=True)
    return {"name": name, **result}


def _run(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, "--worker", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{job['what']}: failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    samples, folder = load_samples(Path(job["samples"])), Path(job["folder"])
    most_seconds = job.get("most_seconds", SECONDS)
    if job["what"] == "check":
        short = sorted(samples, key=len)[2:5]
        return models.deviations(job["shape"], folder, short)
    if job["what"] == "ours":
        batches = models.our_batches(samples, job["pack_tokens"])
        encoder = models.load_ours(job["shape"], folder)
        done = list(models.timed(encoder, batches, models.our_pass, most_seconds))
    else:
        fitting = [sample for sample in samples if len(sample) <= job.get("longest", len(sample))]
        batches = models.peer_batches(fitting, job["padded_tokens"], job["grouped"])
        peer = models.load_peer(folder, job["attention"], job["sparse"])
        done = list(models.timed(peer, batches, models.peer_pass, most_seconds))
    tokens, seconds = sum(each[0] for each in done), sum(each[1] for each in done)
    result = {"tokens_per_s": tokens / seconds, "tokens": tokens, "seconds": seconds, "peak_mb": peak_megabytes()}
    if job["what"] == "ours":
        shape = models.SHAPES[job["shape"]]
        seen = [sample for batch in models.in_random_order(batches)[: len(done)] for sample in batch]
        rows = sum(int((sample.labels >= 0).sum()) for sample in seen)
        result["gflops"] = training_flops(shape, [len(sample) for sample in seen], rows) / seconds / 1e9
        result["ceiling_gflops"] = ceiling_gflops(shape, job["pack_tokens"], rows // len(done))
    return result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="folder of text files")
    parser.add_argument("--tokenizer", type=Path, help="folder of tools/train_tokenizer.py; may have fewer pieces")
    parser.add_argument("--shape", choices=list(models.SHAPES), default="small", help="base4: 4 layers of base (small)")
    parser.add_argument("--lengths", type=int, nargs="+", choices=list(RATIOS), default=list(RATIOS))
    parser.add_argument("--documents", type=int, default=1500, help="documents that the samples stand for (1500)")
    parser.add_argument("--memory-gb", type=float, default=18.0, help="what the dense peer's logits may take (18)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.worker and not (args.corpus and args.tokenizer):
        raise UserError("--corpus and --tokenizer are needed; see --help")
    return args


if __name__ == "__main__":
    run_command(main)
