#!/usr/bin/env bash
# Every parallel layout against one process, on gloo; writes docs/results/parallel.md and parallel.json.
#   bash tests/layouts/run.sh [WORK_DIR]      (default runs/parallel; some minutes on 2 cores)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(realpath -m "${1:-runs/parallel}")
mkdir -p "$work"
source tools/setup_venv.sh dev
export PYTHONWARNINGS=ignore OMP_NUM_THREADS=1  # the ranks share the cores
corpus=examples/sample_corpus/train
if [ ! -e "$work/tokenizer/tokenizer.json" ]; then
    "$PYTHON" tools/train_tokenizer.py --input $corpus --vocab-size 4096 --character-coverage 0.99 \
        --output "$work/tokenizer"
fi
if [ ! -e "$work/store" ]; then
    "$PYTHON" tools/preprocess_data.py --input $corpus --tokenizer "$work/tokenizer" --output "$work/store"
fi
exec "$PYTHON" tests/layouts/compare.py tests/layouts/recipe.yaml --publish --output "$work" \
    "tokenizer.path=\"$work/tokenizer\"" "data.stores=[\"$work/store\"]"
