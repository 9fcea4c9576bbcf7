"""Linear models as LIBLINEAR's text, read as its manual says, and by LIBLINEAR itself where it is installed."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

import distnewton
from distnewton.cli.main import main
from distnewton.errors import CreateError, DataError, UsageError
from distnewton.liblinear import save_liblinear, to_liblinear

PROGRAM = shutil.which("liblinear-predict")
LABELS = {"binary": [-1, 1], "two": [3, 7], "three": [2, -5, 11]}
CASES = {
    ("binary", "logistic"): "L2R_LR", ("two", "cross_entropy"): "L2R_LR", ("two", "squared"): "L2R_L2LOSS_SVC",
    ("three", "cross_entropy"): "MCSVM_CS", ("three", "squared"): "MCSVM_CS", ("number", "squared"): "L2R_L2LOSS_SVR",
}  # fmt: skip


def data(kind, n=60, n_features=5):
    rng = np.random.default_rng(2)
    X = 3 * rng.standard_normal((n, n_features)) * (rng.random((n, n_features)) < 0.7) + [0, 0, 4, 0, 0]
    values = X @ rng.standard_normal((n_features, 3)) + rng.standard_normal((n, 3))
    if kind == "number":
        return X, values[:, 0]
    labels = np.array(LABELS[kind])
    return X, labels[values[:, : len(labels)].argmax(axis=1)]


def trained(kind, loss, comm=None, **tables):
    X, y = data(kind)
    tree = {
        "network": {"layers": ["auto", "auto"], "loss": loss},
        "data": {"task": "auto" if kind == "number" or loss != "squared" else "classification"},
        "run": {"iterations": 8, "dtype": "float64", "threads": 1},
    }
    for table, values in tables.items():
        tree[table] |= values
    return distnewton.train(distnewton.make_config(tree), comm, train_data=distnewton.ArraySource(X, y)).model


def read(text):
    """The file's head, and its weights with a row a feature, as the manual has them."""
    head, _, numbers = text.partition("w\n")
    facts = dict(line.split(" ", 1) for line in head.splitlines())
    weights = np.array([[float(part) for part in line.split()] for line in numbers.splitlines()])
    return facts, weights


def answers(text, X):
    """Values and labels that LIBLINEAR's manual promises for a file."""
    facts, weights = read(text)
    values = np.hstack([X, np.full((len(X), 1), float(facts["bias"]))]) @ weights
    if "label" not in facts:
        return values, None
    labels = np.array([int(label) for label in facts["label"].split()])
    chosen = np.where(values[:, 0] > 0, 0, 1) if len(labels) == 2 else values.argmax(axis=1)
    return values, labels[chosen]


def libsvm(path, X, y):
    with path.open("w") as file:
        for row, label in zip(X, y, strict=True):
            file.write(" ".join([str(label), *(f"{j + 1}:{value!r}" for j, value in enumerate(row.tolist()) if value)]))
            file.write("\n")
    return path


@pytest.mark.parametrize("scale", ["none", "standard"])
@pytest.mark.parametrize(("kind", "loss"), list(CASES))
def test_the_text_gives_the_models_answers(kind, loss, scale):
    X, y = data(kind)
    model = trained(kind, loss, data={"scale": scale})
    text, source = to_liblinear(model), distnewton.ArraySource(X, y)
    facts, weights = read(text)
    assert facts["solver_type"] == CASES[kind, loss]
    assert (facts["nr_feature"], facts["bias"]) == ("5", "1")
    outputs = model.outputs(source)[0]
    values, labels = answers(text, X)
    n_classes = len(LABELS.get(kind, [0, 0]))
    assert int(facts["nr_class"]) == n_classes
    assert weights.shape == (6, 1 if n_classes == 2 else n_classes)
    own = outputs[:, :1] - outputs[:, 1:] if outputs.shape[1] == 2 else outputs
    np.testing.assert_allclose(values, own, rtol=1e-10, atol=1e-10)
    if labels is not None:
        assert [str(label) for label in labels] == model.predict(source)
        assert len(set(labels.tolist())) == n_classes


def test_the_text_is_no_model_file_of_distnewton(tmp_path):
    save_liblinear(trained("binary", "logistic"), tmp_path / "m.model")
    with pytest.raises(DataError, match="but a model of LIBLINEAR, for LIBLINEAR's predict"):
        distnewton.load_model(tmp_path / "m.model")


@pytest.mark.skipif(PROGRAM is None, reason="LIBLINEAR's programs are not installed (Debian: liblinear-tools)")
@pytest.mark.parametrize(("kind", "loss"), list(CASES))
def test_liblinear_predicts_with_it(tmp_path, kind, loss):
    X, y = data(kind)
    model = trained(kind, loss)
    save_liblinear(model, tmp_path / "m.model")
    libsvm(tmp_path / "test", X, y)
    options = ["-b", "1"] if CASES[kind, loss] == "L2R_LR" else []
    command = [PROGRAM, *options, tmp_path / "test", tmp_path / "m.model", tmp_path / "out"]
    subprocess.run(command, check=True, timeout=30, capture_output=True)
    lines = (tmp_path / "out").read_text().splitlines()
    source = distnewton.ArraySource(X, y)
    if kind == "number":
        np.testing.assert_allclose([float(line) for line in lines], model.outputs(source)[0][:, 0], rtol=1e-4)
        return
    if options:
        model.save(tmp_path / "m.safetensors")
        assert main(["predict", "--probabilities", str(tmp_path / "m.safetensors"), str(tmp_path / "test"), "--out",
                     str(tmp_path / "own")]) == 0  # fmt: skip
        own = (tmp_path / "own").read_text().splitlines()
        # columns in the order of each file's own first line
        order = [lines[0].split().index(label) for label in own[0].split()[1:]]
        for theirs, ours in zip(lines[1:], own[1:], strict=True):
            numbers = theirs.split()
            assert numbers[0] == ours.split()[0]
            assert [float(numbers[i]) for i in order] == pytest.approx([float(p) for p in ours.split()[1:]], abs=1e-5)
        lines = [line.split()[0] for line in lines[1:]]
    assert lines == model.predict(source)


@pytest.mark.parametrize(
    ("tables", "kind", "text"),
    [
        ({"network": {"layers": ["auto", 4, "auto"]}}, "two", "has the layers 5-4-2; distnewton export FILE.onnx"),
        ({"data": {"scale": "unit_rows"}}, "two", r"divides samples by their norms \(data.scale = unit_rows\)"),
    ],
)
def test_models_without_such_a_form_are_refused(tables, kind, text):
    loss = "cross_entropy"
    with pytest.raises(DataError, match=text):
        to_liblinear(trained(kind, loss, **tables))


def test_labels_and_targets_without_a_place_are_refused():
    X, _ = data("two")
    config = {"network": {"layers": ["auto", "auto"]}, "run": {"iterations": 1, "threads": 1}}
    texts = np.array(["a", "b"])[(X[:, 0] > 0).astype(int)]
    for y, loss, said in (
        (texts, "cross_entropy", "its labels are whole numbers, but this one has 'a'"),
        (np.where(X[:, 0] > 0, 0.5, 1.5), "cross_entropy", "this one has 0.5"),
        (X[:, :2], "squared", "predicts 2 numbers per sample"),
    ):
        config["network"]["loss"] = loss
        model = distnewton.train(distnewton.make_config(config), train_data=distnewton.ArraySource(X, y)).model
        with pytest.raises(DataError, match=said):
            to_liblinear(model)


def test_the_command(tmp_path, capsys):
    trained("three", "cross_entropy").save(tmp_path / "m.safetensors")
    assert main(["export", str(tmp_path / "m.safetensors"), str(tmp_path / "m.model")]) == 0
    assert "exported to " in capsys.readouterr().out
    assert (tmp_path / "m.model").read_text() == to_liblinear(tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match=r"export writes FILE\.onnx or FILE\.model, got m\.txt"):
        main(["export", str(tmp_path / "m.safetensors"), "m.txt"])
    with pytest.raises(CreateError, match="cannot write"):
        main(["export", str(tmp_path / "m.safetensors"), str(tmp_path / "nowhere" / "m.model")])


@pytest.mark.mpi(min_size=1)
def test_a_model_that_is_spread_over_ranks(world, folder):
    model = trained("three", "cross_entropy", world, data={"scale": "standard"})
    text = to_liblinear(model)
    model.save(folder / "m.safetensors")
    assert not world.any(text != to_liblinear(folder / "m.safetensors"))
