"""Check a token store: sizes, checksums, index against data, ids against the vocabulary.

    python tools/verify_data.py store/ --tokenizer tokenizer/

Ends with status 2 and one sentence per problem, naming the shard and the document at fault.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_mmbert.data.preprocess.partition_writer import IDS_NAME, PART_NAME
from megatron_mmbert.data.preprocess.run import load_any_tokenizer
from megatron_mmbert.data.store.manifest import load_manifest
from megatron_mmbert.data.store.summary import describe
from megatron_mmbert.data.store.verify import verify
from megatron_mmbert.utils.errors import EXIT_BAD_INPUT, run_command
from megatron_mmbert.utils.progress import ByteProgress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR_OR_FILE", help="check that the store was made with it")
    arguments = parser.parse_args()
    if (arguments.store / PART_NAME).exists():
        manifest, size = None, (arguments.store / IDS_NAME).stat().st_size
    else:
        manifest = load_manifest(arguments.store)
        size = sum(shard.bin_bytes for shard in manifest.shards)
    tokenizer = load_any_tokenizer(arguments.tokenizer) if arguments.tokenizer else None
    checksum_problems = 0
    with ByteProgress("verify", size) as progress:
        for problem in verify(arguments.store, tokenizer, progress.add):
            print(f"error: {problem}", file=sys.stderr, flush=True)
            checksum_problems += 1
    if checksum_problems:
        return EXIT_BAD_INPUT
    print(f"{arguments.store}: OK\n{describe(manifest)}" if manifest else f"{arguments.store}: OK, a part to be merged")
    return 0


if __name__ == "__main__":
    run_command(main)
