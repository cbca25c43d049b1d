"""Check a token store: sizes, checksums, index against data, ids against the vocabulary.

    python tools/verify_data.py store/ --tokenizer tokenizer/

Ends with status 2 and one sentence per problem, naming the shard and the document at fault.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_mmbert.data.preprocess.partition_reader import verify_partition
from megatron_mmbert.data.preprocess.partition_writer import IDS_NAME, PARTITION_NAME
from megatron_mmbert.data.store.manifest import describe, load_manifest
from megatron_mmbert.data.store.verify import verify_store
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.errors import EXIT_BAD_INPUT, run_command
from megatron_mmbert.utils.progress import ByteProgress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR_OR_FILE", help="check that the store was made with it")
    arguments = parser.parse_args()
    if (arguments.store / PARTITION_NAME).exists():
        manifest, size = None, (arguments.store / IDS_NAME).stat().st_size
    else:
        manifest = load_manifest(arguments.store)
        size = sum(shard.bin_bytes for shard in manifest.shards)
    fingerprint = load_tokenizer(arguments.tokenizer).fingerprint() if arguments.tokenizer else None
    problems = 0
    with ByteProgress("verify", size) as progress:
        check = (
            verify_store(arguments.store, fingerprint, progress.add)
            if manifest
            else verify_partition(arguments.store, progress.add)
        )
        for problem in check:
            print(f"error: {problem}", file=sys.stderr, flush=True)
            problems += 1
    if problems:
        return EXIT_BAD_INPUT
    print(f"{arguments.store}: OK\n{describe(manifest)}" if manifest else f"{arguments.store}: OK, to be merged")
    return 0


if __name__ == "__main__":
    run_command(main)
