"""What plain ``torch.mm`` reaches at the model's own shapes: the ceiling that a training step is measured against."""

from __future__ import annotations

import time

import torch

from megatron_mmbert.config.model import ModelConfig

_HEAD_ROWS = {"cpu": 512, "cuda": 4096}


def ceiling_work(
    model: ModelConfig,
    tokens: int,
    scored_rows: int,
    repeats: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """``gflops`` (10^9 operations) and ``seconds`` of all matrix products of one step over a pack (forward, and
    backward by input and by weight), each at its best of ``repeats``; attention, which is no product of these, is not
    among them."""
    width, inner = model.hidden_size, model.ffn_hidden_size
    body = [(width, 3 * width), (width, width), (width, 2 * inner), (inner, width)]
    shapes = [(tokens, k, n, float(model.num_layers)) for k, n in body]
    rows = min(_HEAD_ROWS[device], scored_rows)
    shapes.append((rows, width, model.vocab_size, scored_rows / rows))
    flops = seconds = 0.0
    for m, k, n, times in shapes:
        x, w, y = (torch.randn(*size, device=device, dtype=dtype) for size in ((m, k), (n, k), (m, n)))
        for left, right, out in ((x, w.t(), y), (y, w, x), (y.t(), x, w)):
            seconds += times * min(_seconds(left, right, out) for _ in range(repeats))
            flops += times * 2.0 * m * k * n
    return {"gflops": flops / 1e9, "seconds": seconds}


def _seconds(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> float:
    """Into memory that is there: else clearing new pages counts, half of the time of the head's products."""
    if left.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    torch.mm(left, right, out=out)
    if left.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
