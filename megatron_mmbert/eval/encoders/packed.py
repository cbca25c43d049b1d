"""An exported model of ours, computed pack by pack without padding; and the same network with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from megatron_mmbert.eval.encoders.base import Encoder, Samples
from megatron_mmbert.inference.model import Model, load_model, pooling_of
from megatron_mmbert.inference.network import Network
from megatron_mmbert.inference.options import PACK_TOKENS
from megatron_mmbert.inference.run import encode_ids, packs
from megatron_mmbert.model.parameter_names import DECODER_BIAS


class PackedEncoder(Encoder):
    """A folder that ``mmbert convert-to-hf`` wrote.

    Args:
        random_seed: draw the weights anew from this seed instead of reading them.

    Raises:
        UserError: it is none, or damaged.
    """

    def __init__(self, folder: Path, device: str, dtype: str, random_seed: int | None = None) -> None:
        model = load_model(folder, device, dtype)
        if random_seed is not None:
            randomize(model.network, random_seed)
        self._model: Model = model
        self._network: Network = model.network
        self.max_length, self.mask_id = model.max_length, model.tokenizer.mask_id
        self.has_head, self.pooling, self.cut = model.network.has_head, pooling_of(folder), 0
        self.words_by = _library_tokenizer(folder)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts with ``<bos>`` and ``<eos>``."""
        longest = self.max_length - 2
        bos, eos = self._model.tokenizer.bos_id, self._model.tokenizer.eos_id
        found = [ids.tolist() for ids in self._model.tokenizer.encode_arrays(texts)]
        self.cut += sum(len(ids) > longest for ids in found)
        return [[bos, *ids[:longest], eos] for ids in found]

    def pooled(self, samples: Samples) -> Tensor:
        """Return one vector of each sample, fp32 [N, D]."""
        return encode_ids(self._network, samples, self.pooling)

    def states(self, samples: Samples, places: Samples) -> Tensor:
        """Return final states at ``places``, fp32 [K, D]."""
        parts: list[Tensor] = [torch.empty(0, self._network.model.hidden_size)] * len(samples)
        for members, hidden_TD, layout in packs(self._network, samples, PACK_TOKENS):
            for index, start in zip(members, layout.cu_seqlens.tolist(), strict=False):
                rows = torch.tensor(places[index], dtype=torch.long, device=hidden_TD.device) + start
                parts[index] = hidden_TD[rows].float().cpu()
        return torch.cat(parts)

    def log_probabilities(self, samples: Samples, places: Samples, labels: Samples) -> Tensor:
        """Return log-probabilities of labels, fp64 [K]."""
        parts: list[Tensor] = [torch.empty(0)] * len(samples)
        for members, hidden_TD, layout in packs(self._network, samples, PACK_TOKENS):
            starts = layout.cu_seqlens.tolist()
            rows = [starts[i] + place for i, index in enumerate(members) for place in places[index]]
            wanted = torch.tensor([label for index in members for label in labels[index]])
            device = hidden_TD.device
            found_K = self._network.log_probabilities(hidden_TD[torch.tensor(rows, device=device)], wanted.to(device))
            for index, part in zip(members, found_K.cpu().split([len(places[i]) for i in members]), strict=True):
                parts[index] = part
        return torch.cat(parts).double() if parts else torch.empty(0, dtype=torch.float64)


def randomize(network: Network, seed: int) -> None:
    """Give a network the weights of an untrained one: normal with the configuration's deviation, norms 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.tensors.items():
        if tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * network.model.init_std)
        else:
            tensor.fill_(0.0 if name == DECODER_BIAS else 1.0)


def _library_tokenizer(folder: Path) -> object | None:
    """Return the folder's ``tokenizer.json``; no text is parsed for special tokens, as in training."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
