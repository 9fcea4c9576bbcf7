"""Scaling studies from made records: medians, intervals, efficiency, refused points, table, lines and picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

from distnewton.config import make_config
from distnewton.errors import ConfigError, DataError, MissingInputError
from distnewton.guards.ledger import PHASES
from distnewton.network.layer_tables import convolutional_shape
from distnewton.network.shapes import dense_shape
from distnewton.planning.rates import Rates
from distnewton.reporting.scaling_plot import ScalingResult, training_seconds
from distnewton.runs.data_size import DataSize
from distnewton.study.measured import bootstrap_interval, collect, efficiency
from distnewton.study.points import Study, check_ranks, grow, read_study
from distnewton.study.prediction import predict

STUDY = Study("strong", [1, 2, 4], 2, 1, 3, 1000)
SECONDS = {1: 8.0, 2: 5.0, 4: 2.5}


def write_run(study, root, n_ranks, repeat, *, objective=0.25, seconds=None, n_records=None):
    """A run whose first iteration is slow, as first ones are, and whose evaluation is no part of an iteration."""
    folder = study.folder(root, n_ranks, repeat)
    folder.mkdir(parents=True)
    seconds = SECONDS[n_ranks] if seconds is None else seconds
    records, training, elapsed = [], 1.0, 1.0
    for k in range(study.n_warmup + study.n_measured + 1 if n_records is None else n_records):
        if k:
            # 10 % of spread around the median
            step = 100.0 if k <= study.n_warmup else seconds * (1 + 0.1 * (k - study.n_warmup - 2))
            training, elapsed = training + step, elapsed + step + 1000.0
        direction = {"inner_iterations": [6] * n_ranks} if k else None
        records.append({
            "iteration": k, "training_seconds": training, "elapsed_seconds": elapsed,
            "objective": objective if k == study.n_warmup + study.n_measured else 9.0,
            "seconds": dict.fromkeys(PHASES, 0.5), "wait_seconds": [0.25] * n_ranks,
            "sent_bytes": dict.fromkeys(PHASES, 1e6), "direction": direction, "line_search_trials": 1,
        })  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    facts = {"hosts": [f"n{rank // 2}" for rank in range(n_ranks)], "threads_per_rank": 1}
    facts["splits"] = [n_ranks, 1, n_ranks]
    (folder / "environment.json").write_text(json.dumps(facts))


def make_runs(root, **given):
    for n_ranks in STUDY.ranks:
        for repeat in (1, 2):
            write_run(STUDY, root, n_ranks, repeat, **given)


def test_medians_after_the_warm_up_without_evaluation(tmp_path):
    make_runs(tmp_path)
    points, missing = collect(STUDY, tmp_path, 1e-3)
    assert missing == []
    assert [point.seconds for point in points] == pytest.approx([8.0, 5.0, 2.5])
    assert all(point.low <= point.seconds <= point.high for point in points)
    assert points[0].low == pytest.approx(0.9 * 8.0)
    assert [point.n_hosts for point in points] == [1, 1, 2]
    assert [point.wait for point in points] == [0.25] * 3
    # evaluation is left out of phases and bytes
    assert "evaluation" not in points[0].phases
    assert points[0].sent_bytes == (len(PHASES) - 1) * 1e6
    assert [efficiency(STUDY, points, point.seconds, point.n_ranks) for point in points] == pytest.approx([1, 0.8, 0.8])


def test_weak_efficiency_needs_constant_seconds(tmp_path):
    study = Study("weak-samples", [1, 2], 1, 1, 3, 1000)
    for n_ranks, seconds in ((1, 4.0), (2, 5.0)):
        write_run(study, tmp_path, n_ranks, 1, seconds=seconds, objective=float(n_ranks))
    points, _ = collect(study, tmp_path, 1e-3)
    # other samples have another objective
    assert [point.refused for point in points] == ["", ""]
    assert efficiency(study, points, points[1].seconds, 2) == pytest.approx(0.8)


def test_points_that_did_other_work_are_refused(tmp_path):
    for n_ranks, objective in ((1, 0.25), (2, 0.25 * 1.0005), (4, 0.26)):
        for repeat in (1, 2):
            write_run(STUDY, tmp_path, n_ranks, repeat, objective=objective)
    points, _ = collect(STUDY, tmp_path, 1e-3)
    assert [bool(point.refused) for point in points] == [False, False, True]
    text = ScalingResult(STUDY, points).markdown([])
    assert "4 ranks are refused: its objective is 0.26, that of 1 ranks 0.25" in text
    assert [bool(point.refused) for point in collect(STUDY, tmp_path, 0.1)[0]] == [False] * 3


def test_runs_that_have_not_ended_are_named(tmp_path):
    write_run(STUDY, tmp_path, 1, 1)
    write_run(STUDY, tmp_path, 1, 2, n_records=3)
    points, missing = collect(STUDY, tmp_path, 1e-3)
    assert [point.n_runs for point in points] == [1]
    assert missing[0] == "ranks-0001/repeat-02: 3 of 5 records"
    assert len(missing) == 5
    assert "missing: ranks-0001/repeat-02" in ScalingResult(STUDY, points).markdown(missing)


def test_the_interval_covers_the_median_and_repeats():
    times = np.random.default_rng(1).gamma(50.0, 0.02, size=35)
    low, high = bootstrap_interval(times)
    assert low < np.median(times) < high
    assert (low, high) == bootstrap_interval(times)
    assert bootstrap_interval([2.0] * 5) == (2.0, 2.0)


def test_prediction_table_lines_and_picture(tmp_path):
    make_runs(tmp_path)
    points, _ = collect(STUDY, tmp_path, 1e-3)
    config = make_config({"network": {"layers": [20, 30, 3]}, "method": {"direction": "gauss_newton"}})
    plans = predict(STUDY, config, DataSize(1000, 20, 3), points, Rates())
    assert [plan.partition.n_ranks for plan in plans] == [1, 2, 4]
    assert [plan.problem.method.n_steps for plan in plans] == [6, 6, 6]
    lines = ScalingResult(STUDY, points, plans).lines()
    assert [line["predicted_seconds"] for line in lines] == [training_seconds(plan) for plan in plans]
    assert json.loads(json.dumps(lines)) == lines
    assert "| 4 | 2 | 1 | 4-1-4 | 2.5 |" in ScalingResult(STUDY, points, plans).markdown([])
    pytest.importorskip("matplotlib")
    ScalingResult(STUDY, points, plans).save_picture(tmp_path / "a.svg", "here & now")
    text = (tmp_path / "a.svg").read_text()
    assert "here &amp; now" in text
    ScalingResult(STUDY, points).save_picture(tmp_path / "a.png", "here")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_weights_of_a_rank_stay_constant_where_they_shall():
    shape = dense_shape((50, 80, 60, 4))
    for factor in (2, 8):
        grown = grow(shape, factor)
        assert grown.n_params == pytest.approx(factor * shape.n_params, rel=0.05)
        assert (grown.widths[0], grown.widths[-1]) == (50, 4)
    study = Study("weak-weights", [2, 4], 1, 1, 3, 1000)
    assert "network" not in study.settings(shape, 2)
    assert study.settings(shape, 4)["network"]["layers"] == list(grow(shape, 2).widths)
    assert Study("weak-samples", [2, 4], 1, 1, 3, 1000).settings(shape, 4)["data"] == {"n_train": 2000}
    table = [{"type": "conv", "channels": 2, "kernel": 3, "stride": 1, "padding": 1}, {"type": "dense", "width": 2}]
    for other in (dense_shape((5, 2)), convolutional_shape((1, 4, 4), table)):
        with pytest.raises(ConfigError, match="weak-samples"):
            grow(other, 2)


def test_the_study_is_kept_and_read_back(tmp_path):
    STUDY.write(tmp_path / "a")
    assert read_study(tmp_path / "a") == STUDY
    with pytest.raises(MissingInputError, match="holds no study"):
        read_study(tmp_path)
    (tmp_path / "a/study.json").write_text('{"kind": 3}')
    with pytest.raises(DataError, match="is damaged"):
        read_study(tmp_path / "a")
    with pytest.raises(ConfigError, match="at least two"):
        check_ranks([2, 2])


def test_a_strong_study_fixes_the_steps_of_cg():
    study = Study("strong", [1, 2], 1, 2, 1, 100, n_blocks=2, n_steps=6)
    changes = study.settings(dense_shape((8, 8, 3)), 2)
    assert changes["method"] == {"cg_tolerance": 0.0, "cg_min": 6, "cg_max": 6}
    assert changes["partition"] == {"blocks": 2}
    assert "method" not in Study("weak-weights", [1, 2], 1, 2, 1, 100).settings(dense_shape((8, 8, 3)), 1)
