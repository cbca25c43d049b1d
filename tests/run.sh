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

# Packages that the project is compared with and whose pins clash with its own: each set in a folder of its own.
other_python() {  # other_python NAME: makes .venv/bin/python-NAME with requirements/NAME.txt before all else
    local folder=$PWD/.venv/$1 python=$PWD/.venv/bin/python-$1
    [ ! -x "$python" ] || return 0
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
        --target "$folder" -r "requirements/$1.txt"
    printf '#!/bin/sh\nPYTHONPATH=%q exec %q "$@"\n' "$folder" "$PYTHON" > "$python"
    chmod +x "$python"
}
# For the example of a pipeline, whose tasks are started by a program that datatrove installs: an environment, not a set.
datatrove_environment() {
    local python=$PWD/.venv/datatrove/bin/python packages
    [ ! -x "${python%/*}/launch_pickled_pipeline" ] || return 0
    "$PYTHON" -m venv --without-pip .venv/datatrove
    "$PYTHON" -m pip --python "$python" install --quiet --disable-pip-version-check --no-deps --require-hashes \
        -r requirements/datatrove.txt
    packages='import sysconfig; print(sysconfig.get_path("purelib"))'
    printf 'import site; site.addsitedir(%s)\n' "'$("$PYTHON" -c "$packages")'" > "$("$python" -c "$packages")/project.pth"
}

other_python transformers4  # a second generation of transformers, which exported models must load in as well
other_python mosaicml       # MosaicML's streaming, whose shards are imported and which must read ours
export MMBERT_TRANSFORMERS4_PYTHON=$PWD/.venv/bin/python-transformers4
export MMBERT_MOSAICML_PYTHON=$PWD/.venv/bin/python-mosaicml
if [[ " $* " =~ " -m "(slow|slurm)" " ]]; then
    datatrove_environment  # half a gigabyte
    export MMBERT_DATATROVE_PYTHON=$PWD/.venv/datatrove/bin/python
fi

# The models of the tests are tiny: one thread each is fastest, and two on a busy machine are far slower.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONWARNINGS=ignore  # Megatron-Core warns of every optional package that a CPU does without
if [[ " $* " != *" -m "* ]]; then
    set -- -m "not slow and not slurm and not soak and not faults" "$@"
fi
exec "$PYTHON" -m pytest "$@"
