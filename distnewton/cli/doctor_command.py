"""The command ``doctor``."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.cli.command import argument, command
from distnewton.cli.output import say
from distnewton.cli.results import write_text
from distnewton.cluster.cluster_file import Cluster, load_cluster
from distnewton.config import load_config
from distnewton.errors import UsageError
from distnewton.launch.startup import guard, launched_rank, leave_after_first
from distnewton.outputs import check_output
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from distnewton.cluster.doctor.findings import CheckResult


@command(
    "doctor",
    "find what is wrong with MPI, threads, GPUs, folders and versions",
    argument("recipe", nargs="?", metavar="RECIPE", help="TOML file to compare between the ranks"),
    argument("--cluster", metavar="FILE", help="cluster file to compare with, or to write with --bench"),
    argument("--run-dir", metavar="DIR", help="folder for runs (default runs)"),
    argument("--bench", action="store_true", help="measure messages and matrix products (20 s)"),
    argument("--verify-gpu", action="store_true", help="compare all that a GPU computes with the CPU (a minute)"),
    argument("--json", metavar="FILE", help="write the findings and versions as JSON"),
)
def doctor(options: argparse.Namespace) -> int:
    """Look for what breaks runs; with --bench, also measure how fast ranks compute and communicate."""
    from distnewton.cluster.doctor.examine import connect

    comm, results = connect()
    if results and launched_rank() != 0:
        # each rank is alone in its world: the fault is the same for all, and the first rank examines the rest
        leave_after_first(10.0)
        return 78
    guard(comm, 120.0, 30.0)
    if options.verify_gpu and comm.size > 1:
        raise UsageError("--verify-gpu is for one process: start it without mpirun", collective=True)
    with comm.collective_errors():
        cluster = _cluster_of_doctor(options)
    found, report = _examine(comm, cluster, options)
    results += found
    say(comm, "\n".join(chain.from_iterable(result.lines() for result in results)))
    if options.bench:
        _bench(comm, options.cluster)
    if options.json:
        facts = {"results": list(map(asdict, results)), **report}
        with comm.collective_errors():
            if comm.rank == 0:
                write_text(Path(options.json), json.dumps(facts, indent=1) + "\n")
    # what is slow is no reason to stop a script
    return 78 if any(result.level == "problem" for result in results) else 0


def _examine(
    comm: Communicator, cluster: Cluster | None, options: argparse.Namespace
) -> tuple[list[CheckResult], dict[str, Any]]:
    """Return the results of all checks, or those of the GPU with a report; rank 0 decides folder and recipe."""
    from distnewton.cluster.doctor.examine import examine

    if options.verify_gpu:
        return _verify_gpu()
    # a recipe that differs on another host is a finding, not an error
    folder, threads = comm.on_first(lambda: [options.run_dir or "runs", load_config(options.recipe).run.threads])
    return examine(comm, Path(folder), cluster, options.recipe, threads), {}


def _verify_gpu() -> tuple[list[CheckResult], dict[str, Any]]:
    """Compare the first GPU with the CPU; return the results and the report."""
    from distnewton.backend.gpu import INSTALL
    from distnewton.cluster.doctor.findings import problem
    from distnewton.cluster.doctor.verify_gpu import verify
    from distnewton.launch import devices

    _, missing = devices.GPUS.count()
    if missing:
        return [problem("GPU", missing, f"this needs cupy ({INSTALL}), a driver and a GPU")], {}
    verified = verify()
    return verified.results(), {"gpu": verified.to_json()}


def _cluster_of_doctor(options: argparse.Namespace) -> Cluster | None:
    """Read the cluster file to compare with; it may be missing if --bench can write it."""
    if options.json:
        check_output(Path(options.json))
    if not options.cluster:
        return None
    path = Path(options.cluster)
    if options.bench:
        check_output(path)
    return None if options.bench and not path.exists() else load_cluster(path)


def _bench(comm: Communicator, cluster_file: str | None) -> None:
    """Measure the rates, show them, and write them into the cluster file."""
    from distnewton.cluster.doctor.machine_bench import measure
    from distnewton.cluster.tables import write_measured
    from distnewton.launch.threads import limit_blas_threads, threads_per_rank

    with limit_blas_threads(threads_per_rank(comm)):
        tables = measure(comm)
    for table, values in tables.items():
        for key, value in values.items():
            say(comm, f"bench    {table}.{key} = {value:.4g}")
    hosts = comm.allgather_json(platform.node())
    with comm.collective_errors():
        if comm.rank == 0 and cluster_file:
            launch = {"nodes": len(set(hosts)), "ranks_per_node": max(map(hosts.count, hosts))}
            write_measured(Path(cluster_file), Path(cluster_file).stem, launch, tables)
    say(comm, f"written into {cluster_file}" if cluster_file else "--cluster FILE writes these values into a file")
