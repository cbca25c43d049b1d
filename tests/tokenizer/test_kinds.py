"""Vocabularies of other kinds than SentencePiece's: word edges, bytes, roles of special tokens, and their export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tokenizer_samples import HOSTILE, TEXTS
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from megatron_mmbert.data.loading.masking_units import begins_word, word_marks
from megatron_mmbert.tokenizer.engines import rules_fingerprint
from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.tokenizer.special_tokens import EXPORTED_FILE
from megatron_mmbert.utils.errors import UserError

SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
ALL_TEXTS = [text for texts in TEXTS.values() for text in texts]
Make = Callable[..., Path]


def byte_level(specials: list[str] = SPECIALS) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(ALL_TEXTS, trainer)
    return backend


def word_piece() -> Backend:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=SPECIALS, show_progress=False)
    backend.train_from_iterator(ALL_TEXTS, trainer)
    return backend


def unigram() -> Backend:
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=SPECIALS, unk_token="[UNK]", show_progress=False)
    backend.train_from_iterator(ALL_TEXTS, trainer)
    return backend


KINDS: dict[str, Callable[[], Backend]] = {"byte level": byte_level, "WordPiece": word_piece, "unigram": unigram}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A folder with a ``tokenizer.json``, and the other files given."""

    def make(backend: Backend, **files: Any) -> Path:
        backend.save(str(tmp_path / EXPORTED_FILE))
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return make


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text of each unit of whole-word masking."""
    ids = np.array(tokenizer.encode(text))
    marks = word_marks([tokenizer.spelled(i) for i in range(tokenizer.vocab_size)])
    begins = begins_word(ids, np.arange(len(ids)) > 0, marks)
    units = np.split(ids, np.flatnonzero(begins)[1:])
    pieces = [[tokenizer.piece(int(i)).removeprefix("##") for i in unit] for unit in units]
    if tokenizer.piece(ids[0]).startswith("▁") or any("Ġ" in tokenizer.piece(int(i)) for i in ids):
        return [tokenizer.decode(unit).strip() for unit in units]
    return ["".join(unit) for unit in pieces]


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_of_whole_word_masking_is_a_word(kind: str, make: Make) -> None:
    tokenizer = load_tokenizer(make(KINDS[kind]()))
    for text in ("All human beings are born free and equal in dignity", "Все люди рождаются свободными и равными"):
        assert words_of(tokenizer, text) == text.split()


def test_line_breaks_and_scripts_without_spaces_in_bytes(make: Make) -> None:
    tokenizer = load_tokenizer(make(byte_level()))
    assert [unit for unit in words_of(tokenizer, "free and\nequal") if unit] == ["free", "and", "equal"]
    units = words_of(tokenizer, TEXTS["cmn_Hani"][0])
    assert len(units) > len(TEXTS["cmn_Hani"][0]) / 4


def test_pieces_that_do_not_say_where_words_begin(make: Make) -> None:
    for pieces in (["a", "b", "ab"], ["a▁", "▁", "▁▁", "b▁", "▁a"]):
        with pytest.raises(UserError, match=r"data\.masking_unit: word: .*set it to token or span"):
            word_marks(pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_the_pieces_add_up_about(kind: str, make: Make) -> None:
    tokenizer = load_tokenizer(make(KINDS[kind]()))
    for language, texts in TEXTS.items():
        if language != "code" or kind == "byte level":  # the others give one space for many
            counted = sum(int(tokenizer.piece_bytes[tokenizer.encode(text)].sum()) for text in texts)
            size = sum(len(text.encode()) for text in texts)
            assert counted == pytest.approx(size, rel=0 if kind == "byte level" else 0.03)


def test_bytes_of_tokens_added_as_text(make: Make) -> None:
    backend = byte_level()
    backend.add_tokens(["     ", "größe"])
    tokenizer = load_tokenizer(make(backend))
    text = "die größe     x"
    assert tokenizer.piece_bytes[tokenizer.encode(text)].sum() == len(text.encode())


def whole_words() -> Backend:
    backend = word_piece()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


def merged() -> Backend:
    """A BPE whose merges come to ``[CLS]``, ``[SEP]``, ``[PAD]`` and ``[MASK]``."""
    letters = sorted(set("".join(ALL_TEXTS)) | set("".join(SPECIALS)))
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*SPECIALS, *letters]))}
    merges = []
    for name in SPECIALS:
        for end in range(2, len(name) + 1):
            vocab.setdefault(name[:end], len(vocab))
            if (name[: end - 1], name[end - 1]) not in merges:
                merges.append((name[: end - 1], name[end - 1]))
    backend = Backend(models.BPE(vocab, merges, unk_token="[UNK]"))
    backend.add_special_tokens(SPECIALS)
    return backend


@pytest.mark.parametrize("make_backend", [unigram, whole_words, merged])
def test_a_special_token_that_a_text_spells_is_text(make_backend: Callable[[], Backend], make: Make) -> None:
    """Both models have `[CLS]` as a piece like any other, and the unigram has no piece for `[`."""
    backend = make_backend()
    tokenizer = load_tokenizer(make(backend))
    special = set(tokenizer.special_ids) - {tokenizer.unk_id}
    backend.encode_special_tokens = True
    for text in ("[CLS] free", "a [MASK] b [PAD]", "[SEP]"):
        assert special & set(backend.encode(text, add_special_tokens=False).ids), "the library takes it for the token"
        ids = tokenizer.encode(text)
        assert ids and not special & set(ids) and tokenizer.encode_arrays([text])[0].tolist() == ids
    for texts in TEXTS.values():
        for text in texts:
            assert tokenizer.encode(text) == backend.encode(text, add_special_tokens=False).ids


NAMES = {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "pad": "<|pad|>", "mask": "<|mask|>"}
DECLARED = {f"{role}_token": name for role, name in NAMES.items()}


@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
def test_roles_are_as_declared(file: str, make: Make) -> None:
    """EuroBERT's names; a byte-level vocabulary needs no unknown token."""
    declared: dict[str, Any] = DECLARED | {"mask_token": {"content": "<|mask|>", "lstrip": False}, "sep_token": None}
    folder = make(byte_level([*NAMES.values(), "<s>", "<mask>"]), **{file: declared})
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id) == (0, 1, 2, 3)
    assert tokenizer.unk_id == tokenizer.pad_id
    for text in (*NAMES.values(), "a <|mask|> b", *HOSTILE):
        ids = tokenizer.encode(text)
        assert not set(ids) & set(tokenizer.special_ids) and tokenizer.decode(ids) == text
    tokenizer.save_pretrained(folder / "saved")
    config = json.loads((folder / "saved/tokenizer_config.json").read_text())
    assert "unk_token" not in config and config["cls_token"] == "<|begin_of_text|>"
    again = load_tokenizer(folder / "saved")
    assert again.special_ids == tokenizer.special_ids and again.mask_id == 3


def test_a_declared_token_that_is_not_there(make: Make) -> None:
    folder = make(byte_level(), tokenizer_config={"mask_token": "<|mask|>"})
    with pytest.raises(UserError, match=r"no '<\|mask\|>', which tokenizer_config.json .* declares as mask token"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json"):
        load_tokenizer(folder)


@pytest.fixture
def gemmas_tags(trained: Tokenizer, tmp_path: Path) -> Path:
    """A file as Gemma's: ``<s>`` an HTML tag, ``<mask>`` an ordinary added token that takes no space."""
    description = json.loads((trained.path / EXPORTED_FILE).read_text(encoding="utf-8"))
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    description["added_tokens"][4] |= {"special": False, "lstrip": False}
    size = trained.vocab_size
    description["added_tokens"] += [{"id": size + n, "content": tag, **plain} for n, tag in enumerate(("<s>", "</s>"))]
    (tmp_path / EXPORTED_FILE).write_text(json.dumps(description), encoding="utf-8")
    return tmp_path


def test_a_tag_named_like_a_special_token_is_text(gemmas_tags: Path) -> None:
    tokenizer = load_tokenizer(gemmas_tags)
    text = "a <s>old</s> b"
    reference = Backend.from_file(str(gemmas_tags / EXPORTED_FILE)).encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == reference and tokenizer.decode(reference) == text
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)
    tokenizer.save_pretrained(gemmas_tags / "saved")
    added = json.loads((gemmas_tags / "saved" / EXPORTED_FILE).read_text())["added_tokens"]
    assert [token["content"] for token in added if token["special"]] == ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]


def test_its_identity_is_that_of_stores_made_before(gemmas_tags: Path) -> None:
    description = json.loads((gemmas_tags / EXPORTED_FILE).read_text())
    for token in description["added_tokens"]:
        token["special"] = True  # by their names, as it was
    assert load_tokenizer(gemmas_tags).fingerprint() == rules_fingerprint(description)


def test_the_mask_takes_the_space_before_it_on_either_road(gemmas_tags: Path, trained: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer(gemmas_tags)
    tokenizer.save_pretrained(gemmas_tags / "saved")
    pieces = [
        hub.convert_ids_to_tokens(hub("free <mask> equal").input_ids)
        for hub in map(transformers.AutoTokenizer.from_pretrained, (gemmas_tags / "saved", trained.path))
    ]
    assert pieces[0] == pieces[1] and "▁" not in pieces[0]
    saved = load_tokenizer(gemmas_tags / "saved")
    assert saved.has_fingerprint(tokenizer.fingerprint()) and tokenizer.has_fingerprint(saved.fingerprint())
