"""The process under its launcher: detecting a broken launch, and ending the whole job when one rank fails."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from distnewton.errors import ConfigError, DistNewtonError
from distnewton.parallel.collectives import Communicator

_SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
_HEAD_START = 0.3
"""Seconds that other ranks leave to rank 0, so that of one fault on all ranks one message is printed."""
_FORWARDING = 0.1
"""Seconds that the launcher has to forward the message before the abort: on a loaded machine it was once lost."""


def launched_size() -> int:
    """Number of processes the launcher says it started; 1 without a launcher."""
    return max((int(os.environ[name]) for name in _SIZE_VARIABLES if os.environ.get(name, "").isdigit()), default=1)


def launched_rank() -> int:
    """This process's number as the launcher gives it, before MPI is started; 0 without a launcher."""
    return next((int(os.environ[name]) for name in _RANK_VARIABLES if os.environ.get(name, "").isdigit()), 0)


def world_communicator() -> Communicator:
    """All processes of the launch; starts MPI only under a launcher.

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
        return Communicator()
    try:
        with warnings.catch_warnings():
            # mpi4py warns on every rank of a launcher of another MPI, which is explained below, once
            warnings.simplefilter("ignore", RuntimeWarning)
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"started under an MPI launcher, but no MPI library could be loaded ({error}); install one with "
            "pip install 'distnewton[mpich]', or load the module of your site's MPI",
            agreed=True,
        ) from None
    comm = Communicator(MPI.COMM_WORLD)
    if comm.size == 1 and n_launched > 1:
        raise ConfigError(
            f"the launcher started {n_launched} processes, but each is alone (\"rank 0 of 1\"): the launcher and the "
            f"MPI library differ. The library is {MPI.Get_library_version().splitlines()[0].strip()}; start with the "
            "mpirun of the same installation (in a virtual environment: its bin/mpirun), or with an srun "
            "whose --mpi option this library supports",
            agreed=True,
        )
    return comm


def run_guarded(main: Callable[[], int]) -> int:
    """Run a program so that a failure on any rank ends the whole job at once, with one message.

    Parameters
    ----------
    main : callable
        The program; returns the exit code.

    Returns
    -------
    int
        Exit code: 0, or that of an error on which all ranks agree. Any other failure does not return: it prints
        what happened where and aborts all ranks, SystemExit included.
    """
    try:
        return main()
    except DistNewtonError as error:
        if error.agreed or launched_size() == 1:
            if launched_rank() == 0:
                _print(f"distnewton: {error}")
            return error.exit_code
        return _abort(f"{error}", error.exit_code)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1 if error.code else 0
        return 0 if code == 0 else _abort(f"SystemExit({error.code!r})", code)
    except BrokenPipeError:
        # the reader of our output has left, say `| head`: nothing to tell, but nothing left to do either
        return _abort("", 1)
    except KeyboardInterrupt:
        return _abort("interrupted", 130)
    except BaseException as error:  # every failure, of whichever kind, must end the job
        return _abort("".join(traceback.format_exception(error)).rstrip() + "\nthis is a bug in distnewton", 70)


def _abort(message: str, code: int) -> int:
    """Print this rank's failure and end the whole job."""
    rank, size = launched_rank(), launched_size()
    if rank:
        time.sleep(_HEAD_START)
    who = f"rank {rank} of {size} on {os.uname().nodename} failed: " if size > 1 else ""
    if message:
        _print(f"distnewton: {who}{message}")
    mpi: Any = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.Get_size() > 1:
        time.sleep(_FORWARDING)
        mpi.COMM_WORLD.Abort(code)
    return code


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
