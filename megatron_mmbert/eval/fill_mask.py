"""The tokens that a published model fills into ``<mask>``.

Spaces around the mask: the tokenizer has no prefix space: a word inside a text is one token together with
the space before it (``▁cat``), so in "The cat sat" the tokens are ``The``, ``▁cat``, ``▁sat``. A mask stands for a
whole token, the space included: what the model has to see is "The<mask> sat", although people write "The <mask> sat".
One single space before the mask is therefore taken away; with it, the model would see a lone space token and have to
continue after it, which hardly occurs in training. The space after the mask belongs to the next word and stays.
Scripts that write no spaces need nothing: "私は<mask>を食べる" is used as it is. A fill that does not fit there is
shown with a sign: ``+ing`` where a space was taken away and the token has none (it continues the word before),
``␣the`` the other way round.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_mmbert.utils.errors import UserError, first_line, nearest

MASK = "<mask>"
_SPACE = "▁"
_COLUMNS = ("language", "text", "expected")


@dataclass(frozen=True)
class Prompt:
    """A text with one :data:`MASK`; ``where`` names it in error messages."""

    text: str
    language: str = ""
    expected: str = ""
    where: str = "--text"


@dataclass(frozen=True)
class Fill:
    """A token for the mask; ``shown`` is it without the expected space (see the module's text)."""

    shown: str
    probability: float
    is_expected: bool


@dataclass(frozen=True)
class Filled:
    """The likeliest fills of a prompt; ``expected_rank`` (from 1) is None where the word is not exactly one token."""

    prompt: Prompt
    fills: tuple[Fill, ...]
    expected_rank: int | None
    expected_probability: float | None


class MaskFiller:
    """A model folder of ``save_pretrained`` or tools/convert_to_hf.py, loaded with transformers on the CPU.

    Raises:
        UserError: transformers is missing, or the folder holds no masked language model with its tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no config.json here; name a folder that tools/convert_to_hf.py wrote")
        transformers = _transformers()
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = transformers.AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # a corrupt folder: each library raises its own, some of them bare Exception
            raise UserError(f"{folder}: cannot be loaded ({first_line(error)}); export the model again") from None
        if self._tokenizer.mask_token_id is None:
            raise UserError(f"{folder}: its tokenizer has no mask token; export the model with its own tokenizer")
        self._check_weights(folder)
        self._model.eval()
        self._joins_spaces = any(piece.startswith(_SPACE) for piece in self._tokenizer.get_vocab())

    def _check_weights(self, folder: Path) -> None:
        from megatron_mmbert.utils.finite import check_finite  # torch takes seconds

        for name, tensor in self._model.state_dict().items():
            check_finite(tensor, name, folder, "export the model again")

    def fill(self, prompt: Prompt, top: int) -> Filled:
        """Return the ``top`` likeliest tokens for the prompt's mask; special tokens are no fills.

        Raises:
            UserError: not exactly one mask in the text, too much text, or more fills than there are tokens.
        """
        import torch

        if prompt.text.count(MASK) != 1:
            raise UserError(
                f"{prompt.where}: {prompt.text.count(MASK)} times {MASK} in {prompt.text!r}; write it exactly once"
            )
        text, took_space = take_space(prompt.text)
        ids = self._tokenizer(text.replace(MASK, self._tokenizer.mask_token), return_tensors="pt")["input_ids"]
        max_tokens = getattr(self._model.config, "max_position_embeddings", None)
        if max_tokens is not None and ids.shape[1] > max_tokens:
            raise UserError(
                f"{prompt.where}: {ids.shape[1]} tokens, and the model takes {max_tokens}; shorten the text"
            )
        position = int((ids[0] == self._tokenizer.mask_token_id).nonzero()[0])
        with torch.no_grad():
            logits_V = self._model(input_ids=ids).logits[0, position].float()
        probability_V = logits_V.softmax(0)
        if not probability_V.isfinite().all():
            raise UserError(f"{prompt.where}: the model's scores are not finite (NaN or infinity); export it again")
        probability_V[self._tokenizer.all_special_ids] = 0.0
        if top > len(probability_V):
            raise UserError(f"--top {top}: the model has {len(probability_V)} tokens; ask for fewer")
        target = self._expected_id(prompt.expected, took_space)
        best = probability_V.topk(top)
        return Filled(
            prompt,
            tuple(
                Fill(self._shown(index, took_space), value, index == target)
                for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ),
            None if target is None else 1 + int((probability_V > probability_V[target]).sum()),
            None if target is None else float(probability_V[target]),
        )

    def _expected_id(self, expected: str, took_space: bool) -> int | None:
        if not expected:
            return None
        ids = self._tokenizer((" " if took_space else "") + expected, add_special_tokens=False)["input_ids"]
        return ids[0] if len(ids) == 1 else None

    def _shown(self, index: int, took_space: bool) -> str:
        if self._joins_spaces:
            text = self._tokenizer.convert_ids_to_tokens(index).replace(_SPACE, " ")
        else:
            text = self._tokenizer.decode([index])
        has_space = text.startswith(" ") and text != " "
        sign = "+" if took_space and not has_space else "␣" if has_space and not took_space else ""
        visible = (text[1:] if has_space else text).replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
        return sign + visible


def take_space(text: str) -> tuple[str, bool]:
    """Return the text without the single space before its mask, and whether there was one."""
    before, _, after = text.partition(MASK)
    single = before.endswith(" ") and not before.endswith("  ")
    return (before[:-1] if single else before) + MASK + after, single


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a TSV file with the columns language, text and, if wanted, expected.

    Raises:
        UserError: no such file, another header, or a line without text.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            rows = [(reader.line_num, row) for row in reader]
            header = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); name a TSV file of UTF-8 text") from None
    return _checked(path, header, rows)


def _checked(path: Path, header: list[str], rows: Iterable[tuple[int, dict[Any, Any]]]) -> list[Prompt]:
    for column in ("language", "text"):
        if column not in header:
            raise UserError(
                f"{path}:1: no column {column!r} in {header}; the first line names the columns "
                f"{', '.join(_COLUMNS)}, with tabs between them"
            )
    for column in header:
        if column not in _COLUMNS:
            raise UserError(f"{path}:1: unknown column {column!r}{nearest(column, _COLUMNS)}; take it out")
    prompts = []
    for line, row in rows:
        if None in row or not row["text"]:
            raise UserError(f"{path}:{line}: not {len(header)} columns with text in them; write tabs between them")
        expected = (row.get("expected") or "").strip()
        prompts.append(Prompt(row["text"], row["language"] or "", expected, f"{path}:{line}"))
    if not prompts:
        raise UserError(f"{path}: no text below its header; add lines")
    return prompts


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError("transformers is not installed; run: pip install -e .[hf]") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
