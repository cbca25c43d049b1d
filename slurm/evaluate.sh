#!/bin/bash
# Held-out bits per byte of the merged model, and the report of the run:
#   sbatch slurm/evaluate.sh RECIPE.yaml [--output DIR] [key.path=value ...]
#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
source "${SLURM_SUBMIT_DIR:-.}/slurm/lib.sh"
options "$@"
"$PYTHON" tools/evaluate.py "$output/merged" --recipe "$recipe" "${overrides[@]}" \
    --output "$output/merged_bits_per_byte.json" || finish 1 "the evaluation failed"
"$PYTHON" tools/report.py "$output" || finish 1 "the report failed"
finish 0 "the report is in $output/report"
