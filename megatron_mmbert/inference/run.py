"""Inference on texts: sorted by length, packed without padding, computed pack by pack, given back in their order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from megatron_mmbert.attention import SequenceLayout
from megatron_mmbert.inference.model import Model
from megatron_mmbert.inference.network import Network
from megatron_mmbert.inference.options import PACK_TOKENS, Pooling
from megatron_mmbert.utils.errors import UserError

WINDOW_TOKENS = 1 << 20
PASSES = 7
"""MLM scores mask every seventh token in each of seven passes: about 15 %, as in training, each token once."""


def encode(
    model: Model,
    texts: Iterable[str],
    pooling: Pooling = "mean",
    pack_tokens: int = PACK_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Return embeddings, fp32 [N, D] on the CPU, in the order of ``texts``.

    Args:
        pooling: ``mean`` over all of a text's tokens, ``<bos>`` and ``<eos>`` included; ``cls`` is ``<bos>``'s state.
        pack_tokens: tokens computed at once; a longer text is a pack of its own.
        progress: called with the number of texts of each finished pack.
    """
    parts = list(encode_windows(model, texts, pooling, pack_tokens, progress))
    return torch.cat(parts) if parts else torch.empty(0, model.width)


def encode_windows(
    model: Model,
    texts: Iterable[str],
    pooling: Pooling = "mean",
    pack_tokens: int = PACK_TOKENS,
    progress: Callable[[int], None] | None = None,
    on_cut: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Yield the embeddings of about a million tokens at a time, so that memory does not grow with ``texts``.

    ``on_cut`` is called for each text that is cut, before the next one is asked for.
    """
    for samples in windows(model, texts, on_cut=on_cut):
        yield encode_ids(model.network, samples, pooling, pack_tokens, progress)


def encode_ids(
    network: Network,
    samples: Sequence[Sequence[int]],
    pooling: Pooling = "mean",
    pack_tokens: int = PACK_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the embeddings of token ids, ``<bos>`` and ``<eos>`` included."""
    out_ND = torch.empty(len(samples), network.model.hidden_size)
    for members, hidden_TD, layout in packs(network, samples, pack_tokens):
        out_ND[members] = _pool(hidden_TD.float(), layout, pooling).cpu()
        if progress:
            progress(len(members))
    return out_ND


def score(
    model: Model,
    texts: Iterable[str],
    pack_tokens: int = PACK_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the pseudo-log-likelihood of each text, fp64 [N, 2] on the CPU.

    The two numbers are the sum of log p(token | the rest) in nats, and the number of tokens. Every token of the text is
    masked once, together with every :data:`PASSES`-th other.
    """
    parts = list(score_windows(model, texts, pack_tokens, progress))
    return torch.cat(parts) if parts else torch.empty(0, 2, dtype=torch.float64)


def score_windows(
    model: Model,
    texts: Iterable[str],
    pack_tokens: int = PACK_TOKENS,
    progress: Callable[[int], None] | None = None,
    on_cut: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Yield the scores of about a million tokens at a time; see :func:`score` and, for ``on_cut``, encode_windows.

    Raises:
        UserError: the model has no head.
    """
    if not model.network.has_head:
        raise UserError(
            f"{model.tokenizer.path}: no masked-language-model head in this folder, so it gives no scores; encode "
            "embeddings, or name the model it was made from"
        )
    for samples in windows(model, texts, on_cut=on_cut):
        copies, owners, places = masked_copies(samples, model.tokenizer.mask_id)
        out_N2 = torch.zeros(len(samples), 2, dtype=torch.float64)
        for members, hidden_TD, layout in packs(model.network, copies, pack_tokens):
            starts = layout.cu_seqlens.tolist()
            rows = torch.tensor([starts[i] + place for i, copy in enumerate(members) for place in places[copy]])
            labels = torch.tensor([samples[owners[copy]][place] for copy in members for place in places[copy]])
            owner_K = torch.tensor([owners[copy] for copy in members for _ in places[copy]])
            device = hidden_TD.device
            found_K = model.network.log_probabilities(hidden_TD[rows.to(device)], labels.to(device)).cpu().double()
            out_N2[:, 0].index_add_(0, owner_K, found_K)
            out_N2[:, 1].index_add_(0, owner_K, torch.ones(len(owner_K), dtype=torch.float64))
            if progress:
                progress(sum(places[copy][0] == 1 for copy in members))
        yield out_N2


def windows(
    model: Model,
    texts: Iterable[str],
    max_tokens: int = WINDOW_TOKENS,
    *,
    on_cut: Callable[[], None] = lambda: None,
) -> Iterator[list[list[int]]]:
    """Yield the token ids of consecutive texts, about ``max_tokens`` at a time."""
    held: list[list[int]] = []
    tokens = 0
    for text in texts:
        held.append(model.ids_of(text, on_cut))
        tokens += len(held[-1])
        if tokens >= max_tokens:
            yield held
            held, tokens = [], 0
    if held:
        yield held


def pack(lengths: Sequence[int], pack_tokens: int) -> list[list[int]]:
    """Return the indices of texts by falling length, in packs of at most ``pack_tokens``: like lengths go together."""
    packs: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not packs or lengths[index] > room:
            packs.append([])
            room = pack_tokens
        packs[-1].append(index)
        room -= lengths[index]
    return packs


def packs(
    network: Network, samples: Sequence[Sequence[int]], pack_tokens: int
) -> Iterator[tuple[list[int], Tensor, SequenceLayout]]:
    """Yield (members, hidden states [T, D], layout) of each pack."""
    device = network.device
    for members in pack([len(each) for each in samples], pack_tokens):
        lengths = [len(samples[index]) for index in members]
        bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
        tokens = list(itertools.chain.from_iterable(samples[index] for index in members))
        layout = SequenceLayout(bounds, max(lengths))
        with torch.inference_mode():
            yield members, network.hidden(torch.tensor(tokens, device=device), layout), layout


def _pool(hidden_TD: Tensor, layout: SequenceLayout, pooling: Pooling) -> Tensor:
    bounds = layout.cu_seqlens.long()
    if pooling == "cls":
        return hidden_TD[bounds[:-1]]
    sums_SD = hidden_TD.new_zeros(len(bounds) - 1, hidden_TD.shape[1])
    sums_SD.index_add_(0, layout.sample_of_token, hidden_TD)
    return sums_SD / torch.diff(bounds)[:, None]


def masked_copies(samples: Sequence[list[int]], mask_id: int) -> tuple[list[list[int]], list[int], list[list[int]]]:
    """Return copies with masks, the index of each one's sample, and its masked positions; none of an empty text."""
    copies, owners, places = [], [], []
    for owner, ids in enumerate(samples):
        for shift in range(min(PASSES, len(ids) - 2)):
            hidden = list(range(1 + shift, len(ids) - 1, PASSES))
            copy = list(ids)
            for place in hidden:
                copy[place] = mask_id
            copies.append(copy)
            owners.append(owner)
            places.append(hidden)
    return copies, owners, places
