# The one file to edit for your cluster. Every script here sources it, on the login node and inside jobs.
# Anything set in the environment before wins, so a single job can differ: MMBERT_PROCESSES_PER_NODE=4 sbatch ...

# What `pipeline.sh` adds to every sbatch line; a plain `sbatch slurm/pretrain.sh` takes yours: sbatch --partition=gpu ...
SITE_SBATCH=()         # e.g. SITE_SBATCH=(--partition=gpu --account=my_project)
SITE_SBATCH_CPU=()     # the same for the jobs without GPUs (preprocessing); empty: as SITE_SBATCH
SITE_NODES=1           # nodes of each training job of `pipeline.sh`

# Processes of training on each node: one for each GPU that Slurm gave.
: "${MMBERT_PROCESSES_PER_NODE:=${SLURM_GPUS_ON_NODE:-1}}"
: "${MMBERT_NEEDS_GPUS:=yes}"   # "no" trains on CPUs

# What a job runs before anything else, e.g. `module load cuda/13.0`.
site_setup() { :; }

# Python: a virtual environment, or in a container the container's own.
: "${PYTHON:=$PWD/.venv/bin/python}"
# srun's container arguments (pyxis), e.g. SITE_CONTAINER=(--container-image=IMAGE --container-mounts="$PWD:$PWD" --container-workdir="$PWD")
SITE_CONTAINER=()

# Endings of a job: how long without a sign of life before it is taken to hang, and how often in a row it may fail
# without a new checkpoint before it gives up.
: "${MMBERT_HANG_SECONDS:=1800}"
: "${MMBERT_MAX_STALLS:=3}"
: "${MMBERT_MIN_FREE_GB:=50}"   # free space that a training job wants in its output folder

# Network. NCCL finds InfiniBand by itself; name the interface of the rendezvous and of gloo where a node has several.
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
