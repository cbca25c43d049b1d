#!/bin/bash
# The decay variants, one array element each:  sbatch [--nodes N] slurm/decay.sh RECIPE.yaml [--output DIR] [key.path=value ...]
# The variants are those that the recipe merges (merge.models); for another number than three: sbatch --array=0-1 ...
#SBATCH --job-name=decay
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@600
#SBATCH --array=0-2
#SBATCH --output=%x-%A_%a.out
source "${SLURM_SUBMIT_DIR:-.}/slurm/lib.sh"
options "$@"
mapfile -t variants < <("$PYTHON" -m megatron_mmbert.config.show "$recipe" merge.models "${overrides[@]}")
phase=${variants[$SLURM_ARRAY_TASK_ID]:-}
[[ -n $phase ]] || finish $BAD_INPUT "$recipe merges ${#variants[@]} variants, none of them number $SLURM_ARRAY_TASK_ID; give sbatch --array=0-$((${#variants[@]} - 1))"
train_phase
