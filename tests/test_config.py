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
    ],
)
def test_errors(settings, message):
    with pytest.raises(ConfigError, match=None) as caught:
        load_config(None, settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("C", "value"), [(3.0, 3.0), ("l", 200.0), ("0.01 l", 2.0), ("0.01*l", 2.0), (math.inf, math.inf)]
)
def test_regularization_constants(C, value):
    assert regularization_constant(C, 200) == pytest.approx(value)
    assert make_config({"method": {"C": C}}).method.regularization(200) == pytest.approx(1 / value)


def test_flags_win_over_the_file_and_the_resolved_file_repeats_the_run(tmp_path):
    path = tmp_path / "recipe ü.toml"
    text = '[network]\nlayers = [3, 4, 2]\n[method]\nC = inf\nsubsample = 0.5\n[data]\nlabel_column = "y"\n'
    path.write_text("\ufeff" + text, "utf-8")
    config = load_config(path, ["method.subsample=0.25", "partition.splits=2-2-2", "network.activation=relu"])
    assert config.method.subsample == 0.25
    assert config.partition.splits == [2, 2, 2]
    again = tmp_path / "config.toml"
    again.write_text(to_toml(config), "utf-8")
    assert load_config(again) == config
    assert config != Config()


def test_unreadable_recipes(tmp_path):
    with pytest.raises(MissingInputError, match="cannot read the recipe"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[method\n")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        load_config(tmp_path / "bad.toml")
