"""First iterations in parts: a step for each part of the samples, on every grid alike, and never upwards."""

from __future__ import annotations

import numpy as np
import pytest
from resumed import blobs, free, same_run, settings, stopped_and_resumed

import distnewton
from distnewton.method import stages

pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 4))
METHOD = {"direction": "block_diagonal", "parts": 4, "subsample_min": 20}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(stages, "_LEAST_PART", 10)


def trained(comm, method, iterations=5, start=None, **tables):
    config = settings({**METHOD, **method}, iterations=iterations, **tables)
    return distnewton.train(config, comm, train_data=distnewton.ArraySource(*blobs()), start=start)


def test_parts_are_halved_until_a_step_takes_all(world):
    result = trained(world, {})
    records = result.history
    assert [record.steps for record in records[1:]] == [4, 2, 1, 1, 1]
    objectives = [record.objective for record in records]
    assert objectives == sorted(objectives, reverse=True)
    free(result)


def test_a_pass_in_parts_is_newton_steps_on_disjoint_mini_batches(world, monkeypatch):
    seen, batch = [], stages.Batches.rows
    monkeypatch.setattr(stages.Batches, "rows", lambda self, step: seen.append(batch(self, step)) or seen[-1])
    result = trained(world, {}, iterations=2)
    n = len(blobs()[1])
    assert np.array_equal(np.sort(np.concatenate(seen[:4])), np.arange(n))
    assert np.array_equal(np.sort(np.concatenate(seen[4:])), np.arange(n))
    assert not np.array_equal(np.concatenate(seen[:4]), np.concatenate(seen[4:]))
    assert max(map(len, seen[:4])) - min(map(len, seen[:4])) <= 1
    free(result)


def test_few_samples_are_not_cut(world, monkeypatch):
    monkeypatch.setattr(stages, "_LEAST_PART", 1 + len(blobs()[1]) // 2)
    result = trained(world, {}, iterations=2)
    assert [record.steps for record in result.history[1:]] == [1, 1]
    free(result)


def test_later_stages_take_all_samples(world):
    result = trained(world, {"schedule": "adam:1"}, iterations=2)
    assert [record.steps for record in result.history[2:]] == [1]
    free(result)


def test_the_run_is_the_same_on_every_grid(world):
    method = {"direction": "gauss_newton", "cg_tolerance": 1e-10, "cg_max": 200}
    together, alone = trained(world, method), trained(None, method)
    pairs = zip(together.history, alone.history, strict=True)
    assert all(np.isclose(a.objective, b.objective, rtol=1e-7) and a.steps == b.steps for a, b in pairs)
    free(together)


def test_a_pass_that_leads_up_is_taken_back(world, monkeypatch):
    first = trained(world, {"parts": 1}, iterations=2)
    # a step towards another point than the samples ask for
    monkeypatch.setattr(stages, "_step_on", lambda part, newton, params, curvature, record: params + 1.0)
    result = trained(world, {}, iterations=1, start=first.model)
    assert result.last.objective == result.history[0].objective
    assert "undone" in result.last.note
    monkeypatch.undo()
    assert np.array_equal(result.model.params, first.model.params)
    free(first)
    free(result)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_runs_go_on_from_each_iteration_in_parts(world, folder, k):
    config = settings(METHOD, iterations=4)
    results = stopped_and_resumed(world, folder, config, k, train_data=distnewton.ArraySource(*blobs()))
    same_run(world, *results, k)
    free(*results)
