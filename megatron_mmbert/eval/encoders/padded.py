"""An encoder of transformers, of any kind, in padded batches of texts of like length: the peers' rows of a table.

Texts and vectors are those of sentence-transformers: the tokenizer's own special tokens, the mean over all tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_mmbert.eval.encoders.base import Encoder, Samples
from megatron_mmbert.inference.model import DTYPES, pooling_of
from megatron_mmbert.utils.errors import UserError, first_line

BATCH_TOKENS = 4096
"""Tokens of a batch, padding included."""
_LOGITS = 1 << 24
"""Numbers of a batch's logits, where a family's head cannot be run on single rows."""
_LONGEST = 8192
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text")
"""Families whose positions begin after the padding id."""


class PaddedEncoder(Encoder):
    """A folder that transformers opens with ``AutoModelForMaskedLM``, or with ``AutoModel`` where it has no such head.

    Raises:
        UserError: transformers is not installed, or does not open the folder; no fast tokenizer in it.
    """

    def __init__(self, folder: Path, device: str, dtype: str, random_seed: int | None = None) -> None:
        transformers = _transformers()
        self._device = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = _opened(folder, "tokenizer", lambda: transformers.AutoTokenizer.from_pretrained(folder))
        self.words_by = getattr(tokenizer, "backend_tokenizer", None)
        if self.words_by is None:
            raise UserError(f"{folder}: no fast tokenizer (tokenizer.json); save one with save_pretrained")
        self.words_by.no_truncation()
        self.words_by.no_padding()
        with _quiet(transformers):
            model, self.has_head = _opened(folder, "model", lambda: _model(transformers, folder, random_seed))
        self._model = model.to(self._device, DTYPES[dtype]).eval()
        self._base = self._model.base_model if self.has_head else self._model
        self._head = [child for child in self._model.children() if child is not self._base] if self.has_head else []
        self._checked = False
        self._pad = tokenizer.pad_token_id or 0
        self.max_length = _max_length(model.config, tokenizer)
        self.mask_id = -1 if tokenizer.mask_token_id is None else tokenizer.mask_token_id
        self.has_head = self.has_head and self.mask_id >= 0
        self.pooling, self.cut = pooling_of(folder), 0

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts with the tokenizer's special tokens."""
        found = []
        for encoded in self.words_by.encode_batch(list(texts)):
            ids = encoded.ids
            if len(ids) > self.max_length:
                self.cut += 1
                ids = [*ids[: self.max_length - 1], ids[-1]]
            found.append(ids)
        return found

    def pooled(self, samples: Samples) -> Tensor:
        """Return one vector of each sample, fp32 [N, D]."""
        parts: dict[int, Tensor] = {}
        for members, ids, mask in self._batches(samples):
            hidden = self._hidden(ids, mask)
            weights = mask[:, :, None].float()
            means = (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1)
            parts.update(
                zip(members, means.cpu() if self.pooling == "mean" else hidden[:, 0].float().cpu(), strict=True)
            )
        return torch.stack([parts[index] for index in range(len(samples))])

    def states(self, samples: Samples, places: Samples) -> Tensor:
        """Return final states at ``places``, fp32 [K, D]."""
        parts: dict[int, Tensor] = {}
        for members, ids, mask in self._batches(samples):
            hidden = self._hidden(ids, mask)
            for row, index in enumerate(members):
                parts[index] = hidden[row, torch.tensor(places[index], dtype=torch.long)].float().cpu()
        return torch.cat([parts[index] for index in range(len(samples))])

    def log_probabilities(self, samples: Samples, places: Samples, labels: Samples) -> Tensor:
        """Return log-probabilities of labels, fp64 [K]."""
        parts: dict[int, Tensor] = {}
        vocabulary = int(self._model.config.vocab_size)
        for members, ids, mask in self._batches(samples, min(BATCH_TOKENS, max(1, _LOGITS // vocabulary))):
            rows = torch.tensor([row for row, index in enumerate(members) for _ in places[index]])
            columns = torch.tensor([place for index in members for place in places[index]])
            wanted = torch.tensor([label for index in members for label in labels[index]])
            found = (
                self._logits(ids, mask, rows, columns).float().log_softmax(-1).cpu()[torch.arange(len(rows)), wanted]
            )
            parts.update(zip(members, found.split([len(places[index]) for index in members]), strict=True))
        ordered = [parts[index] for index in range(len(samples))]
        return torch.cat(ordered).double() if ordered else torch.empty(0, dtype=torch.float64)

    @torch.inference_mode()
    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self._base(input_ids=ids, attention_mask=mask).last_hidden_state

    @torch.inference_mode()
    def _logits(self, ids: Tensor, mask: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return logits [K, V] at places of a batch: of these rows alone where that gives what the model gives."""
        if not self._checked:
            whole = self._model(input_ids=ids, attention_mask=mask).logits[rows, columns]
            self._checked = True
            try:
                same = torch.allclose(self._by_head(ids, mask, rows, columns), whole, rtol=0, atol=1e-3)
            except (RuntimeError, TypeError):
                same = False
            if not same:
                self._head = []
            return whole
        if self._head:
            return self._by_head(ids, mask, rows, columns)
        return self._model(input_ids=ids, attention_mask=mask).logits[rows, columns]

    def _by_head(self, ids: Tensor, mask: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        found = self._hidden(ids, mask)[rows, columns]
        for module in self._head:
            found = module(found)
        return found

    def _batches(
        self, samples: Samples, batch_tokens: int = BATCH_TOKENS
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield (members, ids [N, T], attention mask [N, T]) of batches of like length."""
        order = sorted(range(len(samples)), key=lambda index: -len(samples[index]))
        while order:
            count = max(1, batch_tokens // max(1, len(samples[order[0]])))
            members, order = order[:count], order[count:]
            longest = len(samples[members[0]])
            ids = torch.full((len(members), longest), self._pad)
            mask = torch.zeros(len(members), longest, dtype=torch.long)
            for row, index in enumerate(members):
                ids[row, : len(samples[index])] = torch.tensor(samples[index])
                mask[row, : len(samples[index])] = 1
            yield members, ids.to(self._device), mask.to(self._device)


def _model(transformers: Any, folder: Path, random_seed: int | None) -> tuple[Any, bool]:
    """Return the model, and whether it has a masked-language-model head."""
    config = transformers.AutoConfig.from_pretrained(folder)
    has_head = any("MaskedLM" in name for name in config.architectures or [])
    auto = transformers.AutoModelForMaskedLM if has_head else transformers.AutoModel
    if random_seed is None:
        return auto.from_pretrained(folder), has_head
    state = torch.get_rng_state()
    torch.manual_seed(random_seed)
    try:
        return auto.from_config(config), has_head
    finally:
        torch.set_rng_state(state)


def _max_length(config: Any, tokenizer: Any) -> int:
    """Return the tokens that both the model and its tokenizer take."""
    positions = getattr(config, "max_position_embeddings", None) or _LONGEST
    if config.model_type in _OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    return int(min(positions, tokenizer.model_max_length, _LONGEST))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError(
            "transformers is not installed, which opens models that are no ModernBERT; run pip install "
            "'megatron-mmbert[eval]'"
        ) from None
    return transformers


def _opened(folder: Path, what: str, opens: Callable[[], Any]) -> Any:
    try:
        return opens()
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, ImportError) as error:
        raise UserError(f"{folder}: transformers cannot open its {what} ({first_line(error)}); save it again") from None


class _quiet:
    """Keep transformers from reporting, in a block, heads that a model was saved with and that are not used."""

    def __init__(self, transformers: Any) -> None:
        self._logging = transformers.utils.logging

    def __enter__(self) -> None:
        self._level = self._logging.get_verbosity()
        self._bars = self._logging.is_progress_bar_enabled()
        self._logging.set_verbosity_error()
        self._logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._level)
        if self._bars:
            self._logging.enable_progress_bar()
