"""Embeddings or MLM scores of a corpus with an exported model.

    python -m megatron_mmbert.inference runs/mine/hf --input my_corpus --output embeddings
    python -m megatron_mmbert.inference runs/mine/hf --input texts.jsonl --what scores --format jsonl --output scores

--input takes what tools/preprocess_data.py takes (.jsonl, .txt, .gz, .zst, .parquet, folders of them). Row n of the
output belongs to the n-th text, files in the order that index.json lists. Scores are two numbers a text: the sum of
log p(token | the rest of the text) in nats, each token masked once, and the number of tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from megatron_mmbert.attention import AUTO
from megatron_mmbert.data.text.documents import find_inputs, read_documents
from megatron_mmbert.inference.model import DTYPES, load_model
from megatron_mmbert.inference.outputs import FORMATS, write_shards
from megatron_mmbert.inference.run import PACK_TOKENS, encode_windows, score_windows
from megatron_mmbert.kernels import fp32_matmul
from megatron_mmbert.utils.errors import UserError, run_command


def main() -> None:
    arguments = _arguments()
    if arguments.output.exists() and not arguments.overwrite:
        raise UserError(f"{arguments.output}: already exists; choose another --output or pass --overwrite")
    files = find_inputs(arguments.input)
    fp32_matmul.use_fastest()
    model = load_model(
        arguments.model, arguments.device, arguments.dtype, arguments.max_length, arguments.attention_engine
    )
    with tqdm(desc=arguments.what, unit="text", mininterval=1.0) as bar:
        start, texts = time.perf_counter(), _texts(files, arguments.text_field)
        if arguments.what == "scores":
            parts = score_windows(model, texts, arguments.pack_tokens, bar.update)
        else:
            parts = encode_windows(model, texts, arguments.pooling, arguments.pack_tokens, bar.update)
        about: dict[str, Any] = {"model": str(arguments.model), "what": arguments.what, "files": list(map(str, files))}
        if arguments.what == "embeddings":
            about["pooling"] = arguments.pooling
        rows = write_shards(arguments.output, parts, arguments.format, about, arguments.overwrite)
    print(f"wrote {arguments.output}: {arguments.what} of {rows:,} texts in {time.perf_counter() - start:.1f} s")


def _texts(files: list[Path], field: str) -> Iterator[str]:
    for file in files:
        yield from (document.text for document in read_documents(file, field))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_mmbert.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="HF_DIR", help="a folder that tools/convert_to_hf.py wrote")
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="PATH", help="text files or folders")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--what", choices=("embeddings", "scores"), default="embeddings")
    parser.add_argument("--pooling", choices=("mean", "cls"), default="mean")
    parser.add_argument("--format", choices=FORMATS, default="npy")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens a text is cut to (the model's limit)")
    parser.add_argument(
        "--pack-tokens", type=int, default=PACK_TOKENS, metavar="N", help="tokens computed at once (%(default)s)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--attention-engine", default=AUTO, metavar="NAME", help="see python -m megatron_mmbert.doctor")
    parser.add_argument("--text-field", default="text", help="field of a .jsonl line that holds the text (text)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in DIR")
    arguments = parser.parse_args()
    if arguments.pack_tokens < 1:
        raise UserError(f"--pack-tokens {arguments.pack_tokens}: must be at least 1")
    return arguments


if __name__ == "__main__":
    run_command(main)
