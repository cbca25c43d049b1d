"""Import of a Hugging Face ModernBERT folder as a weights-only checkpoint that training can start from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from megatron_mmbert.checkpoint import identity
from megatron_mmbert.checkpoint.commit import committed_checkpoint
from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors, fill_folder
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.convert.hf_config import HFConfig, read_config
from megatron_mmbert.convert.hf_identity import check_folder
from megatron_mmbert.convert.hf_reader import HFTensors
from megatron_mmbert.convert.name_mapping import HF_TIED_DECODER, HF_WORD_EMBEDDING, hf_names, reorder_rows_for_megatron
from megatron_mmbert.convert.parity import check_parity
from megatron_mmbert.model.parameter_names import parameter_shapes
from megatron_mmbert.utils.errors import UserError, nearest
from megatron_mmbert.utils.output_kinds import CHECKPOINT
from megatron_mmbert.utils.outputs import check_output

_HEAD = ("head.dense.weight", "head.norm.weight", "decoder.bias")


def import_folder(
    source: Path, output: Path, check: bool = False, overwrite: bool = False, allowed: Collection[str] = ()
) -> list[str]:
    """Write the checkpoint ``output`` from the model folder ``source``, whole or not at all.

    Args:
        check: compare logits with transformers' own loading of ``source``.
        allowed: names of :mod:`megatron_mmbert.checkpoint.identity` in which an export may have been changed.

    Returns:
        Lines for the user: the weights, theta, the result of the check.

    Raises:
        UserError: a model that this encoder cannot express, missing or strange tensors, or a failed check.
    """
    check_output(output, CHECKPOINT, (source,), overwrite)
    config = read_config(source)
    identity.check_names(allowed)
    meta = meta_of(config, source, check_folder(source, allowed))
    tensors = read_tensors(source, config.model)
    with committed_checkpoint(output, (source,), overwrite) as folder:
        fill_folder(folder, meta, tensors)
        lines = [
            f"wrote {output}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} weights",
            f"theta {meta.rope_theta:,.0f} in global and {meta.rope_theta_local:,.0f} in local layers, samples up to "
            f"{meta.max_length} tokens; no optimizer state",
            f"tokenizer {meta.tokenizer_fingerprint[:12] or 'not known: none in the folder'}",
        ]
        if check:
            difference = check_parity(source, CheckpointTensors(folder))
            lines.append(f"check: largest difference of a logit {difference:.2e}")
    return lines


def meta_of(config: HFConfig, source: Path, tokenizer_fingerprint: str = "") -> CheckpointMeta:
    """Return a checkpoint's description for weights from elsewhere: no phase, counters at 0, no optimizer state."""
    return CheckpointMeta(
        model=config.model,
        rope_theta=config.rope_theta,
        rope_theta_local=config.rope_theta_local,
        max_length=config.model.max_length,
        tokenizer_fingerprint=tokenizer_fingerprint,
        origin=str(source),
    )


def read_tensors(source: Path, model: ModelConfig) -> dict[str, Tensor]:
    """Return every tensor of the encoder in fp32, under Megatron's names and in its row order.

    Raises:
        UserError: a tensor is missing, unknown, of another shape, or the decoder is not tied to the word embedding.
    """
    stored = HFTensors(source)
    names, shapes = hf_names(model.num_layers), parameter_shapes(model)
    check_names(stored, {theirs: shapes[ours] for ours, theirs in names.items()})
    embedding = stored.load(HF_WORD_EMBEDDING)
    if HF_TIED_DECODER in stored.names() and not torch.equal(stored.load(HF_TIED_DECODER), embedding):
        raise UserError(
            f"{stored.path_of(HF_TIED_DECODER)}: {HF_TIED_DECODER} differs from {HF_WORD_EMBEDDING}, and this encoder "
            "ties the two; name a model with tied weights"
        )
    return {
        ours: reorder_rows_for_megatron(ours, stored.load(theirs), model.num_attention_heads)
        for ours, theirs in tqdm(names.items(), desc="converting", unit="tensor")
    }


def check_names(stored: HFTensors, shapes: dict[str, tuple[int, ...]]) -> None:
    """Compare the stored tensors with the encoder's, both ways; nothing is guessed.

    Raises:
        UserError: the first missing, unknown or misshapen tensor.
    """
    names = set(stored.names())
    if not names.intersection(_HEAD):
        raise UserError(
            f"{stored.folder}: no masked-language-model head ({', '.join(_HEAD)}); this is a base model without it: "
            "name a ModernBertForMaskedLM, such as the one it was made from"
        )
    for name in shapes:
        if name not in names:
            hint = nearest(name, names - set(shapes))
            raise UserError(f"{stored.folder}: tensor {name} of shape {list(shapes[name])} is missing{hint}")
    known = shapes | {HF_TIED_DECODER: shapes[HF_WORD_EMBEDDING]}
    for name in stored.names():
        if name not in known:
            raise UserError(
                f"{stored.path_of(name)}: unknown tensor {name} of shape {list(stored.shape(name))}; this encoder has "
                "no place for it, name a plain ModernBertForMaskedLM"
            )
        if stored.shape(name) != known[name]:
            raise UserError(
                f"{stored.path_of(name)}: tensor {name} has shape {list(stored.shape(name))}, and config.json asks for "
                f"{list(known[name])}; copy both files from one model"
            )
