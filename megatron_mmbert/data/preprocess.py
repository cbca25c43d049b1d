"""Text to a token store, with any number of workers, to the same bytes.

Documents come in the order (language, input file, line); a pool encodes chunks of lines and hands them back in order;
one writer cuts the shards. The store is published whole by a rename. Beside the manifest lies ``made_from.json``, which
says from what: the same command run again finds that there is nothing to do.

    python tools/preprocess_data.py --input corpus/ --tokenizer tokenizer/ --output store/ --workers 8
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from megatron_mmbert.data.dedup import Deduplicator
from megatron_mmbert.data.documents import empty_file, find_inputs, language_of
from megatron_mmbert.data.encode import Chunk, EncodedChunk, Encoder, InputFile, Tokenizer, read_chunks
from megatron_mmbert.data.manifest import MANIFEST_NAME, REMEDY, Manifest, TokenizerEntry, load_manifest, save_manifest
from megatron_mmbert.data.progress import ByteProgress
from megatron_mmbert.data.records import MAX_LINE_BYTES, Fields, SkippedLines, report_bad
from megatron_mmbert.data.spill import LanguageSpill
from megatron_mmbert.data.store import Store
from megatron_mmbert.data.summary import describe
from megatron_mmbert.data.workers import ordered_map
from megatron_mmbert.data.writer import SHARD_BYTES, EncodedDocument, StoreWriter, store_dtype
from megatron_mmbert.errors import UserError
from megatron_mmbert.files import atomic_folder, read_json, write_json

MADE_FROM_NAME = "made_from.json"
SKIPPED_NAME = "skipped.jsonl"


@dataclass(frozen=True)
class PreprocessJob:
    """One preprocessing command.

    Attributes:
        language: the language of all documents; None: of each file's name, or of each line's ``fields.language``.
        skip_bad: leave bad lines out and list them, instead of stopping at the first.
        shard_bytes: a shard's ``.bin`` is cut at this size.
        workers: processes that encode; changes nothing in the store.
        max_line_bytes: a longer line or text is a bad line, and never in memory as a whole.
        dedup: of the documents of a language with the same text, keep the first.
    """

    inputs: tuple[Path, ...]
    tokenizer: Path
    output: Path
    source: str = "corpus"
    language: str | None = None
    fields: Fields = field(default_factory=Fields)
    skip_bad: bool = False
    overwrite: bool = False
    workers: int = 1
    shard_bytes: int = SHARD_BYTES
    max_line_bytes: int = MAX_LINE_BYTES
    dedup: bool = False


def preprocess(job: PreprocessJob) -> Store:
    """Make the store of ``job``, or find that it is made already; says on stdout what there is.

    Raises:
        UserError: bad arguments or input, or the output exists and is something else.
    """
    files = _input_files(job)
    tokenizer = load_any_tokenizer(job.tokenizer)
    made_from = _made_from(job, files, tokenizer)
    if not job.overwrite and _is_done(job.output, made_from):
        store = Store.open(job.output)
        print(f"{job.output}: already made from these inputs, nothing to do\n{describe(store.manifest)}")
        return store
    _check_replaceable(job)
    for left in sorted(job.output.parent.glob(f".{job.output.name}.*.tmp")):
        # Not removed: on a shared disk nobody can tell from here whether its process is alive on another machine.
        print(f"{left}: of another command with this output; remove it if that was killed", file=sys.stderr)
    start = time.monotonic()
    with atomic_folder(job.output, overwrite=job.output.exists()) as folder:
        with (folder / SKIPPED_NAME).open("w", encoding="utf-8") as record:
            skipped = SkippedLines(record)
            manifest = _fill(folder, job, files, tokenizer, skipped)
        if not skipped.count:
            (folder / SKIPPED_NAME).unlink()
        write_json(folder / MADE_FROM_NAME, made_from)
        save_manifest(folder, manifest)
    _print_skipped(job, skipped)
    seconds = time.monotonic() - start
    rate = manifest.totals()["bytes"] / seconds / 1e6
    print(f"{job.output}: made in {seconds:.1f} s, {rate:.2f} MB of text a second\n{describe(manifest)}")
    return Store.open(job.output)


def _fill(
    folder: Path, job: PreprocessJob, files: list[InputFile], tokenizer: Tokenizer, skipped: SkippedLines
) -> Manifest:
    """Write all shards into ``folder``."""
    dtype = store_dtype(tokenizer.vocab_size)
    writer = StoreWriter(folder, job.source, dtype, job.shard_bytes)
    unique = Deduplicator() if job.dedup else None

    def write(documents: list[EncodedDocument]) -> None:
        writer.add_all(documents if unique is None else unique.keep(documents))

    spill = LanguageSpill(folder / "spill", dtype) if job.fields.language else None
    total = sum(file.path.stat().st_size for file in files)
    prepare = partial(_prepare_worker, job.tokenizer, job.fields, dtype, job.dedup)
    # Closed here and now: after an error the workers must be gone before the folder is removed.
    with (
        ByteProgress("preprocess", total) as progress,
        closing(ordered_map(_encode, read_chunks(files), job.workers, prepare)) as done,
    ):
        for chunk in _checked(done, skipped if job.skip_bad else None):
            write(chunk.documents) if spill is None else spill.add_all(chunk.documents)
            progress.add(chunk.input_bytes)
    if spill is not None:
        spill.drain(write)
    groups = writer.finish()
    if not groups:
        raise UserError(f"{job.inputs[0]}: no document left, all {skipped.count} lines are bad; check --text-field")
    entry = TokenizerEntry(str(job.tokenizer), tokenizer.fingerprint(), tokenizer.vocab_size)
    return Manifest(dtype, entry, groups, tuple(writer.shards), skipped.count, unique.dropped if unique else 0)


def _checked(chunks: Iterable[EncodedChunk], skip_bad: SkippedLines | None) -> Iterable[EncodedChunk]:
    """Pass chunks on after reporting their bad lines, and files that had no document at all."""
    seen = 0
    for chunk in chunks:
        for bad in chunk.bad:
            report_bad(bad, skip_bad)
        seen += len(chunk.documents) + len(chunk.bad)
        if chunk.ends_file:
            if not seen:
                report_bad(empty_file(chunk.file.path), skip_bad)
            seen = 0
        yield chunk


def _input_files(job: PreprocessJob) -> list[InputFile]:
    """The input files in the store's order, empty ones refused before any work."""
    output = job.output.resolve()
    files = []
    for path in find_inputs(job.inputs):
        if output in path.resolve().parents:  # the list of skipped lines of a store made in its own input folder
            continue
        if path.stat().st_size == 0 and not job.skip_bad:
            raise UserError(str(empty_file(path)))
        by_line = job.fields.language is not None and job.language is None
        language = None if by_line else job.language or language_of(path)
        files.append(InputFile(path, language, job.fields, job.max_line_bytes))
    if not files:
        raise UserError(f"{job.inputs[0]}: nothing but the output in it; check --input and --output")
    return sorted(files, key=lambda file: file.language or "")  # stable: keeps the order of files in a language


def _made_from(job: PreprocessJob, files: list[InputFile], tokenizer: Tokenizer) -> dict[str, Any]:
    """All that the store depends on, to find out whether an existing one is this one."""
    inputs = []
    for file in files:
        status = file.path.stat()
        inputs.append([str(file.path.resolve()), file.language, status.st_size, status.st_mtime_ns])
    # Stores made before this option existed have no such key, and the default.
    added: dict[str, Any] = {"dedup": True} if job.dedup else {}
    lines = {} if job.max_line_bytes == MAX_LINE_BYTES else {"max_line_bytes": job.max_line_bytes}
    return (
        added
        | lines
        | {
            "source": job.source,
            "language": job.language,
            "text_field": job.fields.text,
            "language_field": job.fields.language,
            "skip_bad": job.skip_bad,
            "shard_bytes": job.shard_bytes,
            "tokenizer_fingerprint": tokenizer.fingerprint(),
            "inputs": inputs,
        }
    )


def _is_done(output: Path, made_from: dict[str, Any]) -> bool:
    """Whether ``output`` is the store that ``made_from`` describes.

    Raises:
        UserError: it is another store.
    """
    if not (output / MANIFEST_NAME).exists():
        return False
    before = read_json(output / MADE_FROM_NAME, "record of the inputs", f"pass --overwrite, or {REMEDY}")
    before = before if isinstance(before, dict) else {}
    other = [key for key in before.keys() | made_from.keys() if before.get(key) != made_from.get(key)]
    if other:
        what = ", ".join(key.replace("_", " ") for key in sorted(other))
        raise UserError(f"{output}: holds a store made with other {what}; choose another --output or pass --overwrite")
    return True


def _check_replaceable(job: PreprocessJob) -> None:
    """Refuse to replace anything but a token store or an empty folder: --overwrite must not delete a home directory."""
    output = job.output
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not output.is_dir() or not (output / MANIFEST_NAME).exists():
        raise UserError(f"{output}: exists and is no token store; choose another --output")
    load_manifest(output)


def _print_skipped(job: PreprocessJob, skipped: SkippedLines) -> None:
    if skipped.count:
        print(f"skipped {skipped.count} bad lines, all listed in {job.output / SKIPPED_NAME}:", file=sys.stderr)
        for bad in skipped.first:
            print(f"  {bad}", file=sys.stderr)
        if skipped.count > len(skipped.first):
            print("  ...", file=sys.stderr)


def load_any_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer at ``path``, as far as the data room knows it."""
    from megatron_mmbert.tokenizer.load import load_tokenizer

    tokenizer: Tokenizer = load_tokenizer(path)
    return tokenizer


_encoder: Encoder | None = None  # of this worker process


def _prepare_worker(tokenizer: Path, fields: Fields, dtype: str, dedup: bool) -> None:
    global _encoder
    _encoder = Encoder(load_any_tokenizer(tokenizer), fields, dtype, dedup)


def _encode(chunk: Chunk) -> EncodedChunk:
    assert _encoder is not None
    return _encoder.encode(chunk)
