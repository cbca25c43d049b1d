#!/usr/bin/env bash
# Runs all tests that need no GPU, on a fresh machine too: makes .venv if it is missing and installs.
#   bash tests/run.sh                  everything but the slow tests
#   bash tests/run.sh -m slow          the slow tests alone
#   bash tests/run.sh -m slurm         the job scripts on a real Slurm (root; installs Debian's packages)
#   bash tests/run.sh -m soak          a run killed 60 times
#   bash tests/run.sh -m faults        all commands under all faults, and campaigns against a training (long)
#   bash tests/run.sh tests/data -k mixture    any arguments of pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_venv.sh dev

# A second generation of transformers, which exported models must load in as well.
transformers4=$PWD/.venv/transformers4
export MMBERT_TRANSFORMERS4_PYTHON=$PWD/.venv/bin/python-transformers4
if [ ! -x "$MMBERT_TRANSFORMERS4_PYTHON" ]; then
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
        --target "$transformers4" -r requirements/transformers4.txt
    printf '#!/bin/sh\nPYTHONPATH=%q exec %q "$@"\n' "$transformers4" "$PYTHON" > "$MMBERT_TRANSFORMERS4_PYTHON"
    chmod +x "$MMBERT_TRANSFORMERS4_PYTHON"
fi

# The models of the tests are tiny: one thread each is fastest, and two on a busy machine are far slower.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONWARNINGS=ignore  # Megatron-Core warns of every optional package that a CPU does without
if [[ " $* " != *" -m "* ]]; then
    set -- -m "not slow and not slurm and not soak and not faults" "$@"
fi
exec "$PYTHON" -m pytest "$@"
