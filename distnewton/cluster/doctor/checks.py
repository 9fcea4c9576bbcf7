"""The checks: facts of all ranks in, findings out. No check asks the machine anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from distnewton.cluster.cluster_file import Cluster
from distnewton.cluster.doctor.facts import Facts
from distnewton.cluster.doctor.findings import Finding, ok, problem, slow
from distnewton.guards.hangs import ranges

_SLOW_CORES = ("prescott", "core2", "penryn", "nehalem", "generic", "sandybridge", "katmai", "banias")


def check_launch(ranks: Sequence[Facts]) -> list[Finding]:
    """Launcher and library, and the number of ranks."""
    first = ranks[0]
    started = f" under {first.launcher}'s launcher" if first.launcher else ""
    hosts = Counter(facts.host for facts in ranks)
    text = f"{first.size} rank(s) on {len(hosts)} host(s){started}, {first.library or 'no MPI'}"
    return [ok("launch", text)]


def check_tasks(ranks: Sequence[Facts]) -> list[Finding]:
    """Ranks against the job's tasks and nodes."""
    slurm, size = ranks[0].slurm, ranks[0].size
    if "SLURM_JOB_ID" not in slurm:
        return []
    tasks = ranks[0].n_tasks or size
    n_nodes, hosts = int(slurm.get("SLURM_JOB_NUM_NODES", 1)), {facts.host for facts in ranks}
    findings = []
    if tasks != size:
        findings.append(
            problem("tasks", f"the Slurm job has {tasks} tasks, and {size} rank(s) run",
                    f"start as many: mpirun -n {tasks}, or ask for --ntasks={size}")
        )
    if len(hosts) < min(n_nodes, size):
        findings.append(
            slow("tasks", f"the job has {n_nodes} nodes, and all ranks run on {', '.join(sorted(hosts))}",
                 "mpirun does not see the job: use the site's MPI, built with Slurm, or launcher = \"srun\"")
        )
    return findings or [ok("tasks", f"{size} ranks are the job's {tasks} tasks on {n_nodes} node(s)")]


def check_threads(ranks: Sequence[Facts], cluster: Cluster | None, run_threads: int) -> list[Finding]:
    """Threads x ranks against the cores that the ranks of a node may use."""
    findings = []
    for host in dict.fromkeys(facts.host for facts in ranks):
        there = [facts for facts in ranks if facts.host == host]
        n_cores = len({core for facts in there for core in facts.cores})
        fitting = max(1, n_cores // len(there))
        wanted, source = _wanted_threads(there[0], cluster, run_threads)
        if len(there) > n_cores:
            findings.append(
                slow("threads", f"{len(there)} ranks share {n_cores} core(s) on {host}",
                     f"start at most {n_cores} rank(s) a node, or look at the launcher's binding (--bind-to none)")
            )
        elif wanted * len(there) > n_cores:
            findings.append(
                slow("threads", f"{len(there)} ranks x {wanted} threads ({source}) on {n_cores} cores of {host}",
                     f"set it to {fitting}, or leave it out: ranks then share the cores by themselves")
            )
    first = ranks[0]
    text = f"{first.n_threads} BLAS thread(s) a rank, {len(first.cores)} core(s) in its mask"
    return findings or [ok("threads", text)]


def _wanted_threads(facts: Facts, cluster: Cluster | None, run_threads: int) -> tuple[int, str]:
    """Threads that somebody asked for, and who; 0 where nobody did."""
    if run_threads:
        return run_threads, "run.threads"
    if cluster and cluster.launch.threads_per_rank:
        return cluster.launch.threads_per_rank, "launch.threads_per_rank"
    given = {name: int(value) for name, value in facts.variables.items() if value.isdigit()}
    name = max(given, key=given.__getitem__, default="")
    return (given[name], name) if name else (0, "")


def check_blas(ranks: Sequence[Facts]) -> list[Finding]:
    """Which BLAS, and whether its kernels are those of the processor."""
    pools = [pool for facts in ranks for pool in facts.blas]
    kinds = {(str(pool["internal_api"]), str(pool["version"]), str(pool["architecture"])) for pool in pools}
    text = "; ".join(f"{api} {version}, core type {core}" for api, version, core in sorted(kinds)) or "none found"
    poor = sorted({core for _, _, core in kinds if core.lower() in _SLOW_CORES})
    if poor and ranks[0].fast_cpu:
        return [slow("BLAS", f"{text}: kernels of an old processor on one with AVX2",
                     "unset OPENBLAS_CORETYPE, or install a newer numpy")]
    return [ok("BLAS", text)]


def check_versions(ranks: Sequence[Facts]) -> list[Finding]:
    """Versions and recipe, the same on all ranks."""
    findings = []
    for name in ranks[0].versions:
        seen: dict[str, list[Facts]] = {}
        for facts in ranks:
            seen.setdefault(facts.versions[name], []).append(facts)
        if len(seen) > 1:
            parts = "; ".join(f"{version} on {_where(group)}" for version, group in seen.items())
            findings.append(
                problem("versions", f"{name} differs: {parts}",
                        "use one environment on a file system that all nodes see, or install the same versions")
            )
    others = [facts for facts in ranks if facts.recipe != ranks[0].recipe]
    if others:
        findings.append(
            slow("versions", f"the recipe is another file on {_where(others)}",
                 "nothing changes, since rank 0's is used by all; but copy it anew, or use a shared folder")
        )
    return findings or [ok("versions", f"the same on all ranks (distnewton {ranks[0].versions['distnewton']}, "
                                       f"Python {ranks[0].versions['Python']}, numpy {ranks[0].versions['numpy']})")]


def check_cupy(ranks: Sequence[Facts]) -> list[Finding]:
    """At most one wheel of cupy: several overwrite each other's files."""
    for facts in ranks:
        if len(facts.cupy) > 1:
            return [problem("cupy", f"{len(facts.cupy)} wheels of cupy on {facts.host}: {', '.join(facts.cupy)}",
                            f"pip uninstall {' '.join(facts.cupy)}, then install the one of your CUDA version")]
    without = [facts.rank for facts in ranks if facts.gpus and not facts.cupy]
    if without:
        return [slow("cupy", f"not installed, though there are GPUs (rank {ranges(without)})",
                     "pip install 'distnewton[gpu]' for run.device = gpu")]
    return [ok("cupy", ", ".join(ranks[0].cupy) or "not installed")]


def check_gpus(ranks: Sequence[Facts], cluster: Cluster | None) -> list[Finding]:
    """A GPU for each rank of a node."""
    asked = cluster.gpu.per_node if cluster else 0
    findings = []
    for host in dict.fromkeys(facts.host for facts in ranks):
        there = [facts for facts in ranks if facts.host == host]
        n_gpus = len(there[0].gpus)
        if asked and n_gpus != asked:
            findings.append(problem("GPU", f"{host} shows {n_gpus} GPU(s), the cluster file says {asked}",
                                    "ask for them in [slurm] (gres or gpus_per_node), or correct gpu.per_node"))
        if n_gpus and len(there) > n_gpus:
            findings.append(slow("GPU", f"{len(there)} ranks for {n_gpus} GPU(s) on {host}",
                                 f"start {n_gpus} rank(s) a node: ranks that share one take turns, NCCL refuses them"))
        elif n_gpus and len(there) > 1 and len({facts.visible for facts in there}) == 1 and there[0].visible != "all":
            findings.append(slow("GPU", f"all ranks of {host} see the same CUDA_VISIBLE_DEVICES={there[0].visible}",
                                 "start with distnewton submit, which gives each rank the GPU of its local rank"))
    return findings or [ok("GPU", f"{len(ranks[0].gpus)} on {ranks[0].host}" if ranks[0].gpus else "none")]


def _where(group: Sequence[Facts]) -> str:
    """Hosts, with ranks, in few words."""
    shown = ", ".join(f"{facts.host} (rank {facts.rank})" for facts in group[:4])
    return shown + (f" and {len(group) - 4} more" if len(group) > 4 else "")
