#!/bin/bash
# A whole run as one graph of jobs, each of which starts when those before it are done, and not at all when one fails. The graph
# is the recipe's: phases by their `from:`, then the merge and what follows it.
#   bash slurm/pipeline.sh [--dry-run] RECIPE.yaml [--output DIR] [key.path=value ...]
# From text on (the recipe's first store is then made by the jobs):
#   bash slurm/pipeline.sh --corpus DIR --shards 64 RECIPE.yaml ...
# --dry-run prints what would be submitted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source slurm/site.sh

dry= corpus= shards=8 arguments=() recipe=
while (($#)); do
    case $1 in
        --help | -h) sed -n '2,7s/^# \{0,1\}//p' slurm/pipeline.sh; exit 0 ;;
        --dry-run) dry=1; shift ;;
        --corpus) corpus=${2:?--corpus wants a folder}; shift 2 ;;
        --shards) shards=${2:?--shards wants a number}; shift 2 ;;
        --output) arguments+=("$1" "${2:?--output wants a folder}"); shift 2 ;;
        *=*) arguments+=("$1"); shift ;;
        -*) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
        *) recipe=$1; shift ;;
    esac
done
[[ -f $recipe ]] || { echo "error: '$recipe' is no recipe file; give RECIPE.yaml" >&2; exit 2; }
overrides=()
for argument in "${arguments[@]}"; do [[ $argument != *=* ]] || overrides+=("$argument"); done
site_setup
# One line a job, in an order in which each stands after those it waits for. The fields are names that the recipe's schema has
# checked; they are only ever read, never run.
graph=$("$PYTHON" -m megatron_mmbert.plan.job_graph ${corpus:+--corpus} "$recipe" "${overrides[@]}") || exit 2

((${#SITE_SBATCH_CPU[@]})) || SITE_SBATCH_CPU=("${SITE_SBATCH[@]}")
submit() {  # NAME DEPENDENCY SBATCH_ARGUMENTS... : sets $id
    local name=$1 after=$2
    shift 2
    # Without kill-on-invalid-dep what depends on a failed job would wait for ever.
    local line=(sbatch --parsable --kill-on-invalid-dep=yes ${after:+"--dependency=afterok:$after"} "$@")
    if [[ -n $dry ]]; then
        id="<$name>"
        printf '%q ' "${line[@]}"
        echo
        return
    fi
    id=$("${line[@]}") || { echo "error: Slurm refused $name; jobs submitted before it stay: scancel them" >&2; exit 1; }
    printf '%-10s job %-8s %s\n' "$name" "$id" "${after:+after $after}"
}
declare -A ids=()
if [[ -n $corpus ]]; then
    submit preprocess "" "${SITE_SBATCH_CPU[@]}" --array="1-$shards" slurm/preprocess.sh part "$recipe" "$corpus" \
        "${overrides[@]}"
    submit join "$id" "${SITE_SBATCH_CPU[@]}" slurm/preprocess.sh join "$recipe" "$corpus" "${overrides[@]}"
    ids[store]=$id
fi
while IFS=$'\t' read -r key name script kind after array phase; do
    case $kind in
        train) site=("${SITE_SBATCH[@]}" --nodes="$SITE_NODES") ;;
        gpu) site=("${SITE_SBATCH[@]}") ;;
        cpu) site=("${SITE_SBATCH_CPU[@]}") ;;
    esac
    before=
    if [[ $after != - ]]; then
        IFS=, read -ra keys <<<"$after"
        for each in "${keys[@]}"; do before=${before:+$before:}${ids[$each]}; done
    fi
    [[ $array == - ]] || site+=(--array="$array")
    [[ $phase == - ]] || site+=(--job-name="$phase")
    which=()
    [[ $phase == - ]] || which=(--phase "$phase")
    submit "$name" "$before" "${site[@]}" "slurm/$script" "$recipe" "${which[@]}" "${arguments[@]}"
    ids[$key]=$id
done <<<"$graph"
