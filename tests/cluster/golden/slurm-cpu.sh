#!/bin/bash
# Written by distnewton submit for the cluster slurm-cpu: 32 ranks on 2 nodes, 4 threads each.
# Start again: sbatch '/home/me/runs/letter 100%/job.sh'
#SBATCH --job-name=letter
#SBATCH --nodes=2
#SBATCH --ntasks=32
#SBATCH --ntasks-per-node=16
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
#SBATCH --mem-per-cpu=2000M
#SBATCH "--output=/home/me/runs/letter 100%%/job-%j.out"
#SBATCH --open-mode=append
#SBATCH --requeue

run='/home/me/runs/letter 100%'
cd /home/me || exit 66
export PATH=/home/me/env/bin:$PATH
export TERM=dumb
export PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=4
export OPENBLAS_NUM_THREADS=4
export MKL_NUM_THREADS=4

distnewton=$(command -v distnewton) || { echo 'no distnewton in PATH' >&2; exit 78; }
mpirun=$(command -v mpirun) || { echo 'no mpirun in PATH: load the module of an MPI' >&2; exit 78; }
case $("$mpirun" --version 2>&1) in
  *"Open MPI"*) options=(--bind-to none --map-by ppr:16:node:oversubscribe) ;;
  *) options=(-ppn 16) ;;
esac
tries=${SLURM_RESTART_COUNT:-0}
python -m distnewton.cluster.supervise "$run" -- \
  "$mpirun" "${options[@]}" -n 32 \
  "$distnewton" train "$run/job.toml" --run-dir "$run" --resume=auto
code=$?

# stopped by the clock before the time limit: Slurm starts this file again, as job and run of the same name
if [ "$code" -eq 75 ] && [ "$tries" -lt 5 ]; then
  echo "distnewton: queued again ($((tries + 1)) of at most 5)"
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
[ "$code" -ne 75 ] || echo "distnewton: not queued again (slurm.requeues = 5)"
exit $code
