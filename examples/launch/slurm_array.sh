#!/usr/bin/env bash
# Share work that needs no common step over a job array: reading data, ablations, rollouts.
#
#   sbatch --array=0-7 examples/launch/slurm_array.sh data convert /scratch/droid --out /scratch/small
#   sbatch --array=0-7 examples/launch/slurm_array.sh ablate two_stream --axes skip --out runs/skip
#   sbatch --array=0-7 examples/launch/slurm_array.sh evaluate runs/bc --suite libero_10 --out runs/ten
#
# Every verb with --shard works so. When all are done, run the same command once without it.
#
#SBATCH --job-name=saccade-shards
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --output=slurm-%A-%a.txt
set -euo pipefail

: "${SLURM_ARRAY_TASK_ID:?submit with sbatch --array=0-N}"
: "${SLURM_ARRAY_TASK_COUNT:?submit with sbatch --array=0-N}"
exec saccade "$@" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
