#!/bin/bash
# A run of 10,000 samples in 20 array tasks that share one directory; every task can be requeued at any time.
#   sbatch examples/slurm_array.sh
#SBATCH --job-name=sbldm
#SBATCH --array=0-19
#SBATCH --cpus-per-task=8
#SBATCH --mem=4G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@60
set -euo pipefail

conditions=${CONDITIONS:-cond.csv}
out=${OUT:-synthetic}

# exec: the TERM that SLURM sends before the time is up reaches the program, which ends in order with exit code 130
exec sbldm-engine generate --count 10000 --conditions "$conditions" --out "$out" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --resume --threads "$SLURM_CPUS_PER_TASK" \
    --log-format json --metrics-file "$out.metrics-$SLURM_ARRAY_TASK_ID.prom"

# when all tasks are through:  sbldm-engine merge synthetic --out synthetic && sbldm-engine verify synthetic
