"""The command line as users start it, with and without mpirun: results, run folder, errors, dying ranks."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from launched import call, call_together, distnewton, launching, mpirun, run, several

KEYS = {
    "iteration", "elapsed_seconds", "training_seconds", "objective", "loss", "gradient_norm", "damping",
    "reduction_ratio", "step_size", "line_search_trials", "direction", "seconds", "sent_bytes", "train", "test",
}  # fmt: skip
PHASES = {"gradient", "jacobian", "direction", "combination", "line_search", "wait"}



def launched(*arguments, n_ranks=2, check=False, limit=100, **environment):
    """Start the command under mpirun; without ranks by itself."""
    done = run([*(mpirun(n_ranks) if n_ranks else []), *distnewton(*arguments)], limit=limit, **environment)
    assert not check or done.returncode == 0, done.stderr
    return done


def called(*arguments, **environment):
    """Call the command in this process; it succeeds."""
    done = call(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done


def digits(folder, *more, iterations):
    return ["train", "--data.train=digits:train", "--data.test=digits:test", "--network.layers=64-24-16-10",
            "--data.scale=minmax", "--method.direction=block_diagonal", f"--run.iterations={iterations}",
            "--run-dir", folder, *more]  # fmt: skip


def small(folder, *more, iterations=2):
    return ["train", "--data.train=small.csv", "--network.layers=auto-6-auto", "--method.direction=block_diagonal",
            f"--run.iterations={iterations}", "--run-dir", folder, *more]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a small data set, so that nothing has to load scikit-learn."""
    monkeypatch.chdir(tmp_path)
    write_small()
    return tmp_path


@pytest.fixture
def shared_place(world, folder):
    """The same, shared by the ranks that run the tests."""
    with contextlib.chdir(folder):
        if world.rank == 0:
            write_small()
            Path("bad.libsvm").write_text("1 1:2 3:4\n2 1:nan\n")
            Path("FULL").mkdir()
            Path("FULL/metrics.jsonl").write_text("")
        world.barrier()
        yield folder
        world.barrier()


def write_small():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=90)
    X = 3 * rng.standard_normal((3, 7))[y] + rng.standard_normal((90, 7))
    names = np.array(["red", "green", "blue"])[y]
    lines = [",".join([*(f"{value:.6f}" for value in row), name]) for row, name in zip(X, names, strict=True)]
    Path("small.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("with a space ü") / "run"
    done = launched(*digits(folder, iterations=12), n_ranks=4, check=True)
    return folder, done


@pytest.fixture(scope="module")
def test_file(tmp_path_factory):
    """The test digits as a file, and their labels."""
    from distnewton.data.sources import open_data

    source = open_data("digits:test")
    truth = [str(int(label)) for label in source.describe().labels]
    path = tmp_path_factory.mktemp("data") / "test digits.csv"
    rows = (",".join(map(repr, row)) for row in source.read(0, 64).tolist())
    path.write_text("".join(f"{row},{label}\n" for row, label in zip(rows, truth, strict=True)))
    return path, truth


def records_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@launching
def test_training_shows_and_leaves_what_is_promised(trained):
    folder, done = trained
    assert "test accuracy" in done.stdout
    assert "\r" not in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    records = records_of(folder)
    assert [record["iteration"] for record in records] == list(range(13))
    assert all(record.keys() >= KEYS for record in records)
    last = records[-1]
    assert set(last["direction"]) >= {"method", "inner_iterations", "finished_ranks", "stopped_early"}
    assert set(last["seconds"]) >= PHASES
    assert set(last["sent_bytes"]) >= PHASES - {"wait"}
    assert last["sent_bytes"]["direction"] == 0.0
    assert last["sent_bytes"]["gradient"] > 0.0
    assert len(last["direction"]["inner_iterations"]) == 4
    assert last["test"]["accuracy"] > 0.85
    assert records[0]["objective"] > last["objective"]
    facts = json.loads((folder / "environment.json").read_text())
    assert (facts["ranks"], len(facts["hosts"]), len(facts["splits"])) == (4, 4, 4)
    assert facts["mpi_library"]
    assert facts["blas"]
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "checkpoints", "config.toml", "end.json", "environment.json", "metrics.jsonl", "model.safetensors",
        "predictions.json",
    }  # fmt: skip


@launching
def test_training_on_one_process_learns_as_well(tmp_path):
    pytest.importorskip("sklearn")
    done = launched(*digits(tmp_path / "run", "--quiet", iterations=10), n_ranks=0, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    records = records_of(tmp_path / "run")
    assert records[-1]["test"]["accuracy"] > 0.85
    assert sum(records[-1]["sent_bytes"].values()) == 0.0
    assert json.loads((tmp_path / "run/environment.json").read_text())["mpi_library"] == ""


@launching
def test_evaluate_tells_each_class_and_writes_json(trained, test_file, tmp_path):
    folder, path = trained[0], test_file[0]
    shown = called("evaluate", folder, path, "--json", tmp_path / "metrics.json").stdout.splitlines()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"accuracy", "auc", "log_loss", "macro_f1", "classes", "n_samples", "unseen_labels"} <= set(metrics)
    table = shown[-len(metrics["classes"]) :]
    assert [line.split()[0] for line in table] == list(metrics["classes"])
    assert sum(row["n_samples"] for row in metrics["classes"].values()) == metrics["n_samples"]
    assert json.loads(called("evaluate", folder, path, "--json", "-").stdout) == metrics


@launching
def test_evaluate_predict_and_info_agree_on_any_number_of_ranks(trained, test_file, tmp_path):
    folder, _ = trained
    path, truth = test_file
    answer = called("evaluate", folder, path).stdout
    accuracy = float(answer.split("accuracy")[1].split()[0])
    assert accuracy == pytest.approx(records_of(folder)[-1]["test"]["accuracy"], abs=1e-6)
    out = tmp_path / "new" / "labels.txt"
    commands = ["evaluate", folder, path], ["predict", folder, path, "--out", out], ["info", folder]
    done = run([*mpirun(3), *several(*commands)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(answer)
    told = done.stdout.removeprefix(answer)
    predicted = out.read_text().splitlines()
    assert len(predicted) == len(truth)
    share = sum(a == b for a, b in zip(truth, predicted, strict=True)) / len(truth)
    assert share == pytest.approx(accuracy, abs=1e-6)
    model = folder / "model.safetensors"
    assert called("predict", model, path).stdout.splitlines() == predicted
    assert told == called("info", folder).stdout
    assert told.count("iterations 12 of 12") == 1
    assert "64-24-16-10" in told
    assert f"test       accuracy {accuracy:.4f}" in told


@pytest.mark.mpi(min_size=1, sizes=(2,))
def test_the_resolved_configuration_repeats_the_run(world, shared_place):
    # block_diagonal on the same splits, without early termination: the same numbers
    done = [call_together(world, *small("first", "--run.deterministic=true", "--quiet"))]
    repeat = ["train", "first/config.toml", "--run-dir", "second", "--quiet"]
    done += [call_together(world, *repeat, *more) for more in ([], ["--run.overwrite=true"])]
    assert [one.returncode for one in done] == [0] * 3, done
    objectives = [[r["objective"] for r in records_of(shared_place / name)] for name in ("first", "second")]
    assert objectives[0] == objectives[1]
    printed = call_together(world, "train", "first/config.toml", "--print-config", "--method.cg_max", "7").stdout
    assert "cg_max = 7" in printed
    assert 'train = "small.csv"' in printed
    assert "deterministic = true" in printed


def test_data_folders_and_free_run_folders(place):
    (place / "elsewhere").mkdir()
    (place / "small.csv").rename(place / "elsewhere/set.csv")
    for _ in range(2):
        called("train", "--data.train=set.csv", "--run.iterations=0", "--quiet", DISTNEWTON_DATA="elsewhere")
    assert sorted(path.name for path in (place / "runs").iterdir()) == ["run-001", "run-002"]
    assert (place / "runs/run-002/model.safetensors").is_file()
    assert "n_samples 90" in called("evaluate", "runs/run-001", "set.csv").stdout
    # the variable hides no file of the working folder
    text = (place / "elsewhere/set.csv").read_text()
    (place / "here.csv").write_text("".join(text.splitlines(keepends=True)[:60]))
    both = ["--data.train=here.csv", "--data.test=set.csv", "--run.iterations=0", "--run-dir=both"]
    printed = called("train", *both, DISTNEWTON_DATA="elsewhere").stdout
    assert "60 samples" in printed
    assert "test 90" in printed


@pytest.mark.mpi(min_size=1, sizes=(2,))
@pytest.mark.parametrize(("arguments", "words"), [
    (["--help"], ["usage: distnewton", "evaluate", "predict"]),
    (["train", "--help"], ["usage: distnewton train", "--method.subsample", "--run-dir"]),
    (["--version"], ["distnewton 0."]),
])  # fmt: skip
def test_help_and_version_are_shown_once(world, arguments, words):
    done = call_together(world, *arguments)
    assert all(word in done.stdout for word in words)
    assert done.stdout.count(words[0]) == 1
    assert (done.returncode, done.stderr) == (0, "")


@launching
def test_help_is_shown_once_by_a_launch():
    done = launched("--help", check=True)
    assert done.stdout.count("usage: distnewton") == 1
    assert done.stderr == ""


ERRORS = [
    (["train", "--data.train=nothing.libsvm", "--run-dir", "R"], 66, ["nothing.libsvm"]),
    (["train", "--data.train=digits", "--method.cgmax=3"], 2, ["did you mean --method.cg_max?"]),
    (
        ["train", "--data.train=small.csv", "--set", "method.cg_mx=3", "--run.dtype=float16", "--method.C=-1"],
        78,
        ["did you mean cg_max?", "got 'float16'", "method.C: must be a positive number", "errors:"],
    ),
    (["train", "none.toml"], 66, ["there is no recipe none.toml"]),
    (["train", "--data.train=bad.libsvm", "--run-dir", "R"], 65, ["bad.libsvm:2"]),
    (small("R", "--partition.splits=2-9-1"), 78, ["needs 18 ranks", "Splits that fit"]),
    (small("R", "--network.layers=8-5-3"), 78, ["the data has 7 features, not 8"]),
    (small("FULL"), 73, ["FULL holds an earlier run"]),
    (["evaluate", "nowhere", "digits:test"], 66, ["there is no model file nowhere"]),
    (["nonsense"], 2, ["there is no command 'nonsense'"]),
]


def check_error(done, code, messages):
    assert done.returncode == code, done.stderr
    assert [done.stderr.count(message) for message in messages] == [1] * len(messages), done.stderr
    assert "Traceback" not in done.stderr
    assert " failed: " not in done.stderr
    assert Path("FULL/metrics.jsonl").read_text() == ""


def error_id(value):
    return value[0] if isinstance(value, list) else str(value)


@pytest.mark.mpi(min_size=1, sizes=(1, 2))
@pytest.mark.parametrize(("arguments", "code", "messages"), ERRORS, ids=error_id)
def test_errors_are_one_message_and_a_code(world, shared_place, arguments, code, messages):
    check_error(call_together(world, *arguments), code, messages)


@launching
@pytest.mark.parametrize(("n_ranks", "case"), [(2, ERRORS[0]), (2, ERRORS[2]), (0, ERRORS[1])])
def test_launches_end_with_the_code_and_one_message(place, n_ranks, case):
    arguments, code, messages = case
    Path("FULL").mkdir()
    Path("FULL/metrics.jsonl").write_text("")
    check_error(launched(*arguments, n_ranks=n_ranks), code, messages)


@pytest.mark.mpi(min_size=1, sizes=(2,))
def test_info_and_models_of_something_else(world, shared_place):
    done = call_together(world, "info", ".")
    assert (done.returncode, done.stderr.count("is not a run folder: it holds no config.toml")) == (66, 1)
    if world.rank == 0:
        Path("model.safetensors").write_bytes(b"\x80\x04N.")
    world.barrier()
    done = call_together(world, "predict", ".", "small.csv")
    assert (done.returncode, done.stderr.count("is not a readable safetensors file")) == (65, 1)


@pytest.mark.mpi(min_size=1)
def test_a_fault_that_is_not_understood_is_told_once(world, shared_place):
    done = call_together(world, *small("R"), DISTNEWTON_FAULT="rank=1 at=cg kind=halt")
    assert (done.returncode, done.stderr.count("is not understood")) == (78, 1)


@launching
def test_compare_leaves_a_table_a_picture_and_a_folder_a_run(place):
    names = "gauss_newton,kfac,adam"
    common = ["--data.train=small.csv", "--network.layers=auto-6-auto", "--seconds", "0.2", "--run-dir", "both"]
    base = ["--method.direction=gauss_newton", "--method.damping=0.9"]
    done = launched("compare", "--directions", names, *common, *base, check=True)
    assert "note: method.damping of the recipe is ignored: it was not meant for kfac" in done.stderr
    assert "[5/5] adam 0.003" in done.stdout
    table = (place / "both" / "comparison.md").read_text()
    assert table.count("| gauss_newton |") == table.count("| kfac |") == 1
    assert "adam: best of 3 learning rates" in table
    assert (place / "both" / "comparison.png").stat().st_size > 10_000
    for name in ("gauss_newton", "kfac", "adam-0.0003", "adam-0.001", "adam-0.003"):
        lines = (place / "both" / name / "metrics.jsonl").read_text().splitlines()
        # the Newton method may have nothing left to gain before its time is over
        assert name == "gauss_newton" or json.loads(lines[-1])["training_seconds"] >= 0.2
        # on a busy machine one iteration may take all of the time
        assert len(lines) > 1
    assert 'direction = "adam"' in (place / "both" / "adam-0.003" / "config.toml").read_text()
    again = call("compare", "--directions", names, *common)
    assert again.returncode == 73
    assert "both/gauss_newton holds an earlier run" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--directions", "adams"], 78, "unknown direction 'adams': known are block_diagonal"),
        (["--directions", "adam", "--seconds", "0"], 78, "--seconds must be positive, got 0"),
        (["--directions", "adam", "--levels", "high"], 78, "--levels takes numbers, such as 0.95,0.97, got 'high'"),
        (["--directions", "none.toml"], 66, "there is no recipe none.toml"),
        ([], 2, "the following arguments are required: --directions"),
    ],
)
def test_compare_refuses(place, arguments, code, message):
    done = call("compare", "--data.train=small.csv", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert not list(place.glob("runs/*"))


@pytest.mark.mpi(min_size=1, sizes=(2,))
def test_a_run_that_never_begins_leaves_no_folder(world, shared_place):
    for arguments in (["train"], ["compare", "--directions", "kfac,adam"]):
        assert call_together(world, *arguments, "--data.train=none.csv").returncode == 66
        assert not Path("runs").exists()
    if world.rank == 0:
        Path("mine").mkdir()
        Path("mine/notes.txt").write_text("kept")
    world.barrier()
    assert call_together(world, "train", "--data.train=none.csv", "--run-dir", "mine").returncode == 66
    assert Path("mine/notes.txt").exists()
