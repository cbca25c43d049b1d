"""Our encoder and transformers' ModernBERT with the same weights, and one pass of each over masked samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlm_samples import IGNORED, Sample

from megatron_mmbert import parallel
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import ParallelConfig, Recompute
from megatron_mmbert.config.precision import Dtype, PrecisionConfig
from megatron_mmbert.convert.name_mapping import hf_names, reorder_rows_for_megatron
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.packed_sequences import PackedSequences

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
THETA = 10_000.0
SHAPES = {
    "small": ModelConfig(num_layers=22, hidden_size=384, num_attention_heads=6, attention_output_dropout=0.0),
    "base4": ModelConfig(num_layers=4, hidden_size=768, num_attention_heads=12, attention_output_dropout=0.0),
    "tiny": ModelConfig(num_layers=4, hidden_size=64, ffn_hidden_size=96, num_attention_heads=2, vocab_size=32_768),
}


def result_name(benchmark: str, dtype: Dtype) -> str:
    """What a benchmark's results in ``dtype`` are called; fp32 is not named."""
    return benchmark if dtype == "fp32" else f"{benchmark}-{dtype}"


def make_peer(shape: str, folder: Path) -> None:
    """A model folder of transformers with random weights."""
    from transformers import ModernBertForMaskedLM

    no_progress_bars()
    torch.manual_seed(1)
    ModernBertForMaskedLM(peer_config(SHAPES[shape])).save_pretrained(folder)


def peer_config(model: ModelConfig) -> Any:
    """transformers' configuration of a ModernBERT of that shape."""
    from transformers import ModernBertConfig

    return ModernBertConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        max_position_embeddings=8192,
        global_rope_theta=THETA,
        local_rope_theta=THETA,
        local_attention=2 * model.window_each_side,
        **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 1},
    )


def load_peer(folder: Path, attention: str, sparse: bool, dtype: Dtype = "fp32") -> Any:
    from transformers import ModernBertForMaskedLM

    no_progress_bars()
    model = ModernBertForMaskedLM.from_pretrained(
        folder, attn_implementation=attention, dtype=DTYPES[dtype], local_files_only=True
    )
    model.sparse_prediction = sparse
    return model.train()


def no_progress_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_ours(shape: str, folder: Path, recompute: Recompute = "none", dtype: Dtype = "fp32") -> Encoder:
    from safetensors import safe_open

    parallel.enable_cpu_mode()
    parallel.start(seed=1)
    model = SHAPES[shape].model_copy(update={"attention_output_dropout": 0.0})
    layout, precision = ParallelConfig(recompute=recompute), PrecisionConfig(dtype=dtype)
    encoder = Encoder(encoder_config(model, THETA, THETA, layout, precision), model.vocab_size)
    with safe_open(folder / "model.safetensors", framework="pt") as file, torch.no_grad():
        theirs = hf_names(model.num_layers)
        for name, parameter in encoder.named_parameters():
            stored = file.get_tensor(theirs[name])
            parameter.copy_(reorder_rows_for_megatron(name, stored, model.num_attention_heads))
    return encoder.train()


def our_batches(samples: Sequence[Sample], pack_tokens: int) -> list[list[Sample]]:
    """Packs of at most ``pack_tokens``: longest first, each into the first pack with room."""
    packs: list[list[Sample]] = []
    for sample in sorted(samples, key=len, reverse=True):
        room = next((p for p in packs if sum(map(len, p)) + len(sample) <= pack_tokens), None)
        if room is None:
            packs.append(room := [])
        room.append(sample)
    return packs


def peer_batches(samples: Sequence[Sample], padded_tokens: int, grouped: bool) -> list[list[Sample]]:
    """Batches whose padded size stays within ``padded_tokens`` (one sample at least), in order or grouped by length."""
    batches: list[list[Sample]] = [[]]
    for sample in sorted(samples, key=len) if grouped else samples:
        longest = max([len(sample), *map(len, batches[-1])])
        if batches[-1] and longest * (len(batches[-1]) + 1) > padded_tokens:
            batches.append([])
        batches[-1].append(sample)
    return batches


def our_pass(encoder: Encoder, batch: Sequence[Sample]) -> float:
    """Forward and backward over one pack; the mean loss per scored token. Gradients are of the sum, as in training,
    which divides those of all packs of a step at once."""
    ids = torch.from_numpy(np.concatenate([sample.ids for sample in batch]))
    labels = torch.from_numpy(np.concatenate([sample.labels for sample in batch]))
    bounds = torch.tensor([0, *itertools.accumulate(map(len, batch))], dtype=torch.int32)
    scored = (labels != IGNORED).nonzero()[:, 0]
    loss = encoder(ids, PackedSequences.of(bounds, max(map(len, batch))), scored, labels[scored])
    loss.backward()
    return float(loss) / len(scored)


def peer_pass(model: Any, batch: Sequence[Sample]) -> float:
    """The same over one padded batch."""
    longest = max(map(len, batch))
    ids = torch.zeros(len(batch), longest, dtype=torch.int64)
    labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for row, sample in enumerate(batch):
        ids[row, : len(sample)] = torch.from_numpy(sample.ids)
        labels[row, : len(sample)] = torch.from_numpy(sample.labels)
        mask[row, : len(sample)] = 1
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return float(loss)


def in_random_order(batches: Sequence[Sequence[Sample]]) -> list[Sequence[Sample]]:
    """The same order every time; batches grouped by length would else be measured from the short end."""
    return [batches[place] for place in np.random.default_rng(0).permutation(len(batches))]


def deviations(shape: str, folder: Path, batch: Sequence[Sample], dtype: Dtype = "fp32") -> dict[str, float]:
    """How far loss (absolute) and gradients (the worst tensor, relative to its norm) of both models are apart on one
    batch, and in bf16 how far each one's are from those in fp32 of the same rounded weights."""
    peer = load_peer(folder, "sdpa", sparse=True, dtype=dtype)
    their_loss = peer_pass(peer, batch)
    our_loss, own = _loss_and_gradients(load_ours(shape, folder, dtype=dtype), batch)
    parameters, model = dict(peer.named_parameters()), SHAPES[shape]
    names, heads = hf_names(model.num_layers), model.num_attention_heads
    theirs = {name: reorder_rows_for_megatron(name, parameters[names[name]].grad, heads) for name in own}
    found = {"loss": our_loss, "loss_difference": abs(our_loss - their_loss)}
    found["worst_gradient_difference"] = _worst(own, theirs)
    if dtype != "fp32":
        exact = load_ours(shape, folder)
        with torch.no_grad():
            for parameter in exact.parameters():
                parameter.copy_(parameter.to(DTYPES[dtype]))
        _, gradients = _loss_and_gradients(exact, batch)
        found |= {"our_rounding": _worst(own, gradients), "their_rounding": _worst(theirs, gradients)}
    return found


def _loss_and_gradients(encoder: Encoder, batch: Sequence[Sample]) -> tuple[float, dict[str, torch.Tensor]]:
    """Of the mean over the scored tokens."""
    loss = our_pass(encoder, batch)
    scored = sum(int((sample.labels != IGNORED).sum()) for sample in batch)
    return loss, {name: each.grad / scored for name, each in encoder.named_parameters()}


def _worst(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)
