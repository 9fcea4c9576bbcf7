"""A cluster as a file of data: how jobs start there, and how fast its machines and its network are.

``cluster_configs/README.md`` lists the keys with their units.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from distnewton.config.tree import describe_errors
from distnewton.errors import ConfigError, MissingInputError
from distnewton.options import Options


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError(f"must be one line, got {text!r}")
    return text


def _time(text: str) -> str:
    if text and not re.fullmatch(r"(\d+-)?\d+(:\d\d){0,2}", text):
        raise ValueError(f'a time limit is written "minutes", "hh:mm:ss" or "days-hh:mm:ss", got {text!r}')
    return text


def _memory(text: str) -> str:
    if text and not re.fullmatch(r"\d+[KMGT]?", text):
        raise ValueError(f'memory is written as "4000M" or "16G" (0 for all of a node), got {text!r}')
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise ValueError(f"a name of letters, digits, dots and dashes, got {text!r}")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Memory = Annotated[str, AfterValidator(_memory)]


class LaunchTable(Options):
    """``[launch]``: how ranks are started."""

    scheduler: Literal["none", "slurm"] = "none"
    launcher: Literal["mpirun", "srun", "none"] = "mpirun"
    mpi: Literal["auto", "openmpi", "mpich"] = "auto"
    nodes: Count = 1
    ranks_per_node: Count = 1
    threads_per_rank: Annotated[int, Field(ge=0)] = 0
    hosts: list[Annotated[str, AfterValidator(_name)]] = Field([])
    hostfile: Line = ""
    agent: Line = ""
    interface: Line = ""
    options: list[Line] = Field([])


class EnvironmentTable(Options):
    """``[environment]``: what the job sets up by itself, so that nothing depends on the shell it came from."""

    modules: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_./+-]+$")]] = Field([])
    setup: list[Line] = Field([])
    programs: Line = ""
    directory: Line = ""
    variables: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Line] = Field({})


class GpuTable(Options):
    """``[gpu]``: GPUs of a node."""

    per_node: Annotated[int, Field(ge=0)] = 0


class SlurmTable(Options):
    """``[slurm]``: lines of the job file; every one is optional, since sites ask for different ones."""

    partition: Line = ""
    account: Line = ""
    qos: Line = ""
    time: Annotated[str, AfterValidator(_time)] = ""
    mem: Memory = ""
    mem_per_cpu: Memory = ""
    mem_per_gpu: Memory = ""
    constraint: Line = ""
    reservation: Line = ""
    gres: Line = ""
    gpus_per_node: Line = ""
    gpus_per_task: Line = ""
    exclusive: bool = False
    export: Line = ""
    mail_type: Line = ""
    mail_user: Line = ""
    extra: list[Annotated[Line, Field(pattern=r"^-")]] = Field([])
    omit: list[Literal["nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "gpus-per-node"]] = Field([])
    requeues: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_way_to_ask_for_memory(self) -> SlurmTable:
        given = [key for key in ("mem", "mem_per_cpu", "mem_per_gpu") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: keep the one your site asks for")
        return self


class NetworkTable(Options):
    """``[network]``: between ranks of different nodes, and of one node; ``distnewton doctor --bench`` measures it."""

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

    name: Annotated[str, AfterValidator(_name)]
    launch: LaunchTable = LaunchTable()
    environment: EnvironmentTable = EnvironmentTable()
    gpu: GpuTable = GpuTable()
    slurm: SlurmTable = SlurmTable()
    network: NetworkTable = NetworkTable()
    compute: ComputeTable = ComputeTable()

    @model_validator(mode="after")
    def _tables_fit(self) -> Cluster:
        launch, problems = self.launch, []
        if launch.launcher == "srun" and launch.scheduler != "slurm":
            problems.append('launch.launcher = "srun" needs launch.scheduler = "slurm"')
        if self.slurm != SlurmTable() and launch.scheduler != "slurm":
            problems.append('[slurm] has no effect unless launch.scheduler = "slurm"')
        if (launch.hosts or launch.hostfile) and (launch.scheduler == "slurm" or launch.launcher != "mpirun"):
            problems.append('launch.hosts and launch.hostfile are for launch.launcher = "mpirun" without a scheduler')
        if launch.hosts and launch.hostfile:
            problems.append("launch.hosts and launch.hostfile exclude each other")
        if launch.launcher == "none" and launch.nodes * launch.ranks_per_node > 1:
            problems.append('launch.launcher = "none" starts one rank: nodes and ranks_per_node must be 1')
        if problems:
            raise ValueError("\n".join(problems))
        return self


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
        If it is not TOML, or with every error of its keys.
    """
    try:
        tree: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        text = f"cannot read the cluster file {path}: {error.strerror or error}"
        raise MissingInputError(text, collective=True) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}", collective=True) from None
    try:
        return Cluster.model_validate(tree)
    except ValidationError as error:
        text = f"the cluster file {path} has errors:\n{describe_errors(error, Cluster)}"
        raise ConfigError(text, collective=True) from None
