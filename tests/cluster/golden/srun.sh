#!/bin/bash
# Written by distnewton submit for the cluster small: 12 ranks on 2 nodes, threads as the cores allow.
# Start again: sbatch '/home/me/runs/letter 100%/job.sh'
#SBATCH --job-name=letter
#SBATCH --nodes=2
#SBATCH --ntasks=12
#SBATCH --ntasks-per-node=8
#SBATCH "--output=/home/me/runs/letter 100%%/job-%j.out"
#SBATCH --open-mode=append
#SBATCH --no-requeue

run='/home/me/runs/letter 100%'
cd /home/me || exit 66
export PATH=/home/me/env/bin:$PATH
export TERM=dumb
export PYTHONUNBUFFERED=1

distnewton=$(command -v distnewton) || { echo 'no distnewton in PATH' >&2; exit 78; }
tries=${SLURM_RESTART_COUNT:-0}
python -m distnewton.cluster.supervise "$run" -- \
  srun --ntasks=12 --kill-on-bad-exit=1 --mpi=pmix \
  "$distnewton" train "$run/job.toml" --run-dir "$run" --resume=auto
code=$?

exit $code
