"""Packs as text: every mark says what masking did, and tools/inspect_data.py as a user runs it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, tiny_run

from megatron_mmbert.data.loading.inspect import NOT_SCORED, PackView, SampleView
from megatron_mmbert.report.pack_text import marked_text, pack_lines, plain_text, wants_colour
from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make_run(tmp_path_factory.mktemp("inspected"))


@pytest.fixture(scope="module")
def tokenizer(recipe: Path) -> Tokenizer:
    return load_tokenizer(recipe.parent / "tokenizer")


def sample(tokenizer: Tokenizer, text: str, changes: dict[int, int]) -> SampleView:
    """``text`` as a sample; ``changes``: place in the text's ids -> the id that is seen there."""
    ids = np.array([tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id])
    seen, label = ids.copy(), np.full(len(ids), NOT_SCORED)
    for place, shown in changes.items():
        label[place + 1], seen[place + 1] = ids[place + 1], shown
    return SampleView("web", "aaa_Latn", 7, 0, len(ids) - 2, 0, seen, label)


def test_marks_say_what_masking_did(tokenizer: Tokenizer) -> None:
    text = "the cat sat on a mat"
    ids = tokenizer.encode(text)
    pieces = [tokenizer.piece(each) for each in ids]
    other = tokenizer.encode("Wald")[0]
    view = sample(tokenizer, text, {1: tokenizer.mask_id, 2: other, 4: ids[4]})
    start, between = tokenizer.decode(ids[:1]), tokenizer.decode(ids[3:4])
    marks = f"[MASK→{pieces[1]}][{tokenizer.piece(other)}→{pieces[2]}]{between}[={pieces[4]}]"
    assert marked_text(view, tokenizer) == start + marks + tokenizer.decode(ids[5:])
    assert plain_text(view, tokenizer) == text
    coloured = marked_text(view, tokenizer, colour=True)
    assert coloured != marked_text(view, tokenizer)
    assert re.sub("\033" + r"\[[0-9;]*m", "", coloured) == marked_text(view, tokenizer)


def test_heading_counts_and_places(tokenizer: Tokenizer) -> None:
    view = sample(tokenizer, "the cat sat", {0: tokenizer.mask_id})
    pack = PackView(4, 2, 9, 1000, False, 64, len(view.seen), 1, 0.7, (view, view))
    lines = list(pack_lines(pack, tokenizer, 1003, samples=1))
    assert lines[0].startswith("block 4, pack 3 of 9: about tokens 1,000 to ")
    assert "token 1,003 is about token 4 of sample 1" in lines[0]
    assert "2 masked, 0 replaced, 0 kept" in lines[0]
    assert "aaa_Latn, source web, document 7, ids 0 to " in lines[1]
    assert "... and 1 more in this pack" in lines


def test_text_cannot_steer_the_terminal(tokenizer: Tokenizer) -> None:
    assert plain_text(sample(tokenizer, "a\x1b[2Jb\nc", {}), tokenizer) == "a\\x1b[2Jb\nc"


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    assert wants_colour(terminal) and not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(terminal)


def inspect(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "inspect_data.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_tool_shows_text_of_the_corpus(recipe: Path) -> None:
    done = inspect(recipe, "--phase", "first", "--at-token", "1k", "--text-only", "data.masking=paper", "--packs", 2)
    assert done.returncode == 0, done.stderr
    corpus = [
        json.loads(line)["text"]
        for file in (recipe.parent / "train").glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    shown = done.stdout.removesuffix("\n\n").split("\n\n")
    assert len(shown) >= 8
    for text in shown:
        assert any(text in whole for whole in corpus), text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--phase", "frist", "--at-token", "0"), "no phase 'frist' (did you mean 'first'?)"),
        (("--phase", "first", "--at-token", "6k"), "phase 'first' has tokens 0 to 5,999"),
    ],
)
def test_tool_ends_on_bad_input_with_one_sentence(recipe: Path, arguments: tuple[str, ...], said: str) -> None:
    done = inspect(recipe, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1
