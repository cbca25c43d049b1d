"""The printed script, run by a shell whose commands record what they are called with."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from megatron_mmbert.cli import Parser, add_command, run_cli
from megatron_mmbert.config.loading import preset_recipe
from megatron_mmbert.plan.sources.downloads import plan_downloads
from megatron_mmbert.plan.sources.script import download_script, size_text
from megatron_mmbert.utils.errors import UserError

RECIPE = """
name: mine
preset: mmbert_base-paper
tokenizer: {{path: "{tokenizer}"}}
data: {{stores: [none]}}
phases:
  - name: decay_all
    languages: [fao, srp_Cyrl, eng]
"""
_RECORD = '#!/bin/bash\nprintf "%s\\0" "$0" "$@" >> "$RECORD"; printf "\\n" >> "$RECORD"\n'
_LISTED = ("books", "tulu_flan", "redpajama-arxiv", "redpajama-stackexchange")
_HF = (
    _RECORD
    + 'while [ "$1" != --local-dir ]; do shift; done; mkdir -p "$2/urls"\n'
    + f'printf "https://x/%s/0.json.gz\\n" {" ".join(_LISTED)} > "$2/urls/v1_7.txt"\n'
)


def script(folder: Path, output: str, capsys: pytest.CaptureFixture[str], tokenizer: str = "gemma 2") -> str:
    (folder / "recipe.yaml").write_text(RECIPE.format(tokenizer=tokenizer))
    run_cli(["plan", str(folder / "recipe.yaml"), "--downloads", output])
    return capsys.readouterr().out


def called(text: str, folder: Path) -> list[list[str]]:
    """Run a script with stand-ins of its programs; return their calls."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("hf", "mmbert", "wget"):
        body = _HF if name == "hf" else _RECORD + ("cat > /dev/null\n" if name == "wget" else "")
        (programs / name).write_text(body)
        (programs / name).chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "RECORD": str(folder / "record")}
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, env=environment, cwd=folder, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = (folder / "record").read_text().splitlines()
    return [[Path(line.split("\0")[0]).name, *line.split("\0")[1:-1]] for line in lines]


def value(call: list[str], flag: str) -> str:
    return call[call.index(flag) + 1]


@pytest.mark.parametrize("output", ["corpora", "cor pora; touch 'broken' $(touch broken) `touch broken` &"])
def test_a_shell_calls_what_is_meant(output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever folders are called."""
    calls = called(script(tmp_path, output, capsys, tokenizer="gem $(touch broken)'ma"), tmp_path)
    assert not (tmp_path / "broken").exists()
    fetched = [call for call in calls if call[0] == "hf"]
    assert all(call[1] == "download" and call[3:5] == ["--repo-type", "dataset"] for call in fetched)
    languages = [value(call, "--include") for call in fetched if call[2].endswith("/fineweb-2")]
    assert "data/fao_????/train/*" in languages and "data/srp_Cyrl/train/*" in languages
    assert not [pattern for pattern in languages if "eng" in pattern or "removed" in pattern or "test" in pattern]
    assert all(value(call, "--local-dir").startswith(f"{output}/") for call in fetched)
    made = {value(call, "--source"): call for call in calls if call[0] == "mmbert"}
    assert len(made) == 13 and "prolong_code" not in made
    for name, call in made.items():
        assert value(call, "--output") == f"{output}/stores/{name}"
        assert value(call, "--input").split(f"{output}/{name}")[0] == ""
        assert value(call, "--tokenizer") == "gem $(touch broken)'ma"
    assert value(made["starcoder"], "--text-field") == "content" and value(made["starcoder"], "--language") == "code"
    assert sum(call[0] == "wget" and "--continue" in call for call in calls) == 4


def test_the_commands_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in script(tmp_path, "corpora", capsys).splitlines() if line.startswith("mmbert ")]
    for line in lines:
        _, name, *rest = shlex.split(line)
        parser = Parser(prog=name)
        add_command(parser, name)
        parser.parse_intermixed_args(rest)
    assert len(lines) == 13


def test_what_is_here_and_what_is_missing(tmp_path: Path) -> None:
    recipe = preset_recipe("mmbert_base-paper", Path("tokenizer"), [Path("store")])
    folder = tmp_path / "corpora"
    (folder / "books" / ".cache").mkdir(parents=True)
    (folder / "books" / "books-0000.json.gz").write_bytes(bytes(3000))
    (folder / "books" / ".cache" / "half").write_bytes(bytes(9000))
    (folder / "stores" / "dclm").mkdir(parents=True)
    (folder / "stores" / "dclm" / "manifest.json").write_text("{}")
    downloads = plan_downloads(recipe, folder)
    books = next(each for each in downloads.sources if each.name == "books")
    assert (books.here.files, books.here.bytes, books.here.has_store) == (1, 3000, False)
    assert "dclm" not in [each.name for each in downloads.missing()]
    text = download_script(downloads)
    assert "# here: 1 files, 3 kB; the commands continue" in text
    assert f"# here: its store {folder}/stores/dclm" in text and "hf download mlfoundations" not in text
    needed, unknown = downloads.needed_bytes()
    assert needed > 8e12 and "megawika" in unknown
    assert f"disk still needed for downloads and stores: {size_text(needed)}" in text
    assert not list(tmp_path.glob("**/hf")) and os.listdir(tmp_path) == ["corpora"]


def test_tokens_by_phase_are_those_of_the_recipe() -> None:
    recipe = preset_recipe("mmbert_base-paper", Path("tokenizer"), [Path("store")])
    for phase in recipe.phases:
        read = [each.tokens.get(phase.name, 0) for each in plan_downloads(recipe, Path("corpora")).sources]
        assert sum(read) == pytest.approx(phase.tokens)


def test_own_sources_and_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "name: mine\npreset: tiny\ntokenizer: {path: t}\ndata: {stores: [s]%s}\n"
    (tmp_path / "recipe.yaml").write_text(text % ", sources: {mine: {}, fineweb2: {}}")
    run_cli(["plan", str(tmp_path / "recipe.yaml"), "--downloads", "corpora"])
    printed = capsys.readouterr().out
    assert "# mine: no published data set is known by this name" in printed and "HuggingFaceFW/fineweb-2" in printed
    (tmp_path / "recipe.yaml").write_text(text % "")
    with pytest.raises(UserError, match=r"recipe 'mine': names no source; name some under .*, fineweb2, "):
        run_cli(["plan", str(tmp_path / "recipe.yaml"), "--downloads", "corpora"])


def test_downloads_make_no_plan(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(tokenizer="t"))
    with pytest.raises(UserError, match="--downloads: prints commands and makes no plan; leave out --output"):
        run_cli(["plan", str(tmp_path / "recipe.yaml"), "--downloads", "corpora", "--output", str(tmp_path / "p.json")])
    assert os.listdir(tmp_path) == ["recipe.yaml"]
