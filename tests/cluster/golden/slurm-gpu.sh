#!/bin/bash
# Written by distnewton submit for the cluster slurm-gpu: 4 ranks on 1 node, 8 threads each.
# Start again: sbatch '/home/me/runs/letter 100%/job.sh'
#SBATCH --job-name=letter
#SBATCH --nodes=1
#SBATCH --ntasks=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=4
#SBATCH --time=01:00:00
#SBATCH --mem=0
#SBATCH "--output=/home/me/runs/letter 100%%/job-%j.out"
#SBATCH --open-mode=append
#SBATCH --requeue

# One rank, started by the launcher below: it sees one GPU, chosen by its number on the node.
if [ "${1:-}" = --rank ]; then
  shift
  k=${OMPI_COMM_WORLD_LOCAL_RANK:-${MPI_LOCALRANKID:-${SLURM_LOCALID:-0}}}
  IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((GPUS_PER_NODE - 1)))}"
  export CUDA_VISIBLE_DEVICES=${gpus[$((k % ${#gpus[@]}))]}
  exec "$@"
fi

run='/home/me/runs/letter 100%'
cd /home/me || exit 66
export PATH=/home/me/env/bin:$PATH
export TERM=dumb
export PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=8
export OPENBLAS_NUM_THREADS=8
export MKL_NUM_THREADS=8
export GPUS_PER_NODE=4

distnewton=$(command -v distnewton) || { echo 'no distnewton in PATH' >&2; exit 78; }
tries=${SLURM_RESTART_COUNT:-0}
python -m distnewton.cluster.supervise "$run" -- \
  srun --ntasks=4 --kill-on-bad-exit=1 --cpus-per-task=8 --mpi=pmix bash "$run/job.sh" --rank \
  "$distnewton" train "$run/job.toml" --run-dir "$run" --resume=auto
code=$?

# stopped by the clock before the time limit: Slurm starts this file again, as job and run of the same name
if [ "$code" -eq 75 ] && [ "$tries" -lt 5 ]; then
  echo "distnewton: queued again ($((tries + 1)) of at most 5)"
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
[ "$code" -ne 75 ] || echo "distnewton: not queued again (slurm.requeues = 5)"
exit $code
