from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from support.made_store import made_store

from megatron_mmbert.data.preprocess.run import PreprocessJob
from megatron_mmbert.data.text.dedup import DigestSet, text_digest
from megatron_mmbert.data.text.records import Fields
from megatron_mmbert.tokenizer.load import load_tokenizer


def test_table_agrees_with_a_set() -> None:
    """Ten keys want each slot, so that probing runs into others and the table grows several times."""
    pick = random.Random(0)
    table, known = DigestSet(), set[bytes]()
    for _ in range(60):
        digests = [
            (pick.randrange(4000) * 37).to_bytes(8, "little") + pick.randrange(0, 20, 2).to_bytes(8, "little")
            for _ in range(500)
        ]
        expected = []
        for digest in digests:
            expected.append(digest not in known)
            known.add(digest)
        assert table.add(np.array(digests, "V16")).tolist() == expected
    assert table.count == len(known) > 10_000


def test_what_is_the_same_text() -> None:
    assert text_digest("cafe\u0301 \n au  lait ") == text_digest("café au lait")
    assert text_digest("Café au lait") != text_digest("café au lait") and len(text_digest("x")) == 16


@pytest.mark.parametrize("by_field", [False, True])
def test_first_of_equal_texts_stays(by_field: bool, tokenizer_file: Path, tmp_path: Path) -> None:
    """Over files and batches of a language, and not between languages."""
    files = {
        "deu.1": ["eins", "zwei", "eins "],
        "deu.2": ["drei", "zwei", "taxi"],
        "fra": ["taxi", "taxi"],
    }
    for name, texts in files.items():
        lines = [json.dumps({"text": text, "lang": name[:3]}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    fields = Fields(language="lang") if by_field else Fields()
    inputs = tuple(tmp_path / f"{name}.jsonl" for name in files)
    store = made_store(PreprocessJob(inputs, tokenizer_file, tmp_path / "store", fields=fields, dedup=True, workers=2))
    tokenizer = load_tokenizer(tokenizer_file)
    found = {
        group.language: [
            tokenizer.decode(store.tokens("corpus", group.language, n, 0, int(length)))
            for n, length in enumerate(store.document_lengths("corpus", group.language))
        ]
        for group in store.datasets
    }
    assert found == {"deu": ["eins", "zwei", "drei", "taxi"], "fra": ["taxi"]}
    assert store.manifest.duplicates == 3
