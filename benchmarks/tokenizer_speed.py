"""Text to ids on all cores: the compiled BPE, the word cache and SentencePiece beside the `tokenizers` library.

    python benchmarks/tokenizer_speed.py CORPUS... --tokenizer DIR [--workers 2] [--rounds 5] [--max-bytes 40M]

CORPUS: files or folders of documents; DIR comes from tools/train_tokenizer.py. Each round every one of them takes all
documents in turn, in worker processes of their own that begin with empty caches, in batches as large as those of the
preprocessing; ids end as int32 arrays, as a store needs them. The library runs as exported, and once more with the
words cut before it merges (a rule that changes no id where :func:`has_separate_words` holds), which lets it use its
own word cache; once with a process a core, once with a thread a core. About 10 minutes for 40 MB and five rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from results import machine, print_table, save

from megatron_mmbert.config.values import parse_count
from megatron_mmbert.data.text.documents import find_inputs, read_documents

BATCH_BYTES = 256 << 10
WORDS = "[▁\n]*[^▁\n]+|[▁\n]+"
Encode = Callable[[list[str]], list[np.ndarray]]


def compiled(folder: Path) -> Encode:
    from megatron_mmbert.tokenizer.load import load_tokenizer

    os.environ.pop("MMBERT_NO_COMPILED", None)
    return load_tokenizer(folder).encode_arrays


def word_cache(folder: Path) -> Encode:
    from megatron_mmbert.tokenizer.load import load_tokenizer

    os.environ["MMBERT_NO_COMPILED"] = "1"
    return load_tokenizer(folder).encode_arrays


def sentencepiece(folder: Path) -> Encode:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return lambda texts: [np.array(ids, np.int32) for ids in processor.encode(texts, num_threads=1)]


def library(folder: Path, threads: int = 1, cut_words: bool = False) -> Encode:
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.encode_special_tokens = True
    if cut_words:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.array(e.ids, np.int32) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]

    return encode


def encoders(workers: int) -> dict[str, tuple[Callable[[Path], Encode], int]]:
    """Map a name to (function that loads it, the processes that run it)."""
    return {
        "compiled": (compiled, workers),
        "word_cache": (word_cache, workers),
        "sentencepiece": (sentencepiece, workers),
        "tokenizers": (library, workers),
        "tokenizers_words_cut": (lambda folder: library(folder, cut_words=True), workers),
        "tokenizers_words_cut_threads": (lambda folder: library(folder, workers, cut_words=True), 1),
    }


def batches(texts: list[str], batch_bytes: int) -> Iterator[list[str]]:
    """Cut documents into batches of about ``batch_bytes``."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text.encode())
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def work(load: Callable[[Path], Encode], folder: Path, todo: list[list[str]], start: Any, answer: Any) -> None:
    """Encode ``todo`` in a process of its own; answers (wall seconds, CPU seconds, digest of each batch's ids)."""
    encode = load(folder)
    encode(["Warm up."])
    start.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    made = [encode(batch) for batch in todo]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    answer.send((wall, cpu, [_digest(ids) for ids in made]))


def _digest(ids: list[np.ndarray]) -> bytes:
    lengths = np.array([len(each) for each in ids], np.int32)
    return hashlib.blake2b(np.concatenate([lengths, *ids]).tobytes()).digest()


def run(load: Callable[[Path], Encode], processes: int, folder: Path, todo: list[list[str]]) -> dict[str, Any]:
    """Run one over all batches, batch i by process i modulo ``processes``."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(processes)
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    workers = [
        context.Process(target=work, args=(load, folder, todo[i::processes], start, pipes[i][1]))
        for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    answers = [pipes[i][0].recv() for i in range(processes)]
    for worker in workers:
        worker.join()
    digests = [answers[i % processes][2][i // processes] for i in range(len(todo))]
    return {"wall": max(a[0] for a in answers), "cpu": sum(a[1] for a in answers), "digests": digests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-bytes", type=parse_count, default=40_000_000)
    arguments = parser.parse_args()
    texts = [document.text for path in find_inputs(arguments.corpus) for document in read_documents(path)]
    every = list(batches(texts, BATCH_BYTES))
    step = max(1, round(sum(len(text.encode()) for text in texts) / arguments.max_bytes))
    todo = every[::step]  # of all languages
    size = sum(len(text.encode()) for batch in todo for text in batch)
    rounds: dict[str, list[dict[str, Any]]] = {}
    for number in range(arguments.rounds):
        for name, (load, processes) in encoders(arguments.workers).items():
            result = run(load, processes, arguments.tokenizer, todo)
            rounds.setdefault(name, []).append(result)
            print(f"round {number + 1}, {name}: {result['wall']:.2f} s, {result['cpu']:.2f} s of CPU", flush=True)
    rows: dict[str, Any] = {"documents": sum(map(len, todo)), "bytes": size, "batches": len(todo)}
    expected = rounds["sentencepiece"][0]["digests"]
    for name, results in rounds.items():
        rows[name] = {
            "MB_per_second": round(size / statistics.median(r["wall"] for r in results) / 1e6, 2),
            "MB_per_CPU_second": round(size / statistics.median(r["cpu"] for r in results) / 1e6, 2),
            "batches_with_the_same_ids": sum(a == b for a, b in zip(results[0]["digests"], expected, strict=True)),
        }
        for unit in ("wall", "cpu"):
            ratios = [r[unit] / ours[unit] for r, ours in zip(results, rounds["compiled"], strict=True)]
            low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
            rows[name][f"compiled_is_faster_by_{unit}"] = [round(value, 2) for value in (low, middle, high)]
    command = "python benchmarks/tokenizer_speed.py CORPUS --tokenizer DIR"
    about = machine("sentencepiece", "tokenizers", "numpy")
    path = save("tokenizer_speed", {"command": command, "machine": about, "workers": arguments.workers, **rows})
    print_table([(name, str(row)) for name, row in rows.items()])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
