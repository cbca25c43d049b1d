"""Filling masks with a tiny random model whose favourite token is set by the decoder's bias."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from megatron_mmbert.eval import fill_mask
from megatron_mmbert.eval.fill_mask import MaskFiller, Prompt, read_prompts, take_space
from megatron_mmbert.utils.errors import UserError

TOOL = ROOT / "tools" / "fill_mask.py"
SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
WORDS = ["The", "▁cat", "▁sat", "▁on", "cat", "ing", "▁", "私", "は", "を", "\n", "▁dog", *"catsonmTheiger"]
PIECES = list(dict.fromkeys([*SPECIALS, *WORDS]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the export writes it, with a tokenizer of whole words made by hand."""
    transformers = pytest.importorskip("transformers")
    import tokenizers
    import torch

    exported = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, -(len(piece) ** -1.0)) for piece in PIECES], 3))
    exported.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    exported.decoder = tokenizers.decoders.Replace("▁", " ")
    names = {f"{name[1:-1]}_token": name for name in SPECIALS}
    path = tmp_path_factory.mktemp("hf")
    transformers.PreTrainedTokenizerFast(tokenizer_object=exported, **names).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        vocab_size=len(PIECES),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        **{f"{role}_token_id": number for number, role in enumerate(("pad", "eos", "bos", "unk", "mask"))},
    )
    transformers.ModernBertForMaskedLM(config).save_pretrained(path)
    return path


@pytest.fixture
def filler(folder: Path) -> Callable[[str], MaskFiller]:
    """``filler("▁cat")``: a model that fills in this piece everywhere."""
    import torch

    def make(favourite: str) -> MaskFiller:
        made = MaskFiller(folder)
        with torch.no_grad():
            made._model.decoder.bias[PIECES.index(favourite)] = 50.0
        return made

    return make


def test_the_single_space_before_the_mask_is_taken() -> None:
    assert take_space("The <mask> sat") == ("The<mask> sat", True)
    assert take_space("私は<mask>を") == ("私は<mask>を", False)
    assert take_space("<mask> sat") == ("<mask> sat", False)
    assert take_space("The  <mask>") == ("The  <mask>", False)
    assert take_space("The\n<mask>") == ("The\n<mask>", False)


def test_the_model_sees_the_mask_in_the_place_of_word_and_space(filler: Callable[[str], MaskFiller]) -> None:
    says_cat = filler("▁cat")
    seen: list[Any] = []
    says_cat._model.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs["input_ids"]), with_kwargs=True)
    says_cat.fill(Prompt("The <mask> sat"), 1)
    assert [PIECES[index] for index in seen[0][0].tolist()] == ["The", "<mask>", "▁sat"]


@pytest.mark.parametrize(
    ("favourite", "text", "shown"),
    [
        ("▁cat", "The <mask> sat", "cat"),
        ("ing", "The <mask> sat", "+ing"),
        ("は", "私<mask>を", "は"),
        ("▁cat", "私<mask>を", "␣cat"),
        ("▁", "The <mask> sat", "+␣"),
        ("\n", "私<mask>", "⏎"),
    ],
)
def test_fills_are_shown_as_they_go_with_the_place(
    filler: Callable[[str], MaskFiller], favourite: str, text: str, shown: str
) -> None:
    assert filler(favourite).fill(Prompt(text), 3).fills[0].shown == shown


def test_the_expected_word_is_the_token_with_its_space(filler: Callable[[str], MaskFiller]) -> None:
    right = filler("▁cat").fill(Prompt("The <mask> sat", expected="cat"), 2)
    assert right.fills[0].is_expected and right.expected_rank == 1
    assert right.fills[0].probability == pytest.approx(right.expected_probability) and right.fills[0].probability > 0.99
    glued = filler("cat").fill(Prompt("The <mask> sat", expected="cat"), 1)
    assert not glued.fills[0].is_expected and glued.expected_rank > 1, "'cat' without its space is another token"
    longer = filler("cat").fill(Prompt("The <mask> sat", expected="tiger"), 1)
    assert longer.expected_rank is None and longer.expected_probability is None


def test_special_tokens_are_no_fills(filler: Callable[[str], MaskFiller]) -> None:
    assert not {fill.shown for fill in filler("<bos>").fill(Prompt("The <mask>"), 10).fills} & set(SPECIALS)


@pytest.mark.parametrize(
    ("text", "words"),
    [("The cat", "0 times"), ("<mask> and <mask>", "2 times"), ("cat " * 30 + "<mask>", "the model takes 24")],
)
def test_texts_that_cannot_be_filled(filler: Callable[[str], MaskFiller], text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        filler("cat").fill(Prompt(text, where="x.tsv:2"), 1)


def test_more_fills_than_tokens(filler: Callable[[str], MaskFiller]) -> None:
    with pytest.raises(UserError, match=f"the model has {len(PIECES)} tokens"):
        filler("cat").fill(Prompt("The <mask>"), len(PIECES) + 1)


def test_a_corrupt_model_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "hf")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be loaded"):
        MaskFiller(copy)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("language\tsentence\nEnglish\tThe <mask>\n", ":1: no column 'text'"),
        ("language\ttext\texpectd\nEnglish\tThe <mask>\tcat\n", "did you mean 'expected'"),
        ("language\ttext\nEnglish The <mask>\n", ":2: not 2 columns"),
        ("language\ttext\nEnglish\tThe <mask>\tcat\n", ":2: not 2 columns"),
        ("language\ttext\n", "no text below its header"),
        ("", ":1: no column 'language'"),
    ],
)
def test_tables_of_texts_that_are_no_such(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "t.tsv"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        read_prompts(path)


def test_the_bundled_texts_have_one_mask_and_an_expected_word() -> None:
    prompts = read_prompts(ROOT / "examples" / "fill_mask.tsv")
    assert len(prompts) >= 10
    assert all(prompt.text.count("<mask>") == 1 and prompt.expected for prompt in prompts)
    spaced = [take_space(prompt.text)[1] for prompt in prompts]
    assert True in spaced and False in spaced, "scripts with and without spaces"


def test_a_folder_that_is_no_model(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json here"):
        MaskFiller(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        MaskFiller(tmp_path)


def test_without_transformers_the_remedy_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install -e \.\[hf\]"):
        fill_mask.MaskFiller(folder)


def test_the_tool_prints_a_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "t.tsv"
    texts.write_text("language\ttext\texpected\nEnglish\tThe <mask> sat\tcat\nJapanese\t私<mask>を\t\n")
    monkeypatch.setattr(sys, "argv", ["fill_mask.py", str(folder), "--texts", str(texts), "--top", "2"])
    with pytest.raises(SystemExit) as ended:  # in this process: importing transformers again would take seconds
        runpy.run_path(str(TOOL), run_name="__main__")
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["language", "--------", "English", "Japanese"]
    assert lines[-1].endswith("of 1 texts")


def test_the_tool_refuses_to_do_nothing(folder: Path) -> None:
    done = subprocess.run([sys.executable, str(TOOL), str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: no text to fill")


def test_weights_that_are_not_finite_are_named(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folder, tmp_path / "hf"))
    tensors = load_file(copy / "model.safetensors")
    tensors["decoder.bias"][2] = float("nan")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{copy}: tensor 'decoder.bias' has 1 values that are not finite"):
        MaskFiller(copy)


def test_scores_that_are_not_finite_are_no_fills(filler: Callable[[str], MaskFiller]) -> None:
    import torch

    made = filler("cat")
    with torch.no_grad():
        made._model.decoder.bias[3] = float("inf")
    with pytest.raises(UserError, match="scores are not finite"):
        made.fill(Prompt("The <mask>"), 1)
