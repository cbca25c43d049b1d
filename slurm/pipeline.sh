#!/bin/bash
# A whole run as one graph of jobs, each of which starts when those before it are done, and not at all when one fails:
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
        --help | -h) sed -n '2,6s/^# \{0,1\}//p' slurm/pipeline.sh; exit 0 ;;
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
show() { "$PYTHON" -m megatron_mmbert.config.show "$recipe" "$1" "${overrides[@]}"; }
models=$(show merge.models) || exit 2
mapfile -t variants <<<"$models"
[[ -n $models ]] || { echo "error: $recipe has no merge.models, so no decay variants to run" >&2; exit 2; }

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
train=("${SITE_SBATCH[@]}" --nodes="$SITE_NODES")
last=${#variants[@]}
before=
if [[ -n $corpus ]]; then
    submit preprocess "" "${SITE_SBATCH_CPU[@]}" --array="1-$shards" slurm/preprocess.sh part "$recipe" "$corpus" \
        "${overrides[@]}"
    submit join "$id" "${SITE_SBATCH_CPU[@]}" slurm/preprocess.sh join "$recipe" "$corpus" "${overrides[@]}"
    before=$id
fi
submit pretrain "$before" "${train[@]}" slurm/pretrain.sh "$recipe" "${arguments[@]}"
submit midtrain "$id" "${train[@]}" slurm/midtrain.sh "$recipe" "${arguments[@]}"
submit decay "$id" "${train[@]}" --array="0-$((last - 1))" slurm/decay.sh "$recipe" "${arguments[@]}"
submit merge "$id" "${SITE_SBATCH_CPU[@]}" slurm/merge_and_convert.sh "$recipe" "${arguments[@]}"
submit evaluate "$id" "${SITE_SBATCH[@]}" slurm/evaluate.sh "$recipe" "${arguments[@]}"
