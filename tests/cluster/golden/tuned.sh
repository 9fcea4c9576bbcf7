#!/bin/bash
# Written by distnewton submit for the cluster tuned: 4 ranks on 2 nodes, 1 thread each.
# Start again: sbatch '/home/me/runs/letter 100%/job.sh'
#SBATCH --job-name=letter
#SBATCH --nodes=2
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=1
#SBATCH --partition=gpu
#SBATCH --account=p1
#SBATCH --time=1-02:00:00
#SBATCH --mem-per-cpu=2G
#SBATCH --gres=gpu:a100:2
#SBATCH --exclusive
#SBATCH "--output=/home/me/runs/letter 100%%/job-%j.out"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH "--comment=a long one"

# One rank, started by the launcher below: it sees one GPU, chosen by its number on the node.
if [ "${1:-}" = --rank ]; then
  shift
  k=${OMPI_COMM_WORLD_LOCAL_RANK:-${MPI_LOCALRANKID:-${SLURM_LOCALID:-0}}}
  IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((GPUS_PER_NODE - 1)))}"
  export CUDA_VISIBLE_DEVICES=${gpus[$((k % ${#gpus[@]}))]}
  exec "$@"
fi

run='/home/me/runs/letter 100%'
cd '/work/with a blank' || exit 66
module load gcc/13 || exit 78
module load openmpi/5 || exit 78
source /opt/env/bin/activate
export PATH=/opt/env/bin:$PATH
export TERM=dumb
export PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export MKL_NUM_THREADS=1
export GPUS_PER_NODE=2
export UCX_TLS=rc,self
export NOTE='it'"'"'s'

distnewton=$(command -v distnewton) || { echo 'no distnewton in PATH' >&2; exit 78; }
mpirun=$(command -v mpirun) || { echo 'no mpirun in PATH: load the module of an MPI' >&2; exit 78; }
options=(--map-by ppr:2:node)
tries=${SLURM_RESTART_COUNT:-0}
python -m distnewton.cluster.supervise "$run" -- \
  "$mpirun" "${options[@]}" -n 4 bash "$run/job.sh" --rank \
  "$distnewton" train "$run/job.toml" --run-dir "$run" --resume=auto
code=$?

# stopped by the clock before the time limit: Slurm starts this file again, as job and run of the same name
if [ "$code" -eq 75 ] && [ "$tries" -lt 3 ]; then
  echo "distnewton: queued again ($((tries + 1)) of at most 3)"
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
[ "$code" -ne 75 ] || echo "distnewton: not queued again (slurm.requeues = 3)"
exit $code
