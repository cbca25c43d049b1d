"""Training tokens/s (forward and backward, fp32): our encoder and transformers' ModernBERT, same weights and texts.

    OMP_NUM_THREADS=2 python benchmarks/train_step.py --corpus DIR --tokenizer DIR --shape small
    OMP_NUM_THREADS=2 python benchmarks/train_step.py --corpus DIR --tokenizer DIR --shape base4

Three cases: documents up to 1,024 tokens, up to 8,192, and such of 6,000 to 8,192 alone. The samples stand for the
documents' lengths. Only real tokens count. Ours trains on packs, with light recompute. The peer runs (1) as its own
MLM training runs it: documents in random order, padded batches, dense head; (2) at its best: grouped by length,
``sparse_prediction``, its fastest attention; (3) the best of these once more, with the allocator set as ours sets it.
Both peers get the best of several batch sizes that fit ``--memory-gb``: dense logits of n padded tokens take three
times n x 256,000 x 4 bytes, so samples that do not fit alone are left out of (1), which only helps its rate. Every
measurement is a process of its own, so that its peak memory is its own. Ours and the peer's best are measured again at
the end, and the faster of both counts, as another program's work comes and goes. The optimizer is left out on both
sides. Loss and gradients are compared on one batch first. Writes docs/results/train_step-SHAPE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
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

DENSE_COPIES = 3.2  # logits, their softmax and its gradient, and what else is there
# What megatron_mmbert.parallel.cpu_backend asks of glibc, for the peer.
OUR_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**27),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}


@dataclass(frozen=True)
class Case:
    """What is trained on, and in which batches.

    Attributes:
        longest, shortest: samples' lengths in tokens; longer documents are cut into even pieces.
        ratio: of masked tokens.
        samples: how many stand for all.
        pack_tokens: ours; a longer sample is a pack of its own.
        padded, dense: batch sizes to try for the peer, in padded tokens; no dense ones where no sample fits.
        attentions: of the peer. Eager keeps every layer's scores for the backward pass: 35 GB for one sample of 8,192.
        seconds: at most, of each measurement, whose batches come in random order.
    """

    longest: int
    ratio: float
    samples: int
    pack_tokens: int
    padded: tuple[int, ...]
    dense: tuple[int, ...]
    shortest: int = 1
    attentions: tuple[str, ...] = ("sdpa",)
    seconds: float = 200.0


CASES = {
    "1024": Case(1024, 0.30, 24, 1536, (2048, 4096), (2048, 4096), attentions=("sdpa", "eager"), seconds=40.0),
    "8192": Case(8192, 0.15, 16, 4096, (2048, 8192), (2048, 5120)),
    "8192-long": Case(8192, 0.15, 4, 4096, (8192,), (), shortest=6000),
}


def main() -> None:
    args = _arguments()
    if args.worker:
        print(json.dumps(_measure(json.loads(args.worker))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        _compare(args, Path(scratch))


def _compare(args: argparse.Namespace, scratch: Path) -> None:
    models.make_peer(args.shape, scratch / "model")
    tokenizer = load_tokenizer(args.tokenizer)
    documents = tokenizer.encode_batch(texts_of(args.corpus, args.documents))
    figures: dict[str, Any] = {"machine": machine("torch", "transformers", "megatron-core"), "shape": args.shape}
    figures |= {"threads": torch.get_num_threads(), "dtype": "float32", "cases": {}}
    for name in args.cases:
        case = CASES[name]
        rng = np.random.default_rng(case.longest)
        fitting = [p for each in documents for p in pieces(each, case.longest, tokenizer) if len(p) >= case.shortest]
        chosen = representative(fitting, case.samples)
        samples = [masked(chosen[i], case.ratio, tokenizer, rng) for i in rng.permutation(len(chosen))]
        save_samples(scratch / f"{name}.npz", samples)
        job = {"shape": args.shape, "folder": str(scratch / "model"), "samples": str(scratch / f"{name}.npz")}
        figures["cases"][name] = _one_case(job | {"case": name}, samples, args.memory_gb)
        if args.shape != "tiny":
            print(f"wrote {save(f'train_step-{args.shape}', figures)}", flush=True)


def _one_case(job: dict[str, Any], samples: list[Sample], memory_gb: float) -> dict[str, Any]:
    case = CASES[job["case"]]
    tokens = sum(map(len, samples))
    print(f"\n{job['shape']}, {job['case']}: {len(samples)} samples, {tokens:,} tokens", flush=True)
    same = _run(job | {"what": "check"})
    print(f"  loss differs by {same['loss_difference']:.1e}, gradients by {same['worst_gradient_difference']:.1e}")
    if same["loss_difference"] > 1e-4 or same["worst_gradient_difference"] > 1e-3:
        raise UserError(f"the two models disagree ({same}); their speeds are not comparable")
    ours = _row("ours, packed", _run(job | {"what": "ours"}))
    vocab = models.SHAPES[job["shape"]].vocab_size
    longest_dense = int(memory_gb * 1e9 / DENSE_COPIES / 4 / vocab)
    dense, sparse = [], []
    for budget in (budget for budget in case.dense if budget <= longest_dense):
        peer = job | {"what": "peer", "attention": "sdpa", "padded_tokens": budget, "longest": longest_dense}
        dense.append(_row(f"peer, padded, dense, {budget}", _run(peer | {"sparse": False, "grouped": False})))
    attention = _fastest_attention(job, case)
    for budget in case.padded:
        peer = job | {"what": "peer", "attention": attention, "padded_tokens": budget, "sparse": True, "grouped": True}
        sparse.append(_row(f"peer, grouped, sparse, {attention}, {budget}", _run(peer)))
    best = _again(max(sparse, key=_rate))
    allocated = _row("peer, the best, our allocator setting", _run(best["job"], OUR_ALLOCATOR))
    ours = _again(ours)
    ratios = {"over_padded_dense": ours["tokens_per_s"] / max(map(_rate, dense))} if dense else {}
    ratios |= {
        "over_best": ours["tokens_per_s"] / best["tokens_per_s"],
        "over_best_with_our_allocator": ours["tokens_per_s"] / allocated["tokens_per_s"],
        "memory_of_best": ours["peak_mb"] / best["peak_mb"],
        "share_of_mm_ceiling": ours["gflops"] / ours["ceiling_gflops"],
    }
    print("  " + ", ".join(f"{name} {value:.2f}" for name, value in ratios.items()), flush=True)
    rows = {"ours": ours, "best": best, "dense": dense, "sparse": sparse, "best_with_our_allocator": allocated}
    for row in (ours, best, *dense, *sparse, allocated):
        row.pop("job", None)
    return {"sample_lengths": sorted(map(len, samples)), "same": same, **rows, "ratios": ratios}


def _fastest_attention(job: dict[str, Any], case: Case) -> str:
    """By a short run of each that fits."""
    names = case.attentions
    if len(names) == 1:
        return names[0]
    peer = job | {"what": "peer", "sparse": True, "grouped": True, "padded_tokens": 2048, "most_seconds": 8.0}
    rates = {name: _run(peer | {"attention": name})["tokens_per_s"] for name in names}
    print("  peer's attention: " + ", ".join(f"{k} {v:.0f} tokens/s" for k, v in rates.items()), flush=True)
    return max(rates, key=lambda name: rates[name])


def _again(row: dict[str, Any]) -> dict[str, Any]:
    """The faster of ``row`` and the same measured once more."""
    return max(row, _row(f"{row['name']}, again", _run(row["job"])), key=_rate)


def _rate(row: dict[str, Any]) -> float:
    return float(row["tokens_per_s"])


def _row(name: str, result: dict[str, Any]) -> dict[str, Any]:
    print(f"  {name:<36} {result['tokens_per_s']:8.0f} tokens/s  {result['peak_mb']:8.0f} MB", flush=True)
    return {"name": name, **result}


def _run(job: dict[str, Any], settings: dict[str, str] | None = None) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, "--worker", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (settings or {}))
    if done.returncode:
        raise UserError(f"{job['what']}: failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result | {"job": job}


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    samples, folder = load_samples(Path(job["samples"])), Path(job["folder"])
    case = CASES[job["case"]]
    most_seconds = job.get("most_seconds", case.seconds)
    if job["what"] == "check":
        shortest = models.peer_batches(samples, 2048, grouped=True)[0]
        return models.deviations(job["shape"], folder, shortest)
    if job["what"] == "ours":
        batches = models.our_batches(samples, case.pack_tokens)
        encoder = models.load_ours(job["shape"], folder, "light")
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
        result["ceiling_gflops"] = ceiling_gflops(shape, tokens // len(done), rows // len(done))
    return result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="folder of text files")
    parser.add_argument("--tokenizer", type=Path, help="folder of tools/train_tokenizer.py; may have fewer pieces")
    parser.add_argument("--shape", choices=list(models.SHAPES), default="small", help="base4: 4 layers of base (small)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--documents", type=int, default=1500, help="documents that the samples stand for (1500)")
    parser.add_argument("--memory-gb", type=float, default=18.0, help="what the dense peer's logits may take (18)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.worker and not (args.corpus and args.tokenizer):
        raise UserError("--corpus and --tokenizer are needed; see --help")
    return args


if __name__ == "__main__":
    run_command(main)
