"""Opening of a model that is named on the command line: a folder of ours, one of transformers, or a name of the hub."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from megatron_mmbert.convert.hf_config import read_config_values
from megatron_mmbert.eval.encoders.base import Encoder
from megatron_mmbert.utils.checksums import checksum
from megatron_mmbert.utils.errors import UserError, first_line

BACKENDS = ("auto", "packed", "padded")
"""``packed`` is ours; ``padded`` is transformers'; ``auto`` takes ours for every ModernBERT."""
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_MODEL_FILES = (
    *("config.json", "model*.safetensors", "pytorch_model*.bin", "*.index.json", "1_Pooling/config.json"),
    *("tokenizer*.json", "tokenizer.model", "*.spm", "sentencepiece*.model", "spiece.model", "special_tokens_map.json"),
    *("vocab*", "merges.txt", "added_tokens.json"),
)
"""All that changes what a model computes; cards, recipes and lists of checksums do not."""


@dataclass(frozen=True)
class ModelFolder:
    """A model to be scored.

    Attributes:
        label: what tables call it.
        identity: the SHA-256 over all that changes what it computes.
        packed: whether our inference computes it.
    """

    label: str
    folder: Path
    identity: str
    packed: bool

    def open(self, device: str, dtype: str, random_seed: int | None = None) -> Encoder:
        """Load the model; with a ``random_seed``, its network with random weights."""
        if self.packed:
            from megatron_mmbert.eval.encoders.packed import PackedEncoder

            return PackedEncoder(self.folder, device, dtype, random_seed)
        from megatron_mmbert.eval.encoders.padded import PaddedEncoder

        return PaddedEncoder(self.folder, device, dtype, random_seed)


def find_model(name: str, backend: str) -> ModelFolder:
    """Return the model called ``name``, a folder or a name of the hub.

    Raises:
        UserError: there is none, it is a checkpoint, or ``packed`` cannot compute it.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _from_hub(name)
    if (folder / "checkpoint.json").is_file():
        raise UserError(
            f"{name}: a checkpoint; export it first: mmbert convert-to-hf {name} --tokenizer TOKENIZER --output DIR"
        )
    kind = read_config_values(folder).get("model_type")
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        raise UserError(f"{name}: no weights (model.safetensors) in this folder; name a complete model")
    packed = backend == "packed" or (backend == "auto" and kind == "modernbert")
    if packed and kind != "modernbert":
        raise UserError(
            f"{name}: a model of kind {kind!r}, and --backend packed computes ModernBERT; take --backend auto"
        )
    return ModelFolder(name.rstrip("/"), folder, _identity(folder, packed), packed)


def _identity(folder: Path, packed: bool) -> str:
    files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    digest = hashlib.sha256(b"packed" if packed else b"padded")
    for path in files:
        digest.update(f"{path.relative_to(folder)} {checksum(path)['sha256']}\n".encode())
    return digest.hexdigest()


def _from_hub(name: str) -> Path:
    """Return the folder of a model of the hub, downloaded or found in its cache."""
    if Path(name).is_absolute() or name.count("/") > 1 or Path(name).exists():
        raise UserError(f"{name}: no folder of a model; name one that has config.json and model.safetensors")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        raise UserError(
            f"{name}: no such folder, and huggingface_hub is not installed; name a model's folder"
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(_MODEL_FILES)))
    except (OSError, ValueError, HFValidationError) as error:
        raise UserError(
            f"{name}: no such folder, nor to be had from the hub ({first_line(error)}); name a model's folder"
        ) from None
