"""Train a tokenizer like Gemma 2's on one's own languages.

SentencePiece BPE with byte fallback, single digits, no normalisation and all white space kept, so that decoding gives
back every document as it was (`whitespace.py`). The result is a folder with the SentencePiece model, the exported
``tokenizer.json`` and ``training.json``, which says what it was trained on. Command::

    python tools/train_tokenizer.py --input corpus/ --vocab-size 32000 --output tokenizer/
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from megatron_mmbert.data.text.inputs.discover import AS_FOUND, InputOptions
from megatron_mmbert.data.text.records import SkippedLines
from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.tokenizer.settings import Settings
from megatron_mmbert.tokenizer.special_tokens import MODEL_FILE
from megatron_mmbert.tokenizer.train_sentencepiece import train_exactly
from megatron_mmbert.tokenizer.training_text import Sampler, copies_per_line, measure_corpus
from megatron_mmbert.utils.checksums import write_checksums
from megatron_mmbert.utils.files import write_json
from megatron_mmbert.utils.output_kinds import TOKENIZER
from megatron_mmbert.utils.outputs import check_output, output_folder

REPORT_FILE = "training.json"
SKIPPED_FILE = "skipped.jsonl"


def train_tokenizer(
    inputs: list[Path],
    output: Path,
    settings: Settings,
    overwrite: bool = False,
    skip_bad: bool = False,
    options: InputOptions = AS_FOUND,
) -> tuple[Tokenizer, SkippedLines]:
    """Train on ``inputs``, read by ``options``, and write the folder ``output``, whole or not at all.

    Raises:
        UserError: bad settings, paths or lines; ``output`` exists; the text gives fewer pieces than asked for.
    """
    settings.check()
    check_output(output, TOKENIZER, inputs, overwrite)
    skipped = SkippedLines()
    with ExitStack() as stack:
        staging = stack.enter_context(output_folder(output, TOKENIZER, inputs, overwrite))
        record = stack.enter_context((staging / SKIPPED_FILE).open("w", encoding="utf-8"))
        skipped.record = record
        languages = measure_corpus(inputs, options, skipped if skip_bad else None)
        sizes = {name: language.bytes for name, language in languages.items()}
        budget = min(settings.max_bytes, sum(sizes.values()))
        copies = copies_per_line(sizes, settings.temperature, budget, settings.max_copies)
        sampler = Sampler(languages, copies, settings.seed, settings.prefix_space)
        model = train_exactly(sampler, settings)
        (staging / MODEL_FILE).write_bytes(model)
        load_tokenizer(staging / MODEL_FILE).save_pretrained(staging)
        write_json(staging / REPORT_FILE, describe(sampler, settings, options, skipped))
        if not skipped.count:
            (staging / SKIPPED_FILE).unlink()
        record.close()
        write_checksums(staging)
        tokenizer = load_tokenizer(staging)  # while it may fail: what has its final name is whole
    return tokenizer.moved_to(output), skipped


def describe(sampler: Sampler, settings: Settings, options: InputOptions, skipped: SkippedLines) -> dict[str, Any]:
    """Return the contents of ``training.json``."""
    languages = {
        name: {"documents": text.documents, "bytes": text.bytes, "sampled_bytes": sampler.drawn[name]}
        for name, text in sampler.languages.items()
    }
    fields: dict[str, Any] = {"text_field": options.fields.text}
    if options.fields.where:
        fields["where"] = [list(condition) for condition in options.fields.where]
    return {"settings": vars(settings) | fields, "skipped_lines": skipped.count, "languages": languages}
