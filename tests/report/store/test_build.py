"""The report's files: a page that no text can break out of, plots, numbers, and what the command refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.made_store import manifest_without_checksum
from support.text_store import text_store

from megatron_mmbert.cli import run_cli
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.utils.errors import UserError

HOSTILE = (
    "</script><script>alert(1)</script><!-- \u202eevil\u2066 \0 &lt; \u2028 ]]> ${x} $$ $data "
    "<img src=x onerror=alert(1)>"
)
FILES = ["data_report.json", "index.html", "languages.png", "lengths.png"]


@pytest.fixture
def store(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    texts = {"aaa_Latn": ["ban kein tro", "vask"], "a<b>&\"'$x$": [HOSTILE, "ban"]}
    return text_store(tmp_path / "store", tokenizer, texts).path


def report(store: Path, *arguments: object) -> tuple[Path, dict[str, Any]]:
    """Return the page, and the data in it."""
    output = store.parent / "look"
    run_cli(["data-report", str(store), "--output", str(output), *map(str, arguments)])
    text = (output / "index.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*)</script>\n<script>', text)
    found: dict[str, Any] = json.loads(data)
    return output, found


def test_text_is_nothing_but_text(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, data = report(store)
    text = (output / "index.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in output.iterdir()) == FILES
    assert text.count("<script") == text.count("</script>") == 2 and text.count("<img") == 2
    assert "alert(1)</" not in text and text.count("<!--") == 0 and "\0" not in text and "\u202e" not in text
    row = next(row for row in data["rows"] if row["language"] == "a<b>&\"'$x$")
    shown = HOSTILE.replace("\u202e", "[U+202E]").replace("\u2066", "[U+2066]").replace("\0", "[U+0000]")
    assert shown.replace("\u2028", "[U+2028]") in [excerpt[1] for excerpt in row["excerpts"]]
    assert "open" in capsys.readouterr().out


def test_the_page_loads_nothing_and_its_policy_has_its_own_script(store: Path) -> None:
    output, _ = report(store)
    text = (output / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(|<link|\bsrc=(?!\"data:image/png;base64,)", re.sub(r"\{.*\}", "", text))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None and policy[1].startswith("default-src 'none'; img-src data:;")
    for part in (r"<style>(.*?)</style>", r"</script>\n<script>(.*?)</script>"):
        (content,) = re.findall(part, text, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy[1]


def test_the_same_store_gives_the_same_files(store: Path) -> None:
    output, _ = report(store)
    first = {path.name: path.read_bytes() for path in output.iterdir()}
    report(store, "--overwrite")
    assert {path.name: path.read_bytes() for path in output.iterdir()} == first


RECIPE = """
name: mine
preset: tiny
tokenizer: {{path: {tokenizer}}}
data: {{stores: [{store}]}}
"""


def test_epochs_by_phase_under_a_recipe(store: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(tokenizer=tokenizer.path, store=store))
    output, data = report(store, "--recipe", recipe, "phases.pretrain.languages=all")
    assert data["phases"][0] == "pretrain" and (output / "epochs.png").exists()
    row = data["rows"][0]
    assert row["phase0"] > 100 and "epochs" in [mark[0] for mark in row["marks"]]
    found = json.loads((output / "data_report.json").read_text())
    assert found["recipe"] == "mine" and found["datasets"][0]["phases"][0]["epochs"] > 100


def test_a_preset_is_laid_over_the_store(store: Path) -> None:
    _, data = report(store, "--preset", "tiny", "--sample", 1, "--sample-tokens", 2)
    assert len(data["phases"]) > 1 and any("Epochs are those of the recipe tiny" in note for note in data["notes"])
    assert all(len(row["excerpts"]) == 1 for row in data["rows"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--preset", "tyny"), "--preset: no preset 'tyny' (did you mean 'tiny'?)"),
        (("a.b=3",), "a.b=3: replaces a recipe's value; give --recipe too"),
        (("--tokenizer", "nowhere.model"), "nowhere.model: no such file or folder"),
        (("--sample", "0"), "--sample: '0' must be"),
    ],
)
def test_bad_arguments_are_one_sentence(store: Path, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        report(store, *arguments)
    assert not (store.parent / "look").exists()


def test_a_recipe_of_another_store_is_refused(store: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(tokenizer=tokenizer.path, store="elsewhere"))
    with pytest.raises(UserError, match="trains on elsewhere and not on"):
        report(store, "--recipe", tmp_path / "recipe.yaml")


def test_a_store_of_another_tokenizer_or_one_that_is_gone(store: Path, tokenizer: Tokenizer) -> None:
    manifest = json.dumps(manifest_without_checksum(store))
    (store / "manifest.json").write_text(manifest.replace(str(tokenizer.path), "gone/tokenizer.model"))
    with pytest.raises(UserError, match=r"its tokenizer was at 'gone/tokenizer\.model', where nothing is"):
        report(store)
    report(store, "--tokenizer", tokenizer.path)
    (store / "manifest.json").write_text(manifest.replace(tokenizer.fingerprint(), "0" * 64))
    with pytest.raises(UserError, match="made with another tokenizer"):
        report(store, "--overwrite")


def test_a_damaged_document_is_named(store: Path) -> None:
    ids = bytearray((store / "shard-00000.bin").read_bytes())
    ids[0] ^= 1
    (store / "shard-00000.bin").write_bytes(ids)
    with pytest.raises(UserError, match=r"document 0 \(web/aaa_Latn index 0\) is damaged"):
        report(store)
    assert not (store.parent / "look").exists()
