"""Configuration: all errors at once, flags over TOML, resolved files that repeat a run."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from distnewton.config import Config, load_config, make_config, regularization_constant, to_toml
from distnewton.errors import ConfigError, MissingInputError


def test_every_error_is_told_at_once_with_the_nearest_key():
    settings = ["method.cgmax=3", "method.subsample=1.5", "run.dtype=float16", "method.C=-1", "foo.x=1", "run.seed=1.5"]
    with pytest.raises(ConfigError) as caught:
        load_config(None, settings)
    text = str(caught.value)
    for part in (
        "method.cgmax: unknown key; did you mean cg_max?",
        "method.subsample: input should be less than or equal to 1, got 1.5",
        "run.dtype: input should be 'float32', 'float64' or 'tf32', got 'float16'",
        "method.C: must be a positive number, inf",
        "foo: unknown key; known are data, network",
        "run.seed: input should be a valid integer, got 1.5",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network.layers=[4,0,2]"], "network.layers.1: input should be greater than or equal to 1"),
        (["network.layers=4-auto-2"], "only the first and the last"),
        (["partition.splits=2-2"], "partition.splits has 2 numbers for 3 widths"),
        (["network.loss=logistic", "network.layers=4-3-2"], "logistic needs one output"),
        (["network.loss=logistic", "data.task=regression"], "fits data.task = binary or multilabel, not regression"),
        (["method.cg_min=50"], "cg_min = 50 must not exceed cg_max = 2"),
        (["method.C=nan"], "method.C: must be a positive number"),
        (["method.C=1.2.3 l"], "method.C: must be a positive number"),
        (["nodot=3"], "written section.key=value, got 'nodot=3'"),
        (["method.C=0"], "method.C: must be a positive number"),
        (["method.C=0 l"], "method.C: must be a positive number"),
        (["method.C=. l"], "method.C: must be a positive number"),
        (["method.C=-inf"], "method.C: must be a positive number"),
        (["method.C=two"], "or a multiple of l such as \"0.01 l\", got 'two'"),
        (["method.C=true"], "method.C: input should be a valid number, got True"),
        (["method.damping=inf"], "method.damping: input should be a finite number"),
        (["method.cg_tolerance=nan"], "method.cg_tolerance: input should be less than 1, got nan"),
        (["run.memory_mb=inf"], "run.memory_mb: input should be a finite number"),
        (["run.iterations=true"], "run.iterations: input should be a valid integer, got True"),
        (["data.train=3"], "data.train: input should be a valid string, got 3"),
        (["network.layers=5"], "network.layers: input should be a valid list, got 5"),
        (["network.layers=5-x-2"], "network.layers.1"),
        (["network.layers=[4]"], "network.layers: list should have at least 2 items"),
        (["partition.splits=2-0-2"], "partition.splits.1: input should be greater than or equal to 1, got 0"),
        (["network.loss=cross_entropy", "data.task=regression"], "fits data.task = classification, not regression"),
        (["method.direktion=x"], "method.direktion: unknown key; did you mean direction?"),
        (["run.zzz=1"], "run.zzz: unknown key; known are iterations, seconds, patience"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ConfigError, match=None) as caught:
        load_config(None, settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("C", "value"),
    [(3.0, 3.0), ("l", 200.0), ("0.01 l", 2.0), ("0.01*l", 2.0), (math.inf, math.inf), (" 1e-2 l ", 2.0),
     (".5l", 100.0), ("2. l", 400.0), (7, 7.0)],
)  # fmt: skip
def test_regularization_constants(C, value):
    assert regularization_constant(C, 200) == pytest.approx(value)
    assert make_config({"method": {"C": C}}).method.regularization(200) == pytest.approx(1 / value)


def test_errors_of_several_sections_are_all_told():
    settings = ["network.layers=4-3-2", "partition.splits=2-2", "network.loss=logistic", "data.task=regression"]
    with pytest.raises(ConfigError) as caught:
        load_config(None, settings)
    assert len(str(caught.value).splitlines()) == 4
    assert all(part in str(caught.value) for part in ("2 numbers for 3 widths", "fits data.task", "needs one output"))


@pytest.mark.parametrize(("text", "layers"), [
    ("2-2-2-2", [2, 2, 2, 2]), ("auto-300-auto", ["auto", 300, "auto"]), ("[4, 3]", [4, 3]),
    ('["auto", 3, 2]', ["auto", 3, 2]),
    ("1024-10-10", [1024, 10, 10]),  # which is a date in TOML
    ("16-300-300-26", [16, 300, 300, 26]),
])  # fmt: skip
def test_widths_as_papers_write_them(text, layers):
    config = load_config(None, [f"network.layers={text}"])
    assert config.network.layers == layers
    assert load_config(None, ["partition.splits=2-1", "network.layers=4-3"]).partition.splits == [2, 1]


@pytest.mark.parametrize(("text", "value"), [(".2", 0.2), ("+.2", 0.2), (".5e-1", 0.05), ("2e-1", 0.2)])
def test_numbers_may_begin_or_end_with_their_point(text, value):
    assert load_config(None, [f"data.validation_fraction={text}"]).data.validation_fraction == value
    config = load_config(None, ["data.label_column=.x", "data.train=1.csv", "method.damping=1."])
    assert (config.data.label_column, config.data.train, config.method.damping) == (".x", "1.csv", 1.0)


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "recipe ü.toml"
    # with the mark that some editors write first
    path.write_text("\ufeff[method]\nC = inf\nsubsample = 0.5\n", "utf-8")
    assert load_config(path).method.subsample == 0.5
    config = load_config(path, ["method.subsample=0.25", "method.subsample = 0.125", "run.overwrite=true"])
    assert config.method.subsample == 0.125
    assert math.isinf(config.method.C)
    assert config.run.overwrite


RESOLVED = [
    {},
    {"method": {"C": math.inf, "drop": 1e-7, "subsample": 1.0, "cg_tolerance": 0.0}, "run": {"seed": 2**63 - 1}},
    {"method": {"C": "0.01 l"}, "data": {"label_column": "y"}, "partition": {"splits": [2, 1, 2]}},
    {"data": {"label_column": -1, "train": 'C:\\a "b"\t\x7f\x01 ü 😀', "n_features": 7}},
    {"network": {"layers": ["auto", 3, 1], "loss": "logistic"}, "run": {"memory_mb": 1e20, "deterministic": True}},
]


@pytest.mark.parametrize("tree", RESOLVED)
def test_the_resolved_file_repeats_the_run(tmp_path, tree):
    config = make_config(tree)
    (tmp_path / "config.toml").write_text(to_toml(config), "utf-8")
    assert load_config(tmp_path / "config.toml") == config
    assert (config == Config()) == (not tree)


@pytest.mark.parametrize(("loss", "task", "resolved"), [
    ("squared", "auto", "regression"), ("squared", "classification", "classification"),
    ("logistic", "auto", "binary"), ("cross_entropy", "auto", "classification"),
])  # fmt: skip
def test_the_task_follows_the_loss(loss, task, resolved):
    assert make_config({"network": {"loss": loss}, "data": {"task": task}}).task == resolved


def test_unreadable_recipes(tmp_path):
    with pytest.raises(MissingInputError, match="cannot read the recipe"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[method\n")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        load_config(tmp_path / "bad.toml")
    (tmp_path / "latin.toml").write_bytes(b'[data]\ntrain = "\xfc"\n')
    with pytest.raises(ConfigError, match="is not a TOML file"):
        load_config(tmp_path / "latin.toml")
    with pytest.raises(MissingInputError, match="cannot read the recipe"):
        load_config(tmp_path)
    (tmp_path / "flat.toml").write_text("method = 3\n")
    with pytest.raises(ConfigError, match="method: input should be a valid dictionary"):
        load_config(tmp_path / "flat.toml")
    with pytest.raises(ConfigError, match="method must be a table of settings, got 3"):
        load_config(tmp_path / "flat.toml", ["method.C=1"])


def method_error(method):
    with pytest.raises(ConfigError) as caught:
        make_config({"method": method})
    return str(caught.value)


@pytest.mark.parametrize(
    ("method", "option", "users"),
    [
        ({"direction": "adam", "sketch": 2}, "sketch", "dual"),
        ({"direction": "adam", "momentum": 0.5}, "momentum", "sgd"),
        ({"direction": "adam", "kl_clip": 0.1}, "kl_clip", "kfac"),
        ({"direction": "sgd", "damping": 0.1}, "damping", "kfac"),
        ({"direction": "sgd", "beta1": 0.9}, "beta1", "adam"),
        ({"direction": "sgd", "subsample": 0.1}, "subsample", "block_diagonal"),
        ({"direction": "sgd", "combine": "scale"}, "combine", "sgn"),
        ({"direction": "kfac", "cg_max": 3}, "cg_max", "gauss_newton"),
        ({"direction": "kfac", "preconditioner": "diagonal"}, "preconditioner", "block_diagonal"),
        ({"direction": "kfac", "mini_blocks": "neuron"}, "mini_blocks", "mini_block_fisher"),
        ({"direction": "mini_block_fisher", "line_search_max": 3}, "line_search_max", "dual"),
        ({"direction": "dual", "learning_rate": 0.1}, "learning_rate", "sgd"),
        ({"direction": "dual", "cg_tolerance": 0.1}, "cg_tolerance", "gauss_newton"),
        ({"direction": "dual", "blocks": "layer"}, "blocks", "block_dual"),
        ({"direction": "dual", "batch": 5}, "batch", "sgn"),
        ({"direction": "block_dual", "warm_start": 0.5}, "warm_start", "block_diagonal"),
        ({"direction": "gauss_newton", "finish_fraction": 0.5}, "finish_fraction", "block_diagonal"),
        ({"direction": "gauss_newton", "blocks": "layer"}, "blocks", "block_diagonal"),
        ({"direction": "gauss_newton", "solver": "dual"}, "solver", "sgn"),
        ({"direction": "gauss_newton", "statistics_decay": 0.5}, "statistics_decay", "kfac"),
        ({"direction": "block_diagonal", "preconditioner": "diagonal", "inverse_period": 5}, "inverse_period", "kfac"),
        ({"direction": "block_diagonal", "preconditioner": "kfac", "mini_blocks": "neuron"}, "mini_blocks",
         "mini_block_fisher"),
        ({"direction": "block_diagonal", "steps": 3}, "steps", "sgd"),
        ({"direction": "sgn", "subsample_min": 5}, "subsample_min", "dual"),
        ({"direction": "sgn", "learning_rate": 0.1}, "learning_rate", "adam"),
        ({"direction": "sgn", "solver": "kfac", "sketch": 2}, "sketch", "sgn"),
        ({"direction": "sgn", "solver": "dual", "cg_stop": "progress"}, "cg_stop", "sgn"),
        ({"direction": "sgn", "preconditioner": "none", "statistics_period": 2}, "statistics_period", "sgn"),
    ],
    ids=str,
)
def test_an_option_without_effect_is_refused_by_name(method, option, users):
    text = method_error(method)
    assert f"{option} has no effect with direction = {method.get('direction', 'block_diagonal')}" in text
    assert users in text.partition("it is for ")[2].split(", ")
    if method.get("direction") == "sgn" and option in {"sketch", "cg_stop", "statistics_period"}:
        assert f"solver = {method.get('solver', 'block_diagonal')}" in text
    # of the options of the same table only that one
    assert text.count("has no effect") == 1


def test_useless_options_of_all_stages_are_told():
    text = method_error({"schedule": [
        {"direction": "sgd", "iterations": 2, "damping": 1.0, "cg_max": 3},
        {"direction": "dual", "iterations": 2, "batch": 4},
    ]})  # fmt: skip
    for part in (
        "method.schedule.0: damping has no effect with direction = sgd",
        "method.schedule.0: cg_max has no effect with direction = sgd",
        "method.schedule.1: batch has no effect with direction = dual",
    ):
        assert part in text


DEFAULTS = [
    ({"direction": "block_diagonal"}, {"preconditioner": "kfac", "cg_max": 2, "sketch": 2, "parts": 8,
                                       "damping": "auto", "drop": "nielsen", "subsample": 0.05}),
    ({"direction": "gauss_newton"}, {"preconditioner": "none", "cg_max": 30}),
    ({"direction": "sgn"}, {"cg_max": 2, "damping": 0.01, "batch": 512, "solver": "block_diagonal",
                            "preconditioner": "kfac", "sketch": 2}),
    ({"direction": "sgn", "solver": "dual"}, {"damping": 0.01, "batch": 512, "sketch": 2}),
    ({"direction": "sgn", "preconditioner": "none"}, {"damping": 0.01, "preconditioner": "none"}),
    ({"direction": "sgn", "cg_max": 7}, {"cg_max": 7, "batch": 512}),
    ({"direction": "kfac"}, {"batch": 256, "learning_rate": 0.1, "damping": 0.01, "average": 0.98,
                             "inverse_period": 20, "momentum": 0.9}),
    ({"direction": "kfac", "damping": 1.0}, {"damping": 1.0, "average": 0.98}),
    ({"direction": "mini_block_fisher"}, {"batch": 256, "damping": 0.01, "kl_clip": 0.001, "average": 0.98}),
    ({"direction": "sgd"}, {"batch": 128, "learning_rate": 0.1, "momentum": 0.9}),
    ({"direction": "adam"}, {"batch": 128, "learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "defaults"), DEFAULTS, ids=str)
def test_each_direction_has_its_own_defaults(method, defaults):
    made = make_config({"method": method}).method
    assert {name: getattr(made, name) for name in defaults} == defaults
    # in a stage, too
    stage = make_config({"method": {"schedule": [method | {"iterations": 2}]}}).method.schedule[0]
    assert {name: getattr(stage, name) for name in defaults} == defaults


def test_a_schedule_as_text_means_stages_with_their_defaults():
    for text in ("kfac:20, sgn:5", "kfac:20,sgn:5,", "kfac : 20,sgn: 5"):
        made = load_config(None, [f"method.schedule={text}", "method.direction=dual"]).method
        assert [(s.direction, s.iterations, s.batch) for s in made.schedule] == [("kfac", 20, 256), ("sgn", 5, 512)]
        assert made.direction == "dual"
    assert load_config(None, ["method.schedule="]).method.schedule == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kfac", "a stage is written DIRECTION:ITERATIONS, such as kfac:20, got 'kfac'"),
        ("kfac:20,sgd:x", "got 'sgd:x'"),
        ("kfac:-1", "got 'kfac:-1'"),
        ("kfak:3", "method.schedule.0.direction"),
        ("sgd:2,adam:0", "method.schedule.1.iterations: input should be greater than or equal to 1, got 0"),
    ],
)
def test_schedules_that_are_none(text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"method.schedule={text}"])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "method",
    [
        *[{"direction": name} for name in ("block_diagonal", "gauss_newton", "dual", "block_dual", "sgn", "kfac",
                                           "mini_block_fisher", "sgd", "adam")],
        *[{"direction": "sgn", "solver": name} for name in ("gauss_newton", "dual", "kfac", "mini_block_fisher")],
        {"direction": "kfac", "kl_clip": math.inf, "average": 0.0, "rate_decay": "cosine"},
        {"direction": "gauss_newton", "preconditioner": "mini_block_fisher", "mini_blocks": "neuron", "sketch": 4},
        {"direction": "dual", "C": math.inf, "schedule": "kfac:20,sgn:5"},
        {"schedule": [{"direction": "sgd", "learning_rate": 0.5, "iterations": 3}, {"sketch": 2, "iterations": 1}]},
    ],
    ids=str,
)  # fmt: skip
def test_the_resolved_method_repeats_the_run_and_names_only_what_it_uses(tmp_path, method):
    config = make_config({"method": method})
    (tmp_path / "config.toml").write_text(to_toml(config), "utf-8")
    again = load_config(tmp_path / "config.toml")
    assert again == config
    assert to_toml(again) == to_toml(config)
    written = set(config.model_dump()["method"])
    assert ("learning_rate" in written) == (method.get("direction") in {"kfac", "mini_block_fisher", "sgd", "adam"})
    assert ("drop" in written) != ("learning_rate" in written)
    assert set(method) <= written


def test_a_direction_on_the_command_line_leaves_out_what_the_recipe_said_of_another(tmp_path):
    path, notes = tmp_path / "recipe.toml", []
    path.write_text('[method]\ndirection = "gauss_newton"\ncg_max = 9\nsketch = 2\nC = 3.0\n', "utf-8")
    method = load_config(path, ["method.direction=dual"], notes).method
    assert (method.direction, method.sketch, method.C) == ("dual", 2, 3.0)
    assert notes == ["method.cg_max of the recipe is ignored: it was not meant for dual"]
    notes = []
    method = load_config(path, ["method.direction=adam", "method.batch=7"], notes).method
    assert (method.direction, method.batch, method.C) == ("adam", 7, 3.0)
    assert [note.split()[0] for note in notes] == ["method.cg_max", "method.sketch"]
    # without another direction a useless option stays an error, and so does one that a flag gives
    notes = []
    assert load_config(path, ["method.cg_max=4"], notes).method.cg_max == 4
    for flags in (["method.learning_rate=0.1"], ["method.direction=dual", "method.cg_max=3"]):
        with pytest.raises(ConfigError, match="has no effect with direction"):
            load_config(path, flags, notes)
    assert notes == []


def test_another_solver_or_preconditioner_leaves_out_its_options_too(tmp_path):
    path, notes = tmp_path / "recipe.toml", []
    path.write_text('[method]\ndirection = "sgn"\ncg_max = 9\npreconditioner = "kfac"\nstatistics_decay = 0.5\n')
    method = load_config(path, ["method.preconditioner=none"], notes).method
    assert (method.cg_max, method.preconditioner) == (9, "none")
    assert [note.split()[0] for note in notes] == ["method.statistics_decay"]
    notes = []
    assert load_config(path, ["method.solver=dual"], notes).method.solver == "dual"
    assert [note.split()[0] for note in notes] == [
        "method.cg_max", "method.preconditioner", "method.statistics_decay"
    ]  # fmt: skip


CONV = {"type": "conv", "channels": 8, "kernel": [3, 2], "padding": 1}
DENSE = {"type": "dense", "width": "auto"}


def test_layer_tables_survive_the_way_through_toml():
    tree = {"network": {"layers": [CONV, {"type": "max_pool", "size": 2}, DENSE], "input": "1-28-28"}}
    config = make_config(tree | {"partition": {"splits": [1, 2, 1]}})
    assert make_config(tomllib.loads(to_toml(config))) == config
    assert config.network.input == [1, 28, 28]
    assert config.network.title == "conv 8 3x2 1, max_pool 2, dense auto"
    assert make_config({}).network.title == "auto-100-auto"


@pytest.mark.parametrize(("network", "parts"), [
    ({"layers": [{**CONV, "kernal": 3, "channels": 0}, DENSE]},
     ["network.layers.0.kernal: unknown key; did you mean kernel?", "network.layers.0.channels: input should be gre"]),
    ({"layers": [{"type": "pool", "size": 2}, DENSE]},
     ["network.layers.0.type: unknown layer 'pool'; ", "known are conv, max_pool, avg_pool, fl"]),
    ({"layers": [{"type": "max_pool", "size": 17}, DENSE]}, ["network.layers.0.size: input should be less than or eq"]),
    ({"layers": [CONV, 10]}, ["network.layers.1: input should be a valid dictionary"]),
    ({"layers": [CONV]}, ["must end in a dense layer"]),
    ({"layers": [DENSE, DENSE]}, ['only the last of layers may have width = "auto"']),
    ({"layers": [4, 3], "input": [1, 2, 2]}, ["input is for layers on images"]),
    ({"layers": [CONV, DENSE], "input": [1, 2]}, ["network.input: "]),
    ({"layers": [CONV, {"type": "dense", "width": 3}], "loss": "logistic"}, ["needs one output", "ends in 3"]),
])  # fmt: skip
def test_errors_of_layer_tables(network, parts):
    with pytest.raises(ConfigError) as caught:
        make_config({"network": network})
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_recomputed_jacobian_is_for_the_full_direction_without_sketch():
    assert make_config({"method": {"direction": "gauss_newton", "jacobian": "recomputed"}}).method.jacobian
    for method, part in [
        ({"direction": "block_diagonal", "jacobian": "recomputed"},
         "jacobian has no effect with direction = block_diagonal"),
        ({"direction": "gauss_newton", "jacobian": "recomputed", "sketch": 2}, "sketch has no effect with jacobian"),
    ]:
        with pytest.raises(ConfigError, match=part):
            make_config({"method": method})


@pytest.mark.parametrize(
    ("recipe", "given", "checks", "dtype"),
    [
        ("", [], ["memory"], "float32"),
        ("checked = true", [], ["memory", "messages"], "float32"),
        ("memory_check = false\nchecked = false", [], [], "float32"),
        ("memory_check = false", ["run.checked=true"], ["messages"], "float32"),
        ('checks = ["messages"]', ["run.memory_check=true"], ["messages", "memory"], "float32"),
        ("", ["run.checks=messages,memory", "run.tf32=true", "run.device=gpu"], ["messages", "memory"], "tf32"),
        ("", ["run.checks=", "run.tf32=false"], [], "float32"),
        ('dtype = "float64"', ["run.tf32=false"], ["memory"], "float64"),
    ],
)
def test_settings_by_the_names_of_the_last_version(tmp_path, recipe, given, checks, dtype):
    path = tmp_path / "old.toml"
    path.write_text(f"[run]\n{recipe}\n")
    notes = []
    run = load_config(path, given, notes).run
    assert (run.checks, run.dtype) == (checks, dtype)
    assert run.array_dtype == ("float32" if dtype == "tf32" else dtype)
    old = [name for name in ("checked", "memory_check", "tf32") if name in f"{recipe} {given}"]
    assert all(any(f"run.{name}" in note for note in notes) for name in old)
    assert bool(notes) == bool(old)


def test_values_of_old_settings_are_checked_and_programs_are_warned():
    for settings, told in (
        ({"checked": "yes"}, "checked = yes"),
        ({"memory_check": 0}, "memory_check = 0"),
        ({"tf32": True, "dtype": "float64"}, "float64, tf32 = True"),
        ({"tf32": "no"}, "tf32 = no"),
    ):
        with pytest.warns(FutureWarning, match="next version"), pytest.raises(ConfigError, match=told):
            make_config({"run": settings})
    with pytest.warns(FutureWarning, match=r"run\.checked: the next version reads only run\.checks = \['memory', 'm"):
        assert make_config({"run": {"checked": True}}).run.checks == ["memory", "messages"]


def test_a_tree_may_hold_what_python_programs_compute():
    layers = ("auto", np.int64(3), "auto")
    config = make_config({
        "data": {"train": Path("t.csv")}, "network": {"layers": layers}, "run": {"iterations": np.int32(2)},
        "method": {"C": np.float64(0.5)},
    })  # fmt: skip
    assert (config.data.train, config.network.layers) == ("t.csv", ["auto", 3, "auto"])
    assert (config.run.iterations, config.method.C) == (2, 0.5)


@pytest.mark.parametrize("name", ["iterations", "run.iterations"])
def test_a_setting_outside_of_its_table_is_told_with_its_table(name):
    with pytest.raises(ConfigError, match=rf"  {re.escape(name)}: unknown key; did you mean iterations in run\?"):
        make_config({name: 3})
