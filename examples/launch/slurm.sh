#!/usr/bin/env bash
# Train on several nodes under SLURM; preempted or out of time, the job saves, and runs again.
#
#   sbatch examples/launch/slurm.sh two_stream:strong_base runs/first --data /scratch/egodex
#
#SBATCH --job-name=saccade
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=12
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.txt
set -euo pipefail

if (($# < 2)); then
  echo "error: give a recipe and a run folder that all nodes see; see the head of $0" >&2
  exit 2
fi
recipe="$1" out="$2"
shift 2

nodes="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
MASTER_ADDR="${nodes%%$'\n'*}"
export MASTER_ADDR MASTER_PORT="${MASTER_PORT:-29500}"

# One task is one rank. What it exits with reaches us: 75 is "saved, resume me".
status=0
# shellcheck disable=SC2016 # each task has its own numbers
srun --kill-on-bad-exit=0 bash -c '
  export RANK="$SLURM_PROCID" WORLD_SIZE="$SLURM_NTASKS" LOCAL_RANK="$SLURM_LOCALID"
  exec saccade train "$@"
' saccade "$recipe" --out "$out" --resume auto --train.layout hsdp \
  --train.replicas "$SLURM_NNODES" "$@" || status=$?

if ((status == 75)); then
  scontrol requeue "$SLURM_JOB_ID"
  status=0
fi
exit "$status"
