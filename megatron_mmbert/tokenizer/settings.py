"""The settings of a tokenizer's training: its vocabulary, and how much text of which language it sees."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_mmbert.tokenizer.special_tokens import FIXED_PIECES
from megatron_mmbert.utils.errors import UserError

MIN_VOCAB_SIZE = FIXED_PIECES + 2


@dataclass(frozen=True)
class Settings:
    """The kind of tokenizer to train, and its text.

    ``character_coverage`` None: 0.9995, or less where the alphabet would fill half the vocabulary.
    """

    vocab_size: int
    temperature: float = 0.3
    prefix_space: bool = False
    character_coverage: float | None = None
    max_bytes: int = 10**9
    max_copies: float = 10.0
    seed: int = 0

    def check(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a value is out of range; the sentence names its flag.
        """
        if self.vocab_size < MIN_VOCAB_SIZE:
            raise UserError(
                f"--vocab-size {self.vocab_size}: {FIXED_PIECES} pieces are special tokens, bytes and white "
                f"space; pass at least {MIN_VOCAB_SIZE}"
            )
        if not 0 <= self.temperature <= 1:
            raise UserError(f"--temperature {self.temperature}: not between 0 and 1; 0.3 favours small languages")
        if self.character_coverage is not None and not 0 < self.character_coverage <= 1:
            raise UserError(
                f"--character-coverage {self.character_coverage}: not in (0, 1]; leave it out or pass 0.9995"
            )
        if self.max_bytes < 1 or self.max_copies < 1:
            raise UserError(f"--max-bytes {self.max_bytes} --max-copies {self.max_copies}: both must be 1 or more")
