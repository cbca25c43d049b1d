"""The check of an export: logits by transformers and by this project's encoder on samples that show each mistake.

Lengths lie on both sides of the local window, so that a wrong theta, a window off by one, a transposed QKV or a tanh
GELU each moves the logits by far more than rounding does.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import torch
from torch import Tensor

from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors
from megatron_mmbert.checkpoint.training_state import load_weights
from megatron_mmbert.convert.hf_logits import Answer, ask_transformers
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.parallel.runtime import current
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.utils.errors import UserError

TOLERANCE = 1e-4
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "いろはにほへと ちりぬるを",
    "نص حكيم له سر قاطع",
    "def f(x):\n    return x  # two  spaces,\ta tab, 🦊",
)


def check_parity(folder: Path, tensors: CheckpointTensors, tokenizer: Tokenizer | None = None) -> float:
    """Return the largest logit difference between ``folder``, loaded by transformers, and the checkpoint's encoder.

    Args:
        tokenizer: the checkpoint's; if given, texts are compared too, and ``AutoTokenizer`` must give its ids.

    Raises:
        UserError: transformers is missing, cannot load the folder whole, or differs by more than ``TOLERANCE``.
    """
    samples = random_samples(tensors.meta)
    texts = list(TEXTS) if tokenizer is not None else []
    text_ids = [[tokenizer.bos_id, *tokenizer.encode(t), tokenizer.eos_id] for t in texts] if tokenizer else []
    samples += [ids[: tensors.meta.max_length] for ids in text_ids]
    device = current().device
    answer = ask_transformers(folder, samples, texts, str(device))
    if tokenizer is not None:
        _check_ids(folder, tokenizer, text_ids, answer)
    ours = our_logits(tensors, [torch.tensor(ids, device=device) for ids in samples])
    largest = 0.0
    for ours_TV, theirs_TV in zip(ours, answer.logits, strict=True):
        largest = max(largest, _nan_is_far((ours_TV.cpu() - theirs_TV).abs().max().item()))
    if not largest <= TOLERANCE:
        raise UserError(
            f"{folder}: logits differ from the checkpoint's by up to {largest:.2e}, above {TOLERANCE:g}, so nothing "
            "was kept; config.json and weights may be of two models"
        )
    return largest


def random_samples(meta: CheckpointMeta) -> list[list[int]]:
    """Return random ids of lengths from 1 to well beyond the local window, within the model's longest sample."""
    window = meta.model.window_each_side
    lengths = {1, 2, window, window + 1, window + 2, 2 * window + 3, 4 * window + 9}
    draw = torch.Generator().manual_seed(0)
    fitting = sorted({min(length, meta.max_length) for length in lengths})
    return [torch.randint(meta.model.vocab_size, (length,), generator=draw).tolist() for length in fitting]


def our_logits(tensors: CheckpointTensors, samples: list[Tensor]) -> list[Tensor]:
    """Return logits [T, V] of each sample by this project's encoder in fp32, all samples in one pack."""
    encoder = load_encoder(tensors)
    boundaries = list(itertools.accumulate(map(len, samples), initial=0))
    device = samples[0].device
    packed = PackedSequences.of(torch.tensor(boundaries, dtype=torch.int32, device=device), max(map(len, samples)))
    with torch.inference_mode():
        hidden_T1D = encoder(torch.cat(samples), packed)
        return [encoder.logits(hidden_T1D[start:end]) for start, end in itertools.pairwise(boundaries)]


def load_encoder(tensors: CheckpointTensors) -> Encoder:
    """Return the checkpoint's encoder in fp32, on this process's device, for evaluation."""
    meta = tensors.meta
    encoder = Encoder(encoder_config(meta.model, meta.rope_theta, meta.rope_theta_local), meta.model.vocab_size)
    load_weights(encoder, {name: tensors.load(name) for name in tensors.names()}, tensors.path)
    return encoder.to(current().device).eval()


def _check_ids(folder: Path, tokenizer: Tokenizer, ours: list[list[int]], answer: Answer) -> None:
    """Refuse a folder whose ``AutoTokenizer`` has another mask token or gives other ids."""
    if answer.mask_id != tokenizer.mask_id:
        raise UserError(f"{folder}: AutoTokenizer's mask id is {answer.mask_id}, ours {tokenizer.mask_id}")
    for text, expected, given in zip(TEXTS, ours, answer.text_ids, strict=True):
        if given != expected:
            raise UserError(
                f"{folder}: AutoTokenizer gives {given[:8]}… for {text[:20]!r} and our tokenizer {expected[:8]}…, so "
                "nothing was kept; give the tokenizer's .model file"
            )


def _nan_is_far(value: float) -> float:
    """Return NaN as infinity: a comparison with NaN must fail, and ``max`` would lose it."""
    return value if math.isfinite(value) else math.inf
