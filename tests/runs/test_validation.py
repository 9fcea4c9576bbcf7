"""Validation: the best model is kept, training ends without a better one, and all of it goes on from a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
from resumed import StopAfter, facts, free, settings

import distnewton
from distnewton.data.folds import split_off
from distnewton.errors import ConfigError, DataError, DistNewtonError
from distnewton.method.best_model import BestModel
from distnewton.method.records import IterationRecord
from distnewton.models.metrics import task_metrics
from distnewton.parallel.collectives import Communicator

mpi = pytest.mark.mpi(min_size=1)
EXACT = {"direction": "gauss_newton", "damping": 0.01, "subsample": 1.0, "cg_max": 6}


def noisy(n=120, n_features=7, seed=0):
    """Samples of which many labels are wrong: a network soon learns them by heart."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_features))
    y = (X[:, 0] + X[:, 1] > 0).astype(int) + (X[:, 2] > 0.5)
    return X, np.where(rng.random(n) < 0.3, rng.integers(3, size=n), y)


def source(rows, n=120, **more):
    X, y = noisy(n)
    return distnewton.ArraySource(X[rows], y[rows], **more)


def write_libsvm(path, X, y):
    pairs = [" ".join(f"{j}:{value:.9g}" for j, value in enumerate(row, 1)) for row in X]
    path.write_text("".join(f"{label} {text}\n" for label, text in zip(y, pairs, strict=True)))


def agree(world, condition):
    assert not world.any(not condition)


def whole_params(result):
    weights = result.model.weights()
    return None if weights is None else np.concatenate([value.ravel() for value in weights.values()])


@mpi
@pytest.mark.parametrize("direction", ["gauss_newton", "kfac"])
def test_the_model_is_that_of_the_last_best_iteration(world, direction):
    method = EXACT if direction == "gauss_newton" else {"direction": direction, "batch": 16}
    config = settings(method, iterations=12)
    held = source(slice(80, 120))
    result = distnewton.train(config, world, train_data=source(slice(80)), validation_data=held, test_data=held)
    values = [record.validation["accuracy"] for record in result.history]
    assert result.best.iteration == max(np.flatnonzero(np.array(values) == max(values)))
    assert (result.best.metric, result.best.value) == ("accuracy", max(values))
    # an independent way to the same number: by the labels that the model predicts
    _, y = noisy()
    predicted = np.array(result.model.predict(held), dtype=int)
    assert np.mean(predicted == y[80:]) == pytest.approx(result.best.value, abs=1e-12)
    trained = result.model.evaluate(source(slice(80)))["accuracy"]
    assert trained == pytest.approx(result.best.metrics["train"]["accuracy"], abs=1e-12)
    # what is kept for the picture is of that model, too
    summary = result.predictions
    assert summary["set"] == "test"
    assert sum(summary["n_right"]) == round(result.best.value * 40)
    assert [record.test for record in result.history] == [record.validation for record in result.history]
    agree(world, vars(result.best) == world.broadcast_json(vars(result.best)))
    free(result)


@mpi
def test_a_fraction_is_trained_as_if_the_rest_were_given(world):
    X, y = noisy()
    rows, aside = split_off(y.astype(float), 0.25, 0, by_class=True)
    config = settings(EXACT, iterations=4, data={"validation_fraction": 0.25, "scale": "standard"})
    split = distnewton.train(config, world, train_data=distnewton.ArraySource(X, y))
    given = distnewton.train(
        settings(EXACT, iterations=4, data={"scale": "standard"}),
        world,
        train_data=source(rows),
        validation_data=source(aside),
    )
    assert [facts(record) for record in split.history] == [facts(record) for record in given.history]
    assert split.summary.train.n_samples == 90
    assert split.summary.validation.n_samples == 30
    free(split, given)


@mpi
def test_the_split_is_the_same_on_every_grid(world):
    X, y = noisy()
    data = distnewton.ArraySource(X, y)
    config = settings(EXACT | {"cg_tolerance": 0.0}, iterations=4, data={"validation_fraction": 0.3})
    alone, together = distnewton.train(config, None, train_data=data), distnewton.train(config, world, train_data=data)
    np.testing.assert_allclose(
        [record.objective for record in together.history], [record.objective for record in alone.history], rtol=1e-8
    )
    assert [r.validation for r in together.history] == [r.validation for r in alone.history]
    other = distnewton.train(
        settings(EXACT, iterations=0, data={"validation_fraction": 0.3}, run={"seed": 1}), world, train_data=data
    )
    assert not np.array_equal(other.summary.validation.labels, alone.summary.validation.labels)
    free(alone, together, other)


@mpi
def test_sparse_features_are_split_like_dense_ones(world):
    from scipy.sparse import csr_array

    X, y = noisy()
    X[np.abs(X) < 1.8] = 0
    wide = np.hstack([X, np.zeros((len(X), 30))])
    wide[:10, -30:] = 0.1  # sparse features that no training sample has get no weights
    config = settings(EXACT, iterations=3, data={"validation_fraction": 0.25})
    data = [distnewton.ArraySource(kind(wide), y) for kind in (np.array, csr_array)]
    runs = [distnewton.train(config, world, train_data=source) for source in data]
    assert [run.model.architecture.dense for run in runs] == [True, False]
    np.testing.assert_allclose(*([record.objective for record in run.history] for run in runs), rtol=1e-9)
    assert [r.validation for r in runs[0].history] == [r.validation for r in runs[1].history]
    free(*runs)


@mpi
def test_training_ends_without_a_better_metric(world):
    config = settings(EXACT, iterations=60, run={"patience": 3})
    result = distnewton.train(config, world, train_data=source(slice(80)), validation_data=source(slice(80, 120)))
    assert result.last.iteration == result.best.iteration + 3 < 60
    best = result.best.iteration
    assert result.ended == f"validation accuracy was not better than that of iteration {best} for 3 iterations"
    assert not result.stopped
    values = [record.validation["accuracy"] for record in result.history]
    # the first time that it stood still so long
    for k in range(3, result.last.iteration):
        assert max(values[k - 2 : k + 1]) > max(values[: k - 2])
    free(result)


@mpi
@pytest.mark.parametrize(("direction", "n_before"), [("block_diagonal", 6), ("adam", 4)])
def test_a_run_with_patience_goes_on_bit_for_bit(world, folder, direction, n_before):
    more = {"batch": 40, "learning_rate": 0.05} if direction == "adam" else {"damping": 0.01, "cg_max": 6}
    method = {"direction": direction} | more
    data = {"validation_fraction": 0.3}
    config = settings(method, iterations=30, run={"patience": 3}, data=data)
    X, y = noisy()
    everything = {"train_data": distnewton.ArraySource(X, y)}
    straight = distnewton.train(config, world, **everything)
    first = distnewton.train(config, world, **everything, clock=StopAfter(n_before, world), checkpoints=folder)
    second = distnewton.train(config, world, **everything, checkpoints=folder, resume=True)
    assert facts(second.last) == facts(straight.last)
    assert (second.best, second.ended, second.predictions) == (straight.best, straight.ended, straight.predictions)
    agree(world, np.array_equal(second.model.params, straight.model.params))
    again = distnewton.train(config, world, **everything, checkpoints=folder, resume=True)
    assert (len(again.history), again.ended, again.best) == (1, straight.ended, straight.best)
    agree(world, np.array_equal(again.model.params, straight.model.params))
    assert again.predictions == straight.predictions
    patient = settings(method, iterations=30, run={"patience": 5}, data=data)
    longer = distnewton.train(patient, world, **everything, checkpoints=folder, resume=True)
    assert longer.last.iteration > straight.last.iteration
    free(straight, first, second, again, longer)


@mpi
@pytest.mark.parametrize("n_before", [4, 9])
def test_a_stage_without_a_better_metric_hands_over_at_its_best(world, folder, n_before):
    stage = {**EXACT, "iterations": 30, "C": 0.5}
    config = settings({**EXACT, "schedule": [stage]}, iterations=60, run={"patience": 3})
    data = {"train_data": source(slice(80)), "validation_data": source(slice(80, 120))}
    whole = distnewton.train(config, world, **data)
    begins = next(record.iteration for record in whole.history if "stage 2 begins" in record.note)
    before = [record.validation["accuracy"] for record in whole.history[:begins]]
    best = int(np.argmax(before))
    assert begins == best + 4 < 30
    assert f"stage 2 begins at the point of iteration {best}" in whole.history[begins].note
    assert whole.last.iteration == max(whole.best.iteration, begins - 1) + 3
    # the stage begins where a run of that many iterations ended, with the C of the run
    first = settings({**EXACT, "C": 0.5}, iterations=best)
    model = distnewton.train(first, world, train_data=source(slice(80))).model
    second = settings(EXACT, iterations=1)
    after = distnewton.train(second, world, train_data=source(slice(80)), start=model)
    assert after.last.objective == pytest.approx(whole.history[begins].objective, rel=1e-9)
    part = distnewton.train(config, world, **data, clock=StopAfter(n_before, world), checkpoints=folder)
    rest = distnewton.train(config, world, **data, checkpoints=folder, resume=True)
    assert facts(rest.last) == facts(whole.last)
    assert rest.best == whole.best
    free(whole, after, part, rest)


def test_a_later_stage_takes_the_place_of_an_earlier_one_by_more_than_chance():
    best = BestModel(Communicator(), "regression", 0)
    values = [(3, 1.0, -1), (4, 0.999, -1), (9, 0.995, 6), (10, 0.98, 6), (11, 0.979, 6)]
    chosen = []
    for iteration, rmse, first in values:
        best.follow(IterationRecord(iteration, 0.0, 0.0, 0.0, validation={"rmse": rmse}), np.zeros(1), first)
        chosen.append(best.best.iteration)
    assert chosen == [3, 4, 4, 10, 11]


def test_of_equal_models_the_last_is_kept_and_patience_counts_from_the_first():
    best = BestModel(Communicator(), "classification", 3)
    chosen, ends = [], []
    for iteration, accuracy in enumerate([0.5, 0.9, 0.9, 0.8, 0.9]):
        record = IterationRecord(iteration, 0.0, 0.0, 0.0, validation={"accuracy": accuracy})
        best.follow(record, np.full(1, float(iteration)))
        chosen.append(best.point)
        ends.append(best.gives_up(iteration, -1))
        again = BestModel(Communicator(), "classification", 3)
        again.restore(best.state())
        assert (again.best, again.gives_up(iteration, -1)) == (best.best, ends[-1])
    assert chosen == [(0, 0.0), (1, 1.0), (2, 2.0), (2, 2.0), (4, 4.0)]
    assert ends[:4] == [""] * 4
    assert "not better than that of iteration 1 for 3 iterations" in ends[4]
    # an equal one of a later stage is no gain
    best.follow(IterationRecord(6, 0.0, 0.0, 0.0, validation={"accuracy": 0.9}), np.zeros(1), 5)
    assert best.best.iteration == 4


@mpi
def test_the_best_model_is_read_by_other_splits(world, folder):
    data = {"train_data": source(slice(80)), "validation_data": source(slice(80, 120))}
    n, results = world.size, []
    for i, splits in enumerate(([1, n, 1, n], [n, 1, n, 1])):
        config = settings(EXACT, iterations=12, partition={"splits": splits})
        results.append(distnewton.train(config, world, **data, checkpoints=folder, resume=bool(i)))
    first, second = results
    assert len(second.history) == 1
    assert first.best.iteration < 12
    assert second.best == first.best
    wholes = [whole_params(result) for result in results]
    agree(world, wholes[0] is None or np.array_equal(*wholes))
    free(*results)


@mpi
def test_other_validation_data_are_no_way_to_go_on(world, folder):
    config = settings(EXACT, iterations=2)
    held = source(slice(80, 120))
    distnewton.train(config, world, train_data=source(slice(80)), validation_data=held, checkpoints=folder)
    with pytest.raises(DataError, match="validation samples: 40 in the checkpoint, None now"):
        distnewton.train(config, world, train_data=source(slice(80)), checkpoints=folder, resume=True)


@mpi
def test_errors_of_regression_are_the_better_the_lower(world):
    X, _ = noisy(60)
    y = X @ X[0] + np.random.default_rng(1).standard_normal(60)
    network = {"layers": ["auto", 20, "auto"], "loss": "squared"}
    config = settings(EXACT, iterations=25, network=network, data={"validation_fraction": 0.4})
    result = distnewton.train(config, world, train_data=distnewton.ArraySource(X, y))
    values = [record.validation["rmse"] for record in result.history]
    assert result.best.metric == "rmse"
    assert result.best.iteration == int(np.argmin(values)) < 25
    free(result)


REFUSED = [
    ({"run": {"patience": 3}}, None, ConfigError, "run.patience waits for a better validation metric"),
    ({"data": {"validation_fraction": 0.001}}, None, ConfigError, "of 120 samples puts 0 aside"),
    ({"data": {"validation_fraction": 0.5}}, slice(9), ConfigError, "both give validation data: use one"),
    ({"data": {"validation_fraction": 0.5, "n_train": 61}}, None, ConfigError, "n_train = 61, but data has 60 samples"),
]


@mpi
@pytest.mark.parametrize(("tables", "held", "kind", "message"), REFUSED, ids=[r[-1] for r in REFUSED])
def test_what_does_not_go_together_is_refused(world, tables, held, kind, message):
    try:
        distnewton.train(
            settings(EXACT, **tables), world, train_data=source(slice(120)), validation_data=held and source(held)
        )
        found = None
    except DistNewtonError as error:
        found = error
    agree(world, type(found) is kind and message in str(found))


@mpi
def test_an_auc_needs_both_classes(world):
    X, y = noisy()
    config = settings(EXACT, network={"layers": ["auto", 4, "auto"], "loss": "logistic"})
    held = distnewton.ArraySource(X[:5], np.ones(5), name="held")
    try:
        distnewton.train(config, world, train_data=distnewton.ArraySource(X, y > 0), validation_data=held)
        found = None
    except DataError as error:
        found = error
    agree(world, "held has only one class" in str(found))


@mpi
def test_training_ends_at_a_small_gradient(world, folder):
    data = {"train_data": source(slice(80))}
    tolerant = settings(EXACT | {"damping": 1.0}, iterations=40, run={"tolerance": 0.2})
    result = distnewton.train(tolerant, world, **data)
    norms = [record.gradient_norm for record in result.history[1:]]
    assert norms[-1] <= 0.2 * norms[0] < min(norms[:-1])
    assert 3 < result.last.iteration < 40
    assert "the gradient's norm fell to 0." in result.ended
    first = distnewton.train(tolerant, world, **data, checkpoints=folder, clock=StopAfter(2, world))
    second = distnewton.train(tolerant, world, **data, checkpoints=folder, resume=True)
    assert facts(second.last) == facts(result.last)
    again = distnewton.train(tolerant, world, **data, checkpoints=folder, resume=True)
    assert (len(again.history), again.ended) == (1, result.ended)
    free(result, first, second, again)


def test_a_tolerance_needs_the_gradient_of_all_samples():
    with pytest.raises(ConfigError, match=r"run\.tolerance is for directions that use .* all samples, not kfac"):
        settings({"direction": "kfac"}, run={"tolerance": 0.1})
    with pytest.raises(ConfigError, match="not kfac"):
        settings({"direction": "gauss_newton", "schedule": "kfac:2"}, run={"tolerance": 0.1})
    with pytest.raises(ConfigError, match="both name validation data"):
        settings(EXACT, data={"validation": "a", "validation_fraction": 0.1})


def test_metrics_of_a_validation_file(tmp_path):
    X, y = noisy()
    for name, rows in (("train", slice(80)), ("valid", slice(80, 120))):
        write_libsvm(tmp_path / name, X[rows], y[rows])
    config = settings(EXACT, data={"train": "train", "validation": "valid", "directory": str(tmp_path)}, iterations=3)
    result = distnewton.train(config)
    outputs, _, _ = result.model.outputs(source(slice(80, 120)))
    assert result.best.value == pytest.approx(task_metrics("classification", outputs, y[80:])["accuracy"])
    assert result.summary.validation.n_samples == 40


def test_a_plan_counts_what_is_put_aside(tmp_path):
    from distnewton.runs.data_size import describe_data

    X, y = noisy()
    write_libsvm(tmp_path / "train", X, y)
    write_libsvm(tmp_path / "held", X[:10], y[:10])
    data = {"train": "train", "test": "held", "directory": str(tmp_path)}
    split = settings(EXACT, 1, data=data | {"validation_fraction": 0.25})
    given = settings(EXACT, 1, data=data | {"validation": "held"})
    assert describe_data(split)[:4] == (90, 7, 3, 40)
    assert describe_data(given)[:4] == (120, 7, 3, 20)
    result = distnewton.train(split)
    assert (result.summary.train.n_samples, result.summary.validation.n_samples) == (90, 30)
