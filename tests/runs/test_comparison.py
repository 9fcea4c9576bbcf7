"""Comparisons: which runs they consist of, how these are judged, and that a diverging one is a result."""

from __future__ import annotations

import math

import numpy as np
import pytest

import distnewton
from distnewton.errors import ConfigError
from distnewton.method.records import IterationRecord
from distnewton.reporting.comparison_tables import Comparison
from distnewton.reporting.scale import Scale
from distnewton.runs.comparison import UNLIMITED, Entry, Trial, make_entries, run_entries, session_config
from distnewton.runs.session import Session

pytestmark = pytest.mark.mpi(min_size=1)

TREE = {"method": {"subsample": 0.3, "damping": 0.7, "C": "0.1 l"}, "network": {"layers": ["auto", 5, "auto"]}}


def blobs(n=120):
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=n)
    return 2 * rng.standard_normal((3, 6))[y] + rng.standard_normal((n, 6)), y


def test_each_direction_takes_the_options_meant_for_it():
    notes = []
    entries = make_entries(TREE, ["block_diagonal", "gauss_newton", "kfac", "sgn"], 5.0, None, notes)
    methods = {entry.name: entry.config.method for entry in entries}
    assert (methods["block_diagonal"].subsample, methods["block_diagonal"].damping) == (0.3, 0.7)
    assert (methods["gauss_newton"].subsample, methods["gauss_newton"].damping) == (0.3, 0.7)
    assert (methods["kfac"].damping, methods["sgn"].damping) == (0.01, 0.01)
    assert {method.C for method in methods.values()} == {"0.1 l"}
    assert {entry.config.run.seconds for entry in entries} == {5.0}
    assert {entry.config.run.iterations for entry in entries} == {UNLIMITED}
    assert "method.damping of the recipe is ignored: it was not meant for kfac" in notes


def test_first_order_baselines_get_three_learning_rates():
    entries = make_entries({}, ["adam", "sgd"], 1.0, 7, [])
    rates = [entry.config.method.learning_rate for entry in entries]
    assert rates == [3e-4, 1e-3, 3e-3, 0.03, 0.1, 0.3]
    assert [entry.name for entry in entries[:3]] == ["adam 0.0003", "adam 0.001", "adam 0.003"]
    assert [entry.folder for entry in entries[:2]] == ["adam-0.0003", "adam-0.001"]
    given = make_entries({"method": {"direction": "adam", "learning_rate": 0.01}}, ["adam"], 1.0, 7, [])
    assert [entry.config.method.learning_rate for entry in given] == [0.003, 0.01, 0.03]


def write(world, path, text):
    """Rank 0 writes a file that all ranks read."""
    if world.rank == 0:
        path.write_text(text)
    world.barrier()
    return str(path)


def test_a_recipe_brings_its_method_but_not_its_constant(world, folder):
    text = '[method]\nC = 3.0\ndirection = "dual"\nschedule = "kfac:2"\n[network]\nlayers = [1, 1]\n'
    path = write(world, folder / "fast.toml", text)
    notes = []
    (entry,) = make_entries(TREE, [path], 5.0, None, notes)
    assert (entry.name, entry.config.method.direction, entry.config.method.C) == ("fast", "dual", "0.1 l")
    assert [stage.direction for stage in entry.config.method.schedule] == ["kfac"]
    assert entry.config.network.layers == ["auto", 5, "auto"]
    assert "method.C is that of the comparison" in notes[0]


def test_a_falling_rate_keeps_its_iterations(world, folder):
    path = write(world, folder / "falling.toml", '[method]\ndirection = "kfac"\nrate_decay = "linear"\n')
    (entry,) = make_entries({"run": {"iterations": 9}}, [path], 5.0, None, [])
    assert entry.config.run.iterations == 9


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "name the directions to compare"),
        (["adam", "adam"], "named twice: adam"),
        (["adams"], "unknown direction 'adams': known are block_diagonal"),
    ],
)
def test_refusals(methods, message):
    with pytest.raises(ConfigError, match=message):
        make_entries({}, methods, 1.0, None, [])


def trial(method, points, rate=1e-3):
    """A run with (seconds, accuracy) of each iteration."""
    config = distnewton.make_config({"method": {"direction": "adam", "learning_rate": rate}})
    history = [
        IterationRecord(k, t, 1.0 - a, 0.0, training_seconds=t, test={"accuracy": a}, wait_seconds=[0.0])
        for k, (t, a) in enumerate(points)
    ]
    return Trial(Entry(method, f"{method} {rate:g}", config), history)


@pytest.fixture
def comparison(world):
    X, y = blobs()
    source = distnewton.ArraySource(X, y)
    config = distnewton.make_config(TREE)
    session = Session(config, world, given={"train": source, "test": source})
    yield Comparison(session.summary(config), 5.0)
    session.free()


def test_runs_are_judged_by_the_time_to_the_hardest_level(comparison):
    slow_but_good = trial("adam", [(0, 0.1), (1, 0.96), (3, 0.985), (4, 0.97)], 0.1)
    quick = trial("adam", [(0, 0.1), (0.5, 0.962), (3, 0.975)], 0.2)
    other = trial("kfac", [(0, 0.1), (2, 0.951), (4, 0.981)])
    comparison.trials += [quick, slow_but_good, other]
    assert comparison.levels == [0.97, 0.98, 0.985]
    assert comparison.best_trials() == [slow_but_good, other]
    assert comparison.columns()[:4] == ["method", "s to 0.97", "s to 0.98", "s to 0.985"]
    rows = comparison.rows()
    assert rows[0][:6] == ["adam 0.1", "3.00", "3.00", "3.00", "0.9850", "0.9700"]
    assert rows[1][:6] == ["kfac 0.001", "4.00", "4.00", "never", "0.9810", "0.9810"]
    remarks = comparison.remarks()
    assert "test accuracy 0.98: adam 0.1 first, 3.00 s; kfac 0.001 1.33 times as long" in remarks
    assert "test accuracy 0.985: adam 0.1 first, 3.00 s; kfac 0.001 never" in remarks
    assert "adam: best of 2 learning rates (0.2: 0.9750, 0.1: 0.9850); all of them took 7 s" in remarks
    page = comparison.markdown()
    assert all(cell in page for row in rows for cell in row)
    assert all(remark in page for remark in remarks)


def test_a_smaller_error_is_better():
    scale = Scale("rmse", "train")
    errors = (math.nan, 4, 2, 3)
    run = [IterationRecord(k, 0, 0, 0, training_seconds=k, train={"rmse": e}) for k, e in enumerate(errors)]
    assert scale.best(run) == 2
    assert (scale.seconds_to(run, 3.5), scale.seconds_to(run, 1.5)) == (2, math.inf)
    assert [scale.error(record) for record in run] == [None, 4, 2, 3]
    assert Scale.of_records("rmse", run) == scale
    assert Scale.of_records("rmse", run[:1]).which == ""
    assert math.isnan(scale.best(run[:1]))


def test_an_accuracy_becomes_an_error():
    record = IterationRecord(0, 0, 0, 0, train={"accuracy": 0.75}, test={"accuracy": 0.5})
    assert Scale.of_records("accuracy", [record]) == Scale("accuracy", "test")
    assert (Scale("accuracy", "train").error(record), Scale("accuracy", "validation").error(record)) == (0.25, None)


def test_runs_share_data_and_start_and_a_diverging_one_is_a_result(world):
    X, y = blobs()
    source = distnewton.ArraySource(X, y)
    tree = {**TREE, "run": {"threads": 1, "dtype": "float64", "deterministic": True, "iterations": 3}}
    entries = make_entries(tree, ["gauss_newton", "sgd"], 60.0, 3, [])
    wild = entries[-1].config.method.model_copy(update={"learning_rate": 1e200})
    entries[-1] = Entry("sgd", "sgd wild", entries[-1].config.model_copy(update={"method": wild}))
    session = Session(entries[0].config, world, given={"train": source})
    told = []
    with np.errstate(all="ignore"):
        trials = list(run_entries(session, entries, {"gauss_newton": [_Listener(told)]}))
    assert len({trial.history[0].objective for trial in trials}) == 1
    assert [len(trial.history) for trial in trials[:-1]] == [4, 4, 4]
    assert told == [0, 1, 2, 3]
    assert "lower method.learning_rate" in trials[-1].failure
    alone = distnewton.train(entries[0].config, None, train_data=source)
    np.testing.assert_allclose(
        [record.objective for record in trials[0].history], [r.objective for r in alone.history], rtol=1e-8
    )
    comparison = Comparison(session.summary(entries[0].config), 60.0)
    comparison.trials += trials
    assert any("sgd wild: ended early: training diverged" in remark for remark in comparison.remarks())
    session.free()


class _Listener:
    def __init__(self, told):
        self._told = told

    def start(self, summary):
        assert summary.config.method.direction == "gauss_newton"

    def iteration(self, record):
        self._told.append(record.iteration)


def test_a_session_refuses_another_problem(world):
    config = distnewton.make_config(TREE)
    session = Session(config, world, given={"train": distnewton.ArraySource(*blobs())})
    for change in ({"network": {"layers": ["auto", 4, "auto"]}}, {"method": {"C": 1.0}}, {"run": {"seed": 3}}):
        with pytest.raises(ConfigError, match="runs of a session may differ only in"):
            session.train(distnewton.make_config(TREE | change))
    session.free()


def test_auto_is_compared_on_what_it_chooses(world):
    """All runs have the data and the network of auto, and each minimises its own objective."""
    rng = np.random.default_rng(0)
    X = 3 * rng.standard_normal((120, 4)) + 5
    source = distnewton.ArraySource(X, np.sin(X[:, 0]) + 0.1 * X[:, 1])
    tree = {"network": {"layers": ["auto", 5, "auto"], "loss": "squared"}, "run": {"dtype": "float64"}}
    entries = make_entries(tree, ["gauss_newton", "auto", "kfac"], 1e9, 2, [])
    assert [entry.config.method.direction for entry in entries] == ["gauss_newton", "auto", "kfac"]
    session = Session(session_config(entries), world, given={"train": source, "test": source})
    newton, auto, kfac = run_entries(session, entries, {})
    settled = [session.setup.settle(entry.config) for entry in entries]
    assert not any(trial.failure for trial in (newton, auto, kfac))
    for config in settled:
        assert (config.data, config.network) == (session.setup.config.data, session.setup.config.network)
    assert (settled[0].data.scale, settled[0].data.validation_fraction) == ("standard", 0.2)
    # exact in its last stage, of 96 samples: without regularisation
    assert [config.method.C for config in settled] == ["l", math.inf, "l"]
    assert [stage.direction for stage in settled[1].method.schedule] == ["kfac"]
    start, loss = newton.history[0].objective, newton.history[0].loss
    assert start == kfac.history[0].objective > loss
    session.free()


def test_training_ends_with_its_seconds(world):
    config = distnewton.make_config(TREE | {"run": {"iterations": 1000, "seconds": 1e-9}})
    result = distnewton.train(config, world, train_data=distnewton.ArraySource(*blobs()))
    assert len(result.history) == 2
    assert 0 < result.last.training_seconds <= result.last.elapsed_seconds
    same = result.last.training_seconds == world.broadcast_json(result.last.training_seconds)
    assert not world.any(not same)
    result.model.grid.free()
