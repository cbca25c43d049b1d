"""Embeddings and scores against transformers, text by text; packing, order, streaming."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import ModernBertForMaskedLM

from megatron_mmbert.inference import Model, encode, score
from megatron_mmbert.inference import run as running
from megatron_mmbert.utils.errors import UserError


@torch.inference_mode()
def hidden_by_transformers(model: ModernBertForMaskedLM, ids: Sequence[int]) -> Tensor:
    return model.model(input_ids=torch.tensor([ids])).last_hidden_state[0]


def test_embeddings_equal_transformers(model: Model, theirs: ModernBertForMaskedLM, texts: list[str]) -> None:
    """1e-4 on values of order 1; packs of a few hundred tokens, so that texts share packs and one stands alone."""
    mean = encode(model, texts, pack_tokens=400)
    first = encode(model, texts, "cls", pack_tokens=400)
    lengths = [len(model.ids_of(text)) for text in texts]
    assert min(lengths) == 2
    assert max(lengths) > 400, "one text must be longer than a pack"
    for row, text in enumerate(texts):
        hidden = hidden_by_transformers(theirs, model.ids_of(text))
        assert hidden.std() > 0.1
        torch.testing.assert_close(mean[row], hidden.mean(0), rtol=0, atol=1e-4)
        torch.testing.assert_close(first[row], hidden[0], rtol=0, atol=1e-4)


def test_a_text_is_not_touched_by_what_it_is_packed_with(model: Model, texts: list[str]) -> None:
    together = encode(model, texts)
    alone = torch.cat([encode(model, [text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(encode(model, texts[::-1]).flip(0), together, rtol=0, atol=1e-5)


def test_windows_bound_the_memory_and_keep_the_order(
    model: Model, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(model, texts)
    monkeypatch.setattr(running.windows, "__defaults__", (200,))
    done: list[int] = []
    pieces = list(running.encode_windows(model, iter(texts), progress=done.append))
    assert len(pieces) > 3
    assert sum(done) == len(texts)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-5)


def test_scores_are_pseudo_log_likelihoods(model: Model, theirs: ModernBertForMaskedLM, texts: list[str]) -> None:
    found = score(model, texts)
    for row, text in enumerate(texts[:5]):
        ids = torch.tensor(model.ids_of(text))
        expected, count = 0.0, 0
        for shift in range(running.PASSES):
            places = torch.arange(1 + shift, max(1 + shift, len(ids) - 1), running.PASSES)
            if len(places):
                corrupted = ids.clone()
                corrupted[places] = model.tokenizer.mask_id
                with torch.inference_mode():
                    logits = theirs(input_ids=corrupted[None]).logits[0].double()
                expected += float(logits.log_softmax(-1)[places, ids[places]].sum())
                count += len(places)
        assert found[row, 1] == count == len(ids) - 2
        assert found[row, 0].item() == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_packs_are_full_and_sorted() -> None:
    packs = running.pack([5, 100, 30, 70, 20, 300], 100)
    assert packs == [[5], [1], [3, 2], [4, 0]]
    assert sorted(index for each in packs for index in each) == list(range(6))


def test_no_texts(model: Model) -> None:
    assert encode(model, []).shape == (0, 64)
    assert score(model, []).shape == (0, 2)


def test_a_long_text_is_cut(folder: object, texts: list[str]) -> None:
    from megatron_mmbert.inference import load_model

    short = load_model(folder, max_length=10)  # type: ignore[arg-type]
    ids = short.ids_of(texts[0])
    assert len(ids) == 10
    assert ids[-1] == short.tokenizer.eos_id
    with pytest.raises(UserError, match="--max-length 5000: must be between 3 and the model's 1024"):
        load_model(folder, max_length=5000)  # type: ignore[arg-type]
