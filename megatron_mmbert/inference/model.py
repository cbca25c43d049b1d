"""A folder of an exported model made ready: network, tokenizer, longest text."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_mmbert.attention import AUTO
from megatron_mmbert.checkpoint.identity import check_names
from megatron_mmbert.convert.hf_config import read_config
from megatron_mmbert.convert.hf_identity import check_folder
from megatron_mmbert.inference.network import Network
from megatron_mmbert.inference.options import DTYPE_NAMES, POOLINGS, Pooling
from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

_POOLING_KEYS = {
    **{"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max"},
    **{"pooling_mode_mean_sqrt_len_tokens": "mean/sqrt", "pooling_mode_weightedmean_tokens": "weighted mean"},
    "pooling_mode_lasttoken": "last token",
}
DTYPES = dict(zip(DTYPE_NAMES, (torch.float32, torch.bfloat16), strict=True))


@dataclass(frozen=True)
class Model:
    """A loaded model, for :func:`megatron_mmbert.inference.encode`; ``max_length`` counts ``<bos>`` and ``<eos>``."""

    network: Network
    tokenizer: Tokenizer
    max_length: int

    @property
    def width(self) -> int:
        """D, the length of an embedding."""
        return self.network.model.hidden_size

    def ids_of(self, text: str, on_cut: Callable[[], None] = lambda: None) -> list[int]:
        """Return the ids of ``<bos> text <eos>``, the text cut to ``max_length``; ``on_cut`` is called if it is."""
        ids = self.tokenizer.encode(text)
        if len(ids) > self.max_length - 2:
            on_cut()
        return [self.tokenizer.bos_id, *ids[: self.max_length - 2], self.tokenizer.eos_id]


def load_model(
    folder: Path,
    device: str = "auto",
    dtype: str = "fp32",
    max_length: int | None = None,
    engine: str = AUTO,
    allowed: Collection[str] = (),
) -> Model:
    """Read a folder of tools/convert_to_hf.py (any ModernBERT with weight-only norms and its tokenizer).

    A model without a head, such as sentence-transformers saves, gives embeddings, and no scores.

    Args:
        device: ``cpu``, ``cuda`` or ``auto``.
        dtype: ``fp32`` or ``bf16``.
        max_length: tokens a text is cut to; the model's own limit by default.
        allowed: names of :mod:`megatron_mmbert.checkpoint.identity` in which an export may have been changed.

    Raises:
        UserError: no such model or device, or a length beyond the model's.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no CUDA device here; use --device cpu")
    from megatron_mmbert.convert.import_hf import read_tensors  # imports Megatron-Core, which takes seconds

    config = read_config(folder)
    longest = config.model.max_length if max_length is None else max_length
    if not 3 <= longest <= config.model.max_length:
        raise UserError(f"--max-length {longest}: must be between 3 and the model's {config.model.max_length}")
    check_names(allowed)
    check_folder(folder, allowed)
    thetas = (config.rope_theta, config.rope_theta_local)
    tensors = read_tensors(folder, config.model, needs_head=False)
    network = Network(config.model, thetas, tensors, torch.device(device), DTYPES[dtype], engine)
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids and the model {config.model.vocab_size}; "
            "copy both from one export"
        )
    return Model(network, tokenizer, longest)


def pooling_of(folder: Path) -> Pooling:
    """Return how sentence-transformers pools the model that it saved in ``folder``; ``mean`` for any other model.

    Raises:
        UserError: in a way that is not one of :data:`~megatron_mmbert.inference.options.POOLINGS`.
    """
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    values = read_json(file, "pooling", "name it with --pooling")
    modes = [values.get("pooling_mode")] + [
        key for key, value in values.items() if key in _POOLING_KEYS and value is True
    ]
    found = {_POOLING_KEYS.get(str(mode), mode) for mode in modes if mode}
    for pooling in POOLINGS:
        if found == {pooling}:
            return pooling
    raise UserError(f"{file}: pools by {sorted(map(str, found))}; choose --pooling {' or '.join(POOLINGS)}")
