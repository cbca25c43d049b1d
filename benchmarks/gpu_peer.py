"""transformers' ModernBERT on the GPU: its training tokens/s on our samples, equal logits, and encoding beside ours."""

from __future__ import annotations

import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_packs import samples_of_pack
from gpu_scale import RATIOS, Scale
from mlm_models import THETA, peer_batches, peer_config
from mlm_samples import IGNORED, Sample
from torch import Tensor

from megatron_mmbert.attention import AUTO
from megatron_mmbert.attention.selection import sequence_layout
from megatron_mmbert.convert.import_hf import read_tensors
from megatron_mmbert.inference.network import Network
from megatron_mmbert.inference.run import encode_ids

PADDED_TOKENS = {"sparse": 32_768, "dense": 8_192}
"""Of a batch: logits of 32,768 tokens, 30 % of them scored, take 30 GB with their copies; dense of 8,192 take 25."""
_SEQUENCES = 64  # of a batch in inference


def training(
    scale: Scale,
    shape: str,
    length: int,
    attention: str,
    head: str = "sparse",
    full: bool = True,
    compiled: bool = False,
) -> Any:
    """Tokens/s of forward, backward and AdamW, weights in bf16; batches grouped by length; only real tokens count.

    Args:
        attention: transformers' name of an implementation.
        head: ``sparse`` (scored rows alone, its ``sparse_prediction``) or ``dense``.
    """
    from transformers import ModernBertForMaskedLM

    torch.manual_seed(1)
    if scale.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    config = peer_config(scale.model(shape))
    config._attn_implementation = attention
    model = ModernBertForMaskedLM(config).to(scale.device, scale.dtype).train()
    model.sparse_prediction = head == "sparse"
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=scale.device == "cuda")
    step = torch.compile(model) if compiled else model
    vocabulary, ratio = scale.model(shape).vocab_size, RATIOS[length]
    tokens = min(PADDED_TOKENS[head], scale.pack_tokens)
    samples = [
        each
        for number in range(scale.micro_batches)
        for each in samples_of_pack(number, scale.pack_tokens, scale.length(length), vocabulary, ratio, full)
    ]
    batches = [_batch(each, scale.device) for each in peer_batches(samples, tokens, grouped=True)]
    seconds = [_step(step, optimizer, batches) for _ in range(2 + max(2, scale.steps // 2))][2:]
    peak = None if scale.device == "cpu" else torch.cuda.max_memory_allocated() / 2**30
    del model, optimizer, step
    _give_back(scale)
    real = sum(map(len, samples))
    return {"tokens_per_s": real / statistics.median(seconds), "batches": len(batches), "peak_gib": peak}


def _step(model: Any, optimizer: torch.optim.Optimizer, batches: list[dict[str, Tensor]]) -> float:
    """Seconds of one update over all batches."""
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
    optimizer.step()
    if not torch.isfinite(loss):  # waits for the device
        raise RuntimeError(f"the peer's loss is {loss.item()}")
    return time.perf_counter() - start


def _batch(samples: Sequence[Sample], device: str) -> dict[str, Tensor]:
    """Padded, with a mask only where there is padding."""
    longest = max(map(len, samples))
    ids, mask = np.zeros((len(samples), longest), np.int64), np.zeros((len(samples), longest), np.int64)
    labels = np.full((len(samples), longest), IGNORED)
    for row, each in enumerate(samples):
        ids[row, : len(each)], labels[row, : len(each)], mask[row, : len(each)] = each.ids, each.labels, 1
    arrays = {"input_ids": ids, "labels": labels} | ({} if mask.all() else {"attention_mask": mask})
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def same_logits(scale: Scale, shape: str) -> Any:
    """Largest relative difference of logits in fp32, on samples of many lengths, both on this device."""
    peer, ours = _both(scale, shape, torch.float32)
    rng = np.random.default_rng(0)
    lengths = [scale.length(each) for each in (16, 160, 1024, 1040, 8192)]
    samples = [rng.integers(5, scale.model(shape).vocab_size, each) for each in lengths]
    layout = sequence_layout(lengths, scale.device)
    ids = torch.from_numpy(np.concatenate(samples)).to(scale.device)
    worst = 0.0
    with torch.inference_mode():
        hidden = ours.hidden(ids, layout)
        for (start, stop), sample in zip(layout.bounds, samples, strict=True):
            rows = torch.arange(0, len(sample), max(1, len(sample) // 64), device=scale.device)
            tokens = torch.from_numpy(sample).to(scale.device)[None]
            theirs = peer(input_ids=tokens).logits[0][rows].log_softmax(-1)
            label = theirs.argmax(-1)
            found = ours.log_probabilities(hidden[start:stop][rows], label)
            expected = theirs.gather(1, label[:, None])[:, 0]
            worst = max(worst, float(((found - expected).abs() / expected.abs().clamp_min(1)).max()))
    del peer, ours
    _give_back(scale)
    return {"worst_relative_difference": worst, "lengths": lengths}


def inference(scale: Scale, shape: str) -> Any:
    """Texts of 8 to 512 tokens encoded by ours (packed) and the peer (sorted, padded), and documents of 8,192."""
    peer, ours = _both(scale, shape, scale.dtype)
    rng = np.random.default_rng(0)
    vocabulary, longest = scale.model(shape).vocab_size, scale.length(512)
    texts = [rng.integers(5, vocabulary, size).tolist() for size in rng.integers(8, longest + 1, scale.texts)]
    documents = [rng.integers(5, vocabulary, scale.length(8192)).tolist() for _ in range(8)]
    rates = {}
    for name, each in (("up to 512", texts), ("8192", documents)):
        tokens = sum(map(len, each))
        rates[f"ours, {name}"] = tokens / _best(partial(encode_ids, ours, each, pack_tokens=scale.pack_tokens))
        rates[f"transformers, {name}"] = tokens / _best(partial(_padded, peer.model, each, scale.device))
    del peer, ours
    _give_back(scale)
    return {"tokens_per_s": rates, "texts": len(texts)}


def _both(scale: Scale, shape: str, dtype: torch.dtype) -> tuple[Any, Network]:
    from transformers import ModernBertForMaskedLM

    torch.manual_seed(1)
    model = scale.model(shape)
    with tempfile.TemporaryDirectory() as folder:
        peer = ModernBertForMaskedLM(peer_config(model))
        peer.save_pretrained(folder)
        tensors = read_tensors(Path(folder), model)
    network = Network(model, (THETA, THETA), tensors, torch.device(scale.device), dtype, AUTO)
    return peer.to(scale.device, dtype).eval(), network


@torch.inference_mode()
def _padded(model: Any, samples: Sequence[Sequence[int]], device: str) -> Tensor:
    parts = []
    ordered = sorted(samples, key=len)
    for start in range(0, len(ordered), _SEQUENCES):
        batch = ordered[start : start + _SEQUENCES]
        longest = max(map(len, batch))
        padded = [list(itertools.chain(each, itertools.repeat(0, longest - len(each)))) for each in batch]
        ids = torch.tensor(padded, device=device)
        sizes = torch.tensor(list(map(len, batch)), device=device)
        mask = (torch.arange(longest, device=device)[None] < sizes[:, None]).long()
        hidden = model(input_ids=ids, attention_mask=None if longest == len(batch[0]) else mask).last_hidden_state
        parts.append(((hidden * mask[:, :, None]).sum(1).float() / sizes[:, None]).cpu())
    return torch.cat(parts)


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()  # ends with its result on the host
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _give_back(scale: Scale) -> None:
    gc.collect()
    if scale.device == "cuda":
        torch.cuda.empty_cache()
