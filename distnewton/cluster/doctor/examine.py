"""The examination: collect the facts of all ranks, check them, show the findings."""

from __future__ import annotations

from pathlib import Path

from distnewton.cluster.cluster_file import Cluster
from distnewton.cluster.doctor.checks import (
    check_blas,
    check_cupy,
    check_gpus,
    check_launch,
    check_tasks,
    check_threads,
    check_versions,
)
from distnewton.cluster.doctor.facts import Facts, collect
from distnewton.cluster.doctor.findings import Finding, problem
from distnewton.cluster.doctor.folder_probe import check_folder
from distnewton.cluster.doctor.gpu_aware_probe import check_gpu_aware
from distnewton.errors import ConfigError
from distnewton.launch.startup import launched_size, library_version, world_communicator
from distnewton.launch.threads import threads_per_rank
from distnewton.parallel.collectives import Communicator


def connect() -> tuple[Communicator, list[Finding]]:
    """All ranks, or this process alone with the reason why.

    Returns
    -------
    tuple of Communicator and list of Finding
        The findings are empty where the launch works.
    """
    try:
        return world_communicator(), []
    except ConfigError as error:
        text, _, advice = str(error).partition("; ")
        return Communicator(), [problem("launch", text, advice)]


def examine(
    comm: Communicator, folder: Path, cluster: Cluster | None = None, recipe: str | None = None, run_threads: int = 0
) -> list[Finding]:
    """Check everything.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    folder : Path
        Where runs are to be.
    cluster : Cluster or None
        What the machine should be.
    recipe : str or None
        Compared over the ranks.
    run_threads : int
        ``run.threads`` of the recipe.

    Returns
    -------
    list of Finding
        The same on all ranks.

    Notes
    -----
    Collective.
    """
    library = ""
    if comm.mpi is not None:
        from mpi4py import MPI

        library = library_version(MPI.Get_library_version())
    mine = collect(comm.rank, comm.size, library, threads_per_rank(comm), recipe)
    ranks = [Facts(**facts) for facts in comm.allgather_json(mine.as_dict())]
    findings = [
        # where each process is alone, connect() has said so
        *(check_launch(ranks) if comm.size > 1 or launched_size() == 1 else []),
        *check_tasks(ranks),
        *check_threads(ranks, cluster, run_threads),
        *check_blas(ranks),
        *check_versions(ranks),
        *check_folder(comm, folder),
        *check_cupy(ranks),
        *check_gpus(ranks, cluster),
    ]
    # in a child process of rank 0 alone: its segmentation fault is an answer
    probed = check_gpu_aware(len(ranks[0].gpus), ranks[0].cupy, comm.size) if comm.rank == 0 else []
    return findings + [Finding(**found) for found in comm.broadcast_json([vars(found) for found in probed])]
