"""What a user gets who chooses nothing: the method, scaling, validation and activation that suit the data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from launched import call

import distnewton
from distnewton.config import make_config
from distnewton.errors import ConfigError
from distnewton.runs.automatic import TrainingFacts, rarity_of_classes, settle

QUICK = {"run": {"iterations": 3, "threads": 1}}


def clusters(n=400, n_features=6, seed=0):
    """Three classes whose features have very different units."""
    generator = np.random.default_rng(seed)
    y = generator.integers(3, size=n)
    centres = 3 * np.random.default_rng(9).standard_normal((3, n_features))
    return (centres[y] + generator.standard_normal((n, n_features))) * 10.0 ** np.arange(n_features), y


def settled(n_samples=5000, *, validated=False, **tables):
    return settle(make_config(tables), TrainingFacts(n_samples, validated))


def test_batches_of_kfac_with_validation_where_nothing_is_named():
    config = settled()
    assert (config.method.direction, config.method.batch) == ("kfac", 256)
    assert (config.data.validation_fraction, config.run.patience, config.network.activation) == (0.1, 15, "relu")


def test_more_damping_follows_where_validation_says_when():
    method = settled().method
    (first,) = method.schedule
    assert (first.direction, first.batch, first.damping) == ("kfac", method.batch, 0.01)
    assert (method.damping, method.learning_rate) == (0.1, first.learning_rate)
    kfac = "kfac, batches of 256, rate 0.1, damping"
    assert method.title == f"{kfac} 0.01, while it gains; then {kfac} 0.1"
    assert method.schedule[0].iterations == "unlimited"
    assert not settled(999).method.schedule
    assert not settled(run={"patience": 0}).method.schedule
    assert settled().run.iterations == 100


def test_more_damping_begins_at_the_best_point():
    X, y = clusters(1200)
    config = make_config({"run": {"threads": 1, "patience": 2, "iterations": 40}})
    history = distnewton.train(config, train_data=(X, y)).history
    damping = [record.damping for record in history[1:]]
    n = damping.index(0.1)
    assert damping == [0.01] * n + [0.1] * (len(damping) - n)
    assert "validation accuracy was not better" in history[n + 1].note
    # of equal ones the latest counts as the best
    accuracies = [record.validation["accuracy"] for record in history[: n + 1]]
    best = max(i for i, accuracy in enumerate(accuracies) if accuracy == max(accuracies))
    assert f"stage 2 begins at the point of iteration {best}" in history[n + 1].note


@pytest.mark.parametrize(("n_samples", "batch"), [(100, 32), (600, 64), (1500, 128), (2048, 256), (10**6, 256)])
def test_a_pass_has_several_batches(n_samples, batch):
    assert settled(n_samples).method.batch == batch
    assert settled(10**7, data={"n_train": n_samples}).method.batch == batch


@pytest.mark.parametrize(
    ("n_samples", "loss", "share"),
    [(999, "cross_entropy", 0), (1000, "cross_entropy", 0.1), (99, "squared", 0), (100, "squared", 0.2),
     (1000, "squared", 0.1)],
)  # fmt: skip
def test_validation_where_its_metric_says_enough(n_samples, loss, share):
    config = settled(n_samples, network={"loss": loss})
    assert config.data.validation_fraction == share
    assert config.run.patience == (15 if share else 0)


def test_validation_data_is_not_split_off_a_second_time():
    config = settled(validated=True)
    assert (config.data.validation_fraction, config.run.patience) == (0, 15)


def test_numbers_have_a_smooth_network():
    assert settled(network={"loss": "squared"}).network.activation == "tanh"


def test_few_samples_of_numbers_end_with_an_exact_stage():
    method = settled(2000, network={"loss": "squared"}).method
    (first,) = method.schedule
    assert (first.direction, first.C, first.iterations) == ("kfac", "l", 100)
    assert (method.direction, method.subsample, method.C) == ("dual", 1.0, math.inf)
    assert (method.acceleration, method.combine, method.line_search_max) == (0.75, "none", 1)
    method = settled(2000, network={"loss": "squared"}, method={"C": 3.0}).method
    assert (method.direction, method.C, method.schedule[0].C) == ("dual", 3.0, "auto")
    assert settled(2001, network={"loss": "squared"}).method.direction == "kfac"
    # nothing would tell where noise is learnt by heart
    assert settled(99, network={"loss": "squared"}).method.direction == "kfac"
    assert settled(2000).method.direction == "kfac"


@pytest.mark.parametrize(
    ("run", "loss", "n_iterations"),
    [({}, "cross_entropy", 20), ({}, "squared", 400), ({"seconds": 5.0}, "squared", 10**9),
     ({"seconds": 5.0, "iterations": 7}, "squared", 7)],
)  # fmt: skip
def test_a_run_is_as_long_as_it_says(run, loss, n_iterations):
    assert settled(500, run=run, network={"loss": loss}).run.iterations == n_iterations
    assert settled(500, run=run, method={"direction": "kfac"}).run.iterations == run.get("iterations", 100)


def test_a_smooth_function_is_learnt_further_than_by_mini_batches():
    X = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    y = np.sin(3 * X[:, 0]) + X[:, 0] * X[:, 1]
    tables = {"network": {"layers": ["auto", 20, "auto"], "loss": "squared"}, "run": {"threads": 1}}
    automatic = distnewton.train(make_config(tables), train_data=(X, y))
    named = {**tables, "method": {"direction": "kfac", "batch": 32}, "data": {"validation_fraction": 0.2}}
    batches = distnewton.train(make_config(named), train_data=(X, y))
    assert automatic.best.value < 0.1 * batches.best.value


def test_a_linear_network_is_solved_on_all_samples():
    config = settled(network={"layers": ["auto", "auto"]})
    assert (config.method.direction, config.method.subsample) == ("gauss_newton", 1.0)
    assert (config.run.tolerance, config.data.validation_fraction) == (0.01, 0.0)


LINEAR = {"layers": ["auto", "auto"]}


@pytest.mark.parametrize(
    ("counts", "tables", "rarity"),
    [([50, 50, 50], {}, 1.0), ([90, 60, 30], {}, 0.5), ([90, 10], {}, 1.0), ([90, 60, 30], {"layers": [4, 9, 3]}, 1.0),
     ([90, 60, 30], {"loss": "squared"}, 1.0)],
)  # fmt: skip
def test_rare_classes_of_linear_networks_are_told_by_their_size(counts, tables, rarity):
    labels = np.repeat([f"class {k}" for k in range(len(counts))], counts)
    assert rarity_of_classes(make_config({"network": LINEAR | tables}), labels) == rarity


@pytest.mark.parametrize(("rarity", "tolerance"), [(1.0, 1e-2), (0.5, 5e-3), (1e-6, 1e-4)])
def test_the_tolerance_falls_with_the_rarest_class(rarity, tolerance):
    config = make_config({"network": LINEAR})
    facts = TrainingFacts(5000, validated=False, rarity=rarity)
    assert settle(config, facts).run.tolerance == pytest.approx(tolerance)
    named = make_config({"network": LINEAR, "run": {"tolerance": 0.1}})
    assert settle(named, facts).run.tolerance == 0.1


def test_a_run_with_a_rare_class_ends_at_its_tolerance():
    X, y = clusters(1500, seed=2)
    X = X / X.std(axis=0)
    rows = np.concatenate([np.flatnonzero(y < 2), np.flatnonzero(y == 2)[:5]])
    result = distnewton.train(make_config({"network": LINEAR}), train_data=(X[rows], y[rows]))
    norms = [record.gradient_norm for record in result.history[1:]]
    tolerance = 1e-2 * 5 / (len(rows) / 3)
    assert tolerance < 1e-3
    assert norms[-1] <= tolerance * norms[0] < min(norms[:-1])


@pytest.mark.parametrize(
    ("n_samples", "tables", "iterations"),
    [(999, {}, 20), (1000, {}, 100), (50, {"network": {"loss": "squared"}}, 100),
     (999, {"data": {"validation_fraction": 0.2}}, 100), (999, {"run": {"iterations": 7}}, 7),
     (999, {"network": LINEAR}, 100)],
)  # fmt: skip
def test_few_samples_of_classes_that_nothing_ends_take_few_iterations(n_samples, tables, iterations):
    assert settled(n_samples, **tables).run.iterations == iterations
    assert settled(n_samples, validated=True, **tables).run.iterations != 20


def test_a_tolerance_asks_for_a_gradient_of_all_samples():
    assert settled(run={"tolerance": 0.1}).method.direction == "gauss_newton"


def test_what_is_said_stays():
    config = settled(
        data={"scale": "minmax", "validation_fraction": 0.3}, network={"activation": "sigmoid"},
        run={"patience": 4}, method={"C": 2.0},
    )  # fmt: skip
    assert (config.data.scale, config.data.validation_fraction) == ("minmax", 0.3)
    assert (config.network.activation, config.run.patience, config.method.C) == ("sigmoid", 4, 2.0)


@pytest.mark.parametrize("direction", ["block_diagonal", "adam"])
def test_a_named_direction_is_obeyed_and_changes_nothing_else(direction):
    config = settled(method={"direction": direction})
    assert (config.method.direction, config.data.scale, config.data.validation_fraction) == (direction, "none", 0.0)
    assert (config.network.activation, config.run.patience) == ("tanh", 0)


@pytest.mark.parametrize(
    ("options", "direction"),
    [({"batch": 64}, "kfac"), ({"damping": 0.1}, "kfac"), ({"subsample": 0.5}, "block_diagonal"),
     ({"cg_max": 5, "subsample": 0.5}, "block_diagonal"), ({"jacobian": "recomputed"}, "gauss_newton"),
     ({"solver": "kfac"}, "sgn"), ({"proposal": "kfac"}, "grouped_newton")],
)  # fmt: skip
def test_options_ask_for_a_direction_that_has_them(options, direction):
    assert make_config({"method": options}).method.direction == direction
    assert make_config({"method": {"direction": "auto", **options}}).method.direction == direction


def test_options_of_no_one_direction_are_refused():
    with pytest.raises(ConfigError, match="subsample has no effect"):
        make_config({"method": {"subsample": 0.5, "learning_rate": 0.1, "momentum": 0.5}})


def test_a_stage_names_its_direction():
    with pytest.raises(ConfigError, match="a stage must name its direction"):
        make_config({"method": {"schedule": [{"direction": "auto", "iterations": 2}]}})


@pytest.mark.mpi(min_size=1, sizes=(1, 3))
def test_features_of_any_unit_are_learned(world):
    X, y = clusters()
    result = distnewton.train(make_config({"run": {"iterations": 30, "threads": 1}}), world, train_data=(X, y))
    assert result.last.train["accuracy"] > 0.95
    assert result.summary.config.data.scale == "standard"
    assert "kfac, batches of 32, rate 0.1, damping 0.01, scale standard" in result.summary.notes[0]


@pytest.mark.mpi(min_size=1, sizes=(1, 3))
@pytest.mark.parametrize("kind", ["standard", "center", "none", "log1p_unit_rows", "unit_rows"])
def test_the_scaling_suits_the_features_on_any_grid(world, kind):
    from scipy.sparse import csr_array

    generator = np.random.default_rng(3)
    y = np.arange(60) % 2
    dense = {"standard": generator.normal(5, 2, (60, 70)), "center": generator.integers(0, 256, (60, 70)) * 1.0}
    dense["center"][0] = 0.0
    mask = generator.random((60, 400)) < 0.02
    sparse = {"none": mask * generator.random(mask.shape)}
    sparse["log1p_unit_rows"] = mask * generator.integers(1, 9, mask.shape)
    sparse["unit_rows"] = mask * generator.uniform(0, 50, mask.shape)
    X = dense[kind] if kind in dense else csr_array(sparse[kind].astype(float))
    config = make_config({"network": {"layers": ["auto", 4, "auto"]}, **QUICK})
    result = distnewton.train(config, world, train_data=(X, y))
    assert result.model.scaling.kind == result.summary.config.data.scale == kind


def test_the_choice_is_written_and_a_resumed_run_keeps_it(tmp_path):
    X, y = clusters(1200)
    table = tmp_path / "table.csv"
    rows = [",".join([*map(repr, map(float, row)), f"c{label}"]) for row, label in zip(X, y, strict=True)]
    table.write_text("\n".join([",".join([*(f"f{k}" for k in range(6)), "label"]), *rows]))
    run = tmp_path / "run"
    common = ["train", "--data.train", str(table), "--run-dir", str(run), "--run.threads", "1"]
    assert call(*common, "--run.iterations", "2").returncode == 0
    written = (run / "config.toml").read_text()
    assert 'direction = "kfac"' in written
    assert 'scale = "standard"' in written
    resumed = call("train", "--resume", str(run), "--set", "run.iterations=4")
    assert resumed.returncode == 0, resumed.stderr
    shown = call("train", "--data.train", str(table), "--print-config")
    assert 'direction = "kfac"' in shown.stdout
    assert "validation_fraction = 0.1" in shown.stdout


def test_a_start_brings_its_scaling_and_activation(tmp_path):
    X, y = clusters(300)
    given = {"data": {"scale": "minmax"}, "network": {"activation": "sigmoid"}, **QUICK}
    first = distnewton.train(make_config(given), (X, y))
    again = distnewton.train(make_config(QUICK), (X, y), start=first.model)
    assert (again.summary.config.data.scale, again.summary.config.network.activation) == ("minmax", "sigmoid")
