"""ONNX files, run by onnxruntime: the model's own outputs, labels and probabilities, from raw features."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
from launched import call, run
from launched import distnewton as command

import distnewton
from distnewton.errors import CreateError, MissingExtraError
from distnewton.network.losses import softmax

reason = "onnx or onnxruntime is not installed: pip install 'distnewton[test]'"
onnx = pytest.importorskip("onnx", reason=reason)
runtime = pytest.importorskip("onnxruntime", reason=reason)
from distnewton.onnx import save_onnx, to_onnx  # noqa: E402

IMAGE = (2, 9, 8)
TABLES = [
    {"type": "conv", "channels": 5, "kernel": [3, 2], "padding": [1, 0]}, {"type": "max_pool", "size": 2},
    {"type": "conv", "channels": 4, "kernel": 2, "stride": [1, 2]}, {"type": "avg_pool", "size": [2, 1], "stride": 1},
    {"type": "dense", "width": 6}, {"type": "dense", "width": "auto"},
]  # fmt: skip
LABELS = {"numbers": [3, 5, 9], "texts": ["ant", "bee", "cat"], "fractions": [0.5, 1.5, 2.5]}


def answers(model_proto, X):
    """Everything that the file says of the data, by name."""
    session = runtime.InferenceSession(model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"X": X}), strict=True))


def trained(kind="dense", labels="numbers", loss="cross_entropy", activation="tanh", scale="none", dtype="float32",
            comm=None):  # fmt: skip
    rng = np.random.default_rng(0)
    X = 3 + 2 * rng.standard_normal((40, *(IMAGE if kind == "images" else (7,)))).astype(dtype)
    X = np.abs(X) if scale.startswith("log1p") else X
    y = rng.integers(2 if loss == "logistic" else 3, size=40)
    target = rng.standard_normal((40, 2)) if loss == "squared" else np.array(LABELS[labels])[y]
    layers = {"layers": TABLES} if kind == "images" else {"layers": ["auto", 6, 5, "auto"]}
    config = distnewton.make_config({
        "data": {"scale": scale},
        "network": {**layers, "activation": activation, "loss": loss},
        "run": {"iterations": 3, "dtype": dtype},
    })
    return distnewton.train(config, comm, train_data=distnewton.ArraySource(X, target)).model, X


def outputs_of(model, X):
    return model.outputs(distnewton.ArraySource(X, np.zeros(len(X))))[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["identity", "relu", "sigmoid", "softplus", "tanh"])
@pytest.mark.parametrize("kind", ["dense", "images"])
def test_outputs_agree_to_a_millionth(kind, activation, dtype):
    model, X = trained(kind, activation=activation, dtype=dtype)
    found = answers(to_onnx(model), X.astype("float32") if kind == "images" else X)
    assert found["outputs"].dtype == ("float32" if kind == "images" else dtype)
    expected = outputs_of(model, X)
    assert np.abs(found["outputs"] - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())
    if dtype == "float64" and kind == "dense":
        np.testing.assert_allclose(found["outputs"], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "scale", ["minmax", "minmax_joint", "center", "standard", "unit_rows", "log1p_unit_rows"]
)
@pytest.mark.parametrize("kind", ["dense", "images"])
def test_raw_features_go_in(kind, scale, dtype):
    model, X = trained(kind, scale=scale, dtype=dtype)
    X[3] = 0
    found = answers(to_onnx(model), X.astype("float32") if kind == "images" else X)["outputs"]
    expected = outputs_of(model, X)
    assert np.abs(found - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("loss", ["cross_entropy", "logistic"])
@pytest.mark.parametrize("labels", sorted(LABELS))
def test_labels_and_probabilities_are_the_users(labels, loss):
    model, X = trained(labels=labels, loss=loss)
    found = answers(to_onnx(model), X)
    expected = model.predict(distnewton.ArraySource(X, np.zeros(len(X))))
    assert list(map(str, found["label"])) == expected
    assert len(set(expected)) > 1
    Z = outputs_of(model, X).astype(np.float64)
    p = softmax(Z) if loss == "cross_entropy" else np.column_stack([1 / (1 + np.exp(Z)), 1 / (1 + np.exp(-Z))])
    np.testing.assert_allclose(found["probabilities"], p, rtol=1e-5, atol=1e-6)


def test_regression_has_outputs_alone_and_squared_classes_no_probabilities():
    model, X = trained(loss="squared")
    assert list(answers(to_onnx(model), X)) == ["outputs"]
    rng = np.random.default_rng(0)
    config = distnewton.make_config({
        "data": {"task": "classification"}, "network": {"loss": "squared"}, "run": {"iterations": 2},
    })  # fmt: skip
    model = distnewton.train(config, train_data=distnewton.ArraySource(X, rng.integers(3, size=40))).model
    assert list(answers(to_onnx(model), X)) == ["outputs", "label"]


def test_softplus_does_not_overflow():
    model, X = trained(activation="softplus")
    big = np.float32(1e4) * X
    np.testing.assert_allclose(answers(to_onnx(model), big)["outputs"], outputs_of(model, big), rtol=1e-4)


@pytest.mark.mpi(min_size=1)
def test_a_model_over_ranks_is_the_same_file_on_each(world):
    model, X = trained("images", comm=world)
    proto = to_onnx(model)
    good = np.abs(answers(proto, X)["outputs"] - outputs_of(model, X)).max() < 1e-5
    texts = world.allgather_json([len(proto.SerializeToString())])
    assert not world.any(not good or texts.count(texts[0]) < world.size)
    model.grid.free()


def test_files_are_written_by_call_and_by_command(tmp_path):
    model, X = trained(scale="standard")
    model.save(tmp_path / "model.safetensors")
    save_onnx(tmp_path / "model.safetensors", tmp_path / "called.onnx")
    done = run(command("export", tmp_path, tmp_path / "typed.onnx"))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "typed.onnx").read_bytes() == (tmp_path / "called.onnx").read_bytes()
    found = answers(onnx.load(tmp_path / "typed.onnx"), X)
    np.testing.assert_allclose(found["outputs"], outputs_of(model, X), rtol=1e-5, atol=1e-6)
    with pytest.raises(CreateError, match="No such file or directory"):
        save_onnx(model, tmp_path / "missing" / "model.onnx")
    wrong = run(command("export", tmp_path, tmp_path / "typed.pb"))
    assert wrong.returncode == 2
    assert "export writes FILE.onnx" in wrong.stderr


def test_encoded_columns_are_named(tmp_path):
    frame = pd.DataFrame({"age": [1.0, None, 3, 4] * 5, "sex": ["m", "f"] * 10, "label": ["x", "y"] * 10})
    model = distnewton.train(distnewton.make_config({"run": {"iterations": 3}}), frame).model
    model.save(tmp_path / "model.safetensors")
    names = ["age", "age (missing)", "sex=f", "sex=m"]
    assert model.names.inputs == names
    done = call("export", tmp_path / "model.safetensors", tmp_path / "m.onnx")
    told = f"its 4 features are the encoded columns, in this order: {'; '.join(names)}"
    assert done.stdout.splitlines()[1:] == [told]
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["features"]) == names
    X = np.tile(np.float32([[1, 0, 0, 1], [2.5, 1, 1, 0], [3, 0, 0, 1], [4, 0, 1, 0]]), (5, 1))
    labels = session.run(["label"], {"X": X})[0]
    assert labels.tolist() == model.predict(frame).tolist()


def test_the_extra_is_named_where_onnx_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "distnewton.onnx")
    with pytest.raises(MissingExtraError, match=r"pip install 'distnewton\[onnx\]'"):
        importlib.import_module("distnewton.onnx")
