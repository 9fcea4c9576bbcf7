"""The examination: collect what all ranks see, and check it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from distnewton.cluster.cluster_file import Cluster
from distnewton.cluster.doctor import checks
from distnewton.cluster.doctor.findings import CheckResult, findings_that_count, problem
from distnewton.cluster.doctor.folder_probe import check_folder
from distnewton.cluster.doctor.gpu_aware_probe import check_gpu_aware
from distnewton.cluster.doctor.views import LaunchView, RankView, view_launch, view_rank
from distnewton.errors import ConfigError
from distnewton.launch.startup import launched_size, mpi_library, world_communicator
from distnewton.launch.threads import threads_per_rank
from distnewton.parallel.collectives import Communicator


def connect() -> tuple[Communicator, list[CheckResult]]:
    """Connect all ranks, or return this process alone with the reason.

    Returns
    -------
    tuple of Communicator and list of CheckResult
        The list is empty if the launch works.
    """
    try:
        return world_communicator(), []
    except ConfigError as error:
        text, _, advice = str(error).partition("; ")
        return Communicator(), [problem("launch", text, advice)]


def examine(
    comm: Communicator, folder: Path, cluster: Cluster | None = None, recipe: str | None = None, run_threads: int = 0
) -> list[CheckResult]:
    """Check everything.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    folder : Path
        Folder for runs.
    cluster : Cluster or None
        Cluster file to compare the machine with.
    recipe : str or None
        File to compare between the ranks.
    run_threads : int
        Value of ``run.threads`` in the recipe.

    Returns
    -------
    list of CheckResult
        The same on all ranks.

    Notes
    -----
    Collective.
    """
    library = mpi_library(comm)
    mine = view_rank(comm.rank, library, threads_per_rank(comm), recipe)
    ranks = [RankView(**view) for view in comm.allgather_json(asdict(mine))]
    launch = LaunchView(**comm.broadcast_json(asdict(view_launch(comm.size, library)) if comm.rank == 0 else None))
    results = [
        # if each process is alone, connect() has reported it
        *(checks.check_launch(launch, ranks) if comm.size > 1 or launched_size() == 1 else []),
        *checks.check_tasks(launch, ranks),
        *checks.check_threads(ranks, cluster, run_threads),
        *checks.check_blas(launch, ranks),
        *checks.check_versions(ranks),
        check_folder(comm, folder),
        *checks.check_cupy(ranks),
        *checks.check_gpus(ranks, cluster),
    ]
    # in a child process of rank 0 alone: its segmentation fault is an answer
    probed = check_gpu_aware(len(ranks[0].gpus), ranks[0].cupy, comm.size) if comm.rank == 0 else []
    results += [CheckResult(**result) for result in comm.broadcast_json([asdict(result) for result in probed])]
    return findings_that_count(results)
