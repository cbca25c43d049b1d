#!/bin/bash
# The second phase, with longer context:  sbatch [--nodes N] slurm/midtrain.sh RECIPE.yaml [--output DIR] [key.path=value ...]
#SBATCH --job-name=midtrain
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
#SBATCH --output=%x-%j.out
source "${SLURM_SUBMIT_DIR:-.}/slurm/lib.sh"
phase=midtrain
options "$@"
train_phase
