"""The lines of a job file that start the ranks: mpirun of Open MPI or MPICH, srun, or no launcher."""

from __future__ import annotations

from distnewton.cluster.job import GO_ON, JOB_CONFIG, JOB_FILE, Job
from distnewton.cluster.quoting import for_shell

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def launch_lines(job: Job) -> list[str]:
    """Write shell lines that train with all ranks and store the exit code in ``code``."""
    lines = ["distnewton=$(command -v distnewton) || { echo 'no distnewton in PATH' >&2; exit 78; }"]
    command: list[str]
    if job.cluster.launch.launcher == "mpirun":
        # by its full path: Open MPI then finds its own files on the other hosts too
        missing = "echo 'no mpirun in PATH: load the module of an MPI' >&2; exit 78"
        lines += [f"mpirun=$(command -v mpirun) || {{ {missing}; }}"]
        lines += _mpirun_options(job)
        command = ['"$mpirun"', '"${options[@]}"', "-n", str(job.n_ranks)]
    elif job.cluster.launch.launcher == "srun":
        command = ["srun", *(for_shell(word) for word in _srun_options(job))]
    else:
        command = []
    if job.cluster.gpu.per_node:
        command += ["bash", f'"$run/{JOB_FILE}"', "--rank"]
    lines += ["tries=${SLURM_RESTART_COUNT:-0}"]
    train = f'"$distnewton" train "$run/{JOB_CONFIG}" --run-dir "$run" {GO_ON}'
    parts = ['python -m distnewton.cluster.supervise "$run" --', " ".join(command), train]
    return [*lines, " \\\n  ".join(part for part in parts if part), "code=$?"]


def _mpirun_options(job: Job) -> list[str]:
    """Set the array ``options`` for the MPI library to which mpirun belongs."""
    kinds = {"openmpi": _open_mpi(job), "mpich": _mpich(job)}
    words = {kind: " ".join(for_shell(word) for word in options) for kind, options in kinds.items()}
    if job.cluster.launch.mpi != "auto":
        return [f"options=({words[job.cluster.launch.mpi]})"]
    return [
        "case $(\"$mpirun\" --version 2>&1) in",
        f'  *"Open MPI"*) options=({words["openmpi"]}) ;;',
        f"  *) options=({words['mpich']}) ;;",
        "esac",
    ]


def _open_mpi(job: Job) -> list[str]:
    """Return options of Open MPI 5; older versions need theirs in ``launch.options``."""
    launch = job.cluster.launch
    # by default it binds each of two ranks to one core, and each of more ranks to one socket, whatever their threads
    options = [] if launch.threads_per_rank == 1 else ["--bind-to", "none"]
    if (job.hosts or job.cluster.has_slurm) and "--map-by" not in launch.options:
        # if more ranks than cores are allowed, for example by a variable, it would put all of them on the first node
        options += ["--map-by", f"ppr:{job.ranks_per_node}:node:oversubscribe"]
    if job.hosts:
        options += ["--host", ",".join(f"{host}:{n}" for host, n in job.hosts.items())]
        for name in ("TERM", "PYTHONUNBUFFERED", *_threads(job), *job.cluster.environment.variables):
            options += ["-x", name]
    if launch.agent:
        options += ["--prtemca", "plm_ssh_agent", launch.agent]
    if launch.interface:
        options += ["--prtemca", "prte_if_include", launch.interface, "--mca", "btl_tcp_if_include", launch.interface]
    return [*options, *launch.options]


def _mpich(job: Job) -> list[str]:
    launch = job.cluster.launch
    options = []
    if job.hosts:
        options += ["-hosts", ",".join(f"{host}:{n}" for host, n in job.hosts.items())]
    elif job.cluster.has_slurm:
        options += ["-ppn", str(job.ranks_per_node)]
    if launch.agent:
        options += ["-launcher", "ssh", "-launcher-exec", launch.agent]
    if launch.interface:
        options += ["-iface", launch.interface]
    return [*options, *launch.options]


def _srun_options(job: Job) -> list[str]:
    """Return options of srun, which inherits most from the job; a rank that fails ends the others."""
    launch = job.cluster.launch
    options = [f"--ntasks={job.n_ranks}", "--kill-on-bad-exit=1"]
    if launch.threads_per_rank:
        # since Slurm 22.05 srun does not inherit this from the job
        options.append(f"--cpus-per-task={launch.threads_per_rank}")
    return [*options, *launch.options]


def _threads(job: Job) -> tuple[str, ...]:
    return THREAD_VARIABLES if job.cluster.launch.threads_per_rank else ()
