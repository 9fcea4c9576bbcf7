"""Job files: each generated text is compared with one that was read by eyes; what does not fit is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from distnewton.cluster.cluster_file import Cluster, load_cluster
from distnewton.cluster.job import Job
from distnewton.cluster.job_text import job_text, slurm_options
from distnewton.cluster.submit import Submission
from distnewton.config import load_config, make_config
from distnewton.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "cluster_configs"
GOLDEN = Path(__file__).parent / "golden"
TUNED = {
    "name": "tuned",
    "launch": {
        "scheduler": "slurm", "launcher": "mpirun", "mpi": "openmpi", "nodes": 2, "ranks_per_node": 2,
        "threads_per_rank": 1, "options": ["--map-by", "ppr:2:node"],
    },
    "environment": {
        "modules": ["gcc/13", "openmpi/5"], "setup": ["source /opt/env/bin/activate"], "programs": "/opt/env/bin",
        "directory": "/work/with a blank", "variables": {"UCX_TLS": "rc,self", "NOTE": "it's"},
    },
    "gpu": {"per_node": 2},
    "slurm": {
        "partition": "gpu", "account": "p1", "time": "1-02:00:00", "mem_per_cpu": "2G", "gres": "gpu:a100:2",
        "exclusive": True, "requeues": 3, "omit": ["ntasks-per-node"], "extra": ["--comment=a long one"],
    },
}  # fmt: skip
SRUN = {
    "name": "small",
    "launch": {"scheduler": "slurm", "launcher": "srun", "options": ["--mpi=pmix"], "ranks_per_node": 8},
}
NCCL = make_config({"run": {"device": "gpu", "comm": "nccl"}})
SPLIT = make_config({"network": {"layers": [4, 3, 2]}, "partition": {"splits": [2, 2, 2]}})
CASES = {
    "laptop": (load_cluster(CONFIGS / "laptop.toml"), 4, {}),
    "hosts": (load_cluster(CONFIGS / "hosts.toml"), 6, {"a.site": 4, "b.site": 2}),
    "slurm-cpu": (load_cluster(CONFIGS / "slurm-cpu.toml"), 32, {}),
    "slurm-gpu": (load_cluster(CONFIGS / "slurm-gpu.toml"), 4, {}),
    "tuned": (Cluster.model_validate(TUNED), 4, {}),
    "srun": (Cluster.model_validate(SRUN), 12, {}),
    "alone": (Cluster.model_validate({"name": "alone", "launch": {"launcher": "none"}}), 1, {}),
}


def job(name):
    cluster, n_ranks, hosts = CASES[name]
    directory = Path(cluster.environment.directory or "/home/me")
    programs = Path(cluster.environment.programs or "/home/me/env/bin")
    return Job(cluster, "letter", Path("/home/me/runs/letter 100%"), directory, programs, n_ranks, hosts)


@pytest.mark.parametrize("name", CASES)
def test_the_text_of_a_job_file(name):
    """After a change that is meant: python tests/cluster/test_job.py writes the texts anew; read them."""
    assert job_text(job(name)) == (GOLDEN / f"{name}.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.skipif(not shutil.which("bash"), reason="job files are for bash")
def test_bash_reads_it(name, tmp_path):
    (tmp_path / "job.sh").write_text(job_text(job(name)))
    done = subprocess.run(["bash", "-n", str(tmp_path / "job.sh")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_slurm_line_but_the_names_can_be_left_out():
    omit = ["nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "gpus-per-node"]
    cluster = Cluster.model_validate({**SRUN, "slurm": {"omit": omit}})
    options = slurm_options(Job(cluster, "x", Path("/r"), Path("/d"), Path("/b"), 8))
    assert options == ["--job-name=x", "--output=/r/job-%j.out", "--open-mode=append", "--no-requeue"]


@pytest.mark.skipif(not shutil.which("bash"), reason="job files are for bash")
@pytest.mark.parametrize(("variable", "visible", "expected"), [
    ("OMPI_COMM_WORLD_LOCAL_RANK", "", "1"), ("MPI_LOCALRANKID", "4,7", "7"), ("SLURM_LOCALID", "GPU-a,GPU-b", "GPU-b"),
])  # fmt: skip
def test_a_rank_gets_the_gpu_of_its_local_rank(tmp_path, variable, visible, expected):
    (tmp_path / "job.sh").write_text(job_text(job("slurm-gpu")))
    variables = {"PATH": "/usr/bin:/bin", "GPUS_PER_NODE": "2", variable: "1"}
    variables |= {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    command = ["bash", str(tmp_path / "job.sh"), "--rank", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize(("cluster", "options", "words"), [
    ({**SRUN, "gpu": {"per_node": 4}}, {"n_ranks": 8, "config": NCCL}, "8 ranks on a node for its 4 GPUs"),
    ({"name": "h", "launch": {"hosts": ["a", "b"], "ranks_per_node": 2}}, {"n_ranks": 5}, "5 ranks for 4 places"),
    ({"name": "n", "launch": {"launcher": "none"}}, {"n_ranks": 2}, 'launch.launcher is "none"'),
    (SRUN, {"n_ranks": 3, "config": SPLIT}, "needs 4 ranks"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_the_queue(cluster, options, words):
    options = {"config": make_config({}), **options}
    with pytest.raises(ConfigError, match=re.escape(words)):
        job_text(Submission(cluster=Cluster.model_validate(cluster), name="x", **options).job(Path("/r")))


def test_ranks_may_share_gpus_where_mpi_sums():
    cluster = Cluster.model_validate({**SRUN, "gpu": {"per_node": 4}})
    assert Submission(make_config({"run": {"device": "gpu"}}), cluster, "x", 8).job(Path("/r")).ranks_per_node == 8


def test_hosts_are_filled_in_their_order():
    cluster = Cluster.model_validate({"name": "h", "launch": {"hosts": ["a", "b", "c"], "ranks_per_node": 3}})
    made = Submission(make_config({}), cluster, "x", 4).job(Path("/r"))
    assert (made.hosts, made.n_ranks, made.n_nodes) == ({"a": 3, "b": 1}, 4, 2)


def test_the_cluster_decides_on_threads_unless_the_recipe_does():
    cluster = CASES["tuned"][0]
    for given, expected in ((0, 1), (5, 5)):
        config = load_config(None, [f"run.threads={given}", "run.directory=elsewhere"])
        resolved = Submission(config, cluster, "x").resolved()
        assert (resolved.run.threads, resolved.run.directory) == (expected, "")


if __name__ == "__main__":
    for name in CASES:
        (GOLDEN / f"{name}.sh").write_text(job_text(job(name)), encoding="utf-8")
