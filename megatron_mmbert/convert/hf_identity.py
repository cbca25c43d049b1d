"""The identity of a Hugging Face folder: its ``config.json`` and tokenizer in the words of ``checkpoint.identity``.

An export carries what it was when it was written in ``identity.json``, so that an edited theta or another model's
tokenizer in the folder is noticed before it is used. Files of one model in two generations of keys have one identity.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from megatron_mmbert.checkpoint.identity import TOKENIZER, Identity, check_same
from megatron_mmbert.convert.hf_config import CONFIG_FILE, GLOBAL, LOCAL, global_layers, read_config_values, theta_of
from megatron_mmbert.tokenizer.load import folder_fingerprints, load_tokenizer
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json, write_json

IDENTITY_FILE = "identity.json"
_REMEDY = f"copy the folder again, or delete {IDENTITY_FILE} and checksums.json there if you saved a new model in it"
EXPORTED = "exported_tokenizer"
"""The fingerprint of the ``tokenizer.json`` in an export, beside that of the ``.model`` it was made from."""
_SIZES = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
}
_DEFAULTS = {
    "norm_eps": 1e-5,
    "hidden_activation": "gelu",
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "decoder_bias": True,
    "tie_word_embeddings": True,
}
"""What transformers takes for a key that a ModernBERT's config.json does not have."""
_RENAMED = {"hidden_activation": "activation"}
_RESOLVED = ("local_attention", "global_attn_every_n_layers", "layer_types", "rope_parameters", "rope_theta")
_RESOLVED_THETA = ("global_rope_theta", "local_rope_theta")
_NOT_THE_FUNCTION = (
    *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "tokenizer_class"),
    *("max_position_embeddings", "position_embedding_type", "initializer_range", "initializer_cutoff_factor"),
    *("reference_compile", "deterministic_flash_attn", "repad_logits_with_grad", "sparse_prediction", "use_cache"),
    *("sparse_pred_ignore_index", "gradient_checkpointing", "return_dict", "problem_type", "id2label", "label2id"),
    *("chunk_size_feed_forward", "is_encoder_decoder", "num_labels", "finetuning_task", "task_specific_params"),
)
_NOT_THE_FUNCTION_PARTS = ("dropout", "_token_id", "classifier_", "_attn_implementation", "output_", "_implementation")


def identity_of(folder: Path) -> Identity:
    """Return the identity of a model folder, of whatever model: its ``config.json``, and its ``tokenizer.json``."""
    tokenizer = folder_fingerprints(folder)[-1:]
    return Identity(str(folder), {TOKENIZER: tokenizer or None, **config_identity(folder, read_config_values(folder))})


def config_identity(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return all values of a configuration that decide what a model computes."""
    found = {ours: values[theirs] for theirs, ours in _SIZES.items() if theirs in values}
    known = {*_SIZES, *_NOT_THE_FUNCTION}
    if values.get("model_type") == "modernbert":
        file = folder / CONFIG_FILE
        found |= {"global_layers": global_layers(values), "window_each_side": _window(values)}
        found |= {"rope_theta": _theta(file, values, GLOBAL), "rope_theta_local": _theta(file, values, LOCAL)}
        found |= {_RENAMED.get(key, key): values.get(key, default) for key, default in _DEFAULTS.items()}
        known |= {*_RESOLVED, *_RESOLVED_THETA, *_DEFAULTS, "model_type"}
    others = {key: value for key, value in values.items() if key not in known and value not in (None, False, [], {})}
    return found | {key: each for key, each in others.items() if not any(p in key for p in _NOT_THE_FUNCTION_PARTS)}


def write_identity(folder: Path, fingerprint: str) -> None:
    """Write ``identity.json`` of a model folder that is complete but for it.

    Args:
        fingerprint: of the tokenizer that the model was trained with; empty if that is not known.
    """
    values = identity_of(folder).values
    exported = next(iter(values[TOKENIZER] or ()), None)
    write_json(folder / IDENTITY_FILE, {**values, TOKENIZER: fingerprint or exported, EXPORTED: exported})


def check_folder(folder: Path, allowed: Collection[str] = ()) -> tuple[str, ...]:
    """Compare a folder with what it was when it was exported, as its ``identity.json`` says, if it has one.

    Returns:
        The fingerprints of the tokenizer that the model was trained with, as far as known: those of the export if the
        folder's tokenizer is still the same, else those of its own files; none if it has none.

    Raises:
        UserError: the configuration or the tokenizer is another one, and that is not allowed.
    """
    found = folder_fingerprints(folder)
    if not (folder / IDENTITY_FILE).is_file():
        return _in_use(folder, found)
    written = read_json(folder / IDENTITY_FILE, "identity of the model", _REMEDY)
    if not isinstance(written, dict):
        raise UserError(f"{folder / IDENTITY_FILE}: damaged identity of the model; {_REMEDY}")
    recorded = tuple(dict.fromkeys(str(written[key]) for key in (TOKENIZER, EXPORTED) if written.get(key)))
    changed = tuple(each for each in found if each not in recorded)
    now = Identity(str(folder), {**identity_of(folder).values, TOKENIZER: changed or recorded or None})
    then = Identity(f"what was exported ({IDENTITY_FILE})", {**written, TOKENIZER: recorded or None})
    check_same(now, then, _REMEDY, allowed)
    return _in_use(folder, found) if changed else recorded


def _in_use(folder: Path, found: tuple[str, ...]) -> tuple[str, ...]:
    """Return the fingerprints of the files that give the ids of the tokenizer which is loaded from ``folder``."""
    if len(found) < 2:
        return found
    try:
        used = load_tokenizer(folder).fingerprint()
    except UserError:  # one that training could not use
        return found[-1:]
    return found[-1:] if used == found[-1] else (used, found[-1])


def _window(values: dict[str, Any]) -> Any:
    window = values.get("local_attention", 128)
    return window // 2 if isinstance(window, int) else window


def _theta(file: Path, values: dict[str, Any], kind: str) -> Any:
    """Return theta of one kind of layer, or all that the configuration says of it where that is more than a theta."""
    try:
        return theta_of(file, values, kind)
    except UserError:
        return str((values.get("rope_parameters"), *(values.get(key) for key in _RESOLVED_THETA)))
