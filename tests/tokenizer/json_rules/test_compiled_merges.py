"""The compiled encoder of a ``tokenizer.json`` gives the library's ids: any merges, any text, any added tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tokenizer_samples import HOSTILE, TEXTS
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, trainers

from megatron_mmbert.tokenizer.compiled_bpe import OFF
from megatron_mmbert.tokenizer.json_rules.compiled_merges import CompiledMerges, compiled_merges
from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.tokenizer.special_tokens import EXPORTED_FILE

pytest.importorskip(
    "megatron_mmbert.tokenizer._bpe_merges", reason="the compiled encoder is not built: no C++ compiler"
)
ALL_TEXTS = [text for texts in TEXTS.values() for text in texts]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ROLES = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def description_of(vocab: dict[str, int], merges: list[list[str]], added: tuple[str, ...] = ()) -> dict[str, Any]:
    """A file as Gemma's."""
    ids = vocab | {token: len(vocab) + n for n, token in enumerate(token for token in added if token not in vocab)}
    roles = [{"id": n, "content": role} | PLAIN | {"special": True} for n, role in enumerate(ROLES)]
    return {
        "version": "1.0",
        "added_tokens": [*roles, *({"id": ids[token], "content": token} | PLAIN for token in added)],
        "normalizer": SPACES,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
        | {"vocab": vocab, "merges": merges},
    }


def both(description: dict[str, Any]) -> tuple[CompiledMerges, Backend]:
    compiled = compiled_merges(description)
    assert compiled is not None
    reference = Backend.from_str(json.dumps(description))
    reference.encode_special_tokens = True
    return compiled, reference


def assert_same(compiled: CompiledMerges, reference: Backend, texts: list[str]) -> None:
    for text, ids in zip(texts, compiled.encode(texts), strict=True):
        assert ids.tolist() == reference.encode(text, add_special_tokens=False).ids, text


@pytest.fixture(scope="module")
def learned() -> dict[str, Any]:
    """Merges learned of real text that reach over the ends of words, and a few added tokens."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=[*ROLES, *BYTES], limit_alphabet=300, show_progress=False
    )
    backend.train_from_iterator([text[n : n + 40] for text in ALL_TEXTS for n in range(0, len(text), 40)], trainer)
    model = json.loads(backend.to_str())["model"]
    return description_of(
        model["vocab"], model["merges"], ("<s>", "</s>", "\n", "\n\n", "  ", "größe", "▁▁", "<mask>x")
    )


def test_real_and_nasty_text(learned: dict[str, Any]) -> None:
    compiled, reference = both(learned)
    texts = [*ALL_TEXTS, *HOSTILE, "a <s>b</s>\n\n\nc  d   e<mask>x <mask> <mas<s>", "▁▁ ▁ größe", "", "\x00\U0010ffff"]
    assert_same(compiled, reference, texts * 2)  # and once more, of what is remembered
    assert compiled.encode([]) == []


@given(st.text(alphabet="abc e\n▁<s>ü語😀", max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text(learned: dict[str, Any], text: str) -> None:
    assert_same(*both_once(learned), [text])


_both: list[tuple[CompiledMerges, Backend]] = []


def both_once(description: dict[str, Any]) -> tuple[CompiledMerges, Backend]:
    if not _both:
        _both.append(both(description))
    return _both[0]


@given(st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_any_merges(random: Any) -> None:
    """One piece made in several ways, of any rank: what the library does with a pair that has changed is done here."""
    pieces = list("ab▁\n")
    merges: list[list[str]] = []
    for _ in range(random.randrange(1, 25)):
        pair = [random.choice(pieces), random.choice(pieces)]
        merges.append(pair)
        if "".join(pair) not in pieces and len("".join(pair)) < 9:
            pieces.append("".join(pair))
        elif "".join(pair) not in pieces:
            merges.pop()
    vocab = {piece: n for n, piece in enumerate([*ROLES, *BYTES, *pieces])}
    random.shuffle(merges)
    texts = ["".join(random.choices("ab \n▁c", k=random.randrange(40))) for _ in range(20)]
    assert_same(*both(description_of(vocab, merges, ("ab", " a")[: random.randrange(3)])), texts)


CHANGES: dict[str, dict[str, Any]] = {
    "another normalizer": {"normalizer": {"type": "NFC"}},
    "a prefix": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES]}},
    "no normalizer": {"normalizer": None},
    "words cut": {"pre_tokenizer": {"type": "Whitespace"}},
    "no bytes": {"model": {"byte_fallback": False}},
    "dropout": {"model": {"dropout": 0.1}},
    "whole words": {"model": {"ignore_merges": True}},
    "an added token that takes spaces": {"added_tokens": [PLAIN | {"id": 9, "content": "x", "lstrip": True}]},
    "one that is a word": {"added_tokens": [PLAIN | {"id": 9, "content": "x", "single_word": True}]},
    "one matched later": {"added_tokens": [PLAIN | {"id": 9, "content": "x", "normalized": True}]},
    "merges that come to a special token": {
        "model": {"merges": [["<", "mask>"]]},
        "added_tokens": [PLAIN | {"id": 4, "content": "<mask>", "special": True}],
    },
    "merged bytes": {"model": {"merges": [["<0x0A>", "a"]]}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_rules_are_the_librarys(learned: dict[str, Any], name: str) -> None:
    change = CHANGES[name]
    assert compiled_merges(learned | change | {"model": learned["model"] | change.get("model", {})}) is None


def test_through_the_interface(learned: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / EXPORTED_FILE).write_text(json.dumps(learned), encoding="utf-8")
    texts = [*ALL_TEXTS, "<mask> <s>"]

    def ids(tokenizer: Tokenizer) -> list[list[int]]:
        return [ids.tolist() for ids in tokenizer.encode_arrays(texts)]

    compiled = ids(load_tokenizer(tmp_path))
    monkeypatch.setenv(OFF, "1")
    slow = load_tokenizer(tmp_path)
    assert compiled == ids(slow) == [slow.encode(text) for text in texts]
    assert slow.encode_arrays(texts)[0].dtype == np.int32
    monkeypatch.delenv(OFF)
    with pytest.raises(ValueError, match="surrogate"):
        load_tokenizer(tmp_path).encode_arrays(["a\ud800"])


def test_an_escaped_mark(learned: dict[str, Any]) -> None:
    """The rule of a tokenizer trained here: a U+2581 of the text is no space."""
    escape = {"type": "Replace", "pattern": {"String": "▁"}, "content": "\ufdd0"}
    changed = learned | {"normalizer": {"type": "Sequence", "normalizers": [escape, SPACES]}}
    assert_same(*both(changed), ["a▁b ▁ c", "▁▁"])
