"""Training and prediction in LIBLINEAR's manner: its words, its objective, its messages; simpleNN's names."""

from __future__ import annotations

import math
import os
import re
import sys

import numpy as np
import pytest
from launched import launches, mpirun, run

import distnewton
from distnewton.cli import liblinear_commands as liblinear
from distnewton.cli.liblinear_options import parse_train, train_parser, training_config
from distnewton.directions.registry import DIRECTIONS
from distnewton.errors import ConfigError, CreateError, UsageError
from distnewton.runs.cross_validation import cross_validate


def samples(n, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    X = rng.standard_normal((n, 6)) + 0.8 * y[:, None]
    return X.round(6), np.where(y, 1, -1)


def write(path, X, y):
    rows = (" ".join(f"{j}:{value:.6f}" for j, value in enumerate(row, 1)) for row in X)
    path.write_text("".join(f"{label:+g} {row}\n" for label, row in zip(y, rows, strict=True)))


@pytest.fixture
def files(tmp_path, monkeypatch):
    if any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")):
        pytest.skip("programs of one process")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train", *samples(120))
    write(tmp_path / "test", *samples(50, 1))
    return tmp_path


def config_of(*arguments):
    return training_config(parse_train([*arguments, "train"]))


def test_a_pair_of_commands_trains_and_predicts(files, capsys):
    assert liblinear.train(["-iter_max", "10", "train"]) == 0
    assert " iter " in capsys.readouterr().out
    assert liblinear.predict(["test", "train.model", "found"]) == 0
    found = np.array((files / "found").read_text().split(), int)
    n_right = int((found == samples(50, 1)[1]).sum())
    assert n_right > 35
    assert capsys.readouterr().out == f"Accuracy = {100 * n_right / 50:g}% ({n_right}/50)\n"
    assert liblinear.train(["-q", "-iter_max", "1", "train", "named"]) == 0
    assert liblinear.predict(["-q", "test", "named", "found"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("loss", ["cross_entropy", "logistic"])
def test_probabilities_come_in_the_order_of_the_first_line(files, loss):
    liblinear.train(["-q", "-iter_max", "5", "--loss", loss, "train"])
    liblinear.predict(["-q", "-b", "1", "test", "train.model", "found"])
    head, *lines = (files / "found").read_text().splitlines()
    assert head == "labels -1 1"
    rows = np.array([line.split() for line in lines], float)
    np.testing.assert_allclose(rows[:, 1:].sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(rows[:, 0], np.array([-1, 1])[rows[:, 1:].argmax(axis=1)])
    outputs, _, _ = distnewton.load_model("train.model").outputs(distnewton.open_data("test"))
    z = outputs[:, 1] - outputs[:, 0] if loss == "cross_entropy" else outputs[:, 0]
    np.testing.assert_allclose(rows[:, 2], 1 / (1 + np.exp(-z)), atol=1e-5)


def test_outputs_of_the_squared_loss_are_no_probabilities(files):
    liblinear.train(["-q", "-s", "simplenn", "-iter_max", "1", "train"])
    with pytest.raises(ConfigError, match="was trained with the loss squared: its outputs are not probabilities"):
        liblinear.predict(["-b", "1", "test", "train.model", "found"])


def test_the_objective_is_liblinears(files):
    """Without a hidden layer it is logistic regression, which scikit-learn's solver of LIBLINEAR's problem checks."""
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression
    X, y = samples(120)
    with_bias = np.hstack([X, np.ones((120, 1))])
    exact = ["--layers", "auto-auto", "--loss", "logistic", "-s", "gauss_newton", "-GNsize", "120", "-xi", "0.0001"]
    exact += ["-e", "1e-6", "-q", "--set", "run.dtype=float64", "train"]
    for options, weights in ((["-c", "0.03"], None), (["-C", "0.03", "-w1", "5", "-w", "-1", "0.5"], {1: 5, -1: 0.5})):
        liblinear.train([*options, *exact])
        expected = linear(C=0.03, fit_intercept=False, class_weight=weights, tol=1e-10, max_iter=1000)
        expected.fit(with_bias, y)
        outputs, _, _ = distnewton.load_model("train.model").outputs(distnewton.open_data("train"))
        np.testing.assert_allclose(outputs[:, 0], expected.decision_function(with_bias), atol=1e-4)


def test_the_usual_model_is_the_one_that_liblinear_trains(files):
    """The squared hinge of each class against the rest, with three classes; with a bias where -B 1 asks for one."""
    svc = pytest.importorskip("sklearn.svm").LinearSVC
    X, y = samples(120)
    y = np.where(X[:, 0] > 1, 3, y)
    write(files / "train", X, y)
    with_bias = np.hstack([X, np.ones((120, 1))])
    for options, features in (([], X), (["-B", "-1"], X), (["-B", "1"], with_bias)):
        liblinear.train([*options, "-q", "-c", "0.03", "-e", "1e-6", "--set", "run.dtype=float64", "train"])
        expected = svc(C=0.03, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(features, y)
        outputs, _, _ = distnewton.load_model("train.model").outputs(distnewton.open_data("train"))
        np.testing.assert_allclose(outputs, expected.decision_function(features), atol=1e-4)
    with pytest.raises(UsageError, match="-B -1 is for a linear network"):
        liblinear.train(["-B", "-1", "-s", "block_diagonal", "train"])
    with pytest.raises(ConfigError, match="was trained with the loss squared_hinge: its outputs are not probabilities"):
        liblinear.predict(["-b", "1", "train", "train.model", "found"])


def test_cross_validation_prints_its_accuracy_and_writes_no_model(files, capsys):
    assert liblinear.train(["-q", "-v", "3", "-iter_max", "4", "train"]) == 0
    found = cross_validate(config_of("-iter_max", "4"), n_folds=3)
    assert capsys.readouterr().out == f"Cross Validation Accuracy = {100 * found.metrics['accuracy']:g}%\n"
    assert not (files / "train.model").exists()


@pytest.mark.parametrize(
    "options",
    # a linear network starts at the last C, and reaches the same optimum; others start anew
    [("-e", "1e-6", "--set", "run.dtype=float64"), ("--layers", "auto-3-auto", "-iter_max", "3")],
    ids=["linear", "hidden"],
)
def test_the_best_c_is_that_of_the_same_cross_validation(files, capsys, options):
    assert liblinear.train(["-C", "-c", "16", "-v", "3", *options, "train"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    rates = {}
    for C in (16.0, 64.0, 256.0, 1024.0):
        rates[C] = cross_validate(config_of("-c", str(C), *options), n_folds=3).metrics["accuracy"]
    assert lines == [f"log2c={math.log2(C):7.2f}\trate={100 * rate:g}" for C, rate in rates.items()]
    best = max(rates, key=lambda C: (rates[C], -C))
    assert last == f"Best C = {best:g}  CV accuracy = {100 * rates[best]:g}%"
    assert not (files / "train.model").exists()


def test_the_best_c_of_numbers_has_the_least_error(files, capsys):
    X, _ = samples(120)
    write(files / "numbers", X, (X @ X[0]).round(4))
    options = ["-q", "--loss", "squared", "-iter_max", "5", "-c", "0.001", "-v", "3", "-C"]
    assert liblinear.train([*options, "numbers"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = re.fullmatch(r"Best C = (\S+)  CV MSE = (\S+)", line)
    assert found
    C, error = map(float, found.groups())
    # next to no weights predict the mean: worse than what was found
    assert C > 0.001
    assert error < np.var(X @ X[0])


def test_a_number_behind_c_is_simplenns(files):
    assert parse_train(["-C", "0.5", "train"]).find_c is False
    assert parse_train(["-C", "train"]).find_c is True
    assert parse_train(["-C", "-c", "2", "train"]).find_c is True


def test_numbers_have_errors_and_a_correlation(files, capsys):
    X, _ = samples(120)
    write(files / "numbers", X, (X @ X[0]).round(4))
    liblinear.train(["-q", "--loss", "squared", "-iter_max", "20", "numbers"])
    liblinear.predict(["numbers", "numbers.model", "found"])
    found, truth = np.array((files / "found").read_text().split(), float), (X @ X[0]).round(4)
    first, second = (float(line.split()[-2]) for line in capsys.readouterr().out.splitlines())
    assert first == pytest.approx(np.mean((found - truth) ** 2), rel=1e-3)
    assert second == pytest.approx(np.corrcoef(found, truth)[0, 1] ** 2, rel=1e-4)
    liblinear.train(["-q", "-v", "4", "--loss", "squared", "-iter_max", "3", "numbers"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Cross Validation Mean squared error = ")
    assert lines[1].startswith("Cross Validation Squared correlation coefficient = ")


NAMES = [
    ("-c 10", "method.C", "10.0 l"),
    ("-C 0.01", "method.C", "0.01 l"),
    ("", "method.C", "1.0 l"),
    ("-s simplenn", "method.C", "0.01 l"),
    ("-s simplenn -C 1e-05", "method.C", "1e-05 l"),
    ("-c inf", "method.C", math.inf),
    ("-xi 0.5", "method.cg_tolerance", 0.5),
    ("-s gauss_newton", "method.cg_tolerance", 0.1),
    ("-s block_diagonal", "method.cg_max", 250),
    ("-CGmax 2", "method.cg_max", 2),
    ("-CGmax 2", "method.cg_min", 2),
    ("-lambda 0", "method.damping", 0.0),
    ("-s dual", "method.damping", 1.0),
    ("-s kfac", "method.damping", 0.01),
    ("-drop 0.5", "method.drop", 0.5),
    ("-s block_diagonal", "method.drop", 2 / 3),
    ("-boost 2", "method.boost", 2.0),
    ("-s block_diagonal", "method.boost", 1.5),
    ("-eta 0.1", "method.sufficient_decrease", 0.1),
    ("-s block_diagonal", "method.sufficient_decrease", 1e-4),
    ("", "run.n_iterations", 100),
    ("-iter_max 7", "run.iterations", 7),
    ("-e 0.01", "run.tolerance", 0.01),
    ("-s block_diagonal", "method.subsample", 0.05),
    ("-s block_diagonal", "method.subsample_min", 1),
    ("-GNsize 64", "method.subsample_min", 64),
    ("-s kfac", "method.direction", "kfac"),
    ("-s block_dual", "method.direction", "block_dual"),
    ("-s simplenn", "method.combine", "none"),
    ("-s simplenn", "network.activation", "relu"),
    ("-s simplenn", "data.task", "classification"),
    ("-w1 5 -w-1 2", "data.class_weights", {"1": 5.0, "-1": 2.0}),
    ("-w -1 2 -w spam 0.5", "data.class_weights", {"-1": 2.0, "spam": 0.5}),
    ("--layers 6-20-20-2", "network.layers", [6, 20, 20, 2]),
    ("--set run.seed=3", "run.seed", 3),
    ("--start m", "network.start", "m"),
    ("-m 2", "run.threads", 2),
    ("-B 1 -c 3", "method.C", "3.0 l"),
]


@pytest.mark.parametrize(("text", "key", "value"), NAMES, ids=[f"{text} {key}" for text, key, _ in NAMES])
def test_options_mean_what_they_mean_there(text, key, value):
    section, name = key.split(".")
    assert getattr(getattr(config_of(*text.split()), section), name) == value


@pytest.mark.parametrize("name", [*DIRECTIONS, "simplenn"])
def test_every_direction_trains(files, name):
    assert liblinear.train(["-q", "-s", name, "-iter_max", "2", "train"]) == 0


def test_numbers_of_solvers_are_liblinears(files):
    """Logistic regression where LIBLINEAR has it, to its solution."""
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression
    X, y = samples(120)
    expected = linear(C=0.03, fit_intercept=False, tol=1e-10, max_iter=1000).fit(X, y)
    for number in ("0", "7"):
        liblinear.train(["-q", "-s", number, "-c", "0.03", "-e", "1e-6", "--set", "run.dtype=float64", "train"])
        outputs, _, _ = distnewton.load_model("train.model").outputs(distnewton.open_data("train"))
        np.testing.assert_allclose(outputs[:, 0], expected.decision_function(X), atol=1e-4)
    assert config_of("-s", "1") == config_of("-s", "2") == config_of()
    assert config_of("-s", "0", "--layers", "6-20-1").network.layers == [6, 20, 1]
    with pytest.raises(UsageError, match="-s has named the loss logistic: leave out -s or --loss"):
        config_of("-s", "0", "--loss", "squared")


def test_a_curvature_sample_has_the_size_that_is_asked_for():
    from distnewton.method.objective import subsample_size

    method = config_of("-GNsize", "64").method
    assert subsample_size(10_000, method.subsample, method.subsample_min) == 64
    method = config_of("-s", "block_diagonal").method
    assert subsample_size(1_001, method.subsample, method.subsample_min) == 51


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-frob", "3", "train"], "unrecognized arguments: -frob"),
        ([], "the following arguments are required: training_set_file"),
        (["-c", "1", "-C", "1", "train"], "-c and -C are two names of the same"),
        (["-s", "8", "train"], "expected 0, 1, 2, 7, or a name"),
        (["-s", "3", "train"], "argument -s: 3: the hinge loss is not here: take -s 2, its square"),
        (["-s", "5", "train"], "there is no L1 penalty: take -s 2"),
        (["-s", "11", "train"], "support vector regression is not here: take --loss squared"),
        (["-w1", "train"], "argument -w: expected a label and a number, got '1 train'"),
        (["-w", "1"], "argument -w: expected a label and a number, got '1'"),
        (["-c", "-1", "train"], "expected a number above 0"),
        (["-v", "0", "train"], "expected a number from 1"),
        (["-B", "0.5", "train"], "argument -B: invalid choice: 0.5 (choose from 1.0, -1.0)"),
        (["-R", "train"], "unrecognized arguments: -R"),
        (["-p", "0.1", "train"], "unrecognized arguments: -p"),
    ],
)
def test_wrong_command_lines_show_the_usage(arguments, message):
    with pytest.raises(UsageError) as caught:
        parse_train(arguments)
    assert message in str(caught.value)
    assert "usage: distnewton-train [options] training_set_file [model_file]" in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_has_no_effect_is_refused():
    with pytest.raises(ConfigError, match="cg_max has no effect with direction = kfac"):
        config_of("-s", "kfac", "-CGmax", "9")
    with pytest.raises(ConfigError, match=r"run\.tolerance is for directions"):
        config_of("-s", "adam", "-e", "0.1")


def test_a_model_that_cannot_be_written_is_told_before_it_is_trained(files):
    with pytest.raises(CreateError, match=r"cannot write nowhere/m: there is no folder .*nowhere"):
        liblinear.train(["train", "nowhere/m"])


def test_the_help_maps_every_name():
    text = train_parser().format_help()
    for name in ("-C", "-GNsize", "-iter_max", "-xi", "-CGmax", "-lambda", "-drop", "-boost", "-eta"):
        assert f"\n  {name} " in text
    for name in (*DIRECTIONS, "simplenn"):
        assert f"\n   {name} " in text


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_name_is_a_direction(name):
    assert config_of("-s", name).method.direction == name


def script(name, *arguments):
    return [sys.executable, "-c", f"from distnewton.cli.liblinear_commands import {name}_console as c; c()", *arguments]


@pytest.mark.launches
@launches[1]
@launches[2]
def test_one_of_several_ranks_speaks(files):
    trained = run([*mpirun(2), *script("train", "-q", "-iter_max", "3", "train")], cwd=files)
    assert (trained.returncode, trained.stdout) == (0, ""), trained.stderr
    predicted = run([*mpirun(2), *script("predict", "test", "train.model", "found")], cwd=files)
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout.count("Accuracy = ") == 1
    assert len((files / "found").read_text().splitlines()) == 50
