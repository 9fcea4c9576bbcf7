"""The job file: a shell script that sets up modules, threads, GPUs and folder, starts the ranks, and requeues the job.

The same text works with ``sbatch`` and ``bash``; Slurm lines come from the cluster file or from the numbers of ranks.
"""

from __future__ import annotations

from distnewton.cluster.job import JOB_FILE, OUTPUT_FILE, Job
from distnewton.cluster.launchers import THREAD_VARIABLES, launch_lines
from distnewton.cluster.quoting import for_sbatch, for_shell
from distnewton.errors import STOPPED_EARLY


def job_text(job: Job) -> str:
    """Write the text of the job file."""
    cluster = job.cluster
    lines = ["#!/bin/bash", *_title(job), *(f"#SBATCH {option}" for option in slurm_options(job)), ""]
    if cluster.gpu.per_node:
        lines += [*_GPU_OF_A_RANK, ""]
    lines += [*_environment(job), "", *launch_lines(job), ""]
    return "\n".join([*lines, *_end(job)]) + "\n"


def slurm_options(job: Job) -> list[str]:
    """List the options of sbatch, as on its command line; empty without Slurm."""
    launch, slurm, gpu = job.cluster.launch, job.cluster.slurm, job.cluster.gpu
    if not job.cluster.has_slurm:
        return []
    sizes = {
        "nodes": job.n_nodes, "ntasks": job.n_ranks, "ntasks-per-node": job.ranks_per_node,
        "cpus-per-task": launch.threads_per_rank, "gpus-per-node": 0 if slurm.asks_for_gpus else gpu.per_node,
    }  # fmt: skip
    given = {key: value for key, value in sizes.items() if value and key not in slurm.omit}
    given |= slurm.sbatch_options()
    options = [f"--job-name={job.name}"]
    options += [f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items()]
    # sbatch expands patterns in the name of the output file, so a percent sign in the folder must be doubled
    options += [f"--output={str(job.folder).replace('%', '%%')}/{OUTPUT_FILE}", "--open-mode=append"]
    options += ["--requeue" if slurm.requeues else "--no-requeue", *slurm.extra]
    return [for_sbatch(option) for option in options]


def _title(job: Job) -> list[str]:
    threads = job.cluster.launch.threads_per_rank
    each = f"{_count(threads, 'thread')} each" if threads else "threads as the cores allow"
    how = "sbatch" if job.cluster.has_slurm else "bash"
    sizes = f"{_count(job.n_ranks, 'rank')} on {_count(job.n_nodes, 'node')}, {each}"
    return [
        f"# Written by distnewton submit for the cluster {job.cluster.name}: {sizes}.",
        f"# Start again: {how} {for_shell(str(job.folder / JOB_FILE))}",
    ]


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"


_GPU_OF_A_RANK = [
    "# One rank, started by the launcher below: it sees one GPU, chosen by its number on the node.",
    'if [ "${1:-}" = --rank ]; then',
    "  shift",
    "  k=${OMPI_COMM_WORLD_LOCAL_RANK:-${MPI_LOCALRANKID:-${SLURM_LOCALID:-0}}}",
    '  IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((GPUS_PER_NODE - 1)))}"',
    '  export CUDA_VISIBLE_DEVICES=${gpus[$((k % ${#gpus[@]}))]}',
    '  exec "$@"',
    "fi",
]


def _environment(job: Job) -> list[str]:
    """Set modules, folders and variables, independently of the shell that submits the job."""
    environment, launch = job.cluster.environment, job.cluster.launch
    lines = [f"run={for_shell(str(job.folder))}", f"cd {for_shell(str(job.directory))} || exit 66"]
    lines += [f"module load {module} || exit 78" for module in environment.modules]
    lines += [*environment.setup, f"export PATH={for_shell(str(job.programs))}:$PATH"]
    # plain lines: no colours, no carriage returns
    variables = {"TERM": "dumb", "PYTHONUNBUFFERED": "1"}
    if launch.threads_per_rank:
        variables |= dict.fromkeys(THREAD_VARIABLES, str(launch.threads_per_rank))
    if job.cluster.gpu.per_node:
        variables["GPUS_PER_NODE"] = str(job.cluster.gpu.per_node)
    variables |= environment.variables
    return lines + [f"export {name}={for_shell(value)}" for name, value in variables.items()]


def _end(job: Job) -> list[str]:
    """End with the exit code; queue the job again if the clock stopped it."""
    requeues = job.cluster.slurm.requeues
    if not requeues:
        return ["exit $code"]
    return [
        "# stopped by the clock before the time limit: Slurm starts this file again, as job and run of the same name",
        f'if [ "$code" -eq {STOPPED_EARLY} ] && [ "$tries" -lt {requeues} ]; then',
        f'  echo "distnewton: queued again ($((tries + 1)) of at most {requeues})"',
        '  scontrol requeue "$SLURM_JOB_ID" && sleep 60',
        "fi",
        f'[ "$code" -ne {STOPPED_EARLY} ] || echo "distnewton: not queued again (slurm.requeues = {requeues})"',
        "exit $code",
    ]
