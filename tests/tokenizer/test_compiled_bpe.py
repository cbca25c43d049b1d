"""The compiled encoder gives SentencePiece's ids: on real text, on nasty text, on models of many sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_mmbert.tokenizer.compiled_bpe import OFF, CompiledBPE, compiled_bpe
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.tokenizer.sentencepiece_proto import parse_model
from megatron_mmbert.tokenizer.settings import Settings
from megatron_mmbert.tokenizer.train import train_tokenizer

CORPUS = Path(__file__).resolve().parents[2] / "examples/sample_corpus/train"
pytest.importorskip("megatron_mmbert.tokenizer._bpe", reason="the compiled encoder is not built: no C++ compiler here")


@pytest.fixture(scope="module", params=[700, 3000])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer as this project trains them."""
    folder = tmp_path_factory.mktemp("model") / "tokenizer"
    settings_ = Settings(vocab_size=request.param, character_coverage=0.97)
    train_tokenizer([CORPUS / f"{name}.jsonl" for name in ("deu_Latn", "jpn_Jpan", "rus_Cyrl")], folder, settings_)
    return folder


@pytest.fixture(scope="module")
def pair(model: Path) -> tuple[sentencepiece.SentencePieceProcessor, CompiledBPE]:
    """SentencePiece, and ours of the same model."""
    content = (model / "tokenizer.model").read_bytes()
    compiled = compiled_bpe(parse_model(content))
    assert compiled is not None
    reference = sentencepiece.SentencePieceProcessor()
    reference.LoadFromSerializedProto(content)
    return reference, compiled


def documents() -> Iterator[str]:
    for path in sorted(CORPUS.glob("*.jsonl")):
        for line in path.open(encoding="utf-8"):
            yield json.loads(line)["text"]


def test_every_document_of_the_sample_corpus(
    pair: tuple[sentencepiece.SentencePieceProcessor, CompiledBPE],
) -> None:
    reference, compiled = pair
    texts = list(documents())
    assert len(texts) > 300
    for text, ids in zip(texts, compiled.encode(texts), strict=True):
        assert ids.tolist() == reference.encode(text)
    again = compiled.encode(texts[:20])  # now from memory
    assert [ids.tolist() for ids in again] == [reference.encode(text) for text in texts[:20]]


_NASTY = st.text(
    st.one_of(
        st.characters(blacklist_categories=["Cs"]),
        st.sampled_from(list(" \n\t\u2581\u00a0\u200d\u0301\0éßあ漢𠮷🏳️‍🌈<>abcder")),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(texts=st.lists(_NASTY, max_size=5))
def test_nasty_texts(pair: tuple[sentencepiece.SentencePieceProcessor, CompiledBPE], texts: list[str]) -> None:
    reference, compiled = pair
    assert [ids.tolist() for ids in compiled.encode(texts)] == [reference.encode(text) for text in texts]


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "  \n\n \n", "a" * 50_000, "漢" * 20_000, " " * 3001, "\n" * 257, "<mask><bos>", "ab\0cd"]
)
def test_extremes(text: str, pair: tuple[sentencepiece.SentencePieceProcessor, CompiledBPE]) -> None:
    reference, compiled = pair
    assert compiled.encode([text])[0].tolist() == reference.encode(text)


def test_more_words_than_are_remembered(pair: tuple[sentencepiece.SentencePieceProcessor, CompiledBPE]) -> None:
    _, compiled = pair
    text = "der Hund und die Katze"
    before = compiled.encode([text])[0].tolist()
    for start in range(0, 1_200_000, 100_000):
        compiled.encode([" ".join(map(str, range(start, start + 100_000)))])
    assert compiled.encode([text])[0].tolist() == before


def test_half_a_character_is_an_error_and_no_crash(
    pair: tuple[sentencepiece.SentencePieceProcessor, CompiledBPE],
) -> None:
    with pytest.raises(UnicodeEncodeError):
        pair[1].encode(["fine", "\ud800"])


def test_other_models_are_refused(model: Path) -> None:
    for change in ("user_defined", "prefix", "unigram"):
        proto = parse_model((model / "tokenizer.model").read_bytes())
        if change == "user_defined":
            proto.pieces[-1].type = 4
        elif change == "prefix":
            proto.normalizer_spec.add_dummy_prefix = True
        else:
            proto.trainer_spec.model_type = 1
        assert compiled_bpe(proto) is None, change


def test_without_it_the_ids_are_the_same(model: Path) -> None:
    texts = list(documents())[:60]
    code = (
        "import json, sys; from megatron_mmbert.tokenizer.load import load_tokenizer\n"
        "tokenizer = load_tokenizer(sys.argv[1]); print(type(tokenizer._engine._words).__name__)\n"
        "print(json.dumps([ids.tolist() for ids in tokenizer.encode_arrays(json.load(sys.stdin))]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], input=json.dumps(texts), capture_output=True, text=True,
        env=os.environ | {OFF: "1"},
    )  # fmt: skip
    kind, ids = done.stdout.splitlines()
    assert kind == "WordCache"
    tokenizer = load_tokenizer(model)
    assert type(tokenizer._engine._words).__name__ == "CompiledBPE"
    assert json.loads(ids) == [each.tolist() for each in tokenizer.encode_arrays(texts)]
