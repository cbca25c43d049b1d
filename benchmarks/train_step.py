"""Training tokens/s (forward and backward): our encoder and transformers' ModernBERT, same weights and texts.

    OMP_NUM_THREADS=2 python benchmarks/train_step.py --corpus DIR --tokenizer DIR --shape small

Three cases: documents up to 1,024 tokens, up to 8,192, and such of 6,000 to 8,192 alone. The samples stand for the
documents' lengths. Only real tokens count. Ours trains on packs, with light recompute. The peer runs (1) as its own
MLM training runs it: documents in random order, padded batches, dense head; (2) at its best: grouped by length,
``sparse_prediction``, the best of several batch sizes and attentions, which a shorter run of each finds; (3) the same
once more, with what ours sets for the whole process: the allocator, and the library of fp32 products. Each is a process
of its own, so that its peak memory is its own, and is compared with ours batch by batch in turn. Dense logits of n
padded tokens take three times n x 256,000 x 4 bytes, so samples that do not fit ``--memory-gb`` alone are left out of
(1), which only helps its rate. The optimizer is left out on both sides. Loss and gradients are compared on one batch
first. Writes docs/results/train_step-SHAPE.json, with ``--dtype bf16`` train_step-SHAPE-bf16.json, in which cases that
are not run stay as they are.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlm_models as models
import numpy as np
import torch
from in_turn import Runner, in_turn, serve
from mlm_samples import Sample, load_samples, masked, pieces, representative, save_samples, texts_of
from mm_ceiling import ceiling_work
from results import machine, read, save

from megatron_mmbert import parallel
from megatron_mmbert.kernels import fp32_matmul
from megatron_mmbert.model.flops import training_flops
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.errors import UserError, run_command

SECONDS_TO_CHOOSE = 20.0  # of each side of a comparison that finds the peer's best configuration
LOSS_MAY_DIFFER = {"fp32": 1e-4, "bf16": 1e-2}
GRADIENTS_MAY_DIFFER = 1e-3  # in fp32, relative to their norms
ROUNDING_MAY_DIFFER = 1.25  # in bf16: of our gradients, as a multiple of the peer's
DENSE_COPIES = 3.2  # logits, their softmax and its gradient, and what else is there
# What megatron_mmbert.parallel.cpu_mode asks of glibc, for the peer.
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
        attentions: of the peer, each with the smallest of ``padded``, the first with all. Eager keeps every layer's
            scores for the backward pass: 35 GB for one sample of 8,192.
        seconds: at most, of each side of a comparison, which else goes through all batches, in random order.
    """

    longest: int
    ratio: float
    samples: int
    pack_tokens: int
    padded: tuple[int, ...]
    dense: tuple[int, ...]
    shortest: int = 1
    attentions: tuple[str, ...] = ("sdpa",)
    seconds: float = 120.0


CASES = {
    "1024": Case(1024, 0.30, 24, 1536, (2048, 4096), (2048,), attentions=("sdpa", "eager"), seconds=240.0),
    "8192": Case(8192, 0.15, 16, 4096, (2048, 8192), (2048, 5120)),
    "8192-long": Case(8192, 0.15, 4, 4096, (8192,), (), shortest=6000),
}


def main() -> None:
    args = _arguments()
    if args.worker:
        _work(json.loads(args.worker))
        return
    with tempfile.TemporaryDirectory() as scratch:
        _compare(args, Path(scratch))


def _compare(args: argparse.Namespace, scratch: Path) -> None:
    models.make_peer(args.shape, scratch / "model")
    tokenizer = load_tokenizer(args.tokenizer)
    documents = [tokenizer.encode(text) for text in texts_of(args.corpus, args.documents)]
    name = models.result_name(f"train_step-{args.shape}", args.dtype)
    figures: dict[str, Any] = {"shape": args.shape, "dtype": args.dtype, "cases": {}, **read(name)}
    for case_name in args.cases:
        case = CASES[case_name]
        rng = np.random.default_rng(case.longest)
        fitting = [p for each in documents for p in pieces(each, case.longest, tokenizer) if len(p) >= case.shortest]
        chosen = representative(fitting, case.samples)
        samples = [masked(chosen[i], case.ratio, tokenizer, rng) for i in rng.permutation(len(chosen))]
        save_samples(scratch / f"{case_name}.npz", samples)
        job = {"shape": args.shape, "dtype": args.dtype, "case": case_name, "folder": str(scratch / "model")}
        job |= {"samples": str(scratch / f"{case_name}.npz"), "seconds": args.seconds or case.seconds}
        on = {"machine": machine("torch", "transformers", "megatron-core"), "threads": torch.get_num_threads()}
        on["our_fp32_products"] = fp32_matmul.backend()
        figures["cases"][case_name] = on | _one_case(job, samples, args.memory_gb)
        if args.shape != "tiny":
            print(f"wrote {save(name, figures)}", flush=True)


def _one_case(job: dict[str, Any], samples: list[Sample], memory_gb: float) -> dict[str, Any]:
    case = CASES[job["case"]]
    print(f"\n{job['shape']}, {job['case']}: {len(samples)} samples, {sum(map(len, samples)):,} tokens", flush=True)
    with Runner(Path(__file__), job | {"what": "check"}) as check:
        same = check.batch()
    _require_same(same, job["dtype"])
    longest_dense = int(memory_gb * 1e9 / DENSE_COPIES / 4 / models.SHAPES[job["shape"]].vocab_size)
    with Runner(Path(__file__), job | {"what": "ours"}) as ours:
        ceiling = _against_ceiling(ours, job, 30.0)
        budgets = [budget for budget in case.dense if budget <= longest_dense]
        dense_jobs = [job | {"sparse": False, "padded_tokens": budget, "longest": longest_dense} for budget in budgets]
        dense = _against_best(ours, dense_jobs, job["seconds"]) if dense_jobs else None
        ways = [(case.attentions[0], budget) for budget in case.padded]
        ways += [(attention, case.padded[0]) for attention in case.attentions[1:]]
        sparse_jobs = [job | {"sparse": True, "padded_tokens": budget, "attention": name} for name, budget in ways]
        best = _against_best(ours, sparse_jobs, job["seconds"])
        helped = _against_peer(ours, best["job"] | {"our_settings": True}, job["seconds"] / 2)
        our_peak = ours.peak_mb()
    ratios = {"over_padded_dense": _ratio(dense)} if dense else {}
    ratios |= {
        "over_best": _ratio(best),
        "over_best_with_our_settings": _ratio(helped),
        "memory_of_best": our_peak / best["peak_mb"],
        "share_of_mm_ceiling": ceiling["gflops"] / ceiling["ceiling_gflops"],
    }
    listed = ", ".join(f"{name} {value:.2f}" for name, value in ratios.items())
    print(f"  ours: {our_peak:.0f} MB; {listed}", flush=True)
    rows = {"dense": dense, "best": best, "best_with_our_settings": helped}
    for row in filter(None, rows.values()):
        row.pop("job")
    same |= {"sample_lengths": sorted(map(len, samples)), "our_peak_mb": our_peak, "ceiling": ceiling}
    return same | rows | {"ratios": ratios}


def _require_same(found: dict[str, float], dtype: models.Dtype) -> None:
    print(f"  loss differs by {found['loss_difference']:.1e}, gradients by {found['worst_gradient_difference']:.1e}")
    same = found["loss_difference"] <= LOSS_MAY_DIFFER[dtype]
    if dtype == "fp32":
        same &= found["worst_gradient_difference"] <= GRADIENTS_MAY_DIFFER
    else:
        print(f"  from fp32's: our gradients by {found['our_rounding']:.1e}, theirs by {found['their_rounding']:.1e}")
        same &= found["our_rounding"] <= ROUNDING_MAY_DIFFER * found["their_rounding"]
    if not same:
        raise UserError(f"the two models disagree ({found}); their speeds are not comparable")


def _against_best(ours: Runner, jobs: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Against the job that comes off best in a shorter comparison."""
    if len(jobs) > 1:
        jobs = [min((_against_peer(ours, job, SECONDS_TO_CHOOSE) for job in jobs), key=_ratio)["job"]]
    return _against_peer(ours, jobs[0], seconds)


def _against_ceiling(ours: Runner, job: dict[str, Any], seconds: float) -> dict[str, float]:
    with Runner(Path(__file__), job | {"what": "mm"}) as products:
        own, plain = in_turn(ours, products, seconds)
    gflops, most = own.per_second("gflops"), plain.per_second("gflops")
    print(f"  ours {gflops:.0f} GFLOP/s, torch.mm {most:.0f}", flush=True)
    return {"gflops": gflops, "ceiling_gflops": most, "our_tokens_per_s": own.per_second("tokens")}


def _against_peer(ours: Runner, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    job = {"attention": "sdpa", "our_settings": False} | job | {"what": "peer"}
    with Runner(Path(__file__), job, OUR_ALLOCATOR if job["our_settings"] else None) as peer:
        own, theirs = in_turn(ours, peer, seconds)
        peak_mb = peer.peak_mb()
    way = "grouped, sparse" if job["sparse"] else "padded, dense"
    name = f"{way}, {job['attention']}, {job['padded_tokens']}" + (", our settings" if job["our_settings"] else "")
    row = {"name": name, "tokens_per_s": theirs.per_second("tokens"), "seconds": theirs.seconds, "peak_mb": peak_mb}
    row |= {"our_tokens_per_s": own.per_second("tokens"), "our_seconds": own.seconds}
    print(
        f"  {name:<52} {row['tokens_per_s']:6.0f} tokens/s {peak_mb:8.0f} MB; ours in turn "
        f"{row['our_tokens_per_s']:6.0f}: {_ratio(row):.2f} times",
        flush=True,
    )
    return row | {"job": job}


def _ratio(row: dict[str, Any]) -> float:
    return float(row["our_tokens_per_s"] / row["tokens_per_s"])


def _work(job: dict[str, Any]) -> None:
    samples, folder = load_samples(Path(job["samples"])), Path(job["folder"])
    shape, dtype, packs = job["shape"], job["dtype"], models.our_batches(samples, CASES[job["case"]].pack_tokens)
    if job["what"] == "check":
        shortest = models.peer_batches(samples, 2048, grouped=True)[0]
        serve(lambda: models.deviations(shape, folder, shortest, dtype), 1)
    elif job["what"] == "mm":
        tokens = sum(map(len, samples)) // len(packs)
        rows = sum(map(_scored, samples)) // len(packs)
        parallel.enable_cpu_mode()  # for the allocator's settings
        work = functools.partial(ceiling_work, models.SHAPES[shape], tokens, rows, dtype=models.DTYPES[dtype])
        work()
        serve(work, 1)
    elif job["what"] == "ours":
        _serve_passes(models.load_ours(shape, folder, "light", dtype), packs, models.our_pass, shape)
    else:
        if job["our_settings"]:
            fp32_matmul.use_fastest()
        fitting = [sample for sample in samples if len(sample) <= job.get("longest", len(sample))]
        batches = models.peer_batches(fitting, job["padded_tokens"], grouped=job["sparse"])
        peer = models.load_peer(folder, job["attention"], job["sparse"], dtype)
        _serve_passes(peer, batches, models.peer_pass, shape)


def _serve_passes(model: torch.nn.Module, batches: list[list[Sample]], one_pass: Any, shape: str) -> None:
    """Batches in random order, again and again, after the smallest to warm up."""
    one_pass(model, min(batches, key=lambda batch: sum(map(len, batch))))
    order = itertools.cycle(models.in_random_order(batches))

    def batch() -> dict[str, float]:
        samples = next(order)
        model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        one_pass(model, samples)
        seconds = time.perf_counter() - start
        lengths, rows = [len(sample) for sample in samples], sum(map(_scored, samples))
        gflops = training_flops(models.SHAPES[shape], lengths, rows) / 1e9
        return {"seconds": seconds, "tokens": float(sum(lengths)), "gflops": gflops}

    serve(batch, len(batches))


def _scored(sample: Sample) -> int:
    return int((sample.labels >= 0).sum())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="folder of text files")
    parser.add_argument("--tokenizer", type=Path, help="folder of tools/train_tokenizer.py; may have fewer pieces")
    parser.add_argument("--shape", choices=list(models.SHAPES), default="small", help="base4: 4 layers of base (small)")
    parser.add_argument("--dtype", choices=list(models.DTYPES), default="fp32", help="of both sides (fp32)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seconds", type=float, help="of each side of a comparison at most (the case's own)")
    parser.add_argument("--documents", type=int, default=1500, help="documents that the samples stand for (1500)")
    parser.add_argument("--memory-gb", type=float, default=16.0, help="what the dense peer's logits may take (16)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.worker and not (args.corpus and args.tokenizer):
        raise UserError("--corpus and --tokenizer are needed; see --help")
    return args


if __name__ == "__main__":
    run_command(main)
