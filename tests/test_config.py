"""Configuration: all errors at once, flags over TOML, resolved files that repeat a run."""

from __future__ import annotations

import math

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
        "run.dtype: input should be 'float32' or 'float64', got 'float16'",
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
        (["network.loss=logistic", "data.task=regression"], "fits data.task = binary, not regression"),
        (["method.cg_min=50"], "cg_min = 50 must not exceed cg_max = 30"),
        (["method.C=nan"], "method.C: must be a positive number"),
        (["method.C=1.2.3 l"], "method.C: must be a positive number"),
        (["partition.replicas=2"], "partition.replicas"),
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
        (["network.layers=[4]"], "network.layers: value should have at least 2 items"),
        (["partition.splits=2-0-2"], "partition.splits.1: input should be greater than or equal to 1, got 0"),
        (["network.loss=cross_entropy", "data.task=regression"], "fits data.task = classification, not regression"),
        (["method.direktion=x"], "method.direktion: unknown key; did you mean direction?"),
        (["run.zzz=1"], "run.zzz: unknown key; known are iterations, seconds, seed"),
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
