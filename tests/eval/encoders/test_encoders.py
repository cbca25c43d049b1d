"""Packed inference and transformers' padded batches give the same vectors; words are found where they stand."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_tokenizer import LETTERS
from support.tiny_export import make_export
from support.tiny_tasks import words
from tokenizers import Tokenizer
from transformers import BertConfig, BertForMaskedLM, XLMRobertaConfig, XLMRobertaForMaskedLM

from megatron_mmbert.eval.encoders.base import Encoder, word_spans
from megatron_mmbert.eval.encoders.opening import find_model
from megatron_mmbert.eval.encoders.packed import PackedEncoder
from megatron_mmbert.eval.encoders.padded import PaddedEncoder
from megatron_mmbert.inference.run import score
from megatron_mmbert.utils.errors import UserError

PICK = random.Random(3)
TEXTS = ["".join(PICK.choices(LETTERS, k=length)) for length in (40, 3, 600, 0, 900, 90)]
SENTENCES = [words(PICK, 7).split(" "), ["seed"], words(PICK, 30).split(" ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def packed(folder: Path) -> Encoder:
    return PackedEncoder(folder, "cpu", "fp32")


@pytest.fixture(scope="module")
def padded(folder: Path) -> Encoder:
    return PaddedEncoder(folder, "cpu", "fp32")


def test_packed_and_padded_are_equal(packed: Encoder, padded: Encoder) -> None:
    """Texts, words with and without prefix space, and bits: within 1e-4 on values of order 1."""
    assert packed.ids(TEXTS) == padded.ids(TEXTS)
    assert packed.cut == padded.cut
    np.testing.assert_allclose(packed.text_vectors(TEXTS), padded.text_vectors(TEXTS), rtol=0, atol=1e-4)
    for join in (" ", "", None):
        ours, theirs = (each.word_vectors(SENTENCES, [join] * 3) for each in (packed, padded))
        assert ours.shape == (38, 128)
        assert ours.std() > 0.1
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    ours, theirs = packed.bits(TEXTS), padded.bits(TEXTS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-3)
    assert ours[3] == 0


def test_bits_are_those_of_encode(packed: PackedEncoder) -> None:
    nats = score(packed._model, TEXTS)[:, 0].numpy()
    np.testing.assert_allclose(packed.bits(TEXTS), -nats / np.log(2), rtol=1e-5, atol=1e-6)


def test_long_texts_are_cut_and_counted(folder: Path) -> None:
    for kind in (PackedEncoder, PaddedEncoder):
        encoder = kind(folder, "cpu", "fp32")
        encoder.max_length = 12
        assert [len(ids) for ids in encoder.ids(TEXTS)] == [12, 4, 12, 2, 12, 12] or encoder.cut == 4
        assert all(ids[0] == 2 and ids[-1] == 1 for ids in encoder.ids(TEXTS))
        vectors = encoder.word_vectors(SENTENCES, [" "] * 3)
        assert vectors.shape == (38, 128)
        assert not vectors[-1].any(), "the last word of a cut sentence has no token"


def test_random_weights(folder: Path) -> None:
    """Another network of the same shape, the same from the same seed; weights of the file are untouched."""
    before = (folder / "model.safetensors").read_bytes()
    for kind in (PackedEncoder, PaddedEncoder):
        drawn = [kind(folder, "cpu", "fp32", seed).text_vectors(TEXTS) for seed in (0, 0, 1)]
        assert np.array_equal(drawn[0], drawn[1])
        assert not np.allclose(drawn[0], drawn[2])
    assert (folder / "model.safetensors").read_bytes() == before


def test_words_are_found_by_their_characters(folder: Path) -> None:
    """Each word's tokens spell the word; as running text its first has the space, one by one it has none."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = ["hello", "see", "it"]
    for join, space in ((" ", True), (None, False), ("", False)):
        ids, found = word_spans(tokenizer, text, join)
        for word, span in zip(text, found, strict=True):
            assert span is not None
            spelled = "".join(tokenizer.id_to_token(place) for place in ids[span[0] : span[1] + 1])
            if join == "":
                assert word in "".join(tokenizer.id_to_token(place) for place in ids).replace("▁", " ")
            else:
                assert spelled.startswith("▁") == space
                assert spelled.removeprefix("▁") == word
    odd = ["é漢", "\u200b", "<mask>"]
    ids, found = word_spans(tokenizer, odd, " ")
    assert found[0] is not None
    assert found[2] is not None


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_peers(folder: Path, tmp_path: Path, kind: str) -> None:
    """Other encoders stand in the same table; their own length limit is kept, padding changes nothing."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind == "bert":
        model = BertForMaskedLM(BertConfig(vocab_size=400, max_position_embeddings=64, **sizes))
    else:
        ids = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 1}
        model = XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=400, max_position_embeddings=66, **sizes, **ids))
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(folder / name, tmp_path / name)
    found = find_model(str(tmp_path), "auto")
    assert not found.packed
    encoder = found.open("cpu", "fp32")
    assert encoder.max_length == 64
    together, alone = encoder.text_vectors(TEXTS), np.concatenate([encoder.text_vectors([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert encoder.cut
    assert (encoder.bits(TEXTS[:3]) > 0).all()
    np.testing.assert_allclose(encoder.bits(TEXTS[:1]), encoder.bits(TEXTS[:3])[:1], rtol=1e-4)


def test_models_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no/such/model: no folder of a model"):
        find_model("no/such/model", "auto")
    with pytest.raises(UserError, match=r"no model configuration here"):
        find_model(str(tmp_path), "auto")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match=r"no weights"):
        find_model(str(tmp_path), "auto")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"--backend packed computes ModernBERT"):
        find_model(str(tmp_path), "packed")
    (tmp_path / "checkpoint.json").touch()
    with pytest.raises(UserError, match=r"a checkpoint; export it first"):
        find_model(str(tmp_path), "auto")


def test_a_model_without_tokenizer(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path / name)
    with pytest.raises(UserError, match=r"neither tokenizer.model nor tokenizer.json"):
        find_model(str(tmp_path), "auto").open("cpu", "fp32")
    with pytest.raises(UserError, match=r"tokenizer"):
        find_model(str(tmp_path), "padded").open("cpu", "fp32")


def test_identity_is_of_what_computes(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    same = find_model(str(copy), "auto").identity
    assert same == find_model(str(folder), "auto").identity
    (copy / "README.md").write_text("a card")
    assert find_model(str(copy), "auto").identity == same
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "local_attention": 64}))
    assert find_model(str(copy), "auto").identity != same
