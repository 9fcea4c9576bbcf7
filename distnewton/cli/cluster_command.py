"""The commands ``submit`` and ``doctor``."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.cli.command import CLUSTER_FILE, RECIPE, RUN_DIR, SET, argument, command
from distnewton.cli.output import say
from distnewton.cli.parsing import count
from distnewton.cli.results import write_text
from distnewton.cli.settings import noted_config
from distnewton.cluster.cluster_file import Cluster, load_cluster
from distnewton.config import load_config
from distnewton.errors import ConfigError, UsageError
from distnewton.launch.startup import guard, launched_rank, leave_after_first
from distnewton.outputs import check_output
from distnewton.parallel.collectives import Communicator

if TYPE_CHECKING:
    from distnewton.cluster.doctor.findings import CheckResult


@command(
    "submit",
    "train on a cluster: write the job file and queue it",
    RECIPE,
    SET,
    argument("--cluster", required=True, metavar="FILE", help=CLUSTER_FILE),
    argument("--ranks", type=count, metavar="N", help="MPI ranks (default: all of the cluster file)"),
    argument("--hosts", metavar="LIST", help="hosts by commas, instead of the cluster file's"),
    RUN_DIR,
    argument("--dry-run", action="store_true", help="show the job file and write nothing"),
    usage="[RECIPE] --cluster FILE [--ranks N] [--dry-run] [--set SECTION.KEY=VALUE ...]",
    epilog="Writes job.sh and job.toml into the run folder. Without Slurm the job runs at once, on this machine.",
    without_mpirun="the job that it writes starts the ranks",
)
def submit(options: argparse.Namespace) -> int:
    """Write the job file of a run and start it: in the queue of Slurm, or here."""
    from distnewton.cluster.job_text import job_text
    from distnewton.cluster.submit import Submission, queue, run_here

    cluster = load_cluster(options.cluster)
    config = noted_config(options)
    hosts = tuple(host.strip() for host in (options.hosts or "").split(",") if host.strip())
    name = Path(options.recipe).stem if options.recipe else "run"
    submission = Submission(config, _with_hosts(cluster, hosts), name, options.ranks, hosts)
    if options.dry_run:
        folder = submission.folder()
        write_text(Path("-"), job_text(submission.job(folder)))
        print(f"dry run: would be written to {folder}/job.sh", file=sys.stderr)
        return 0
    job_file = submission.write()
    if cluster.launch.scheduler == "none":
        return run_here(job_file)
    number = queue(job_file)
    print(f"job {number} is queued; run folder: {job_file.parent}")
    print(f"its output will be in {job_file.parent}/job-{number}.out")
    return 0


def _with_hosts(cluster: Cluster, hosts: tuple[str, ...]) -> Cluster:
    """The cluster with other hosts, checked as if they stood in its file."""
    if not hosts:
        return cluster
    launch = {**cluster.launch.model_dump(), "hosts": list(hosts), "hostfile": ""}
    try:
        return Cluster.model_validate({**cluster.model_dump(), "launch": launch})
    except ValueError as error:
        raise ConfigError(f"--hosts {','.join(hosts)}: {error}", collective=True) from None


@command(
    "doctor",
    "find what is wrong with MPI, threads, GPUs, folders and versions",
    argument("recipe", nargs="?", metavar="RECIPE", help="TOML file to compare over the ranks"),
    argument("--cluster", metavar="FILE", help="cluster file to compare with, or to write with --bench"),
    argument("--run-dir", metavar="DIR", help="folder for runs (default runs)"),
    argument("--bench", action="store_true", help="measure messages and products (20 s)"),
    argument("--verify-gpu", action="store_true", help="compare all that a GPU computes with the CPU (a minute)"),
    argument("--json", metavar="FILE", help="write what was found as JSON, with versions"),
)
def doctor(options: argparse.Namespace) -> int:
    """Look for what breaks runs; with --bench, also how fast ranks compute and talk."""
    from distnewton.cluster.doctor.examine import connect, examine

    comm, results = connect()
    if results and launched_rank() != 0:
        # each is alone in its world; what is wrong is the same for all, and the first rank examines the rest
        leave_after_first(10.0)
        return 78
    guard(comm, 120.0, 30.0)
    if options.verify_gpu and comm.size > 1:
        raise UsageError("--verify-gpu is for one process: start it without mpirun", collective=True)
    cluster, threads, report = None, 0, dict[str, Any]()
    with comm.collective_errors():
        if options.json:
            check_output(Path(options.json))
        cluster = _cluster_of_doctor(options)
    with comm.collective_errors():
        # a recipe that differs on another host is a finding, and not an error
        if comm.rank == 0:
            threads = load_config(options.recipe).run.threads
    folder, threads = comm.broadcast_json([options.run_dir or "runs", threads])
    if options.verify_gpu:
        verified, report = _verify_gpu()
        results += verified
    else:
        results += examine(comm, Path(folder), cluster, options.recipe, threads)
    say(comm, "\n".join(line for result in results for line in result.lines()))
    if options.bench:
        _bench(comm, options.cluster)
    with comm.collective_errors():
        if options.json and comm.rank == 0:
            found = {"results": [asdict(result) for result in results], **report}
            write_text(Path(options.json), json.dumps(found, indent=1) + "\n")
    return 78 if any(result.level == "problem" for result in results) else 0


def _verify_gpu() -> tuple[list[CheckResult], dict[str, Any]]:
    """Results of comparing the first GPU with the CPU, and the report on it."""
    from distnewton.backend.gpu import INSTALL
    from distnewton.cluster.doctor.findings import problem
    from distnewton.cluster.doctor.verify_gpu import verify
    from distnewton.launch import devices

    _, missing = devices.GPUS.count()
    if missing:
        return [problem("GPU", missing, f"cupy ({INSTALL}), a driver and a GPU must be there")], {}
    verified = verify()
    return verified.results(), {"gpu": verified.to_json()}


def _cluster_of_doctor(options: argparse.Namespace) -> Cluster | None:
    """The cluster file to compare with; one that --bench is to make may be missing."""
    if not options.cluster:
        return None
    path = Path(options.cluster)
    if options.bench:
        check_output(path)
    return None if options.bench and not path.exists() else load_cluster(path)


def _bench(comm: Communicator, cluster_file: str | None) -> None:
    """Measure, show, and write into the cluster file."""
    from threadpoolctl import threadpool_limits

    from distnewton.cluster.doctor.machine_bench import measure
    from distnewton.cluster.tables import write_measured
    from distnewton.launch.threads import threads_per_rank

    with threadpool_limits(threads_per_rank(comm), user_api="blas"):
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
