#!/bin/bash
# The decay variants merged as the recipe says, and the Hugging Face model:
#   sbatch slurm/merge_and_convert.sh RECIPE.yaml [--output DIR] [key.path=value ...]
#SBATCH --job-name=merge
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
source "${SLURM_SUBMIT_DIR:-.}/slurm/lib.sh"
options "$@"
tokenizer=$("$PYTHON" -m megatron_mmbert.config.show "$recipe" tokenizer.path "${overrides[@]}") || exit $BAD_INPUT

# Whole or not there: what an earlier attempt has made stays.
if [[ ! -e $output/merged/checkpoint.json ]]; then
    "$PYTHON" tools/merge_ties.py --recipe "$recipe" "${overrides[@]}" --run "$output" --output "$output/merged" ||
        finish 1 "the merge failed"
fi
if [[ ! -e $output/hf/config.json ]]; then
    "$PYTHON" tools/convert_to_hf.py "$output/merged" --tokenizer "$tokenizer" --output "$output/hf" --check ||
        finish 1 "the conversion failed"
fi
finish 0 "the model is in $output/hf"
