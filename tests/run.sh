#!/usr/bin/env bash
# Runs all tests that need no GPU, on a fresh machine too: makes .venv if it is missing and installs.
#   bash tests/run.sh                  everything but the slow tests
#   bash tests/run.sh -m slow          the slow tests alone
#   bash tests/run.sh tests/data -k mixture    any arguments of pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_venv.sh dev
if [[ " $* " != *" -m "* ]]; then
    set -- -m "not slow" "$@"
fi
exec "$PYTHON" -m pytest "$@"
