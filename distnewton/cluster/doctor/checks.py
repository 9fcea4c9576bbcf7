"""Checks of what the ranks see; no check itself queries the machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from distnewton.cluster.cluster_file import Cluster
from distnewton.cluster.doctor.findings import CheckResult, ok, problem, slow
from distnewton.cluster.doctor.views import LaunchView, RankView
from distnewton.cluster.launchers import THREAD_VARIABLES
from distnewton.guards.hangs import ranges

_SLOW_CORES = ("prescott", "core2", "penryn", "nehalem", "generic", "sandybridge", "katmai", "banias")


def check_launch(launch: LaunchView, ranks: Sequence[RankView]) -> Iterator[CheckResult]:
    """Report launcher, library, and numbers of ranks and hosts."""
    started = f" under {launch.launcher}'s launcher" if launch.launcher else ""
    n_hosts = len({rank.host for rank in ranks})
    yield ok("launch", f"{launch.size} rank(s) on {n_hosts} host(s){started}, {launch.library or 'no MPI'}")


def check_tasks(launch: LaunchView, ranks: Sequence[RankView]) -> Iterator[CheckResult]:
    """Compare the ranks with the tasks and nodes of the Slurm job."""
    if "SLURM_JOB_ID" not in launch.slurm:
        return
    size, tasks = launch.size, launch.n_tasks or launch.size
    n_nodes, hosts = int(launch.slurm.get("SLURM_JOB_NUM_NODES", 1)), {rank.host for rank in ranks}
    if tasks != size:
        advice = f"start as many: mpirun -n {tasks}, or ask for --ntasks={size}"
        yield problem("tasks", f"the Slurm job has {tasks} tasks, and {size} rank(s) run", advice)
    if len(hosts) < min(n_nodes, size):
        advice = 'mpirun does not see the job: use the site\'s MPI, built with Slurm, or launcher = "srun"'
        yield slow("tasks", f"the job has {n_nodes} nodes, and all ranks run on {', '.join(sorted(hosts))}", advice)
    yield ok("tasks", f"{size} ranks are the job's {tasks} tasks on {n_nodes} node(s)")


def _grouped(ranks: Sequence[RankView], keys: Iterable[str]) -> dict[str, list[RankView]]:
    """Group the ranks by a key of each, for example its host."""
    groups: dict[str, list[RankView]] = {}
    for key, rank in zip(keys, ranks, strict=True):
        groups.setdefault(key, []).append(rank)
    return groups


def check_threads(ranks: Sequence[RankView], cluster: Cluster | None, run_threads: int) -> Iterator[CheckResult]:
    """Compare threads x ranks with the cores that the ranks of a node may use."""
    for host, there in _grouped(ranks, (rank.host for rank in ranks)).items():
        n, n_cores = len(there), len({core for view in there for core in view.cores})
        wanted, source = _wanted_threads(there[0], cluster, run_threads)
        if n > n_cores:
            advice = f"start at most {n_cores} rank(s) a node, or look at the launcher's binding (--bind-to none)"
            yield slow("threads", f"{n} ranks share {n_cores} core(s) on {host}", advice)
        elif wanted * n > n_cores:
            fitting = max(1, n_cores // n)
            advice = f"set it to {fitting}, or leave it out: ranks then divide the cores themselves"
            yield slow("threads", f"{n} ranks x {wanted} threads ({source}) on {n_cores} cores of {host}", advice)
    first = ranks[0]
    yield ok("threads", f"{first.n_threads} BLAS thread(s) a rank, {len(first.cores)} core(s) in its mask")


def _wanted_threads(view: RankView, cluster: Cluster | None, run_threads: int) -> tuple[int, str]:
    """Return the requested number of threads and its source; 0 if none is requested."""
    if run_threads:
        return run_threads, "run.threads"
    if cluster and cluster.launch.threads_per_rank:
        return cluster.launch.threads_per_rank, "launch.threads_per_rank"
    # CUDA_VISIBLE_DEVICES is among them, but is no number of threads
    given = {name: int(value) for name in THREAD_VARIABLES if (value := view.variables.get(name, "")).isdigit()}
    name = max(given, key=given.__getitem__, default="")
    return (given[name], name) if name else (0, "")


def check_blas(launch: LaunchView, ranks: Sequence[RankView]) -> Iterator[CheckResult]:
    """Report the BLAS, and whether its kernels suit the processor."""
    pools = [pool for view in ranks for pool in view.blas]
    kinds = {(str(pool["internal_api"]), str(pool["version"]), str(pool["architecture"])) for pool in pools}
    text = "; ".join(f"{api} {version}, core type {core}" for api, version, core in sorted(kinds)) or "none found"
    if launch.fast_cpu and any(core.lower() in _SLOW_CORES for _, _, core in kinds):
        text += ": kernels of an old processor on one with AVX2"
        yield slow("BLAS", text, "unset OPENBLAS_CORETYPE, or install a newer numpy")
    yield ok("BLAS", text)


def check_versions(ranks: Sequence[RankView]) -> Iterator[CheckResult]:
    """Check that versions and recipe are the same on all ranks."""
    for name in ranks[0].versions:
        seen = _grouped(ranks, [rank.versions[name] for rank in ranks])
        if len(seen) > 1:
            parts = "; ".join(f"{version} on {_where(group)}" for version, group in seen.items())
            advice = "use one environment on a file system that all nodes see, or install the same versions"
            yield problem("versions", f"{name} differs: {parts}", advice)
    others = [view for view in ranks if view.recipe != ranks[0].recipe]
    if others:
        advice = "all ranks use rank 0's, so nothing changes; but copy it again, or use a shared folder"
        yield slow("versions", f"the recipe is another file on {_where(others)}", advice)
    shown = ", ".join(f"{name} {ranks[0].versions[name]}" for name in ("distnewton", "Python", "numpy"))
    yield ok("versions", f"the same on all ranks ({shown})")


def check_cupy(ranks: Sequence[RankView]) -> Iterator[CheckResult]:
    """Check that at most one wheel of cupy is installed: several overwrite each other's files."""
    doubled = next((view for view in ranks if len(view.cupy) > 1), None)
    without = [view.rank for view in ranks if view.gpus and not view.cupy]
    if doubled:
        advice = f"pip uninstall {' '.join(doubled.cupy)}, then install the one of your CUDA version"
        text = f"{len(doubled.cupy)} wheels of cupy on {doubled.host}: {', '.join(doubled.cupy)}"
        yield problem("cupy", text, advice)
    elif without:
        text = f"not installed, though there are GPUs (rank {ranges(without)})"
        yield slow("cupy", text, "pip install 'distnewton[gpu]' for run.device = gpu")
    yield ok("cupy", ", ".join(ranks[0].cupy) or "not installed")


def check_gpus(ranks: Sequence[RankView], cluster: Cluster | None) -> Iterator[CheckResult]:
    """Compare the GPUs of each host with its ranks and with the cluster file."""
    for host, there in _grouped(ranks, (rank.host for rank in ranks)).items():
        yield from _gpus_of_host(host, there, cluster.gpu.per_node if cluster else 0)
    yield ok("GPU", f"{len(ranks[0].gpus)} on {ranks[0].host}" if ranks[0].gpus else "none")


def _gpus_of_host(host: str, ranks: Sequence[RankView], asked: int) -> Iterator[CheckResult]:
    n, n_gpus, visible = len(ranks), len(ranks[0].gpus), ranks[0].visible_gpus
    if asked and n_gpus != asked:
        advice = "ask for them in [slurm] (gres or gpus_per_node), or correct gpu.per_node"
        yield problem("GPU", f"{host} shows {n_gpus} GPU(s), the cluster file says {asked}", advice)
    if n > n_gpus > 0 and n > 1:
        advice = f"start {n_gpus} rank(s) a node: ranks that share one take turns, NCCL refuses them"
        yield slow("GPU", f"{n} ranks for {n_gpus} GPU(s) on {host}", advice)
    elif n_gpus and n > 1 and visible != "all" and len({rank.visible_gpus for rank in ranks}) == 1:
        advice = "start with distnewton submit, which gives each rank the GPU of its local rank"
        yield slow("GPU", f"all ranks of {host} see the same CUDA_VISIBLE_DEVICES={visible}", advice)


def _where(group: Sequence[RankView]) -> str:
    """Name the first hosts of a group, with ranks."""
    shown = ", ".join(f"{rank.host} (rank {rank.rank})" for rank in group[:4])
    return shown + (f" and {len(group) - 4} more" if len(group) > 4 else "")
