"""The command line as users start it, with and without mpirun: results, run folder, errors, dying ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
MPIRUN = str(BIN / "mpirun") if (BIN / "mpirun").exists() else shutil.which("mpirun")
PHASES = {"gradient", "jacobian", "direction", "combination", "line_search", "wait"}

launches = [
    pytest.mark.launches,
    pytest.mark.skipif(MPIRUN is None, reason="no mpirun beside this Python or in PATH"),
    pytest.mark.skipif("PMI_SIZE" in os.environ or "OMPI_COMM_WORLD_SIZE" in os.environ, reason="already under mpirun"),
]
pytestmark = launches


def launcher(n_ranks):
    if n_ranks == 0:
        return []
    version = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    flags = ["--oversubscribe"] if "Open MPI" in version else []
    return [MPIRUN, *flags, "-n", str(n_ranks)]


def distnewton(*arguments, n_ranks=0, check=False, limit=100, **environment):
    variables = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "TERM": "dumb"}
    done = subprocess.run(
        [*launcher(n_ranks), sys.executable, "-m", "distnewton.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
        env=variables | environment,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def digits(folder, *more, iterations=6):
    return ["train", "--data.train=digits:train", "--data.test=digits:test", "--network.layers=64-24-16-10",
            "--data.scale=minmax", f"--run.iterations={iterations}", "--run-dir", folder, *more]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("with a space ü") / "run"
    done = distnewton(*digits(folder, iterations=12), n_ranks=4, check=True)
    return folder, done


def test_training_shows_and_leaves_what_is_promised(run):
    folder, done = run
    assert "test accuracy" in done.stdout
    assert "\r" not in done.stdout
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == list(range(13))
    last = records[-1]
    assert set(last["seconds"]) >= PHASES
    assert set(last["sent_bytes"]) >= PHASES - {"wait"}
    assert last["sent_bytes"]["direction"] == 0.0
    assert last["sent_bytes"]["gradient"] > 0.0
    assert len(last["direction"]["inner_iterations"]) == 4
    assert last["test"]["accuracy"] > 0.85
    facts = json.loads((folder / "environment.json").read_text())
    assert (facts["ranks"], len(facts["hosts"]), len(facts["splits"])) == (4, 4, 4)
    assert {path.name for path in folder.iterdir()} >= {"config.toml", "model.safetensors"}


def test_evaluate_predict_and_info_agree_on_any_number_of_ranks(run, tmp_path):
    folder, _ = run
    answers = [distnewton("evaluate", folder, "digits:test", n_ranks=n, check=True).stdout for n in (0, 3)]
    assert answers[0] == answers[1]
    accuracy = float(answers[0].split("accuracy")[1])
    out = tmp_path / "labels.txt"
    distnewton("predict", folder, "digits:test", "--out", out, n_ranks=2, check=True)
    from distnewton.data.sources import open_data

    truth = [str(int(label)) for label in open_data("digits:test").describe().labels]
    predicted = out.read_text().splitlines()
    assert len(predicted) == len(truth)
    share = sum(a == b for a, b in zip(truth, predicted, strict=True)) / len(truth)
    assert share == pytest.approx(accuracy, abs=1e-6)
    assert distnewton("predict", folder, "digits:test", check=True).stdout.splitlines() == predicted
    assert "iterations 12 of 12" in distnewton("info", folder, check=True).stdout


def test_the_resolved_configuration_repeats_the_run(run, tmp_path):
    folder, _ = run
    again = ["--run-dir", tmp_path / "again", "--run.deterministic", "true"]
    distnewton("train", folder / "config.toml", *again, check=True)
    distnewton("train", folder / "config.toml", *again, "--run.overwrite=true", check=True)
    printed = distnewton("train", folder / "config.toml", "--print-config", "--method.cg_max", "7", check=True).stdout
    assert "cg_max = 7" in printed
    assert 'train = "digits:train"' in printed


ERRORS = [
    (["train", "--data.train=nothing.libsvm", "--run-dir", "R"], 66, "nothing.libsvm"),
    (["train", "--data.train=digits", "--method.cgmax=3"], 2, "did you mean --method.cg_max?"),
    (["train", "--data.train=digits", "--set", "method.cg_mx=3", "--run.dtype=float16"], 78, "did you mean cg_max?"),
    (["train", "none.toml"], 66, "cannot read the recipe none.toml"),
    (["train", "--data.train=bad.libsvm", "--run-dir", "R"], 65, "bad.libsvm:2"),
    (["train", "--data.train=digits", "--partition.splits=2-9-1", "--run-dir", "R"], 78, "needs 18 ranks"),
    (["train", "--data.train=digits", "--network.layers=63-5-10", "--run-dir", "R"], 78, "64 features, not 63"),
    (["train", "--data.train=digits", "--run-dir", "FULL"], 73, "holds an earlier run"),
    (["evaluate", "nowhere", "digits:test"], 66, "there is no model file nowhere"),
    (["nonsense"], 2, "invalid choice: 'nonsense'"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), ERRORS)
@pytest.mark.parametrize("n_ranks", [0, 3])
def test_errors_are_one_message_and_a_code(tmp_path, monkeypatch, arguments, code, message, n_ranks):
    monkeypatch.chdir(tmp_path)
    Path("bad.libsvm").write_text("1 1:2 3:4\n2 1:nan\n")
    Path("FULL").mkdir()
    Path("FULL/metrics.jsonl").write_text("")
    done = distnewton(*arguments, n_ranks=n_ranks)
    assert done.returncode == code, done.stderr
    assert done.stderr.count(message) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("at", ["data", "cg"])
@pytest.mark.parametrize(("kind", "codes"), [("raise", {70}), ("exit", {3}), ("kill", {9, 137})])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_failing_rank_ends_the_job(tmp_path, at, kind, codes, rank):
    done = distnewton(
        *digits(tmp_path / "run", iterations=50), n_ranks=3, DISTNEWTON_FAULT=f"rank={rank} at={at} kind={kind}"
    )
    assert done.returncode in codes, done.stderr
    if kind != "kill":
        assert done.stderr.count(f"rank {rank} of 3") == 1
        assert done.stderr.count(" failed: ") == 1


def test_processes_that_mpi_does_not_connect_are_explained():
    # as under another MPI's launcher: it announces eight processes, but MPI gives each a world of its own
    done = distnewton("train", "--data.train=digits", OMPI_COMM_WORLD_SIZE="8", OMPI_COMM_WORLD_RANK="0", limit=60)
    if "Open MPI" in done.stderr:
        pytest.skip("this Open MPI refuses to start under a pretended launcher")
    assert done.returncode == 78
    assert "started 8 processes, but each is alone" in done.stderr
