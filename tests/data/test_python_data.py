"""What Python programs have data in: arrays, frames, sparse arrays, with labels of any kind, or without."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from scipy import sparse

from distnewton import ArraySource, cross_validate, make_config, train
from distnewton.data.in_memory import as_source
from distnewton.errors import ConfigError, DataError

mpi = pytest.mark.mpi(min_size=1, sizes=(1, 3))
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 3))
SIDE = X[:, 0] > 0
CONFIG = make_config({
    "network": {"layers": ["auto", 4, "auto"]}, "run": {"iterations": 5}, "method": {"direction": "block_diagonal"},
})  # fmt: skip
KINDS = {
    "numbers": SIDE.astype(int), "texts": np.where(SIDE, "right", "left"), "booleans": SIDE,
    "objects": np.where(SIDE, "right", "left").astype(object), "fractions": np.where(SIDE, 0.5, 1.5),
}  # fmt: skip


@mpi
@pytest.mark.parametrize("kind", KINDS)
def test_labels_come_back_as_they_were(world, kind):
    y = KINDS[kind]
    result = train(CONFIG, world, train_data=(X, y), test_data=(X, y))
    found = result.model.predict(X)
    good = found.shape == (80,) and np.mean(found == y) > 0.9
    good = good and result.model.predict(ArraySource(X)) == [str(label) for label in found.tolist()]
    good = good and result.model.evaluate((X, y))["accuracy"] > 0.9
    assert not world.any(not good)


def test_short_ways_to_train():
    result = train(CONFIG, (X, SIDE))
    assert np.mean(result.model.predict(sparse.csr_array(X)) == SIDE) > 0.9
    assert cross_validate(CONFIG, n_folds=2, train_data=(X, SIDE)).metrics["accuracy"] > 0.8
    text = repr(result)
    assert text == str(result)
    assert "3-4-2" in text
    assert len(text) < 400
    squared = make_config({"network": {"layers": ["auto", "auto"], "loss": "squared"}, "run": {"iterations": 5}})
    numbers = train(squared, (X, X[:, 0]))
    assert numbers.model.predict(X).dtype == np.float64
    assert numbers.model.predict(X).shape == (80,)
    with pytest.raises(ConfigError, match="given twice"):
        train(CONFIG, (X, SIDE), train_data=(X, SIDE))
    with pytest.raises(DataError, match="has no labels to train on"):
        train(CONFIG, train_data=X)
    with pytest.raises(DataError, match="no labels to compare with"):
        result.model.evaluate(X)


def test_data_behind_the_configuration_may_be_of_any_form(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("side,a,b\n" + "".join(f"{'rl'[int(x < 0)]},{x},{i}\n" for i, x in enumerate(X[:, 0])))
    config = make_config({**CONFIG.model_dump(include={"method"}), "data": {"label_column": "side"}})
    for data in (path, str(path)):
        assert train(config, data).model.names.label == "side"
        assert train(config, train_data=data, test_data=data).last.test["accuracy"] > 0.5
    assert train(CONFIG, ArraySource(X, SIDE)).last.train["accuracy"] > 0.5
    with pytest.raises(DataError, match="no labels to train on"):
        train(CONFIG, X)
    for call in (lambda: train(CONFIG, 5), lambda: train(CONFIG, (X, SIDE)).model.predict(None)):
        with pytest.raises(DataError, match=r"expected an array or a table, got a (int|NoneType)"):
            call()
    with pytest.raises(ConfigError, match=r"expected a Config, got a dict; make_config\(tables\)"):
        train({"run": {"iterations": 1}}, (X, SIDE))


def test_frames_go_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    model = train(CONFIG, (frame, pandas.Series(KINDS["texts"], name="side"))).model
    expected = model.predict(frame)
    other = frame[["c", "a", "b"]].assign(more="text")
    np.testing.assert_array_equal(model.predict(other), expected)
    nullable = frame.astype("Float64").assign(a=lambda t: t["a"].astype(object))
    np.testing.assert_array_equal(model.predict(nullable), expected)
    with pytest.raises(DataError, match="no column 'c'"):
        model.predict(frame[["a", "b"]])
    with pytest.raises(DataError, match=r"column 'b' must hold real numbers.*dtype=float"):
        ArraySource(frame.assign(b="text"), SIDE)


TIME = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(("label", "message"), [
    (None, "sample 3: label is missing"), (float("nan"), "sample 3: label is missing"), ("", "label is missing"),
    (np.datetime64("NaT"), "label is missing"), (TIME, "label is a datetime"), (1j, "label is a complex"),
])  # fmt: skip
def test_labels_that_are_none(label, message):
    y = KINDS["objects"].copy()
    y[3] = label
    with pytest.raises(DataError, match=message):
        ArraySource(X, y)


@pytest.mark.parametrize(("y", "message"), [
    (np.ma.masked_equal(SIDE.astype(int), 1), "label is missing"),
    (np.full(80, 1 + 2j), "labels are complex numbers"),
    (np.full(80, np.datetime64("2026-01-01")), "labels are times"),
])  # fmt: skip
def test_arrays_of_labels_that_are_none(y, message):
    with pytest.raises(DataError, match=message):
        ArraySource(X, y)


def test_long_numbers_stay_apart():
    y = np.where(SIDE, 2**53 + 1, 2**53)
    model = train(CONFIG, (X, y)).model
    assert model.architecture.task.n_out == 2
    assert set(model.predict(X).tolist()) == {2**53, 2**53 + 1}
    assert set(model.predict(ArraySource(X))) == {str(2**53), str(2**53 + 1)}


@pytest.mark.parametrize("X", [([[1.0, 2.0], [3.0, 4.0]], ["x", "y"], [1.0, 1.0]), [[1.0, 2.0], [3.0]]])
def test_what_is_no_array_is_refused_with_what_to_give(X):
    with pytest.raises(DataError, match=r"X cannot become an array .*; give \(X, y\), or ArraySource"):
        as_source(X)


@pytest.mark.parametrize("labels", [[["x"], ["y"], ["x"]], [[1], [0], [1]]])
def test_a_column_of_labels_is_one_label_a_sample_as_in_files(labels):
    found = ArraySource(np.eye(3), np.array(labels)).describe().labels
    assert found.tolist() == [label for (label,) in labels]
