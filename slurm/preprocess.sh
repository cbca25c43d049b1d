#!/bin/bash
# Text to the recipe's first store, an array of partitions and then their merge into the store that one machine would have made:
#   parts=$(sbatch --parsable --array=1-64 slurm/preprocess.sh part RECIPE.yaml CORPUS [key.path=value ...])
#   sbatch --dependency=afterok:$parts slurm/preprocess.sh join RECIPE.yaml CORPUS [key.path=value ...]
# The tokenizer is the recipe's. A partition that was ended resumes after its last whole input file.
#SBATCH --job-name=preprocess
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
source "${SLURM_SUBMIT_DIR:-.}/slurm/lib.sh"
stage=${1:-} corpus=${3:-}
[[ $stage == part || $stage == join ]] || finish $BAD_INPUT "first argument '$stage'; give part or join"
[[ -e $corpus ]] || finish $BAD_INPUT "third argument '$corpus' is no corpus; give a file or folder of text"
options "$2" "${@:4}"
tokenizer=$("$PYTHON" -m megatron_mmbert.config.show "$recipe" tokenizer.path "${overrides[@]}") || exit $BAD_INPUT
store=$("$PYTHON" -m megatron_mmbert.config.show "$recipe" data.stores "${overrides[@]}" | head -n 1)
parts=$store.parts

if [[ $stage == part ]]; then
    "$PYTHON" tools/preprocess_data.py --input "$corpus" --tokenizer "$tokenizer" --workers "${SLURM_CPUS_PER_TASK:-1}" \
        --partition "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX" --output "$parts/$SLURM_ARRAY_TASK_ID" ||
        finish 1 "partition $SLURM_ARRAY_TASK_ID failed"
    finish 0 "partition $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_MAX is in $parts"
fi
"$PYTHON" tools/preprocess_data.py --merge "$parts"/* --output "$store" || finish 1 "the merge failed; the partitions are kept"
rm -rf "$parts"
finish 0 "the store is $store"
