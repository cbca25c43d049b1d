"""ModernBERT's ``config.json``, written for every transformers from 4.48 on and read from any of them.

transformers 5 renamed keys: theta moved from ``global_rope_theta``/``local_rope_theta`` into ``rope_parameters``, the
layer pattern from ``global_attn_every_n_layers`` into ``layer_types``. Each generation ignores the other's keys and
silently takes its own defaults (theta 160,000 and 10,000) where its own are missing, so both families are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

CONFIG_FILE = "config.json"
GLOBAL, LOCAL = "full_attention", "sliding_attention"
_OLD_THETA = {GLOBAL: "global_rope_theta", LOCAL: "local_rope_theta"}
_DEFAULT_THETA = {GLOBAL: 160_000.0, LOCAL: 10_000.0}  # of transformers' ModernBertConfig, both generations
_DEFAULT_EVERY = 3
_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
}
_ONLY = {
    "hidden_activation": "gelu",  # the exact (erf) one
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "decoder_bias": True,
    "tie_word_embeddings": True,
    "rope_scaling": None,
}
"""Properties that this project's encoder has only; transformers' defaults are the same."""


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens; ``bos`` also serves as cls and ``eos`` as sep."""

    pad: int
    eos: int
    bos: int
    unk: int
    mask: int


@dataclass(frozen=True)
class HFConfig:
    """An encoder that a ``config.json`` describes, in this project's words."""

    model: ModelConfig
    rope_theta: float
    rope_theta_local: float


def layer_types(model: ModelConfig) -> list[str]:
    """Return each layer's attention in the words of transformers 5."""
    return [GLOBAL if model.is_global(layer) else LOCAL for layer in range(model.num_layers)]


def config_json(meta: CheckpointMeta, ids: SpecialIds) -> dict[str, Any]:
    """Return the values of ``config.json`` for a checkpoint.

    All dropouts are 0, as in the released mmBERT: training's 0.1 is a setting of training, and whoever fine-tunes
    would otherwise get a noisy model without having asked. ``cls`` is the tokenizer's ``<bos>``, the first token of
    every sample (the released file says 1, which is ``<eos>``).
    """
    model = meta.model
    thetas = {GLOBAL: meta.rope_theta, LOCAL: meta.rope_theta_local}
    return {
        "architectures": ["ModernBertForMaskedLM"],
        "model_type": "modernbert",
        "dtype": "float32",
        **{theirs: getattr(model, ours) for ours, theirs in _SIZES.items()},
        "max_position_embeddings": meta.max_length,
        **{key: value for key, value in _ONLY.items() if value is not None},
        "norm_eps": model.norm_eps,
        "local_attention": 2 * model.window_each_side,
        "global_attn_every_n_layers": model.global_attention_every,
        "layer_types": layer_types(model),
        **{key: thetas[kind] for kind, key in _OLD_THETA.items()},
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        "initializer_range": model.init_std,
        "initializer_cutoff_factor": 2.0,
        **dict.fromkeys(("attention_dropout", "embedding_dropout", "mlp_dropout", "classifier_dropout"), 0.0),
        "classifier_pooling": "mean",
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "sparse_prediction": False,
        "pad_token_id": ids.pad,
        "eos_token_id": ids.eos,
        "bos_token_id": ids.bos,
        "unk_token_id": ids.unk,
        "mask_token_id": ids.mask,
        "cls_token_id": ids.bos,
        "sep_token_id": ids.eos,
    }


def read_config_values(folder: Path) -> dict[str, Any]:
    """Return the values of ``folder/config.json``, of whatever model.

    Raises:
        UserError: no such file, or one that holds no object.
    """
    file = folder / CONFIG_FILE
    values = read_json(file, "model configuration", "name a folder made by save_pretrained")
    if not isinstance(values, dict):
        raise UserError(f"{file}: not a model configuration; name a folder made by save_pretrained")
    return values


def read_config(folder: Path) -> HFConfig:
    """Return the encoder that ``folder/config.json`` describes, written by either generation of transformers.

    Raises:
        UserError: no such file, not ModernBERT, or something that this project's encoder cannot express.
    """
    file, values = folder / CONFIG_FILE, read_config_values(folder)
    if values.get("model_type") != "modernbert":
        raise UserError(f"{file}: model_type {values.get('model_type')!r}; only 'modernbert' models can be converted")
    for key, needed in _ONLY.items():
        if values.get(key, needed) != needed:
            raise UserError(
                f"{file}: {key} {values[key]!r}: this encoder has {needed!r} only; name a model that has it too"
            )
    return HFConfig(_model(file, values), theta_of(file, values, GLOBAL), theta_of(file, values, LOCAL))


def _model(file: Path, values: dict[str, Any]) -> ModelConfig:
    """Return the shape of the encoder."""
    for key in _SIZES.values():
        if key not in values:
            raise UserError(f"{file}: {key!r} is missing; name a complete folder made by save_pretrained")
    window = values.get("local_attention", 128)
    if type(window) is not int or window < 2:
        raise UserError(f"{file}: local_attention {window!r}: must be a whole number of tokens, at least 2")
    try:
        return ModelConfig(
            **{ours: values[theirs] for ours, theirs in _SIZES.items()},
            norm_eps=values.get("norm_eps", 1e-5),
            init_std=values.get("initializer_range", 0.02),
            window_each_side=window // 2,
            global_attention_every=_global_every(file, values),
        )
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        key = _SIZES.get(field, field) or "the sizes"
        message = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"{file}: {key}: {message}; name a model of a shape that this encoder can have") from None


def global_layers(values: dict[str, Any]) -> list[int] | str:
    """Return which layers attend to the whole sample; in words what ``config.json`` says where that is no list."""
    layers, every, types = (values.get(k) for k in ("num_hidden_layers", "global_attn_every_n_layers", "layer_types"))
    if isinstance(types, list):
        return [layer for layer, kind in enumerate(types) if kind == GLOBAL]
    every = _DEFAULT_EVERY if every is None else every
    if type(layers) is int and type(every) is int and every > 0:
        return list(range(0, layers, every))
    return f"{layers} layers, every {every}"


def _global_every(file: Path, values: dict[str, Any]) -> int:
    """Return n, where every n-th layer, from layer 0 on, is global."""
    layers = values["num_hidden_layers"]
    every = values.get("global_attn_every_n_layers")
    if every is not None and (type(every) is not int or every < 1):
        raise UserError(f"{file}: global_attn_every_n_layers {every!r}: must be a whole number, at least 1")
    types = values.get("layer_types")
    if types is None or type(layers) is not int:  # a strange number of layers is refused by its own name
        return every or _DEFAULT_EVERY
    known = [every] if every else [_DEFAULT_EVERY, *range(1, layers + 1)]
    for step in known:
        if types == [LOCAL if layer % step else GLOBAL for layer in range(layers)]:
            return step
    if every:
        raise UserError(
            f"{file}: layer_types disagrees with global_attn_every_n_layers {every}, so the two generations of "
            "transformers would run two models; remove the wrong one"
        )
    raise UserError(f"{file}: layer_types {types!r}: only every n-th layer, from layer 0 on, can be {GLOBAL!r} here")


def theta_of(file: Path, values: dict[str, Any], kind: str) -> float:
    """Return theta of one kind of layer; transformers 4 lets a null local theta mean the global one.

    Raises:
        UserError: a rotary embedding that is not of this kind, or two thetas that disagree.
    """
    parameters = values.get("rope_parameters") or {}
    if not isinstance(parameters, dict) or set(parameters) - {GLOBAL, LOCAL}:
        raise UserError(f"{file}: rope_parameters {parameters!r}: write one entry each for {GLOBAL} and {LOCAL}")
    entry = parameters.get(kind) or {}
    if entry.get("rope_type", "default") != "default" or set(entry) - {"rope_type", "rope_theta"}:
        raise UserError(f"{file}: rope_parameters.{kind} {entry!r}: only rope_type 'default' can be expressed here")
    new, old = entry.get("rope_theta"), values.get(_OLD_THETA[kind])
    if old is None and kind == LOCAL and _OLD_THETA[LOCAL] in values:
        old = values.get(_OLD_THETA[GLOBAL])
    if new is not None and old is not None and new != old:
        raise UserError(
            f"{file}: {_OLD_THETA[kind]} {old!r} disagrees with rope_parameters.{kind}.rope_theta {new!r}, so the two "
            "generations of transformers would run two models; remove the wrong one"
        )
    theta = next((value for value in (new, old) if value is not None), _DEFAULT_THETA[kind])
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 0 < theta < float("inf"):
        raise UserError(f"{file}: theta {theta!r} of {kind}: must be a number above 0")
    return float(theta)
