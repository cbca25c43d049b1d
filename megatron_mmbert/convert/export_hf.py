"""Export of a checkpoint as a Hugging Face folder: weights, configuration, tokenizer, recipe and model card."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path

import yaml
from torch import Tensor
from tqdm import tqdm

from megatron_mmbert.checkpoint.discovery import resolve
from megatron_mmbert.checkpoint.identity import check_names, check_tokenizer
from megatron_mmbert.checkpoint.metadata import CheckpointMeta, read_meta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors
from megatron_mmbert.convert.hf_config import CONFIG_FILE, SpecialIds, config_json
from megatron_mmbert.convert.hf_identity import write_identity
from megatron_mmbert.convert.hf_writer import DEFAULT_SHARD, parse_size, write_weights
from megatron_mmbert.convert.model_card import model_card
from megatron_mmbert.convert.name_mapping import hf_names, reorder_rows_for_hf
from megatron_mmbert.convert.parity import check_parity
from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.utils.checksums import write_checksums
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import write_json
from megatron_mmbert.utils.output_kinds import MODEL_FOLDER
from megatron_mmbert.utils.outputs import check_output, output_folder

_BYTES_PER_WEIGHT = 4


def export_checkpoint(
    checkpoint: Path,
    tokenizer_path: Path,
    output: Path,
    check: bool = False,
    overwrite: bool = False,
    max_shard_size: str = DEFAULT_SHARD,
    allowed: Collection[str] = (),
) -> list[str]:
    """Write the Hugging Face folder ``output``, whole or not at all.

    Args:
        checkpoint: a checkpoint, or a phase's folder (then its newest valid checkpoint).
        tokenizer_path: the tokenizer that the model was trained with.
        check: compare logits and token ids through transformers before anything is published.
        allowed: names of :mod:`megatron_mmbert.checkpoint.identity` that may differ.

    Returns:
        Lines for the user: the files, their size, the result of the check.

    Raises:
        UserError: bad input, or a failed check.
    """
    limit = parse_size(max_shard_size)
    check_names(allowed)
    inputs = (checkpoint, tokenizer_path)
    check_output(output, MODEL_FOLDER, inputs, overwrite)
    path = resolve(checkpoint)
    meta = read_meta(path)
    tokenizer = load_tokenizer(tokenizer_path)
    check_vocabulary(meta, tokenizer, path)
    check_tokenizer(path, meta, tokenizer, allowed)
    tensors = CheckpointTensors(path)
    with output_folder(output, MODEL_FOLDER, inputs, overwrite) as folder:
        files = _write_tensors(folder, tensors, limit)
        _write_descriptions(folder, meta, tokenizer)
        write_identity(folder, tokenizer.fingerprint())
        write_checksums(folder)
        lines = [f"wrote {output}: {', '.join(sorted(file.name for file in folder.iterdir()))}"]
        lines.append(f"weights of {path}: {sum(file.stat().st_size for file in files) / 1e6:,.1f} MB in fp32")
        if check:
            difference = check_parity(folder, tensors, tokenizer)
            lines.append(f"check: largest difference of a logit {difference:.2e}; AutoTokenizer gives the same ids")
    return lines


def check_vocabulary(meta: CheckpointMeta, tokenizer: Tokenizer, checkpoint: Path) -> None:
    """Refuse a tokenizer whose number of ids is not that of the model's rows, padding aside.

    Raises:
        UserError: it is not.
    """
    if not tokenizer.fits_rows(meta.model.vocab_size):
        raise UserError(
            f"{tokenizer.path}: the tokenizer has {tokenizer.vocab_size} ids and the model of {checkpoint} "
            f"{meta.model.vocab_size}; give the tokenizer that it was trained with"
        )


def _write_tensors(folder: Path, tensors: CheckpointTensors, limit: int) -> list[Path]:
    """Write the weights under Hugging Face's names.

    The tied ``decoder.weight`` is not written twice: both generations of transformers tie it to the word embedding when
    they load the folder, and save folders without it too.
    """
    model = tensors.meta.model
    ours_of = {theirs: ours for ours, theirs in hf_names(model.num_layers).items()}
    sizes = {theirs: _BYTES_PER_WEIGHT * math.prod(tensors.shape(ours)) for theirs, ours in ours_of.items()}

    def load(theirs: str) -> Tensor:
        ours = ours_of[theirs]
        return reorder_rows_for_hf(ours, tensors.load(ours), model.num_attention_heads)

    with tqdm(total=len(sizes), desc="converting", unit="tensor") as bar:
        return write_weights(folder, sizes, load, limit, bar.update)


def _write_descriptions(folder: Path, meta: CheckpointMeta, tokenizer: Tokenizer) -> None:
    """Write the configuration, the tokenizer, the recipe and the model card."""
    ids = SpecialIds(tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id, tokenizer.mask_id)
    write_json(folder / CONFIG_FILE, config_json(meta, ids))
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    # The tokenizer's own file cannot know how long a sample this model is meant for.
    write_json(settings, json.loads(settings.read_text(encoding="utf-8")) | {"model_max_length": meta.max_length})
    if meta.recipe:
        text = yaml.safe_dump(meta.recipe, sort_keys=False, allow_unicode=True)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    pieces = {role: tokenizer.piece(getattr(ids, role)) for role in ("mask", "bos", "eos")}
    (folder / "README.md").write_text(model_card(meta, pieces), encoding="utf-8")
