"""Weights of classes: a class of weight 2 is one whose samples are there twice, in the objective and what follows."""

from __future__ import annotations

import numpy as np
import pytest
from resumed import blobs, facts, free, settings

import distnewton
from distnewton.config import to_toml
from distnewton.errors import ConfigError, DataError

mpi = pytest.mark.mpi(min_size=1)
METHOD = {"direction": "gauss_newton", "cg_tolerance": 0.0, "cg_max": 6, "subsample": 1.0}


def train(world, X, y, iterations=4, *, weights=None, **data):
    config = settings(METHOD, iterations, data=data)
    return distnewton.train(config, world, train_data=distnewton.ArraySource(X, y, sample_weight=weights))


@mpi
def test_a_class_of_weight_two_counts_as_if_it_were_there_twice(world):
    X, y = blobs(40)
    twice = np.concatenate([np.arange(40), np.flatnonzero(y == 1)])
    weighted = train(world, X, y, class_weights={"1": 2.0})
    doubled = train(world, X[twice], y[twice])
    np.testing.assert_allclose(
        [record.objective for record in weighted.history], [record.objective for record in doubled.history], rtol=1e-7
    )
    plain = train(world, X, y)
    assert plain.last.objective != pytest.approx(weighted.last.objective, rel=1e-4)
    # metrics count each sample once
    right = np.mean(np.array(weighted.model.predict(distnewton.ArraySource(X, y)), int) == y)
    assert weighted.last.train["accuracy"] == pytest.approx(right, abs=1e-12)
    free(weighted, doubled, plain)


@mpi
def test_weights_of_classes_and_of_samples_multiply(world):
    X, y = blobs(40)
    own = np.random.default_rng(3).uniform(0.5, 2.0, 40)
    together = train(world, X, y, weights=own, class_weights={"0": 3.0, "2": 0.5})
    by_hand = train(world, X, y, weights=own * np.array([3.0, 1.0, 0.5])[y])
    assert [facts(record) for record in together.history] == [facts(record) for record in by_hand.history]
    free(together, by_hand)


@mpi
def test_balanced_weights_go_along_with_a_validation_split(world):
    X, y = blobs(60)
    keep = np.flatnonzero((y != 0) | (np.arange(60) % 5 == 0))
    X, y = X[keep], y[keep]
    result = train(world, X, y, class_weights="balanced", validation_fraction=0.25)
    counts, labels = np.bincount(y), result.summary.train.labels.astype(int)
    assert abs(len(labels) - round(0.75 * len(y))) <= 1
    np.testing.assert_allclose(
        result.summary.train.weights, len(labels) / (3 * np.bincount(labels))[labels], rtol=1e-12
    )
    assert counts.min() < counts.max() / 2
    free(result)


@mpi
def test_rare_classes_are_found_with_balanced_weights(world):
    rng = np.random.default_rng(0)
    y = (rng.random(300) < 0.06).astype(int)
    X = rng.standard_normal((300, 7)) + 0.4 * y[:, None]
    found = []
    for how in ("none", "balanced"):
        result = train(world, X, y, 3, class_weights=how)
        predicted = np.array(result.model.predict(distnewton.ArraySource(X, y)), int)
        found.append(int(predicted[y == 1].sum()))
        free(result)
    assert found[1] > found[0] + 3


@mpi
def test_other_weights_are_no_way_to_go_on(world, folder):
    X, y = blobs(40)
    source = distnewton.ArraySource(X, y)
    one = settings(METHOD, 1, data={"class_weights": {"1": 2.0, "2": 1.0}})
    distnewton.train(one, world, train_data=source, checkpoints=folder)
    other = settings(METHOD, 2, data={"class_weights": "balanced"})
    with pytest.raises(DataError, match=r"data\.class weights: "):
        distnewton.train(other, world, train_data=source, checkpoints=folder, resume=True)


@mpi
def test_labels_that_there_are_not_are_refused(world):
    with pytest.raises(ConfigError, match=r"data\.class_weights: data has no label 9; its labels are 0, 1, 2"):
        train(world, *blobs(40), class_weights={"9": 2.0})


@pytest.mark.parametrize("text", ["balanced", '{"-1" = 2.0, "spam mail" = 0.5, 1 = 3}'])
def test_weights_are_written_and_read_again(text, tmp_path):
    config = distnewton.load_config(None, [f"data.class_weights={text}"])
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert distnewton.load_config(file) == config
    if text != "balanced":
        assert config.data.class_weights == {"-1": 2.0, "spam mail": 0.5, "1": 3.0}


@pytest.mark.parametrize("weights", ["equal", {"1": -1.0}, {"1": float("inf")}, [1.0]])
def test_what_is_no_weight_is_refused(weights):
    with pytest.raises(ConfigError, match=r"data\.class_weights"):
        distnewton.make_config({"data": {"class_weights": weights}})


def test_numbers_have_no_classes():
    with pytest.raises(ConfigError, match="is for classes, but the task is regression"):
        distnewton.make_config({"data": {"class_weights": "balanced"}, "network": {"loss": "squared"}})
