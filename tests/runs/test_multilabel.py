"""Samples with any number of labels: from text, tables and arrays to predictions, on any number of ranks."""

from __future__ import annotations

import io

import numpy as np
import pytest
from launched import call_together
from resumed import free, settings

import distnewton
from distnewton.data.formats.libsvm import LibsvmSource
from distnewton.data.formats.libsvm_lines import Rules
from distnewton.data.label_sets import label_classes, label_indicator, unknown_labels
from distnewton.data.labels import LabelMapping
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, DataError
from distnewton.models.metrics import more_metrics, task_metrics

mpi = pytest.mark.mpi(min_size=1, sizes=(1, 3, 4))
METHOD = {"direction": "gauss_newton", "cg_tolerance": 0.0, "cg_max": 6, "subsample": 1.0}
NAMES = np.array(["7", "12", "3", "40"])
ORDER = ["3", "7", "12", "40"]


def problem(n=70, seed=0):
    """Features and labels, of which a sample may have none."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 6)).round(4)
    Y = X @ np.random.default_rng(9).standard_normal((6, 4)) + 0.5 * rng.standard_normal((n, 4)) > 0.8
    Y[:3] = False
    return X, Y


def sets(Y):
    return [",".join(NAMES[row]) for row in Y]


def write(path, X, Y):
    rows = (f"{text} " + " ".join(f"{j + 1}:{x!r}" for j, x in enumerate(row)) for text, row in
            zip(sets(Y), X.tolist(), strict=True))  # fmt: skip
    path.write_text("\n".join(rows) + "\n")


def config_of(iterations=5, layers=("auto", 5, "auto"), **tables):
    data = {"task": "multilabel", "scale": "standard", **tables.pop("data", {})}
    return settings(
        tables.pop("method", METHOD), iterations, network={"layers": list(layers), "loss": "logistic"}, data=data,
        **tables,
    )  # fmt: skip


def objectives(result):
    return [record.objective for record in result.history]


def read(text, tmp_path, **rules):
    (tmp_path / "sets.txt").write_text(text)
    rules = Rules(str(tmp_path / "sets.txt"), multilabel=True, **rules)
    found = [LibsvmSource(tmp_path / "sets.txt", rules, parser) for parser in ("lines", "numba")]
    described = [source.describe() for source in found]
    assert described[0].labels.tolist() == described[1].labels.tolist()
    assert (found[0].read(0, 5) != found[1].read(0, 5)).nnz == 0
    return described[0].labels.tolist(), found[0].read(0, described[0].n_features).toarray()


def test_rows_have_any_number_of_labels(tmp_path):
    pytest.importorskip("numba")
    labels, X = read("1,5,7 1:0.5 3:2\n 2:1 # none\n5\t1:3\r\n\n+1,1.5 3:1\n\t1:1\n8\nb,a 2:4\n", tmp_path)
    assert labels == ["1,5,7", "", "5", "1,1.5", "", "8", "b,a"]
    assert X.tolist() == [[0.5, 0, 2], [0, 1, 0], [3, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 4, 0]]
    labels, _ = read("1 1:1\n2 1:2\n", tmp_path)
    assert labels == ["1", "2"]


@pytest.mark.parametrize(("line", "text"), [
    ("1,,5 1:1", "labels '1,,5': one is empty; write labels as 1,5,7"),
    ("1,5, 1:1", "labels '1,5,': one is empty"),
    ("1,5,01.0e0,1 1:1", "labels '1,5,01.0e0,1': 1 appears twice"),
    ("1,nan 1:1", "label 'nan' is not a finite number"),
    ("1:1 2:1", "label missing: the line begins with '1:1'; a row without labels begins with a blank"),
    ("1,5 1:1 7", "expected index:value, got '7'"),
    ("1, 5 1:1", "labels '1,': one is empty"),
    (" 1,5 1:1", "expected index:value, got '1,5'"),
    ("1,5 2:1 1:1", "index 1 after 2: indices must increase"),
])
def test_rows_that_are_wrong_are_refused_by_line(tmp_path, line, text):
    (tmp_path / "sets.txt").write_text(f"1,5 1:1\n{line}\n 1:1\n")
    source = open_data(tmp_path / "sets.txt", format="libsvm", multilabel=True)
    with pytest.raises(DataError) as error:
        source.describe()
    assert text in str(error.value)
    assert "sets.txt:2" in str(error.value)


def test_several_labels_need_the_task(tmp_path):
    (tmp_path / "sets.txt").write_text("1,5 1:1 2:1\n1 1:2 2:1\n")
    with pytest.raises(DataError, match="multi-label rows need"):
        open_data(tmp_path / "sets.txt").describe()
    for tables, text in [
        ({"data": {"task": "multilabel"}}, "fits data.task = classification, not multilabel"),
        ({"data": {"label_column": ["a", "b"]}}, "which is for data.task = multilabel"),
        ({"data": {"task": "multilabel", "class_weights": "balanced"}, "network": {"loss": "logistic"}},
         "class_weights is for classes"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=text):
            distnewton.make_config(tables)


def test_sets_become_columns_of_0_and_1():
    labels = np.array(["7,3", "", "12", "3"])

    def locate(i):
        return f"line {i + 1}"

    classes = label_classes(labels, locate, "data")
    assert classes.classes == (3, 7, 12)
    assert label_indicator(labels, classes, locate, "data").tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
    few = LabelMapping((3, 12))
    assert label_indicator(labels, few, locate, "data").tolist() == [[1, 0], [0, 0], [0, 1], [1, 0]]
    assert unknown_labels(labels, few) == {"7": 1}
    with pytest.raises(DataError, match=r"line 2: the column of label 12 must hold 0 or 1, got 2\.0"):
        label_indicator(np.array([[1.0, 0.0], [0.0, 2.0]]), few, locate, "data")
    with pytest.raises(DataError, match="has 3 label columns, but the model 2 labels"):
        label_indicator(np.zeros((2, 3)), few, locate, "data")
    with pytest.raises(DataError, match="line 2: labels 'a,a': a appears twice"):
        label_classes(np.array(["b", "a,a"]), locate, "data")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_metrics_equal_their_definitions(dtype):
    rng = np.random.default_rng(0)
    Z, Y = rng.standard_normal((1500, 7)).round(1).astype(dtype), rng.random((1500, 7)) < 0.3
    found = task_metrics("multilabel", Z, Y.astype(dtype))
    for k in (1, 3, 5):
        first = np.argsort(-Z, axis=1, kind="stable")[:, :k]
        assert found[f"precision_at_{k}"] == pytest.approx(np.take_along_axis(Y, first, axis=1).mean(), rel=1e-12)
    metrics = pytest.importorskip("sklearn.metrics")
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(Y, Z > 0, average="micro"), rel=1e-12)
    more = more_metrics("multilabel", "logistic", list("abcdefg"), Z, Y.astype(np.uint8))
    assert more["macro_f1"] == pytest.approx(metrics.f1_score(Y, Z > 0, average="macro"), rel=1e-12)
    assert more["classes"]["c"]["precision"] == pytest.approx(metrics.precision_score(Y[:, 2], Z[:, 2] > 0))
    assert more["classes"]["c"]["n_samples"] == Y[:, 2].sum()
    few = task_metrics("multilabel", -np.ones((3, 2)), np.zeros((3, 2)))
    assert few == {"micro_f1": 0.0, "precision_at_1": 0.0}


def newton(X, y, C, n):
    """Logistic regression of one label with a regularised bias, by plain Newton steps."""
    X = np.column_stack([X, np.ones(len(X))])
    w = np.zeros(X.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-X @ w))
        gradient = w / C + X.T @ (p - y) / n
        w -= np.linalg.solve(np.eye(len(w)) / C + (X.T * (p * (1 - p))) @ X / n, gradient)
    assert abs(gradient).max() < 1e-14
    return w


@mpi
def test_a_linear_network_is_a_logistic_regression_for_each_label(world):
    X, Y = problem()
    method = {"direction": "gauss_newton", "cg_tolerance": 1e-12, "cg_max": 300, "subsample": 1.0, "C": 5.0}
    for splits in [(1, world.size), (world.size, 1)]:
        config = config_of(
            30, ("auto", "auto"), data={"scale": "none"}, method=method, partition={"splits": list(splits)}
        )  # fmt: skip
        result = distnewton.train(config, world, train_data=(X, Y.astype(float)))
        weights = result.model.weights()
        wrong = False
        if weights is not None:
            expected = np.array([newton(X, Y[:, k], 5.0, len(X)) for k in range(4)])
            found = np.column_stack([weights["0.weight"], weights["0.bias"]])
            wrong = not np.allclose(found, expected, rtol=0, atol=1e-9)
        assert not world.any(wrong)
        free(result)


@mpi
def test_text_and_arrays_train_alike_on_every_grid(world, folder):
    X, Y = problem()
    if world.rank == 0:
        write(folder / "train.txt", X, Y)
    world.barrier()
    # the columns in the order of the labels in text
    columns = Y[:, [NAMES.tolist().index(name) for name in ORDER]].astype(float)
    alone = distnewton.train(config_of(), None, train_data=(X, columns))
    data = {"train": "train.txt", "directory": str(folder), "test": "train.txt"}
    for splits in ["auto", [1, world.size, 1], [world.size, 1, world.size]]:
        result = distnewton.train(config_of(data=data, partition={"splits": splits}), world)
        np.testing.assert_allclose(objectives(result), objectives(alone), rtol=1e-11)
        assert result.last.test == pytest.approx(result.last.train, rel=1e-12)
        assert set(result.last.test) == {"micro_f1", "precision_at_1", "precision_at_3"}
        assert result.last.test["micro_f1"] > 0.7
        free(result)
    found = alone.model.predict(X)
    assert found.shape == (70, 4)
    assert (found == columns).mean() > 0.8
    free(alone)


@mpi
def test_commands_read_and_write_sets_of_labels(world, folder):
    X, Y = problem()
    if world.rank == 0:
        write(folder / "train.txt", X, Y)
        write(folder / "test.txt", X[:20], Y[:20])
        with (folder / "test.txt").open("a") as file:
            file.write("7,99 1:0.5\n")
    world.barrier()
    run = folder / "run"
    done = call_together(
        world, "train", "--data.train", folder / "train.txt", "--data.task", "multilabel", "--network.loss", "logistic",
        "--network.layers", "auto-5-auto", "--run.iterations", 8, "--run.dtype", "float64", "--method.direction",
        "gauss_newton", "--method.C", "0.3l", "--run-dir", run, "--data.validation_fraction", "0.2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "micro_f1" in done.stdout
    done = call_together(world, "predict", run, folder / "test.txt")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")[:-1]
    model = distnewton.load_model(run, world)
    outputs, _, _ = model.outputs(str(folder / "test.txt"))
    assert lines == [",".join(np.array(ORDER)[row]) for row in outputs > 0]
    assert "" in lines
    assert any("," in line for line in lines)
    done = call_together(world, "predict", run, folder / "test.txt", "--probabilities")
    head, *rows = done.stdout.split("\n")[:-1]
    assert head == "labels 3 7 12 40"
    shares = np.array([row.split(" ")[1:] for row in rows], float)
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-outputs)), rtol=1e-5)
    done = call_together(world, "evaluate", run, folder / "test.txt")
    assert done.returncode == 0, done.stderr
    assert "precision_at_3" in done.stdout
    assert "labels the model does not know are left out: '99' (1)" in done.stderr
    free(type("Held", (), {"model": model}))


@pytest.fixture
def table(world, folder):
    """A table with a column for each label among others."""
    X, Y = problem()
    if world.rank == 0:
        head = ["x0", "sea", "x1", "x2", "hill", "x3", "x4", "x5", "town", "wood"]
        columns = dict(zip(["sea", "hill", "town", "wood"], Y.T.astype(int).tolist(), strict=True))
        columns |= {f"x{j}": X[:, j].tolist() for j in range(6)}
        rows = zip(*(columns[name] for name in head), strict=True)
        lines = [",".join(head), *(",".join(map(str, row)) for row in rows)]
        (folder / "table.csv").write_text("\n".join(lines) + "\n")
        bare = [",".join(line.split(",")[j] for j in (0, 2, 3, 5, 6, 7)) for line in lines]
        (folder / "bare.csv").write_text("\n".join(bare) + "\n")
    world.barrier()
    return folder


@mpi
def test_a_table_has_a_column_for_each_label(world, table):
    X, Y = problem()
    alone = distnewton.train(config_of(), None, train_data=(X, Y.astype(float)))
    data = {"train": "table.csv", "directory": str(table), "label_column": ["sea", "hill", "town", "wood"]}
    result = distnewton.train(config_of(data=data), world)
    np.testing.assert_allclose(objectives(result), objectives(alone), rtol=1e-11)
    result.model.save(table / "model.safetensors")
    path = table / "model.safetensors"
    outputs, _, _ = result.model.outputs(str(table / "table.csv"))
    for name in ("table.csv", "bare.csv"):
        done = call_together(world, "predict", path, table / name)
        assert done.returncode == 0, done.stderr
        names = np.array(["sea", "hill", "town", "wood"])
        assert done.stdout.split("\n")[:-1] == [",".join(names[row]) for row in outputs > 0]
    done = call_together(world, "evaluate", path, table / "table.csv")
    assert (done.returncode, "micro_f1" in done.stdout) == (0, True), done.stderr
    done = call_together(world, "evaluate", path, table / "bare.csv")
    assert done.returncode != 0
    assert "has no column sea" in done.stderr
    free(result, alone)


def test_a_column_of_labels_holds_0_and_1(tmp_path):
    (tmp_path / "table.csv").write_text("a,b,x,y\n0,1,0.5,1\n1,2,0.1,2\n")
    data = {"train": "table.csv", "directory": str(tmp_path), "label_column": ["a", "b"]}
    with pytest.raises(DataError, match=r"table\.csv:3: the column b of a label must hold 0 or 1, got 2"):
        distnewton.train(config_of(data=data))
    with pytest.raises(DataError, match="has no column c"):
        distnewton.train(config_of(data={**data, "label_column": ["a", "c"]}))


@pytest.mark.mpi(min_size=4, sizes=(4,))
def test_thousands_of_labels_are_cut_over_ranks(world):
    from scipy.sparse import random_array

    # the first partition has more outputs on a rank than a full Kronecker factor may have
    n_labels, rng = 4400, np.random.default_rng(0)
    Y = (random_array((150, n_labels), density=0.003, rng=rng) != 0).toarray()
    X = (Y @ rng.standard_normal((n_labels, 40))).round(3)
    method = {"direction": "block_diagonal", "subsample": 0.4, "sketch": 3}
    config = config_of(6, ("auto", 30, "auto"), method=method, partition={"splits": [1, 4, 1]})
    wide = config_of(6, ("auto", 30, "auto"), method=method, partition={"splits": [4, 1, 4]})
    for tree in (config, wide):
        result = distnewton.train(tree, world, train_data=(X, Y.astype(float)))
        found = objectives(result)
        assert found[-1] < 0.2 * found[0]
        blocks = [result.model.grid.partition.block(2, rank).shape for rank in range(4)]
        assert blocks == ([(8, 4400), (8, 4400), (7, 4400), (7, 4400)] if tree is config else [(30, 1100)] * 4)
        free(result)


def test_estimators_take_a_column_for_each_label():
    pytest.importorskip("sklearn")
    from scipy.sparse import csr_array
    from sklearn.linear_model import LogisticRegression
    from sklearn.multioutput import MultiOutputClassifier

    from distnewton.sklearn import NewtonClassifier

    X, Y = problem()
    exact = {"tol": 1e-9, "settings": {"method": {"cg_tolerance": 1e-6, "cg_max": 200}, "run": {"threads": 1}}}
    found = NewtonClassifier((), C=0.3, **exact).fit(X, Y.astype(int))
    ones = np.column_stack([X, np.ones(len(X))])
    plain = LogisticRegression(C=0.3, fit_intercept=False, tol=1e-12, max_iter=1000)
    oracle = MultiOutputClassifier(plain).fit(ones, Y.astype(int))
    assert found.classes_.tolist() == [0, 1, 2, 3]
    assert np.array_equal(found.predict(X), oracle.predict(ones))
    shares = np.column_stack([one[:, 1] for one in oracle.predict_proba(ones)])
    np.testing.assert_allclose(found.predict_proba(X), shares, atol=1e-6)
    again = NewtonClassifier((), C=0.3, **exact).fit(X, csr_array(Y.astype(int)))
    np.testing.assert_allclose(again.predict_proba(X), shares, atol=1e-6)
    assert 0.3 < found.score(X, Y) <= 1
    assert NewtonClassifier((), **exact).fit(X, Y[:, 0]).predict(X).shape == (70,)
    with pytest.raises(ValueError, match="with several columns, y must hold 0 and 1"):
        NewtonClassifier(()).fit(X, Y + np.arange(4))
    with pytest.raises(ValueError, match="class_weight is for samples with one label"):
        NewtonClassifier((), class_weight="balanced").fit(X, Y.astype(int))


def test_a_model_of_several_labels_is_no_liblinear_model():
    X, Y = problem()
    config = config_of(1, ("auto", "auto"), data={"scale": "none"})
    model = distnewton.train(config, train_data=(X, Y.astype(float))).model
    from distnewton.liblinear import to_liblinear

    with pytest.raises(DataError, match="any number of labels"):
        to_liblinear(model)
    onnx = pytest.importorskip("onnx")
    from distnewton.onnx import to_onnx

    graph = onnx.load(io.BytesIO(to_onnx(model).SerializeToString())).graph
    assert [output.name for output in graph.output] == ["outputs"]
