"""Validation metrics wherever those of training and test are shown, and which iteration the model is of."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from resumed import settings
from rich.console import Console

import distnewton
from distnewton.cli.main import main
from distnewton.reporting.progress import Progress
from distnewton.reporting.run_data import read_run
from distnewton.reporting.tensorboard import scalars


def noisy(n=60):
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((n, 5)), rng.integers(2, size=n)
    return X, y


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    X, y = noisy()
    lines = (",".join([*(f"{v:.6f}" for v in row), str(label)]) for row, label in zip(X, y, strict=True))
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    code = main([
        "train", "--data.train", str(folder / "data.csv"), "--data.validation_fraction", "0.4",
        "--network.layers", "auto-12-auto", "--run.iterations", "12", "--run.patience", "11",
        "--method.damping", "0.01", "--run-dir", str(folder / "run"), "--quiet",
    ])  # fmt: skip
    assert code == 0
    return folder / "run"


def test_a_column_is_there_with_validation_data_only():
    for fraction in (0.4, 0.0):
        out = io.StringIO()
        progress = Progress(Console(file=out, width=120))
        config = settings({"direction": "gauss_newton"}, 2, data={"validation_fraction": fraction})
        result = distnewton.train(config, train_data=distnewton.ArraySource(*noisy()), observers=[progress])
        progress.finish(result)
        text = out.getvalue()
        header = next(line for line in text.splitlines() if line.split()[:1] == ["iter"])
        row = next(line for line in text.splitlines() if line.split()[:1] == ["1"])
        assert ("valid" in header.split()) == bool(fraction)
        if fraction:
            end = header.index("valid") + len("valid")
            assert row[end - 8 : end].strip() == f"{100 * result.history[1].validation['accuracy']:.2f}%"
            assert "36 samples, validation 24" in text
            assert f"of iteration {result.best.iteration}, the best by validation accuracy" in text
        else:
            assert "validation" not in text


def test_events_have_it():
    config = settings({"direction": "gauss_newton"}, 1, data={"validation_fraction": 0.4})
    record = distnewton.train(config, train_data=distnewton.ArraySource(*noisy())).last
    assert dict(scalars(record))["validation/accuracy"] == record.validation["accuracy"]


def test_metrics_report_and_info_have_it(run_folder, capsys):
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    values = [line["validation"]["accuracy"] for line in lines]
    best = int(np.argmax(values))
    assert best < len(lines) - 1
    assert read_run(run_folder, "run").model_line.iteration == best
    assert main(["info", str(run_folder)]) == 0
    text = capsys.readouterr().out
    assert f"model of   iteration {best}, the best by validation accuracy" in text
    assert f"validation accuracy {values[best]:.4f}" in text
    assert "40 % of it for validation" in text
    assert main(["report", str(run_folder)]) == 0
    page = (run_folder / "report.html").read_text()
    assert "<dt>best iteration</dt>" in page
    assert f"<dd>{best}</dd>" in page
    assert "<dt>validation accuracy</dt>" in page
    # no column for sets that no run has
    assert "<dt>test accuracy</dt>" not in page
    assert f"<dd>{values[best]:.4f}</dd>" in page


def test_the_saved_model_is_the_best(run_folder):
    values = read_run(run_folder, "run").model_line.validation
    X, y = noisy()
    from distnewton.data.folds import split_off

    aside = split_off(y.astype(float), 0.4, 0, by_class=True)[1]
    found = distnewton.load_model(run_folder).evaluate(distnewton.ArraySource(X[aside].round(6), y[aside]))
    assert found["accuracy"] == pytest.approx(values["accuracy"])
    predictions = json.loads((run_folder / "predictions.json").read_text())
    assert predictions["set"] == "validation"
    assert sum(predictions["n_right"]) == round(values["accuracy"] * 24)


def test_start_on_the_command_line(run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(run_folder.parent)
    code = main([
        "train", "--data.train", str(run_folder.parent / "data.csv"), "--network.layers", "auto-12-auto",
        "--run.iterations", "0", "--run-dir", str(tmp_path / "again"), "--quiet", "--start", "run",
    ])  # fmt: skip
    assert code == 0
    first, second = (distnewton.load_model(folder).params for folder in (run_folder, tmp_path / "again"))
    np.testing.assert_array_equal(first, second)
    assert distnewton.load_config(tmp_path / "again" / "config.toml").network.start == str(run_folder)


def test_a_comparison_judges_by_it_where_there_is_no_test_set(run_folder, tmp_path, capsys):
    code = main([
        "compare", "--data.train", str(run_folder.parent / "data.csv"), "--data.validation_fraction", "0.4",
        "--network.layers", "auto-12-auto", "--directions", "gauss_newton", "--seconds", "0.05",
        "--run-dir", str(tmp_path / "both"),
    ])  # fmt: skip
    assert code == 0
    assert "best validation accuracy" in capsys.readouterr().out
