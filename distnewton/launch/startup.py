"""The process under its launcher: detecting a broken launch, and ending the whole job when one rank fails."""

from __future__ import annotations

import errno
import os
import platform
import secrets
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from distnewton.errors import INTERRUPTED, ConfigError, DistNewtonError, MissingInputError, NoMemoryError, WriteError
from distnewton.guards.failures import ERRORS_FOLDER, failures
from distnewton.guards.faults import faults
from distnewton.guards.reachability import own_addresses
from distnewton.guards.watchdog import DEFAULT_SECONDS, WARN_SECONDS, watchdog
from distnewton.launch.roll_call import call_roll
from distnewton.launch.threads import own_cores
from distnewton.parallel.collectives import CHECK_VARIABLE, Communicator
from distnewton.printable import printable

_SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
_SIGNS = {
    "Open MPI": ("OMPI_COMM_WORLD_SIZE",),
    "MPICH": ("HYDI_CONTROL_FD", "MPI_LOCALNRANKS"),
}
"""Variables that only the mpirun of one kind of MPI sets; srun, which starts ranks of both, sets none of them."""
ANY_LAUNCHER = "DISTNEWTON_ANY_LAUNCHER"
_HEAD_START, _LAST_START = 0.3, 1.5
"""Seconds that each rank leaves to the one before it, and at most: without a run folder, which shows who failed first,
a fault on all ranks then prints one message only."""
_CONSEQUENCES = 2.0
"""Seconds that a rank which failed later waits for the first one to end the job."""
_FIRST = 1.5
"""Seconds that unconnected ranks leave to rank 0, whose message the launcher would otherwise cut off."""
_MAX_LINES = 20
"""Number of traceback lines that are printed; the run folder has all of them."""
_CONNECTING = 20
"""Seconds in which a rank that fails before MPI connects it must connect and end the job."""
_FORWARDING = 0.1
"""Seconds for the launcher to forward the message before the abort; on a loaded machine a message was once lost."""


def launched_size() -> int:
    """Return the number of processes that the launcher says it started; 1 without a launcher."""
    # in a Slurm job mpirun starts a helper on each node by srun, and Slurm counts the helpers: mpirun's number wins
    return _first_number(_SIZE_VARIABLES, 1)


def launched_rank() -> int:
    """Return the rank that the launcher gives this process, before MPI starts; 0 without a launcher."""
    return _first_number(_RANK_VARIABLES, 0)


def _first_number(names: Sequence[str], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)


def launcher_kind() -> str:
    """Say whose mpirun started this process: ``Open MPI`` or ``MPICH`` (or a descendant); else ``Slurm`` or empty."""
    kind = next((kind for kind, names in _SIGNS.items() if any(name in os.environ for name in names)), "")
    return kind or ("Slurm" if "SLURM_STEP_ID" in os.environ else "")


def library_kind(version: str) -> str:
    """Return ``Open MPI`` or ``MPICH``, from the version text of an MPI library; empty for others."""
    if "Open MPI" in version:
        return "Open MPI"
    return "MPICH" if any(name in version for name in ("MPICH", "Intel(R) MPI", "MVAPICH")) else ""


def world_communicator() -> Communicator:
    """Return the communicator of all processes; under a launcher, start MPI and the watchdog.

    Returns
    -------
    Communicator

    Raises
    ------
    ConfigError
        If the launcher started several processes that MPI does not connect.
    """
    n_launched = launched_size()
    if n_launched == 1 and not any(os.environ.get(name) for name in _SIZE_VARIABLES):
        alone = Communicator()
        _join(alone)
        return alone
    MPI = _load_mpi()
    comm = Communicator(MPI.COMM_WORLD)
    if comm.size == 1 and n_launched > 1:
        raise ConfigError(
            f"{_alone(n_launched, library_version(MPI.Get_library_version()))}; start with the mpirun of the same "
            "installation (in a virtual environment: its bin/mpirun), or with an srun whose --mpi option this library "
            "supports (srun --mpi=list shows them)",
            collective=True,
        )
    _join(comm)
    return comm


def _join(comm: Communicator, limit: float = DEFAULT_SECONDS, warn_seconds: float = WARN_SECONDS) -> None:
    """Agree on the name of the launch, arm this rank's fault and start the watchdog (collective)."""
    failures.ledger = comm.ledger
    faults.arm(comm.rank, comm.ledger)
    if comm.size > 1:
        # with the limits: a rank that never arrives would keep all others here
        watchdog.start(comm.rank, _abort, limit, warn_seconds)
        call_roll(comm, _abort, limit, warn_seconds)
    failures.launch = comm.broadcast_json(secrets.token_hex(8))


def guard(comm: Communicator, hang_seconds: float, warn_seconds: float, *, checked: bool = False) -> None:
    """Set the watchdog's limits and the checked mode, and learn which hosts answer (collective).

    Parameters
    ----------
    comm : Communicator
        All ranks of the launch, or those on which a user's program calls :func:`distnewton.train`.
    hang_seconds, warn_seconds : float
        See ``run.hang_seconds`` and ``run.warn_seconds``.
    checked : bool
        Whether collectives are compared between the ranks; otherwise the environment decides.
    """
    if failures.ledger is not comm.ledger:
        _join(comm, hang_seconds, warn_seconds)
    watchdog.limit, watchdog.warn_seconds = hang_seconds, warn_seconds
    comm.checked |= checked
    if comm.size > 1 and hang_seconds:
        views = comm.allgather_json([platform.node(), own_addresses()])
        watchdog.meet([host for host, _ in views], [addresses for _, addresses in views])


def ensure_guarded(comm: Communicator) -> None:
    """Start the guard with its default limits before the first use of a program's own communicator (collective)."""
    if comm.size > 1 and failures.ledger is not comm.ledger:
        _join(comm)


def _load_mpi() -> Any:
    """Start MPI and return mpi4py's module; refuse a library that would abort under this launcher."""
    # otherwise UCX, below MPICH, uses SIGHUP to raise its log level, and the signal would not end a run
    os.environ.setdefault("UCX_DEBUG_SIGNO", "0")
    _let_waiting_ranks_sleep()
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        with warnings.catch_warnings():
            # every rank would warn that the launcher belongs to another MPI; the error below says so once
            warnings.simplefilter("ignore", RuntimeWarning)
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"started under an MPI launcher, but no MPI library could be loaded ({error}); install one with "
            "pip install 'distnewton[mpich]', or load the module of your site's MPI",
            collective=True,
        ) from None
    if MPI.Is_initialized():
        return MPI
    version = library_version(MPI.Get_library_version())
    launcher, library = launcher_kind(), library_kind(version)
    # under Open MPI's launcher, MPICH ends the process inside MPI_Init without advice
    if launcher in _SIGNS and library and launcher != library and not os.environ.get(ANY_LAUNCHER):
        raise ConfigError(
            f"{_alone(launched_size(), version)}, the launcher is {launcher}'s; start with the mpirun of the "
            "library's installation (in a virtual environment: its bin/mpirun), load one MPI module only, or name the "
            f"launcher's library with MPI4PY_LIBMPI=/path/to/libmpi.so ({ANY_LAUNCHER}=1 skips this check)",
            collective=True,
        )
    MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI


def _let_waiting_ranks_sleep() -> None:
    """Make waiting ranks of MPICH sleep if ranks share cores on this host: polling would take time from the others."""
    # Open MPI does so by itself
    if _first_number(("MPI_LOCALNRANKS",), 1) > len(own_cores()):
        os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")


def _alone(n: int, library: str) -> str:
    return (
        f'the launcher started {n} processes, but each is alone ("rank 0 of 1"): the launcher and the MPI library '
        f"differ. The library is {library}"
    )


def library_version(text: str) -> str:
    """Extract name and version of an MPI library from its description."""
    return " ".join(text.splitlines()[0].replace("\0", "").partition(",")[0].split())


def mpi_library(comm: Communicator) -> str:
    """Return name and version of the MPI library in use; empty without MPI."""
    if comm.mpi is None:
        return ""
    from mpi4py import MPI

    return library_version(MPI.Get_library_version())


def run_guarded(main: Callable[[], int]) -> int:
    """Run a program so that a failure on any rank ends the whole job at once, with one message.

    Parameters
    ----------
    main : callable
        The program; returns the exit code.

    Returns
    -------
    int
        Exit code: 0, or that of an error that all ranks raise alike. Any other failure, SystemExit included, prints
        what happened where and aborts all ranks instead of returning.
    """
    try:
        return main()
    except DistNewtonError as error:
        if error.collective or launched_size() == 1:
            return _leave_together(error)
        return _abort(str(error), error.exit_code)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            # rich turns a broken pipe into this
            return _abort(*_cause(error.__context__))
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
        return _abort(f"SystemExit({error.code!r})", code) if code else 0
    except BaseException as error:  # every failure, of whichever kind, must end the job
        return _abort(*_cause(error))


def _leave_together(error: DistNewtonError) -> int:
    """Print, once, an error that all ranks raise alike; return its exit code."""
    if launched_rank() == 0:
        _, problem = failures.write(0, error.exit_code, str(error))
        _print(f"distnewton: {error}" + (f"\n{problem}" if problem else ""))
    elif not _connected():
        leave_after_first()
    return error.exit_code


def _cause(error: BaseException) -> tuple[str, int, str]:
    """Return message, exit code and traceback of an unexpected failure."""
    trace = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    match error:
        case BrokenPipeError():
            # the reader of the output has left, as in `| head`: no message can reach it
            return "", 1, ""
        case KeyboardInterrupt():
            return str(error) or "interrupted", INTERRUPTED, ""
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG, filename=file):
            return f"cannot write {file or 'a file'}: {error.strerror}", WriteError.exit_code, trace
        case OSError(errno=int(), filename=str() | bytes() | os.PathLike() as file):
            # looking at a path that a user gave can fail in any way: circular links, overlong names, broken disks
            return f"{os.fsdecode(file)}: cannot be used ({error.strerror})", MissingInputError.exit_code, ""
        case MemoryError():
            return str(NoMemoryError(str(error))), NoMemoryError.exit_code, trace
    bug = "this is a bug in distnewton"
    if type(error).__module__.startswith("mpi4py"):
        bug = f"a message between ranks failed; {CHECK_VARIABLE}=1 tells whether the ranks differ in what they send"
    return f"{''.join(traceback.format_exception_only(error)).rstrip()}\n{bug}", 70, trace


def leave_after_first(seconds: float = _FIRST) -> None:
    """Let rank 0 exit first if MPI does not connect the ranks and rank 0 prints for all.

    A launcher ends the job at the first exit code that is not 0, so a silent rank must not exit first.

    Parameters
    ----------
    seconds : float
        Seconds that rank 0 may need. There is no delay under launchers that end the job when rank 0 exits.
    """
    time.sleep(seconds)


def _connected() -> bool:
    """Tell whether MPI runs and connects this process with others."""
    mpi: Any = sys.modules.get("mpi4py.MPI")
    return bool(
        mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.Get_size() > 1
    )


def _abort(message: str, code: int, trace: str = "") -> int:
    """Print this rank's failure, if it is the first, and end the whole job."""
    rank, size = launched_rank(), launched_size()
    later, problem = failures.write(rank, code, message, trace)
    if later:
        # another rank prints the cause and ends the job
        time.sleep(_CONSEQUENCES)
    elif message:
        if failures.errors() is None:
            time.sleep(min(_HEAD_START * rank, _LAST_START))
        who = f"rank {rank} of {size} on {platform.node()} failed: " if size > 1 else ""
        _print(f"distnewton: {who}{message}{_context(trace)}" + (f"\n{problem}" if problem else ""))
    if _connected():
        time.sleep(_FORWARDING)
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(code)
    elif size > 1 and "mpi4py.MPI" not in sys.modules:
        _abort_unconnected(code)
    return code


def _abort_unconnected(code: int) -> None:
    """End a job whose other ranks may wait for this one in MPI_Init; launchers do not end it if this one only exits."""
    # if this rank cannot connect, the signal kills it, and that ends the job
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_CONNECTING)
    try:
        from mpi4py import MPI
    except ImportError:
        # so no rank waits in it
        signal.alarm(0)
        return
    if MPI.COMM_WORLD.Get_size() > 1:
        MPI.COMM_WORLD.Abort(code)
    signal.alarm(0)


def _context(trace: str) -> str:
    """Describe iteration and phase, the end of the traceback, and the run folder, in at most 25 lines."""
    lines = []
    if failures.phase not in (None, "other") or failures.iteration is not None:
        last = f", last collective {call['name']}" if (call := failures.waits().get("collective")) else ""
        lines.append(f"  iteration {failures.current_iteration}, phase {failures.phase}{last}")
    shown = [line for line in trace.splitlines() if line.strip(" ^~")]
    if len(shown) > _MAX_LINES:
        shown = ["  ...", *shown[1 - _MAX_LINES :]]
    lines += shown
    errors = failures.errors()
    if errors is not None:
        lines.append(f"  run folder: {errors.parent} ({ERRORS_FOLDER}/ has the whole report)")
    return "".join(f"\n{line}" for line in lines)


def _print(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
