"""The exported Hugging Face tokenizer: the same ids as SentencePiece, seen through transformers."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from support.tokenizer_samples import CODE, HOSTILE, TEXTS
from transformers import AutoTokenizer

from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.tokenizer.special_tokens import EXPORTED_FILE, MODEL_FILE
from megatron_mmbert.utils.errors import UserError

ALL_TEXTS = [text for texts in TEXTS.values() for text in texts] + HOSTILE
IDS = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
PIECES = {f"{role}_piece": f"<{role}>" for role in ("pad", "eos", "bos", "unk")}


def train_model(path: Path, **options: Any) -> Path:
    """A SentencePiece model that was not made by this project, by default laid out as Gemma 2's."""
    model = io.BytesIO()
    defaults = {
        **IDS,
        **PIECES,
        "model_type": "bpe",
        "vocab_size": 520,
        "byte_fallback": True,
        "split_digits": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "user_defined_symbols": ["<mask>", "\n", "\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<h1>"],
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    lines = [line for texts in TEXTS.values() for text in texts for line in text.split("\n")]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **(defaults | options))
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def auto(trained: Tokenizer) -> Any:
    return AutoTokenizer.from_pretrained(trained.path)


def assert_same_ids(tokenizer: Tokenizer, exported: Tokenizer, texts: list[str]) -> None:
    for text in texts:
        assert tokenizer.encode(text) == exported.encode(text), repr(text)
        assert tokenizer.decode(tokenizer.encode(text)) == exported.decode(exported.encode(text)), repr(text)


@pytest.mark.parametrize("kind", ["trained", "prefixed"])
def test_same_ids_on_everything_here(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    exported = load_tokenizer(tokenizer.path / EXPORTED_FILE)
    pieces = [tokenizer.piece(i).replace("▁", " ") for i in range(5, tokenizer.vocab_size)]
    draw = random.Random(0)
    scraps = ["".join(draw.choices(pieces + HOSTILE, k=draw.randint(1, 30))) for _ in range(1000)]
    # Repeats of a piece overlap with themselves, which is where ties between merges could show.
    repeats = [piece * n + piece[:-1] for piece in pieces for n in (2, 3, 5)]
    assert_same_ids(tokenizer, exported, [*ALL_TEXTS, *scraps, *repeats])


def test_same_ids_on_real_documents(trained: Tokenizer, real_documents: list[str]) -> None:
    assert_same_ids(trained, load_tokenizer(trained.path / EXPORTED_FILE), real_documents)


def test_characters_never_seen_are_spelled_as_bytes(trained: Tokenizer) -> None:
    for tokenizer in (trained, load_tokenizer(trained.path / EXPORTED_FILE)):
        assert [tokenizer.piece(i) for i in tokenizer.encode("ꙮ")] == ["<0xEA>", "<0x99>", "<0xAE>"]


def test_digits_are_single(trained: Tokenizer) -> None:
    for tokenizer in (trained, load_tokenizer(trained.path / EXPORTED_FILE)):
        assert [tokenizer.piece(i) for i in tokenizer.encode("1948")] == list("1948")


def test_transformers_loads_a_fast_tokenizer_with_the_special_tokens(auto: Any, trained: Tokenizer) -> None:
    assert auto.is_fast and len(auto) == trained.vocab_size
    ids = (auto.pad_token_id, auto.eos_token_id, auto.bos_token_id, auto.unk_token_id, auto.mask_token_id)
    assert ids == (0, 1, 2, 3, 4) and (auto.cls_token_id, auto.sep_token_id) == (2, 1)
    assert auto.model_max_length == 8192 and auto.padding_side == "right"
    assert auto.model_input_names == ["input_ids", "attention_mask"]


def test_transformers_gives_the_same_ids_in_the_template(auto: Any, trained: Tokenizer) -> None:
    for text in [text for text in ALL_TEXTS if "<" not in text]:
        ids = auto(text)["input_ids"]
        assert ids == [2, *trained.encode(text), 1]
        assert auto.decode(ids, skip_special_tokens=True) == text
    for text in ALL_TEXTS:
        assert auto(text, split_special_tokens=True)["input_ids"] == [2, *trained.encode(text), 1]
    a, b = trained.encode("free"), trained.encode("equal")
    assert auto("free", "equal")["input_ids"] == [2, *a, 1, *b, 1]


def test_the_mask_takes_the_space_before_it_and_leaves_the_one_behind(auto: Any, trained: Tokenizer) -> None:
    wanted = [2, *trained.encode("born"), 4, *trained.encode(" and"), 1]
    assert auto("born <mask> and")["input_ids"] == wanted
    assert auto("born<mask> and")["input_ids"] == wanted


def test_a_copy_saved_by_transformers_gives_the_same_ids(auto: Any, trained: Tokenizer, tmp_path: Path) -> None:
    auto.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(CODE)["input_ids"] == [2, *trained.encode(CODE), 1]
    assert load_tokenizer(tmp_path).encode(CODE) == trained.encode(CODE)


def test_gemmas_layout_of_a_model(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(train_model(tmp_path / "gemma.model"))
    assert tokenizer.mask_id == 4 and tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert not set(tokenizer.encode("a <mask> b")) & set(tokenizer.special_ids)
    tokenizer.save_pretrained(tmp_path / "saved")
    exported = load_tokenizer(tmp_path / "saved" / EXPORTED_FILE)
    texts = [*ALL_TEXTS, "<h1>\n\n\nTitle</h1>    x     y", "x▁▁▁▁▁y", "\n\n\n\n\n a"]
    assert_same_ids(tokenizer, exported, texts)
    assert exported.special_ids == tokenizer.special_ids
    assert (tmp_path / "saved" / MODEL_FILE).read_bytes() == (tmp_path / "gemma.model").read_bytes()
    auto = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in texts:
        assert auto(text, split_special_tokens=True)["input_ids"] == [2, *tokenizer.encode(text), 1]


def test_saving_a_tokenizer_json_adds_the_template(trained: Tokenizer, tmp_path: Path) -> None:
    exported = load_tokenizer(trained.path / EXPORTED_FILE)
    exported.save_pretrained(tmp_path)
    assert not (tmp_path / MODEL_FILE).exists()
    assert load_tokenizer(tmp_path).fingerprint() == exported.fingerprint()
    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert auto(CODE)["input_ids"] == [2, *trained.encode(CODE), 1] and auto("<mask>")["input_ids"] == [2, 4, 1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "unigram"}, "it is no BPE model"),
        ({"byte_fallback": False}, "it has no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "it changes the text"),
        ({"remove_extra_whitespaces": True}, "it changes the text"),
        ({"treat_whitespace_as_suffix": True}, "it puts spaces after words"),
    ],
)
def test_a_model_whose_export_would_differ_is_refused(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(train_model(tmp_path / "other.model", **options))
    with pytest.raises(UserError, match=f"other.model: {reason}"):
        tokenizer.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
