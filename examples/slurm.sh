#!/bin/bash
# Training under Slurm: a task for each GPU, on any number of machines.
#
#     sbatch --nodes 2 examples/slurm.sh trainer/configs/phase10_combined.json
#
# Ten minutes before the time is up every task gets SIGUSR1: the run saves and goes on. At the end
# it gets SIGTERM: the run saves and ends, and the job is queued again. The same command, with
# --resume auto, starts the first time and goes on every other time. The data and output_dir must
# be where all machines see them.
#SBATCH --job-name=snac
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

config=${1:?usage: sbatch examples/slurm.sh CONFIG [ARGUMENTS]}
shift

# The batch shell outlives the signal at the end, to queue the job again.
trap 'ended=yes' TERM

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT WORLD_SIZE=$SLURM_NTASKS OMP_NUM_THREADS=1

srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID
    exec python -m trainer train --config "$@" --resume auto
' train "$config" "$@" &
task=$!
until wait "$task"; [ $? -lt 128 ]; do :; done

if [ -n "${ended:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
