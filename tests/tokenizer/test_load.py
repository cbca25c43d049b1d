"""Loading from every kind of file: one interface, and one clear sentence for what cannot be loaded."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from support.tokenizer_samples import HOSTILE, TEXTS, VOCAB_SIZE

from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.tokenizer.special_tokens import EXPORTED_FILE, MODEL_FILE
from megatron_mmbert.utils.checksums import write_checksums
from megatron_mmbert.utils.errors import UserError

ALL_TEXTS = [text for texts in TEXTS.values() for text in texts] + HOSTILE


def edited_json(trained: Tokenizer, target: Path, **changes: Any) -> Path:
    """The exported ``tokenizer.json`` with top-level entries replaced."""
    description = json.loads((trained.path / EXPORTED_FILE).read_text(encoding="utf-8"))
    target.write_text(json.dumps(description | changes), encoding="utf-8")
    return target


@pytest.mark.parametrize("name", ["", MODEL_FILE, EXPORTED_FILE])
def test_every_kind_gives_the_same_tokenizer(name: str, trained: Tokenizer) -> None:
    tokenizer = load_tokenizer(trained.path / name)
    assert tokenizer.vocab_size == VOCAB_SIZE
    ids = (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id, tokenizer.mask_id)
    assert ids == tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert [tokenizer.piece(i) for i in range(5)] == ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    ids = [tokenizer.encode(text) for text in ALL_TEXTS]
    assert ids == [trained.encode(text) for text in ALL_TEXTS]
    assert [tokenizer.decode(each) for each in ids] == ALL_TEXTS


@pytest.mark.parametrize("name", [MODEL_FILE, EXPORTED_FILE])
def test_no_text_gives_a_special_id(name: str, trained: Tokenizer) -> None:
    tokenizer = load_tokenizer(trained.path / name)
    for text in ("<mask>", "a <mask> b", "<bos><eos><pad><unk>", "<s> </s>"):
        ids = tokenizer.encode(text)
        assert ids and not set(ids) & set(tokenizer.special_ids)
        assert tokenizer.decode(ids) == text


def test_special_ids_are_left_out_of_decoded_text(trained: Tokenizer) -> None:
    ids = np.array([2, *trained.encode("free and equal"), 4, 3, 1, 0, 0])
    assert trained.decode(ids) == "free and equal"


@pytest.mark.parametrize("name", [MODEL_FILE, EXPORTED_FILE])
def test_bytes_of_the_pieces_add_up_to_the_text(name: str, trained: Tokenizer) -> None:
    tokenizer = load_tokenizer(trained.path / name)
    assert tokenizer.piece_bytes.dtype == np.int32 and tokenizer.piece_bytes.shape == (VOCAB_SIZE,)
    assert not tokenizer.piece_bytes[:5].any() and tokenizer.piece_bytes[5:].all()
    for text in ALL_TEXTS:
        assert tokenizer.piece_bytes[tokenizer.encode(text)].sum() == len(text.encode("utf-8"))


def test_bytes_of_a_byte_level_vocabulary(tmp_path: Path) -> None:
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"],
        vocab_size=400,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.train_from_iterator(ALL_TEXTS, trainer)
    backend.save(str(tmp_path / EXPORTED_FILE))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id) == (1, 2, 3, 4)
    for text in ALL_TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.piece_bytes[tokenizer.encode(text)].sum() == len(text.encode("utf-8"))


def test_gemmas_layout_of_a_tokenizer_json(trained: Tokenizer, tmp_path: Path) -> None:
    # Gemma's file: <mask> an ordinary added token, white space runs added tokens, a pre-tokenizer that never splits,
    # a template with <bos> only, and ids beyond the model's vocabulary.
    description = json.loads((trained.path / EXPORTED_FILE).read_text(encoding="utf-8"))
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    added = description["added_tokens"]
    added[4]["special"] = False
    added += [{"id": trained.encode(run)[0], "content": run, **plain} for run in ("\n", "\n\n")]
    added.append({"id": VOCAB_SIZE, "content": "<h1>", **plain})
    path = edited_json(
        trained,
        tmp_path / EXPORTED_FILE,
        added_tokens=sorted(added, key=lambda token: token["id"]),
        pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        post_processor=None,
    )
    tokenizer = load_tokenizer(path)
    assert tokenizer.vocab_size == VOCAB_SIZE + 1 == len(tokenizer.piece_bytes)
    assert tokenizer.mask_id == 4 and tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert not set(tokenizer.encode("a <mask> b")) & set(tokenizer.special_ids)
    assert tokenizer.encode("<h1>") == [VOCAB_SIZE] and tokenizer.piece_bytes[VOCAB_SIZE] == 4
    for text in ALL_TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_saved_truncation_and_padding_are_off(trained: Tokenizer, tmp_path: Path) -> None:
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    path = edited_json(trained, tmp_path / EXPORTED_FILE, truncation=truncation)
    assert load_tokenizer(path).encode(ALL_TEXTS[0]) == trained.encode(ALL_TEXTS[0])


def test_fingerprint_is_of_the_model_file_or_of_the_rules(trained: Tokenizer, tmp_path: Path) -> None:
    content = (trained.path / MODEL_FILE).read_bytes()
    assert trained.fingerprint() == hashlib.sha256(content).hexdigest()
    exported = load_tokenizer(trained.path / EXPORTED_FILE)
    indented = edited_json(trained, tmp_path / "indented.json", post_processor=None)
    assert load_tokenizer(indented).fingerprint() == exported.fingerprint()
    other = edited_json(trained, tmp_path / "other.json", normalizer={"type": "Lowercase"})
    assert load_tokenizer(other).fingerprint() != exported.fingerprint()


def test_it_can_be_sent_to_another_process(trained: Tokenizer) -> None:
    assert pickle.loads(pickle.dumps(trained)).encode(ALL_TEXTS[0]) == trained.encode(ALL_TEXTS[0])


def test_half_a_surrogate_pair_is_a_value_error(trained: Tokenizer) -> None:
    for tokenizer in (trained, load_tokenizer(trained.path / EXPORTED_FILE)):
        with pytest.raises(ValueError, match="surrogates"):
            tokenizer.encode("a\ud800")


def test_a_folder_with_only_a_model_or_only_a_json(trained: Tokenizer, tmp_path: Path) -> None:
    for name, copy in ((MODEL_FILE, "gemma.model"), (EXPORTED_FILE, EXPORTED_FILE)):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(trained.path / name, folder / copy)
        assert load_tokenizer(folder).encode(ALL_TEXTS[0]) == trained.encode(ALL_TEXTS[0])


def test_what_cannot_be_loaded_is_named(trained: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "damaged.model").write_bytes((trained.path / MODEL_FILE).read_bytes()[:5000])
    (tmp_path / "empty.model").write_bytes(b"")
    (tmp_path / "damaged.json").write_bytes((trained.path / EXPORTED_FILE).read_bytes()[:5000])
    shutil.copy(trained.path / "tokenizer_config.json", tmp_path / "config.json")
    (tmp_path / "folder").mkdir()
    for name, sentence in {
        "missing": "no such file or folder; give a folder",
        "notes.txt": "not a tokenizer by its name; give",
        "damaged.model": "no SentencePiece model or a damaged one",
        "empty.model": "no SentencePiece model or a damaged one",
        "damaged.json": "no tokenizer.json .* or a damaged one",
        "config.json": "no tokenizer.json .* or a damaged one",
        "folder": "neither tokenizer.model nor tokenizer.json",
    }.items():
        with pytest.raises(UserError, match=f"{name}: {sentence}") as caught:
            load_tokenizer(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_missing_special_tokens_are_named(trained: Tokenizer, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}, []))
    backend.save(str(tmp_path / "t5.json"))
    with pytest.raises(UserError, match=r"t5.json: the tokenizer has no <bos>, <mask> token; add it"):
        load_tokenizer(tmp_path / "t5.json")


def test_of_two_files_that_differ_the_one_of_transformers(
    trained: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F6: tokens were added with transformers in the folder of an export, whose .model stays behind."""
    folder = Path(shutil.copytree(trained.path, tmp_path / "folder"))
    assert load_tokenizer(folder).fingerprint() == trained.fingerprint()
    backend = tokenizers.Tokenizer.from_file(str(folder / EXPORTED_FILE))
    backend.add_tokens(["<new>"])
    backend.save(str(folder / EXPORTED_FILE))
    capsys.readouterr()
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == VOCAB_SIZE + 1 and tokenizer.encode("<new>") == [VOCAB_SIZE]
    assert "tokenizer.json: gives other ids than tokenizer.model; it is taken" in capsys.readouterr().err
    assert pickle.loads(pickle.dumps(tokenizer)).vocab_size == VOCAB_SIZE + 1
    assert load_tokenizer(folder / MODEL_FILE).vocab_size == VOCAB_SIZE
    shutil.copy(trained.path / EXPORTED_FILE, folder)
    edited_json(trained, folder / EXPORTED_FILE, normalizer={"type": "Prepend", "prepend": "▁"})
    assert load_tokenizer(folder).fingerprint() != trained.fingerprint(), "the same vocabulary, other rules"


def test_a_tokenizer_is_known_by_either_file(trained: Tokenizer) -> None:
    model, exported = (load_tokenizer(trained.path / name) for name in (MODEL_FILE, EXPORTED_FILE))
    assert model.has_fingerprint(exported.fingerprint()) and model.has_fingerprint(model.fingerprint())
    assert not exported.has_fingerprint(model.fingerprint()) and not model.has_fingerprint("f" * 64)


def test_a_damaged_model_is_known_by_its_checksum(trained: Tokenizer, tmp_path: Path) -> None:
    """One flipped bit of a piece loads as another tokenizer."""
    folder = Path(shutil.copytree(trained.path, tmp_path / "folder"))
    write_checksums(folder)
    content = bytearray((folder / MODEL_FILE).read_bytes())
    content[content.find(b"free")] ^= 1
    (folder / MODEL_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.model: content differs from its checksum; copy the folder again"):
        load_tokenizer(folder)


@pytest.mark.parametrize("instead", [None, "folder"])
def test_a_folder_whose_model_is_gone_is_not_loaded_by_its_other_file(
    instead: str | None, trained: Tokenizer, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained.path, tmp_path / "folder"))
    write_checksums(folder)
    (folder / MODEL_FILE).unlink()
    if instead:
        (folder / MODEL_FILE).mkdir()
    with pytest.raises(UserError, match=r"tokenizer\.model: missing; copy the folder again"):
        load_tokenizer(folder)
    load_tokenizer(folder / EXPORTED_FILE)  # for those who mean it


def test_a_model_with_a_piece_that_is_no_text(trained: Tokenizer, tmp_path: Path) -> None:
    content = bytearray((trained.path / MODEL_FILE).read_bytes())
    at = content.index("▁".encode(), len(content) // 2)
    content[at] = 0xFF
    (tmp_path / "flipped.model").write_bytes(content)
    with pytest.raises(
        UserError, match=r"flipped.model: no SentencePiece model or a damaged one \(piece \d+ is no UTF-8\)"
    ):
        load_tokenizer(tmp_path / "flipped.model")


def test_a_normalizer_that_multiplies_text(trained: Tokenizer, tmp_path: Path) -> None:
    rule = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
    path = edited_json(trained, tmp_path / "t.json", normalizer={"type": "Sequence", "normalizers": [rule] * 4})
    with pytest.raises(UserError, match="its normalizer makes more than 32 characters of one"):
        load_tokenizer(path)


def test_rows_of_a_model_padded_or_not(trained: Tokenizer) -> None:
    ids = trained.vocab_size
    padded = -(-ids // 64) * 64
    assert ids < padded and trained.fits_rows(ids) and trained.fits_rows(padded)
    assert not any(map(trained.fits_rows, (ids - 1, ids + 1, 2 * padded)))
