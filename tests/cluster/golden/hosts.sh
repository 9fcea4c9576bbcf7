#!/bin/bash
# Written by distnewton submit for the cluster hosts: 6 ranks on 2 nodes, threads as the cores allow.
# Start again: bash '/home/me/runs/letter 100%/job.sh'

run='/home/me/runs/letter 100%'
cd /home/me || exit 66
export PATH=/home/me/env/bin:$PATH
export TERM=dumb
export PYTHONUNBUFFERED=1

distnewton=$(command -v distnewton) || { echo 'no distnewton in PATH' >&2; exit 78; }
mpirun=$(command -v mpirun) || { echo 'no mpirun in PATH: load the module of an MPI' >&2; exit 78; }
case $("$mpirun" --version 2>&1) in
  *"Open MPI"*) options=(--bind-to none --map-by ppr:4:node:oversubscribe --host a.site:4,b.site:2 -x TERM -x PYTHONUNBUFFERED) ;;
  *) options=(-hosts a.site:4,b.site:2) ;;
esac
tries=${SLURM_RESTART_COUNT:-0}
python -m distnewton.cluster.supervise "$run" -- \
  "$mpirun" "${options[@]}" -n 6 \
  "$distnewton" train "$run/job.toml" --run-dir "$run" --resume=auto
code=$?

exit $code
