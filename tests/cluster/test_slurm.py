"""Jobs in a real Slurm with two nodes on this machine: queued, stopped by the clock, queued again, and looked at."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import pytest
from launched import AS_ROOT, is_open_mpi, launches, small_data
from slurm_nodes import SlurmNodes, why_not

REASON = why_not()
pytestmark = [*launches, pytest.mark.skipif(bool(REASON), reason=REASON),
              pytest.mark.timeout(300)]  # fmt: skip

# two ranks a node, though this machine may have fewer cores
OPEN_MPI = ["--map-by", "ppr:2:node:oversubscribe"]


@pytest.fixture(scope="module")
def slurm():
    # sockets have names of 100 characters at most, which pytest's own folders exceed
    with tempfile.TemporaryDirectory(prefix="dn-slurm-") as folder, SlurmNodes(Path(folder)) as nodes:
        yield nodes


def cluster_file(folder, launcher="mpirun", minutes=5, fault=None, **slurm):
    """Two nodes with two ranks each, on this machine's few cores."""
    options = ["--mpi=pmi2"] if launcher == "srun" else []
    # Slurm's pmi2 takes 1,024 bytes of a message, which the addresses of UCX may exceed; those of libfabric are short
    variables = {**AS_ROOT, "MPIR_CVAR_CH4_NETMOD": "ofi"} if launcher == "srun" else AS_ROOT
    variables = variables | ({"DISTNEWTON_FAULT": fault} if fault else {})
    lines = [f"{key} = {json.dumps(value)}" for key, value in slurm.items()]
    file = folder / "two.toml"
    file.write_text(f"""
name = "two"
[launch]
scheduler = "slurm"
launcher = "{launcher}"
nodes = 2
ranks_per_node = 2
threads_per_rank = 1
options = {json.dumps(options)}
[environment]
variables = {json.dumps(variables).replace('": ', '" = ')}
[slurm]
time = "{minutes}"
{chr(10).join(lines)}
""")
    return file


def submit(slurm, folder, cluster, *more):
    """Queue a run as a user does and return its job number."""
    said = slurm.run(
        sys.executable, "-m", "distnewton.cli", "submit", "--cluster", str(cluster), "--run-dir", str(folder / "a run"),
        f"--set=data.train={small_data(folder)}", "--set=network.layers=auto-6-auto", *more,
    )  # fmt: skip
    assert f"run folder: {folder / 'a run'}" in said
    return said.split()[1]


def output(folder, number):
    return (folder / "a run" / f"job-{number}.out").read_bytes().decode()


def test_training_over_two_nodes_stopped_by_the_clock_and_queued_again(slurm, tmp_path):
    # Slurm's shortest limit is a minute, of which the run leaves 30 s: two tries of half a minute
    # a rank that sleeps most of the time leaves the cores to other tests
    cluster = cluster_file(tmp_path, minutes=1, requeues=1, fault="rank=0 at=cg kind=slow factor=50")
    number = submit(slurm, tmp_path, cluster, "--set=run.iterations=10000000", "--set=method.direction=sgn",
                    "--set=method.batch=30", "--set=method.preconditioner=none")  # fmt: skip
    state = slurm.wait(number, 200)
    text = output(tmp_path, number)
    assert (state["ExitCode"], state["Restarts"], state["NodeList"]) == ("75:0", "1", "n[0-1]"), text
    assert text.count("stopped by the clock after iteration") == 2
    assert text.count("distnewton: queued again (1 of at most 1)") == 1
    assert text.count("distnewton: not queued again (slurm.requeues = 1)") == 1
    assert "TIME LIMIT" not in text
    run = tmp_path / "a run"
    assert json.loads((run / "end.json").read_text()) == {"exit_code": 75}
    assert (run / "model.safetensors").is_file()
    facts = json.loads((run / "environment.json").read_text())
    assert (facts["ranks"], facts["hosts"], facts["slurm"]["SLURM_JOB_ID"]) == (4, ["n0", "n0", "n1", "n1"], number)
    # the second try went on where the first one stopped
    first, second = (int(line) for line in re.findall(r"stopped by the clock after iteration (\d+)", text))
    assert text.count(f"resumes from iteration {first} ") == 1
    assert 0 < facts["resumed_from"] == first < second
    iterations = [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert iterations == list(range(second + 1))


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_a_job_that_ends_by_itself_leaves_plain_lines(slurm, tmp_path, launcher):
    if launcher == "srun" and is_open_mpi():
        pytest.skip("Open MPI from PyPI has no PMI for this Slurm's srun; the next test is about that")
    number = submit(slurm, tmp_path, cluster_file(tmp_path, launcher), "--set=run.iterations=5")
    state, text = slurm.wait(number, 150), output(tmp_path, number)
    assert (state["JobState"], state["ExitCode"]) == ("COMPLETED", "0:0"), text
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert [line.split()[0] for line in lines if line[:5].strip().isdigit()] == list("012345")
    assert sum(line.startswith("network") for line in lines) == 1


def test_srun_that_starts_processes_apart_from_each_other(slurm, tmp_path):
    cluster = cluster_file(tmp_path, "srun")
    cluster.write_text(cluster.read_text().replace("--mpi=pmi2", "--mpi=none"))
    number = submit(slurm, tmp_path, cluster, "--set=run.iterations=5")
    state, text = slurm.wait(number, 150), output(tmp_path, number)
    assert state["ExitCode"] == "78:0", text
    assert text.count('each is alone ("rank 0 of 1")') == 1
    first = json.loads((tmp_path / "a run/errors/first.json").read_text())
    assert "the launcher started 4 processes" in first["message"]


def test_the_first_failure_is_in_the_output_and_in_the_run_folder(slurm, tmp_path):
    cluster = cluster_file(tmp_path, fault="rank=3 at=cg kind=raise skip=4")
    number = submit(slurm, tmp_path, cluster, "--set=run.iterations=500", "--set=method.direction=block_diagonal")
    state, text = slurm.wait(number, 150), output(tmp_path, number)
    assert state["ExitCode"] == "70:0", text
    assert text.count("InjectedFaultError: injected at cg") == 1
    first = json.loads((tmp_path / "a run/errors/first.json").read_text())
    assert (first["rank"], first["exit_code"], first["phase"]) == (3, 70, "direction")
    assert "injected at cg" in first["message"]


def test_the_doctor_in_a_job(slurm, tmp_path):
    flags = " ".join(OPEN_MPI) if is_open_mpi() else ""
    job = tmp_path / "doctor.sh"
    doctor = f"{sys.executable} -m distnewton.cli doctor --run-dir {tmp_path}"
    exports = "\n".join(f"export {name}={value}" for name, value in AS_ROOT.items())
    mpirun = Path(sys.executable).parent / "mpirun"
    job.write_text(f"""#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=2 --time=1 --output={tmp_path}/doctor.out
{exports}
{mpirun} {flags} -n 4 {doctor}
echo "code $?"
{mpirun} -n 2 {doctor}
echo "code $?"
""")
    number = slurm.run("sbatch", "--parsable", str(job)).strip()
    slurm.wait(number, 150)
    healthy, broken, last = (tmp_path / "doctor.out").read_text().split("code ")
    assert "4 ranks are the job's 4 tasks on 2 node(s)" in healthy
    assert broken.startswith("0\n")
    assert "the Slurm job has 4 tasks, and 2 rank(s) run" in broken
    assert "mpirun -n 4" in broken
    assert last == "78\n"


def test_what_sbatch_refuses_is_told_in_its_own_words(slurm, tmp_path):
    cluster = cluster_file(tmp_path, partition="nowhere")
    with pytest.raises(RuntimeError, match=r"(?s)exit code 78: .*sbatch refused .*invalid partition .*nowhere"):
        submit(slurm, tmp_path, cluster)
