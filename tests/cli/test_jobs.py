"""Jobs as users start them on one machine: submit without Slurm, the clock, and a rank that stops answering."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launched import AS_ROOT, call, distnewton, is_open_mpi, launches, mpirun, run, small_data
from speed import slowness

pytestmark = launches
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_data(tmp_path)
    options = 'options = ["--oversubscribe"]' if is_open_mpi() else ""
    Path("here.toml").write_text(f'name = "here"\n[launch]\nranks_per_node = 2\nthreads_per_rank = 1\n{options}\n')
    return tmp_path


SMALL = ["--set=data.train=small.npz", "--set=network.layers=auto-6-auto"]


def test_submit_without_slurm_runs_here_and_now(place):
    done = run(distnewton("submit", "--cluster", "here.toml", *SMALL, "--set", "run.iterations=2"))
    assert done.returncode == 0, done.stderr
    folder = place / "runs" / "run-001"
    facts = json.loads((folder / "environment.json").read_text())
    assert (facts["ranks"], facts["threads_per_rank"]) == (2, 1)
    assert {"job.sh", "job.toml", "end.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}
    again = run(["bash", folder / "job.sh"])
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("resumes from iteration 2") == again.stdout.count("all 2 iterations are done") == 1
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    assert json.loads((folder / "end.json").read_text()) == {"exit_code": 0}


def test_a_dry_run_shows_the_job_and_writes_nothing(place):
    before = sorted(place.iterdir())
    cluster = REPOSITORY / "cluster_configs/slurm-cpu.toml"
    done = call("submit", "--cluster", cluster, *SMALL, "--ranks", "20", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks=20\n#SBATCH --ntasks-per-node=16\n" in done.stdout
    assert "dry run: would be written to runs/run-001/job.sh" in done.stderr
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["submit", *SMALL], 2, "the following arguments are required: --cluster"),
    (["submit", "--cluster", "none.toml"], 66, "cannot read the cluster file none.toml"),
    (["submit", "none.toml", "--cluster", "here.toml"], 66, "there is no recipe none.toml"),
    (["submit", "--cluster", "here.toml", "--ranks", "0"], 2, "expected a number from 1, got '0'"),
    (["submit", "--cluster", "here.toml", "--set=method.C=-1"], 78, "method.C: must be a positive number"),
    (["submit", "--cluster", "here.toml", "--hosts", "a b"], 78, "a name of letters"),
    (["submit", "--cluster", "here.toml", "--hosts", "a", "--ranks", "9"], 78, "9 ranks for 2 places on 1 hosts"),
    (["submit", "--cluster", "here.toml", "--set=network.layers=7-6-3", "--set=partition.splits=2-2-2"], 78,
     "needs 4 ranks"),
    (["submit", "--cluster", "here.toml", "--run-dir", "runs/x\ntouch FULL/hit\n#"], 78,
     "a run folder must be one line"),
    (["submit", "a\ntouch FULL/hit\n#.toml", "--cluster", "here.toml"], 78, "the name of a job must be one line"),
    (["submit", "--cluster", "here.toml", "--run-dir", "small.npz"], 73,
     "cannot create small.npz: there is a file of that name"),
    (["submit", "--cluster", "here.toml", "--run-dir", "FULL"], 73, "FULL holds an earlier run or job"),
])  # fmt: skip
def test_wrong_submissions_are_told_before_anything_is_made(place, arguments, code, words):
    Path("FULL").mkdir()
    Path("FULL/metrics.jsonl").write_text("")
    Path("a\ntouch FULL").mkdir()
    Path("a\ntouch FULL/hit\n#.toml").write_text("")
    done = call(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.count(words) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "runs").exists()


def test_submit_without_sbatch_says_where_the_job_is(place):
    cluster = REPOSITORY / "cluster_configs/slurm-cpu.toml"
    done = call("submit", "--cluster", cluster, *SMALL, PATH=str(place))
    assert done.returncode == 78
    assert "there is no sbatch in PATH" in done.stderr
    assert (place / "runs/run-001/job.sh").is_file()


def test_the_clock_ends_a_run_with_a_model_and_code_75(place):
    begin = time.monotonic()
    done = run([*mpirun(3), *distnewton("train", *SMALL, "--run-dir", "R", "--method.direction=sgd",
                "--run.max_seconds=3", "--run.iterations=10000000", "--quiet")])  # fmt: skip
    assert done.returncode == 75, done.stderr
    assert time.monotonic() - begin < 12 * slowness()
    assert done.stderr.count("stopped by the clock after iteration") == 1
    assert json.loads((place / "R/end.json").read_text()) == {"exit_code": 75}
    assert call("evaluate", "R", "small.npz").returncode == 0


def test_a_rank_that_stops_answering_is_named(place):
    command = [*mpirun(3), *distnewton("train", *SMALL, "--run-dir", "R", "--method.direction=sgd",
               "--run.iterations=10000000", "--run.hang_seconds=2", "--quiet")]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | AS_ROOT,
                          stdin=subprocess.DEVNULL) as job:  # fmt: skip
        metrics, end = place / "R/metrics.jsonl", time.monotonic() + 60
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            assert job.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        stopped = process_of_rank(2, job.pid)
        os.kill(stopped, signal.SIGSTOP)
        begin = time.monotonic()
        try:
            _, text = job.communicate(timeout=40)
        finally:
            if job.poll() is None:
                job.kill()
    assert job.returncode == 76, text
    assert time.monotonic() - begin < 20
    assert text.count(f"In no collective: rank 2 on {os.uname().nodename}") == 1, text
    first = json.loads((place / "R/errors/first.json").read_text())
    assert (first["rank"], first["exit_code"]) == (0, 76)


def process_of_rank(rank, ancestor):
    """The process of a rank below a launcher."""
    import psutil

    for process in psutil.Process(ancestor).children(recursive=True):
        variables = process.environ()
        number = variables.get("PMI_RANK", variables.get("OMPI_COMM_WORLD_RANK"))
        if number == str(rank) and "distnewton.cli" in process.cmdline():
            return process.pid
    raise AssertionError(f"no process of rank {rank}")
