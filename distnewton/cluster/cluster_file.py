"""The cluster file: how jobs start on a cluster, and how fast its machines and its network are.

``cluster_configs/README.md`` lists the keys with their units.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from distnewton.cluster.quoting import problem
from distnewton.config.tree import describe_errors, read_toml
from distnewton.errors import ConfigError
from distnewton.options import Options


def _matching(pattern: str, rule: str) -> AfterValidator:
    """Make a check of a whole text; its error states the rule and the text."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{rule}, got {text!r}")
        return text

    return AfterValidator(check)


def _one_line(text: str) -> str:
    if found := problem(text):
        raise ValueError(found)
    return text


def _shell_line(text: str) -> str:
    """Check a line of the user's shell code, in which a tab counts as a blank."""
    _one_line(text.replace("\t", " "))
    return text


Line = Annotated[str, AfterValidator(_one_line)]
ShellLine = Annotated[str, AfterValidator(_shell_line)]
Name = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a name of letters, digits, dots and dashes")]
Time = Annotated[
    str, _matching(r"((\d+-)?\d+(:\d\d){0,2})?", 'a time limit is written "minutes", "hh:mm:ss" or "days-hh:mm:ss"')
]
Memory = Annotated[str, _matching(r"(\d+[KMGT]?)?", 'memory is written as "4000M" or "16G" (0 for all of a node)')]
Variable = Annotated[
    str,
    _matching(
        r"(?!(run|code|tries|options|mpirun|distnewton|gpus|k)$)[A-Za-z_][A-Za-z0-9_]*",
        "a variable is a name of letters, digits and underscores that the job file does not use itself",
    ),
]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class MpirunKeys(Options):
    """Keys of ``[launch]`` that only mpirun reads."""

    mpi: Literal["auto", "openmpi", "mpich"] = "auto"
    hosts: list[Name] = Field([])
    hostfile: Line = ""
    agent: Line = ""
    interface: Line = ""

    @model_validator(mode="after")
    def _one_list_of_hosts(self) -> Self:
        if self.hosts and self.hostfile:
            raise ValueError("launch.hosts and launch.hostfile exclude each other")
        return self


class LaunchTable(MpirunKeys):
    """``[launch]``: how ranks are started."""

    scheduler: Literal["none", "slurm"] = "none"
    launcher: Literal["mpirun", "srun", "none"] = "mpirun"
    nodes: Count = 1
    ranks_per_node: Count = 1
    threads_per_rank: Annotated[int, Field(ge=0)] = 0
    options: list[Line] = Field([])


class EnvironmentTable(Options):
    """``[environment]``: what the job sets up itself, to be independent of the shell that submits it."""

    modules: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_./+-]+$")]] = Field([])
    setup: list[ShellLine] = Field([])
    programs: Line = ""
    directory: Line = ""
    variables: dict[Variable, Line] = Field({})


class GpuTable(Options):
    """``[gpu]``: GPUs of a node."""

    per_node: Annotated[int, Field(ge=0)] = 0


class QueueOptions(Options):
    """Options of sbatch for queue, account and time."""

    partition: Line = ""
    account: Line = ""
    qos: Line = ""
    time: Time = ""


class ResourceOptions(QueueOptions):
    """Options of sbatch for memory, nodes and GPUs."""

    mem: Memory = ""
    mem_per_cpu: Memory = ""
    mem_per_gpu: Memory = ""
    constraint: Line = ""
    reservation: Line = ""
    gres: Line = ""
    gpus_per_node: Line = ""
    gpus_per_task: Line = ""
    exclusive: bool = False

    @model_validator(mode="after")
    def _one_way_to_ask_for_memory(self) -> Self:
        given = [key for key in ("mem", "mem_per_cpu", "mem_per_gpu") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: keep the one that your site requires")
        return self

    @property
    def asks_for_gpus(self) -> bool:
        """Whether an option says how many GPUs the job gets."""
        return bool(self.gres or self.gpus_per_node or self.gpus_per_task)


class SlurmTable(ResourceOptions):
    """``[slurm]``: lines of the job file; all are optional, because sites require different ones."""

    export: Line = ""
    mail_type: Line = ""
    mail_user: Line = ""
    extra: list[Annotated[Line, Field(pattern=r"^-")]] = Field([])
    omit: list[Literal["nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "gpus-per-node"]] = Field([])
    requeues: Annotated[int, Field(ge=0)] = 0

    def sbatch_options(self) -> dict[str, Any]:
        """Return the options of sbatch that have a value, in the order of the job file."""
        table = self.model_dump(exclude={"extra", "omit", "requeues"})
        return {key.replace("_", "-"): value for key, value in table.items() if value}


class NetworkTable(Options):
    """``[network]``: rates between ranks of different nodes and of one; measured by ``distnewton doctor --bench``."""

    latency_us: Rate | None = None
    bandwidth_gb_s: Rate | None = None
    node_latency_us: Rate | None = None
    node_bandwidth_gb_s: Rate | None = None


class ComputeTable(Options):
    """``[compute]``: rates of a rank while all ranks compute; ``distnewton doctor --bench`` measures them."""

    float32_gflop_s: Rate | None = None
    float64_gflop_s: Rate | None = None
    sparse_gflop_s: Rate | None = None
    memory_gb_s: Rate | None = None
    exponentials_g_s: Rate | None = None
    memory_gb: Rate | None = None


class Cluster(Options):
    """A cluster file."""

    name: Name
    launch: LaunchTable = LaunchTable()
    environment: EnvironmentTable = EnvironmentTable()
    gpu: GpuTable = GpuTable()
    slurm: SlurmTable = SlurmTable()
    network: NetworkTable = NetworkTable()
    compute: ComputeTable = ComputeTable()

    @model_validator(mode="after")
    def _tables_fit(self) -> Cluster:
        launch = self.launch
        slurm = self.has_slurm
        plain_mpirun = launch.launcher == "mpirun" and not slurm
        rules = {
            'launch.launcher = "srun" needs launch.scheduler = "slurm"': launch.launcher == "srun" and not slurm,
            '[slurm] has no effect unless launch.scheduler = "slurm"': self.slurm != SlurmTable() and not slurm,
            'launch.hosts and launch.hostfile are for launch.launcher = "mpirun" without a scheduler':
                bool(launch.hosts or launch.hostfile) and not plain_mpirun,
            'launch.launcher = "none" starts one rank: nodes and ranks_per_node must be 1':
                launch.launcher == "none" and launch.nodes * launch.ranks_per_node > 1,
        }  # fmt: skip
        if broken := [rule for rule, is_broken in rules.items() if is_broken]:
            raise ValueError("\n".join(broken))
        return self

    @property
    def has_slurm(self) -> bool:
        """Whether Slurm starts the jobs."""
        return self.launch.scheduler == "slurm"

    @property
    def has_network(self) -> bool:
        """Whether ranks of several machines communicate; a file without network rates describes one machine."""
        return self.launch.nodes > 1 or len(self.launch.hosts) > 1 or self.network.bandwidth_gb_s is not None


def load_cluster(path: str | Path) -> Cluster:
    """Read and check a cluster file.

    Parameters
    ----------
    path : str or Path
        TOML file.

    Returns
    -------
    Cluster

    Raises
    ------
    MissingInputError
        If it cannot be read.
    ConfigError
        If it is not TOML, or has errors; the message then lists all of them.
    """
    tree = read_toml(path, "cluster file", collective=True)
    try:
        return Cluster.model_validate(tree)
    except ValidationError as error:
        text = f"the cluster file {path} has errors:\n{describe_errors(error, Cluster)}"
        raise ConfigError(text, collective=True) from None
