"""Run folders when many processes begin at the same time: each gets one of its own, or a clear no."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distnewton.cli.main import main
from distnewton.errors import CreateError
from distnewton.guards.failures import failures, read_first
from distnewton.runs.run_folder import METRICS_FILE, RunFolder, free_name, next_folder

N_PROCESSES, N_STARTS = 16, 100


def take(folder, barrier, queue, mode):
    """Take a run folder over and over, at the same moment as the others; tell what came of it."""
    os.chdir(folder)
    outcomes = []
    for start in range(N_STARTS):
        barrier.wait(timeout=60)
        try:
            if mode == "free name":
                run = RunFolder.under_free_name(f"r{start}")
            elif mode == "the same":
                run = RunFolder(Path("runs") / f"s{start}")
            else:
                run = RunFolder.under_free_name("given-up")
                run.discard()
            run.close()
            outcomes.append(str(run.path))
        except CreateError as error:
            known = "holds an earlier run" in str(error) or "taken by another" in str(error)
            outcomes.append("taken" if known else str(error))
        except BaseException as error:
            outcomes.append(repr(error))
    queue.put(outcomes)


def starts(folder, mode):
    """Outcomes of all starts, by process."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(N_PROCESSES), context.Queue()
    processes = [context.Process(target=take, args=(folder, barrier, queue, mode)) for _ in range(N_PROCESSES)]
    for process in processes:
        process.start()
    outcomes = [queue.get(timeout=100) for _ in processes]
    for process in processes:
        process.join(timeout=20)
    return outcomes


@pytest.fixture
def forkable():
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no fork, and 1,600 new interpreters would take minutes")
    if any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")):
        pytest.skip("a process with MPI is not forked")


@pytest.mark.timeout(150)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_16_processes_and_100_starts_get_a_folder_each(tmp_path, forkable):
    outcomes = starts(tmp_path, "free name")
    for start, taken in enumerate(zip(*outcomes, strict=True)):
        assert sorted(taken) == [f"runs/r{start}-{k:03d}" for k in range(1, N_PROCESSES + 1)]


@pytest.mark.timeout(150)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_of_16_processes_that_want_one_folder_one_gets_it(tmp_path, forkable):
    outcomes = starts(tmp_path, "the same")
    for start, taken in enumerate(zip(*outcomes, strict=True)):
        assert sorted(taken) == [f"runs/s{start}", *["taken"] * (N_PROCESSES - 1)]


@pytest.mark.timeout(150)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_runs_that_are_given_up_harm_no_other(tmp_path, forkable):
    outcomes = starts(tmp_path, "give up")
    wrong = [name for taken in outcomes for name in taken if not name.startswith("runs/given-up-")]
    assert not wrong
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_discarded_leaves_what_was_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("kept")
    RunFolder(Path("mine")).discard()
    assert os.listdir("mine") == ["notes.txt"]
    RunFolder(Path("a/b/c")).discard()
    assert os.listdir() == ["mine"]


def test_an_earlier_run_stays_unless_it_may_go(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "folder", tmp_path)
    (tmp_path / METRICS_FILE).write_text("{}\n")
    failures.write(3, 70, "earlier")
    with pytest.raises(CreateError, match=r"holds an earlier run \(metrics.jsonl\)"):
        RunFolder(tmp_path)
    assert (tmp_path / METRICS_FILE).read_text() == "{}\n"
    RunFolder(tmp_path, overwrite=True).close()
    assert (tmp_path / METRICS_FILE).read_text() == ""
    assert read_first(tmp_path) is None


def test_free_names_are_those_that_are_taken_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k in (1, 2):
        assert free_name("x") == Path(f"runs/x-{k:03d}")
        assert next_folder("x") == Path(f"runs/x-{k:03d}")
    Path("blocked").write_text("")
    monkeypatch.chdir(tmp_path / "runs")
    Path("runs").write_text("")
    with pytest.raises(CreateError, match="cannot create the run folder"):
        next_folder("x")


def test_a_folder_that_is_being_written_is_not_overwritten(tmp_path):
    first = RunFolder(tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").write_text("{}\n")
    with pytest.raises(CreateError, match="another process is training this run now"):
        RunFolder(tmp_path / "run", overwrite=True)
    assert (tmp_path / "run/metrics.jsonl").read_text() == "{}\n"
    first.close()
    RunFolder(tmp_path / "run", overwrite=True).discard()
    assert (tmp_path / "run/metrics.jsonl").read_text() == "{}\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table, and a run on it that has ended."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "table.csv").write_text(
        "a,b,label\n" + "".join(f"{k % 7},{k % 3},{'xy'[k % 2]}\n" for k in range(40))
    )
    given = [f"--data.train={folder}/table.csv", "--network.layers=auto-3-auto", "--quiet"]
    assert main(["train", *given, f"--run-dir={folder}/run", "--run.iterations=2", "--run.checkpoint_minutes=0"]) == 0
    return folder, given


@pytest.fixture
def finished(trained, tmp_path):
    """A run that has ended, the arguments that start another one in its folder, and the bytes of all its files."""
    folder, given = trained
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    return run, [*given, f"--run-dir={run}"], contents(run)


def contents(folder):
    """Bytes of the files of results below a folder; what failures left is none."""
    files = (file for file in folder.rglob("*") if file.is_file() and "errors" not in file.parts)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_a_run_that_begins_replaces_the_earlier_one(finished):
    run, given, before = finished
    assert main(["train", *given, "--run.iterations=1", "--set", "run.overwrite=true", "--run.seed=5"]) == 0
    after = contents(run)
    assert not (run / "replaced").exists()
    assert after["model.safetensors"] != before["model.safetensors"]
    assert any("step-000002" in name for name in before)
    assert not any("step-000002" in name for name in after)


@pytest.mark.parametrize("more", [["--resume"], ["--set", "run.overwrite=true"]])
def test_the_next_start_removes_what_a_killed_process_was_writing(finished, more):
    run, given, before = finished
    kill = "with whole(Path(sys.argv[1])) as part: part.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    program = f"import os, signal, sys; from pathlib import Path; from distnewton.outputs import whole\n{kill}"
    own = ["model.safetensors", "config.toml", "predictions.json"]
    for name in [*own, "report.html", "mine.txt"]:
        done = subprocess.run([sys.executable, "-c", program, run / name], check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
    (run / f"{METRICS_FILE}.part").write_text("{}")
    assert len(list(run.glob("*.part"))) == len(own) + 3
    assert main(["train", *given, "--run.iterations=3", *more]) == 0
    # another process may be writing a report now, and files of users stay
    assert {part.name.partition(".")[0] for part in run.glob("*.part")} == {"report", "mine"}
    assert contents(run).keys() >= {name for name in before if "step" not in name}


def test_a_start_that_was_killed_before_it_began_leaves_the_run_aside(finished):
    run, _, before = finished
    for _ in range(2):
        RunFolder(run, overwrite=True).close()  # as a killed process leaves it
        assert {name.removeprefix("replaced/") for name in contents(run)} == {*before, METRICS_FILE}
        assert contents(run / "replaced") == before
    folder = RunFolder(run, overwrite=True)
    folder.discard()
    assert contents(run) == before
