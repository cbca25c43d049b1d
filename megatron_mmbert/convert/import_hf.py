"""Import of a Hugging Face ModernBERT folder as a weights-only checkpoint that training can start from."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
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
from megatron_mmbert.convert.name_mapping import HF_TIED_DECODER, hf_names, reorder_rows_for_megatron
from megatron_mmbert.convert.parity import check_parity
from megatron_mmbert.model.parameter_names import WORD_EMBEDDING, parameter_shapes
from megatron_mmbert.utils.errors import UserError, nearest
from megatron_mmbert.utils.output_kinds import CHECKPOINT
from megatron_mmbert.utils.outputs import check_output

_PREFIX = "model."
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


def meta_of(config: HFConfig, source: Path, fingerprints: tuple[str, ...] = ()) -> CheckpointMeta:
    """Return a checkpoint's description for weights from elsewhere: no phase, counters at 0, no optimizer state."""
    return CheckpointMeta(
        model=config.model,
        rope_theta=config.rope_theta,
        rope_theta_local=config.rope_theta_local,
        max_length=config.model.max_length,
        tokenizer_fingerprint=next(iter(fingerprints), ""),
        tokenizer_aliases=list(fingerprints[1:]),
        origin=str(source),
    )


def read_tensors(source: Path, model: ModelConfig, needs_head: bool = True) -> dict[str, Tensor]:
    """Return every tensor of the encoder in fp32, under Megatron's names and in its row order.

    The files are compared with the export's checksums, if it has them, while they are read.

    Args:
        needs_head: refuse a folder without the masked-language-model head, such as sentence-transformers saves.

    Raises:
        UserError: a tensor is missing, unknown, of another shape, or the decoder is not tied to the word embedding.
    """
    stored = HFTensors(source)
    names = names_in(stored, model, needs_head)
    embedding = names[WORD_EMBEDDING]
    tied = HF_TIED_DECODER in stored.names()
    if tied and not torch.equal(stored.load(HF_TIED_DECODER), stored.load(embedding)):
        raise UserError(
            f"{stored.path_of(HF_TIED_DECODER)}: {HF_TIED_DECODER} differs from {embedding}, and this encoder "
            "ties the two; name a model with tied weights"
        )
    # Both end before an error is said: the bar's line with the error.
    with ThreadPoolExecutor(1) as thread, tqdm(names.items(), desc="converting", unit="tensor") as bar:
        verified = thread.submit(stored.verify)  # beside the reading: hashing takes as long
        tensors = {
            ours: reorder_rows_for_megatron(ours, stored.load(theirs), model.num_attention_heads)
            for ours, theirs in bar
        }
        verified.result()
    return tensors


def names_in(stored: HFTensors, model: ModelConfig, needs_head: bool = True) -> dict[str, str]:
    """Return the folder's name of each tensor of the encoder by Megatron's, compared both ways; nothing is guessed.

    Raises:
        UserError: the first missing, unknown or misshapen tensor.
    """
    names, found = hf_names(model.num_layers), set(stored.names())
    if not found.intersection(_HEAD):
        if needs_head:
            raise UserError(
                f"{stored.folder}: no masked-language-model head ({', '.join(_HEAD)}); this is a base model without "
                "it: name a ModernBertForMaskedLM, such as the one it was made from"
            )
        prefix = "" if any(name.startswith(_PREFIX) for name in found) else _PREFIX
        names = {ours: each.removeprefix(prefix) for ours, each in names.items() if each not in _HEAD}
    shapes = parameter_shapes(model)
    _check_names(stored, {theirs: shapes[ours] for ours, theirs in names.items()}, shapes[WORD_EMBEDDING])
    return names


def _check_names(stored: HFTensors, shapes: dict[str, tuple[int, ...]], tied: tuple[int, ...]) -> None:
    """Compare the stored tensors with the encoder's, both ways.

    Raises:
        UserError: the first missing, unknown or misshapen tensor.
    """
    names = set(stored.names())
    for name in shapes:
        if name not in names:
            hint = nearest(name, names - set(shapes))
            raise UserError(f"{stored.folder}: tensor {name} of shape {list(shapes[name])} is missing{hint}")
    known = shapes | {HF_TIED_DECODER: tied}
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
