"""The command ``submit``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distnewton.cli.command import CLUSTER_FILE, RECIPE, RUN_DIR, SET, argument, command
from distnewton.cli.parsing import count
from distnewton.cli.results import write_text
from distnewton.cli.settings import noted_config
from distnewton.cluster.cluster_file import Cluster, load_cluster
from distnewton.cluster.submit import Submission
from distnewton.errors import ConfigError, DistNewtonError

_MOST_BYTES = 20_000_000
"""Largest file of training data that is read to plan a run."""


@command(
    "submit",
    "train on a cluster: write the job file and queue it",
    RECIPE,
    SET,
    argument("--cluster", required=True, metavar="FILE", help=CLUSTER_FILE),
    argument("--ranks", type=count, metavar="N", help="MPI ranks (default: all of the cluster file)"),
    argument("--hosts", metavar="LIST", help="hosts, separated by commas, instead of those of the cluster file"),
    RUN_DIR,
    argument("--dry-run", action="store_true", help="show the job file and write nothing"),
    usage="[RECIPE] --cluster FILE [--ranks N] [--dry-run] [--set SECTION.KEY=VALUE ...]",
    epilog="Writes job.sh and job.toml into the run folder. Without Slurm the job runs at once, on this machine.",
    without_mpirun="the job that it writes starts the ranks",
)
def submit(options: argparse.Namespace) -> int:
    """Write the job file of a run, and queue it in Slurm or start it here."""
    from distnewton.cluster.job_text import job_text
    from distnewton.cluster.submit import queue, run_here

    cluster = load_cluster(options.cluster)
    config = noted_config(options)
    hosts = tuple(host.strip() for host in (options.hosts or "").split(",") if host.strip())
    name = Path(options.recipe).stem if options.recipe else "run"
    submission = Submission(config, _with_hosts(cluster, hosts), name, options.ranks, hosts)
    _warn_of_wasted_ranks(submission)
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


def _warn_of_wasted_ranks(submission: Submission) -> None:
    """Advise on stderr if fewer ranks would be as fast; large data is not read for that."""
    from distnewton.cli.plan_command import advice_on_ranks

    config, n_ranks = submission.config, submission.job(submission.folder()).n_ranks
    train = config.data.train
    path = Path(config.data.directory) / train if isinstance(train, str) else Path()
    if n_ranks == 1 or not isinstance(train, str) or (path.exists() and not _is_small(path)):
        return
    try:
        advice = advice_on_ranks(config, submission.cluster, n_ranks)
    except DistNewtonError as error:
        advice = f"the run is not planned: {str(error).partition(chr(10))[0]}"
    if advice:
        print(f"note: {advice}", file=sys.stderr)


def _is_small(path: Path) -> bool:
    """Whether a file can be read in about a second."""
    return path.is_file() and path.stat().st_size <= _MOST_BYTES


def _with_hosts(cluster: Cluster, hosts: tuple[str, ...]) -> Cluster:
    """Replace the hosts of a cluster; they are checked as if they came from its file."""
    if not hosts:
        return cluster
    launch = {**cluster.launch.model_dump(), "hosts": list(hosts), "hostfile": ""}
    try:
        return Cluster.model_validate({**cluster.model_dump(), "launch": launch})
    except ValueError as error:
        raise ConfigError(f"--hosts {','.join(hosts)}: {error}", collective=True) from None
