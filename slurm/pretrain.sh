#!/bin/bash
# The first phase of a recipe:  sbatch [--nodes N] slurm/pretrain.sh RECIPE.yaml [--output DIR] [key.path=value ...]
# Other phases by --phase NAME. Stopped by the time limit, by preemption or by a fault, it goes back into the queue and on from
# its newest checkpoint; docs/operations.md says what each ending means.
#SBATCH --job-name=pretrain
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
phase=pretrain
options "$@"
train_phase
