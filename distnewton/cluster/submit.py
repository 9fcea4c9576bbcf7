"""Make a job from a recipe and a cluster file: write the run folder with the job file, and queue it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from distnewton.cluster.cluster_file import Cluster
from distnewton.cluster.hosts import read_hostfile, share_ranks
from distnewton.cluster.job import JOB_CONFIG, JOB_FILE, Job, checked_name
from distnewton.cluster.job_text import job_text
from distnewton.config import Config, to_toml
from distnewton.errors import ConfigError, CreateError
from distnewton.frozen import frozen
from distnewton.outputs import check_folder, write_output, writing
from distnewton.parallel.partition import Partition, check_rank_count
from distnewton.runs.run_folder import (
    files_of_run,
    free_name,
    next_folder,
    restore_replaced,
    restoring_replaced,
    set_aside,
)


@frozen
class Submission:
    """A request to submit a run."""

    config: Config  # the run
    cluster: Cluster  # where
    name: str  # name of the job, and of the run folder if none is given
    n_ranks: int | None = None  # ranks; None for all that the cluster file describes
    hosts: tuple[str, ...] = ()  # instead of the cluster file's

    def job(self, folder: Path) -> Job:
        """Make the job in a run folder.

        Parameters
        ----------
        folder : Path
            Run folder.

        Returns
        -------
        Job

        Raises
        ------
        ConfigError
            If ranks, hosts and splits do not fit each other.
        """
        launch, environment = self.cluster.launch, self.cluster.environment
        hosts = self._hosts()
        job = Job(
            self.cluster,
            self.name,
            folder.absolute(),
            Path(environment.directory or Path.cwd()).absolute(),
            Path(environment.programs or Path(sys.executable).parent),
            sum(hosts.values()) or self.n_ranks or launch.nodes * launch.ranks_per_node,
            hosts,
        )
        self._check(job)
        return job

    def _hosts(self) -> dict[str, int]:
        """Return the ranks by host, if the command or the cluster file names hosts."""
        launch = self.cluster.launch
        if named := self.hosts or launch.hosts:
            return share_ranks(dict.fromkeys(named, launch.ranks_per_node), self.n_ranks)
        if launch.hostfile:
            return share_ranks(read_hostfile(Path(launch.hostfile), launch.ranks_per_node), self.n_ranks)
        return {}

    def _check(self, job: Job) -> None:
        """Refuse, before queueing, a job that would fail after it."""
        if self.cluster.launch.launcher == "none" and job.n_ranks > 1:
            raise ConfigError(f'{job.n_ranks} ranks need a launcher, and launch.launcher is "none"', collective=True)
        splits = self.config.partition.splits
        if splits != "auto":
            # the widths do not count here, and may not be known yet
            check_rank_count(Partition(tuple(splits), tuple(splits)), job.n_ranks)
        n_gpus = self.cluster.gpu.per_node
        if n_gpus and job.ranks_per_node > n_gpus and self.config.run.comm == "nccl":
            raise ConfigError(
                f"{job.ranks_per_node} ranks on a node for its {n_gpus} GPUs, and run.comm = nccl, which refuses two "
                "ranks on one: lower launch.ranks_per_node of the cluster file, or use run.comm = mpi",
                collective=True,
            )

    def resolved(self) -> Config:
        """Return the run's configuration with the settings that the cluster file decides."""
        threads = self.config.run.threads or self.cluster.launch.threads_per_rank
        changes = {"threads": threads, "directory": "", "overwrite": False}
        return self.config.model_copy(update={"run": self.config.run.model_copy(update=changes)})

    def folder(self) -> Path:
        """Return the run folder, not yet created: the configuration's, or the first free name."""
        return Path(self.config.run.directory) if self.config.run.directory else free_name(checked_name(self.name))

    def write(self) -> Path:
        """Create the run folder with job file and configuration.

        Returns
        -------
        Path
            The job file.

        Raises
        ------
        CreateError
            If the folder cannot be created, or holds a run or a job.
        WriteError
            If a file cannot be written.
        """
        given = self.config.run.directory
        check_folder(self.folder())
        job_text(self.job(self.folder()))  # raises errors before a folder is created
        folder = Path(given) if given else next_folder(self.name)
        present = [name for name in (JOB_FILE,) if (folder / name).exists()] + files_of_run(folder)
        if present and not self.config.run.overwrite:
            raise CreateError(
                f"{folder} holds an earlier run or job ({', '.join(present)}): choose another --run-dir, or allow it "
                "with --set run.overwrite=true",
                collective=True,
            )
        with writing(folder / JOB_FILE, collective=True), restoring_replaced(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if files_of_run(folder):
                set_aside(folder)
            write_output(folder / JOB_CONFIG, to_toml(self.resolved()))
            write_output(folder / JOB_FILE, job_text(self.job(folder)))
            (folder / JOB_FILE).chmod(0o755)
        return folder / JOB_FILE


def queue(job_file: Path) -> str:
    """Queue a job file in Slurm.

    Parameters
    ----------
    job_file : Path
        Job file from :meth:`Submission.write`.

    Returns
    -------
    str
        Number of the job.

    Raises
    ------
    ConfigError
        If there is no sbatch here, or it refuses the job; the message quotes it. A run that the job would have replaced
        is then unchanged.
    """
    with restoring_replaced(job_file.parent):
        if not shutil.which("sbatch"):
            raise ConfigError(
                f"there is no sbatch in PATH: on a host that has it: sbatch {job_file.absolute()}; without Slurm use "
                'a cluster file whose launch.scheduler is "none"',
                collective=True,
            )
        command = ["sbatch", "--parsable", str(job_file.absolute())]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if asked.returncode:
            raise ConfigError(
                f"sbatch refused {job_file}: {asked.stderr.strip() or asked.stdout.strip()}; each Slurm line is from "
                "the table [slurm] of the cluster file",
                collective=True,
            )
    # "number;cluster" where there are several clusters
    return asked.stdout.strip().partition(";")[0]


def run_here(job_file: Path) -> int:
    """Run a job file on this machine and return its exit code; its output goes where ours goes."""
    sys.stdout.flush()
    bash = shutil.which("bash") or "/bin/bash"
    code = subprocess.run([bash, str(job_file.absolute())], stdin=subprocess.DEVNULL, check=False).returncode  # noqa: S603
    if code:
        # restore the run that it would have replaced, even if no launcher was found
        restore_replaced(job_file.parent)
    return code
