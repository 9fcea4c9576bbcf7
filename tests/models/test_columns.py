"""A model knows the names of its columns: tables are taken by them, on any number of ranks."""

from __future__ import annotations

import os

import numpy as np
import pytest
from resumed import free, settings

import distnewton
from distnewton.cli import liblinear_commands as liblinear
from distnewton.cli.main import main
from distnewton.config.opening import opener
from distnewton.errors import DataError, DistNewtonError

mpi = pytest.mark.mpi(min_size=1)
alone = pytest.mark.skipif(
    any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")), reason="programs of one process"
)
FEATURES = ["width", "height", "depth", "mass", "age"]
METHOD = {"direction": "gauss_newton", "cg_tolerance": 0.0, "cg_max": 5}


def problem(n=60, seed=0):
    rng = np.random.default_rng(seed)
    kinds = np.array(["bolt", "nut", "screw"])
    y = rng.integers(3, size=n)
    X = 2 * rng.standard_normal((3, 5))[y] * [1, 10, 0.1, 1, 3] + rng.standard_normal((n, 5))
    return X.round(5), kinds[y]


def write(path, columns, X, y):
    table = dict(zip(FEATURES, X.T.tolist(), strict=True)) | {"sort": y.tolist(), "id": [f"n{x}" for x in X[:, 0]]}
    rows = zip(*(table[name] for name in columns), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def files(folder):
    X, y = problem()
    write(folder / "train.csv", [*FEATURES, "sort"], X, y)
    write(folder / "same.csv", [*FEATURES, "sort"], X[:25], y[:25])
    write(folder / "other.csv", ["id", "sort", *FEATURES[::-1]], X[:25], y[:25])
    write(folder / "bare.csv", FEATURES[2:] + FEATURES[:2], X[:25], y[:25])
    return X, y


def config_of(folder, test, iterations=3, **data):
    data = {"train": "train.csv", "test": test, "directory": str(folder), "scale": "standard", **data}
    return settings(METHOD, iterations, network={"layers": ["auto", 8, "auto"]}, data=data)


def message(world, call):
    try:
        call()
    except DistNewtonError as error:
        return str(error)
    return ""


@pytest.fixture
def tables(world, folder):
    with world.collective_errors():
        if world.rank == 0:
            files(folder)
    return folder


@mpi
def test_test_data_in_another_order_give_the_same_numbers(world, tables):
    found = [distnewton.train(config_of(tables, f"{name}.csv"), world) for name in ("same", "other")]
    assert found[0].last.test == found[1].last.test
    assert found[0].last.objective == found[1].last.objective
    assert any("left out: id" in note for note in found[1].summary.notes)
    free(*found)


@mpi
def test_a_saved_model_takes_columns_by_name(world, tables):
    result = distnewton.train(config_of(tables, ""), world)
    expected = result.model.predict(distnewton.open_data(tables / "same.csv"))
    result.model.save(tables / "model.safetensors")
    model = distnewton.load_model(tables, world)
    assert model.names == result.model.names
    assert (model.names.features, model.names.label) == (tuple(FEATURES), "sort")
    read = config_of(tables, "").data
    for name in ("same", "other", "bare"):
        opened = opener(read, None, f"{name}.csv", 5, model.names, "none")
        assert not world.any(model.predict(opened) != expected)
    assert "bare.csv has no labels" in message(
        world, lambda: model.evaluate(opener(read, None, "bare.csv", 5, model.names, "if_there"))
    )
    # opened without the names, another order is seen, and refused
    other = distnewton.open_data(tables / "other.csv", label_column="sort", ignore_columns=["id"])
    text = message(world, lambda: model.predict(other))
    assert "feature 0 is the column age, but in training it was width; open the data with names=model.names" in text
    free(result)


@mpi
def test_runs_do_not_go_on_with_other_columns(world, tables):
    first = distnewton.train(config_of(tables, "", 1), world, checkpoints=tables / "checkpoints")
    first.model.save(tables / "model.safetensors")
    with world.collective_errors():
        if world.rank == 0:
            X, y = problem()
            write(tables / "train.csv", [*FEATURES[::-1], "sort"], X, y)
    other = config_of(tables, "", 2)
    assert "columns: width, height" in message(
        world, lambda: distnewton.train(other, world, start=tables / "model.safetensors")
    )
    assert "names of columns" in message(
        world, lambda: distnewton.train(other, world, checkpoints=tables / "checkpoints", resume=True)
    )
    free(first)


@alone
def test_the_command_line_predicts_tables_without_labels(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files(tmp_path)
    data = ["--data.train", "train.csv", "--data.scale", "standard", "--run.iterations", "5"]
    assert main(["train", *data, "--run-dir", "run", "--quiet"]) == 0
    capsys.readouterr()
    said = {}
    for name in ("same", "other", "bare"):
        assert main(["predict", "run", f"{name}.csv"]) == 0
        said[name] = capsys.readouterr()
    assert said["same"].out == said["other"].out == said["bare"].out
    assert len(said["same"].out.split()) == 25
    assert (said["same"].err, said["bare"].err) == ("", "")
    assert said["other"].err == "note: other.csv: columns that the model does not know are left out: id\n"
    assert main(["evaluate", "run", "other.csv"]) == 0
    shown = capsys.readouterr()
    assert "accuracy" in shown.out
    assert "left out: id" in shown.err
    with pytest.raises(DataError, match="has no column sort, which held the labels"):
        main(["evaluate", "run", "bare.csv"])
    assert main(["predict", "run", "bare.csv", "--probabilities"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "labels bolt nut screw"
    assert [line.split()[0] for line in lines] == said["same"].out.split()
    shares = np.array([line.split()[1:] for line in lines], float)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-5)
    names = np.array(head.split()[1:])
    assert names[shares.argmax(axis=1)].tolist() == said["same"].out.split()
    # in LIBLINEAR's manner an accuracy is said where there are labels
    assert liblinear.predict(["bare.csv", "run/model.safetensors", "out"]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "out").read_text() == said["same"].out
    assert liblinear.predict(["other.csv", "run/model.safetensors", "out"]) == 0
    assert capsys.readouterr().out.startswith("Accuracy = ")


@alone
def test_tables_without_names_do_not_lose_their_last_columns(tmp_path, monkeypatch):
    """A model without names has nothing to tell an identifier by: a column more is other data."""
    monkeypatch.chdir(tmp_path)
    X, y = problem()
    rows = [",".join([*map(str, row), label]) for row, label in zip(X, y, strict=True)]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "more.csv").write_text("\n".join(f"{i},{row}" for i, row in enumerate(rows)) + "\n")
    assert main(["train", "--data.train", "train.csv", "--run.iterations", "1", "--run-dir", "run", "--quiet"]) == 0
    with pytest.raises(DataError, match=r"more.csv: has 6 feature columns .*, expected 5"):
        main(["evaluate", "run", "more.csv"])


@alone
def test_values_of_features_that_the_model_does_not_have_are_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").write_text("".join(f"{i % 2} 1:{i} 2:{-i}.5\n" for i in range(20)))
    (tmp_path / "more").write_text("0 1:2 2:3 7:1\n1 1:1 9:4\n1 1:1\n")
    assert main(["train", "--data.train", "train", "--run.iterations", "1", "--run-dir", "run", "--quiet"]) == 0
    for command in ("evaluate", "predict"):
        assert main([command, "run", "more"]) == 0
        assert capsys.readouterr().err == "note: 2 values of features beyond the 2 expected were ignored\n"
