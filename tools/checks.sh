#!/usr/bin/env bash
# Every check that is not a test, each with its result; status 1 if one fails.
#   bash tools/checks.sh                 all of them
#   bash tools/checks.sh types links     these alone
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_venv.sh dev || exit 1
bin=$(dirname "$PYTHON")
export PYTHONPATH=$PWD PYTHONWARNINGS=ignore OMP_NUM_THREADS=1

run_check() {
    case $1 in
        lint)      "$bin/ruff" check --quiet . ;;
        format)    "$bin/ruff" format --check --quiet . ;;
        types)     "$PYTHON" -m mypy ;;
        imports)   "$bin/lint-imports" --no-logo ;;
        structure) "$PYTHON" tools/checks/structure.py ;;
        links)     "$PYTHON" tools/checks/links.py ;;
        commands)  "$PYTHON" tools/checks/commands.py ;;
        reference) "$PYTHON" tools/make_reference.py --check ;;
        site)      NO_MKDOCS_2_WARNING=1 "$bin/mkdocs" build --strict --site-dir "$scratch/site" ;;
        *)         echo "no check is called $1; choose from: ${checks[*]}"; return 1 ;;
    esac
}

checks=(lint format imports structure links types commands reference site)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=()
[ $# -gt 0 ] || set -- "${checks[@]}"
for name in "$@"; do
    started=$SECONDS
    if output=$(run_check "$name" 2>&1); then
        result=ok
    else
        result=FAILED
        failed+=("$name")
    fi
    printf '%-7s%-11s%4d s\n' "$result" "$name" $((SECONDS - started))
    [ "$result" = ok ] || printf '%s\n' "$output" | sed 's/^/       /'
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}; run one alone with: bash tools/checks.sh ${failed[0]}"; exit 1; }
