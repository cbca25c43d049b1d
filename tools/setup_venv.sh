# Sourced by examples/quickstart.sh, tests/run.sh and others: makes .venv in the project's root and installs the project
# into it, once; afterwards only when setup.py or the requirements have changed. Leaves the interpreter's path in $PYTHON.
#   source tools/setup_venv.sh FOR      (user or dev: which of requirements/*.txt)

setup_venv() {
    local packages=requirements/$1.txt venv=$PWD/.venv base stamp
    local pip=(-m pip --quiet --disable-pip-version-check install)
    PYTHON=$venv/bin/python
    stamp=$(cat setup.py requirements/torch.txt "$packages" | sha256sum | cut -c1-16)-$1
    if [ -f "$venv/installed-$stamp" ]; then
        return 0
    fi
    if [ ! -x "$PYTHON" ]; then
        base=$(find_python) || return 1
        echo "== making .venv with $("$base" --version)"
        "$base" -m venv "$venv" || {
            echo "error: $base cannot make a virtual environment; install its venv package (Debian: python3-venv)" >&2
            return 1
        }
    fi
    echo "== installing (once; a few minutes, nearly all of it PyTorch)"
    # PyTorch first and alone: asked for by another package, pip may choose another build of it.
    "$PYTHON" "${pip[@]}" -r requirements/torch.txt || return 1
    # The files list whole sets, so nothing has to be resolved; a package whose hash differs is not installed.
    "$PYTHON" "${pip[@]}" --no-deps --require-hashes -r "$packages" || return 1
    "$PYTHON" "${pip[@]}" --no-deps --no-build-isolation -e . || return 1
    touch "$venv/installed-$stamp"
}

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return 0
        fi
    done
    echo "error: no Python of 3.11 or newer on the PATH; install python3.11" >&2
    return 1
}

setup_venv "$1"
