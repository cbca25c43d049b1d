"""Write embeddings or MLM scores of a corpus with an exported model.

--input takes what preprocess takes. Every line of a .txt and every record has its row, empty ones too: index.json says
where the rows of each file begin, rows.jsonl has file, line and id of each row, and which texts were cut to the model's
limit. Scores are two numbers a text: the sum of log p(token | the rest of the text) in nats, each token masked once,
and the number of tokens. Of a model that sentence-transformers saved, embeddings are pooled as it says, without the
modules that may follow.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from megatron_mmbert.commands.arguments import Whole, add_allow_different, add_output
from megatron_mmbert.commands.inputs import add_inputs
from megatron_mmbert.inference.options import DTYPE_NAMES, FORMATS, PACK_TOKENS, POOLINGS
from megatron_mmbert.utils.bounds import MAX_LENGTH, MAX_PACK_TOKENS

EXAMPLES = """
mmbert encode runs/mine/hf --input my_corpus --output embeddings
mmbert encode runs/mine/hf --input texts.jsonl --what scores --format jsonl --output scores
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add("model", type=Path, metavar="HF_DIR", help="a folder that convert-to-hf wrote")
    add_inputs(parser)
    add_output(parser)
    add("--what", choices=("embeddings", "scores"), default="embeddings", help="what to write (%(default)s)")
    add("--pooling", choices=POOLINGS, help="of a text's tokens (what the model's 1_Pooling says, else mean)")
    add("--format", choices=FORMATS, default="npy", help="of the files written (%(default)s)")
    add("--max-length", type=Whole(3, MAX_LENGTH), metavar="N", help="tokens a text is cut to (the model's limit)")
    pack, help_pack = Whole(1, MAX_PACK_TOKENS), "tokens computed at once (%(default)s)"
    add("--pack-tokens", type=pack, default=PACK_TOKENS, metavar="N", help=help_pack)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (%(default)s)")
    add("--dtype", choices=DTYPE_NAMES, default="fp32", help="of the computation (%(default)s)")
    add("--attention-engine", default="auto", metavar="NAME", help="`mmbert doctor` lists them (%(default)s)")
    add_allow_different(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the model over all texts, and say what was written."""
    from megatron_mmbert.data.text.inputs.discover import find_files, print_notes
    from megatron_mmbert.utils.output_kinds import EMBEDDINGS
    from megatron_mmbert.utils.outputs import check_output

    inputs = (arguments.model, *arguments.input)
    check_output(arguments.output, EMBEDDINGS, inputs, arguments.overwrite)
    found = find_files(arguments.input, tuple(arguments.split) if arguments.split else None)
    print_notes(found.notes)
    files = [file.path for file in found.taken]
    from tqdm import tqdm  # here, as all that computes: torch takes seconds

    from megatron_mmbert.inference.model import load_model, pooling_of
    from megatron_mmbert.inference.outputs import RowList, write_shards
    from megatron_mmbert.inference.run import encode_windows, score_windows
    from megatron_mmbert.kernels import fp32_matmul

    pooling = arguments.pooling or pooling_of(arguments.model)
    fp32_matmul.use_fastest()
    model = load_model(
        arguments.model,
        arguments.device,
        arguments.dtype,
        arguments.max_length,
        arguments.attention_engine,
        arguments.allow_different,
    )
    with tqdm(desc=arguments.what, unit="text", mininterval=1.0) as bar:
        start, rows = time.perf_counter(), RowList(files, arguments.text_field)
        packs, texts = arguments.pack_tokens, rows.texts()
        if arguments.what == "scores":
            parts = score_windows(model, texts, packs, bar.update, rows.cut)
        else:
            parts = encode_windows(model, texts, pooling, packs, bar.update, rows.cut)
        about: dict[str, Any] = {"model": str(arguments.model), "what": arguments.what, "files": list(map(str, files))}
        if arguments.what == "embeddings":
            about["pooling"] = pooling
        about["max_length"] = model.max_length
        count = write_shards(arguments.output, parts, arguments.format, about, arguments.overwrite, rows, inputs)
    print(f"wrote {arguments.output}: {arguments.what} of {count:,} texts in {time.perf_counter() - start:.1f} s")
    if rows.cut_texts:
        print(f"{rows.cut_texts:,} of them were cut to {model.max_length:,} tokens; rows.jsonl says which")
