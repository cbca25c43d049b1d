"""Train a SentencePiece model of exactly the size asked for on sampled text."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import sentencepiece

from megatron_mmbert.tokenizer.settings import MIN_VOCAB_SIZE, Settings
from megatron_mmbert.tokenizer.special_tokens import FIXED_PIECES, SPECIAL_PIECES
from megatron_mmbert.tokenizer.training_text import Sampler
from megatron_mmbert.tokenizer.whitespace import SPACE, keep_whitespace, whitespace_pieces
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.progress import SECONDS_PER_LINE, ByteProgress

DEFAULT_COVERAGE = 0.9995
THREADS = 8
"""Fixed, because the model file records it: a number taken from the machine would change the file's bytes."""

_TOO_MANY = re.compile(r"too high.*<= ([0-9]+)")


class VocabularyTooLarge(Exception):
    """The text gives fewer pieces than asked for; ``possible`` is how many."""

    def __init__(self, possible: int) -> None:
        super().__init__(possible)
        self.possible = possible


def train_exactly(sampler: Sampler, settings: Settings) -> bytes:
    """Return the SentencePiece model with exactly ``settings.vocab_size`` pieces, as the bytes of its file.

    Raises:
        UserError: the text gives fewer; the sentence says how many it does give.
    """
    try:
        return train_once(sampler, settings)
    except VocabularyTooLarge as error:
        possible = error.possible
    # A smaller vocabulary gets a smaller alphabet, which may lower what is possible again: try until it works.
    while possible >= MIN_VOCAB_SIZE:
        try:
            train_once(sampler, replace(settings, vocab_size=possible))
            break
        except VocabularyTooLarge as error:
            possible = error.possible
    remedy = f"pass --vocab-size {possible}, or add text" if possible >= MIN_VOCAB_SIZE else "add text"
    raise UserError(
        f"--vocab-size {settings.vocab_size}: {sampler.expected_bytes} bytes of text give at most {possible} pieces; "
        f"{remedy}"
    )


def train_once(sampler: Sampler, settings: Settings) -> bytes:
    """Run the SentencePiece trainer once over one pass of ``sampler``.

    Raises:
        VocabularyTooLarge: no more pieces can be learned.
        UserError: the alphabet leaves no room, or no text is drawn.
    """
    alphabet = choose_alphabet(sampler.character_weights(), settings)
    feed = _SentenceFeed(sampler, alphabet)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(feed),
            model_writer=model,
            **trainer_options(settings),
        )
    except RuntimeError as error:
        if feed.error is not None:
            raise feed.error from None
        too_many = _TOO_MANY.search(str(error))
        if too_many:
            raise VocabularyTooLarge(int(too_many[1])) from None
        if not sampler.drawn.total():
            raise UserError(f"--max-bytes {settings.max_bytes}: too few to draw a single line; raise it") from None
        raise UserError(f"--vocab-size {settings.vocab_size}: SentencePiece cannot train ({error})") from None
    finally:
        feed.finished.set()
    return keep_whitespace(model.getvalue())


def trainer_options(settings: Settings) -> dict[str, Any]:
    """Return SentencePiece's options: Gemma 2's, with ``<mask>`` a control symbol so that text cannot spell it."""
    ids = {f"{role}_id": i for i, role in enumerate(SPECIAL_PIECES) if role != "mask"}
    pieces = {f"{role}_piece": piece for role, piece in SPECIAL_PIECES.items() if role != "mask"}
    return {
        **ids,
        **pieces,
        "control_symbols": [SPECIAL_PIECES["mask"]],
        "user_defined_symbols": list(whitespace_pieces()),
        "vocab_size": settings.vocab_size,
        "model_type": "bpe",
        "byte_fallback": True,
        "split_digits": True,
        "add_dummy_prefix": settings.prefix_space,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "allow_whitespace_only_pieces": True,
        # The alphabet is chosen here (choose_alphabet); SentencePiece would refuse a coverage below 0.98.
        "character_coverage": 1.0,
        # Without a piece of its own, a space in a text of a script without spaces would decode to U+2581.
        "required_chars": SPACE,
        "max_sentence_length": 1 << 20,
        "num_threads": THREADS,
        "minloglevel": 2,
    }


def choose_alphabet(weights: Counter[str], settings: Settings) -> set[str]:
    """Choose the characters that get a piece of their own, the commonest first; the others are spelled as bytes.

    Raises:
        UserError: an explicit coverage needs more characters than the vocabulary has room for.
    """
    room = settings.vocab_size - FIXED_PIECES
    total = sum(weights.values())
    wanted = settings.character_coverage or DEFAULT_COVERAGE
    alphabet: set[str] = set()
    covered = 0.0
    # Ties are broken by the character, or the order of the files would matter.
    for character, weight in sorted(weights.items(), key=lambda item: (-item[1], item[0])):
        if covered >= wanted * total or (settings.character_coverage is None and len(alphabet) >= max(1, room // 2)):
            break
        alphabet.add(character)
        covered += weight
    if len(alphabet | {" "}) > room:
        raise UserError(
            f"--character-coverage {wanted}: needs {len(alphabet)} characters, but --vocab-size {settings.vocab_size} "
            f"has room for {room}; lower the coverage, leave it out, or raise the vocabulary"
        )
    if covered < wanted * total:
        print(
            f"alphabet: {len(alphabet)} characters, {covered / total:.2%} of the text (half of the learned pieces); "
            "rarer ones are spelled as bytes",
            file=sys.stderr,
        )
    return alphabet


class _SentenceFeed:
    """The text as the trainer reads it: rare characters become boundaries, progress is shown, errors are kept.

    SentencePiece turns an exception of its iterator into a RuntimeError of its own; ``error`` has the real one.
    """

    def __init__(self, sampler: Sampler, alphabet: set[str]) -> None:
        self._sampler = sampler
        rare = set().union(*(text.characters for text in sampler.languages.values())) - alphabet
        # A tab is a piece of its own, never merged: no piece is learned across it.
        self._table = {ord(character): "\t" for character in rare - {" "}}
        self.error: BaseException | None = None
        self.finished = threading.Event()

    def __iter__(self) -> Iterator[str]:
        try:
            with ByteProgress("sampling", self._sampler.expected_bytes) as progress:
                for line in self._sampler:
                    yield line.translate(self._table)
                    progress.add(len(line.encode("utf-8")))
        except BaseException as error:
            self.error = error
            raise
        # The trainer now works in silence (it lets other threads run), for minutes on a large sample.
        threading.Thread(target=self._print_time, daemon=True).start()

    def _print_time(self) -> None:
        start = time.monotonic()
        while not self.finished.wait(SECONDS_PER_LINE):
            print(f"learning pieces: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
