"""A job: what is started where, and the names of its files."""

from __future__ import annotations

import math
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from distnewton.cluster.quoting import MOST_NAME, MOST_PATH, checked
from distnewton.frozen import frozen
from distnewton.runs.run_folder import METRICS_FILE

if TYPE_CHECKING:
    from distnewton.cluster.cluster_file import Cluster

JOB_FILE, JOB_CONFIG, OUTPUT_FILE = "job.sh", "job.toml", "job-%j.out"
GO_ON = "--resume=auto"
"""Flag with which a job resumes its run when it is queued again."""


@frozen
class Job:
    """A job that can be written.

    Raises
    ------
    ConfigError
        If its name or a folder has characters that a job file cannot hold.
    """

    cluster: Cluster  # where it runs
    name: str  # for the queue
    # run folder, working folder, and folder of python and distnewton; absolute
    folder: Path
    directory: Path
    programs: Path
    n_ranks: int  # ranks
    hosts: dict[str, int] = field(default_factory=dict)  # ranks by host, for an mpirun over hosts; else empty

    def __post_init__(self) -> None:
        """Refuse names that the shell, PATH or Slurm would read as something else."""
        checked_name(self.name)
        # after a backslash Slurm expands no pattern, and all jobs of a folder would write to one file
        checked("a run folder", str(self.folder), MOST_PATH, without="\\" if self.cluster.has_slurm else "")
        checked("the working folder", str(self.directory), MOST_PATH)
        checked("the folder of distnewton", str(self.programs), MOST_PATH, without=":")

    @property
    def n_nodes(self) -> int:
        """Number of nodes of the job."""
        return len(self.hosts) or math.ceil(self.n_ranks / self.cluster.launch.ranks_per_node)

    @property
    def ranks_per_node(self) -> int:
        """Number of ranks on a full node of the job."""
        return max(self.hosts.values()) if self.hosts else min(self.n_ranks, self.cluster.launch.ranks_per_node)


def checked_name(name: str) -> str:
    """Check the name of a job, which is also the name of its run folder.

    Parameters
    ----------
    name : str
        Name of the recipe.

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        If the queue or a file system cannot take it.
    """
    return checked("the name of a job", name, MOST_NAME, without="/")


def is_waiting(folder: Path) -> bool:
    """Whether a folder was created for a job that has not begun to train."""
    return (folder / JOB_FILE).is_file() and not (folder / METRICS_FILE).exists()
