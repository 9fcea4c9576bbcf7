"""Cross validation: folds, each predicted by a model of the others, on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from resumed import blobs, settings

import distnewton
from distnewton.data.folds import draw_folds
from distnewton.errors import ConfigError
from distnewton.runs.cross_validation import cross_validate

mpi = pytest.mark.mpi(min_size=1)
METHOD = {"direction": "gauss_newton", "cg_tolerance": 0.0, "cg_max": 5}


@mpi
@pytest.mark.parametrize("sparse", [False, True])
def test_every_sample_is_predicted_by_a_model_that_has_not_seen_it(world, sparse):
    from scipy.sparse import csr_array

    X, y = blobs(50)
    if sparse:
        X[np.abs(X) < 2] = 0
        X = np.hstack([X, np.zeros((50, 25))])
    config = settings(METHOD, 4, data={} if sparse else {"scale": "standard"})
    told = []
    found = cross_validate(
        config, world, n_folds=3, train_data=distnewton.ArraySource(csr_array(X) if sparse else X, y),
        on_fold=lambda number, metrics: told.append((number, metrics)),
    )  # fmt: skip
    folds = draw_folds(y.astype(float), 3, 0, by_class=True)
    assert told == [(k, metrics) for k, metrics in enumerate(found.fold_metrics, 1)]
    right = 0
    for rows, metrics in zip(folds, found.fold_metrics, strict=True):
        rest = np.setdiff1d(np.arange(50), rows)
        # the same by hand: plain arrays, without subsets
        held = distnewton.ArraySource(csr_array(X[rows]) if sparse else X[rows], y[rows])
        train = distnewton.ArraySource(csr_array(X[rest]) if sparse else X[rest], y[rest])
        result = distnewton.train(config, None, train_data=train)
        outputs, _, _ = result.model.outputs(held)
        np.testing.assert_allclose(found.outputs[rows], outputs, rtol=1e-6, atol=1e-8)
        right += int(np.sum(np.array(result.model.predict(held), int) == y[rows]))
        assert metrics["accuracy"] == pytest.approx(np.mean(outputs.argmax(axis=1) == y[rows]))
    assert found.metrics["accuracy"] == pytest.approx(right / 50)
    assert np.mean(np.array(found.labels, int) == y) == pytest.approx(right / 50)


@mpi
def test_a_class_that_only_one_fold_has_is_never_predicted_there(world):
    X, y = blobs(30)
    y[7], y[9] = 5, -1
    found = cross_validate(settings(METHOD, 3), world, n_folds=3, train_data=distnewton.ArraySource(X, y))
    assert found.labels[7] != "5"
    assert found.labels[9] != "-1"
    assert np.isneginf(found.outputs[7]).sum() == 1
    assert found.task.classes.classes == (-1, 0, 1, 2, 5)


@mpi
def test_numbers_are_cross_validated_and_the_start_is_every_models(world):
    X, _ = blobs(40)
    y = X @ X[0]
    config = settings(METHOD, 6, network={"layers": ["auto", 5, "auto"], "loss": "squared"}, data={"scale": "standard"})
    source = distnewton.ArraySource(X, y)
    found = cross_validate(config, world, n_folds=4, train_data=source)
    assert 0 < found.metrics["rmse"] < np.std(y)
    rmse = np.sqrt(np.mean([metrics["rmse"] ** 2 for metrics in found.fold_metrics]))
    assert found.metrics["rmse"] == pytest.approx(rmse)
    model = distnewton.train(config, world, train_data=source).model
    started = cross_validate(
        settings(METHOD, 0, network={"layers": ["auto", 5, "auto"], "loss": "squared"}, data={"scale": "standard"}),
        world, n_folds=4, train_data=source, start=model,
    )  # fmt: skip
    outputs, _, _ = model.outputs(source)
    np.testing.assert_allclose(started.outputs, outputs, rtol=1e-9)
    model.grid.free()


@mpi
def test_folds_must_be_possible(world):
    with pytest.raises(ConfigError, match="needs 2 to 30 folds for 30 samples, got 31"):
        cross_validate(settings(METHOD, 3), world, n_folds=31, train_data=distnewton.ArraySource(*blobs(30)))
    with pytest.raises(ConfigError, match="cross validation needs data"):
        cross_validate(settings(METHOD, 3), world)
