"""Subsamples and chunks are ranges of the samples; the objective is the same however it is cut, and may overflow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import alternating, make_case

from distnewton.method.batches import Subsamples
from distnewton.method.objective import subsample_size
from distnewton.planning.chunks import chunk_ranges

WIDTHS = (5, 4, 3, 2)


@given(st.integers(1, 200), st.floats(0.001, 1.0), st.integers(1, 40), st.integers(0, 9))
def test_subsamples_are_disjoint_within_a_pass_and_the_same_in_any_order_of_asking(n, fraction, minimum, seed):
    size = subsample_size(n, fraction, minimum)
    assert 1 <= size <= n
    assert size >= min(n, fraction * n)
    assert size >= min(n, minimum)
    subsamples, per_pass = Subsamples(n, size, seed), n // size
    assert subsamples.whole == (size == n)
    drawn = [subsamples.rows(k) for k in range(3 * per_pass)]
    for first in range(0, 3 * per_pass, per_pass):
        rows = np.concatenate(drawn[first : first + per_pass])
        assert len(np.unique(rows)) == len(rows) == per_pass * size
        assert rows.min() >= 0
        assert rows.max() < n
    for k in (2 * per_pass, 0):
        assert np.array_equal(Subsamples(n, size, seed).rows(k), drawn[k])
        assert (np.diff(drawn[k]) > 0).all()


@pytest.mark.parametrize(("n", "size"), [(700, 512), (15_000, 750), (1000, 51), (513, 512)])
def test_each_sample_is_used_as_often_as_any_other(n, size):
    # of a binomial distribution the numbers of uses have at least the variance that disjoint parts of a pass leave
    subsamples, uses = Subsamples(n, size, 3), np.zeros(n, int)
    n_drawn = 100
    for k in range(n_drawn):
        uses[subsamples.rows(k)] += 1
    assert uses.sum() == n_drawn * size
    assert uses.min() > 0
    share = size / n
    deviation = np.sqrt(n_drawn * share * (1 - share))
    assert abs(uses - n_drawn * share).max() < 6 * deviation + 1
    assert uses.std() < 1.2 * deviation + 1e-12
    # two samples meet as often as chance has it: windows of one fixed order would keep neighbours together
    first, second = (np.array([i in subsamples.rows(k) for k in range(n_drawn)]) for i in (0, 1))
    assert abs((first & second).sum() - n_drawn * share * (size - 1) / (n - 1)) < 6 * np.sqrt(n_drawn * share) + 1


def test_another_seed_and_another_pass_draw_others():
    drawn = [Subsamples(1000, 100, seed).rows(k).tolist() for seed in (0, 1) for k in (0, 10, 20)]
    assert len({tuple(rows) for rows in drawn}) == 6


@given(st.integers(1, 60), st.integers(0, 59), st.integers(1, 60), st.integers(1, 70))
def test_chunks_tile_the_samples_with_the_subsample_whole_and_last(n, start, size, n_rows):
    start = start % n
    last = start, min(n, start + size)
    ranges = chunk_ranges(n, last, n_rows)
    assert ranges[-1] == last
    assert sorted(i for a, b in ranges for i in range(a, b)) == list(range(n))
    assert all(0 < b - a <= n_rows for a, b in ranges[:-1])


@pytest.mark.mpi(min_size=1)
def test_memory_decides_how_often_but_not_what_is_computed(world):
    for splits in alternating(world.size, 3):
        whole, cut = (make_case(world, WIDTHS, splits, n=30, memory=memory) for memory in (1e9, 200.0))
        with whole.grid, cut.grid:
            evaluations = [case.objective.evaluate(case.params, (10, 16)) for case in (whole, cut)]
            kept = [[a is not None for _, a in evaluation.chunks] for evaluation in evaluations]
            assert kept[0] == [True] * 3
            assert len(kept[1]) > 12
            assert kept[1][-1]
            assert not any(kept[1][:-1])
            assert evaluations[1].loss == pytest.approx(evaluations[0].loss, rel=1e-13)
            np.testing.assert_allclose(evaluations[1].outputs, whole.dense.outputs(whole.theta), rtol=0, atol=1e-12)
            gradients = [
                whole.whole(case.objective.gradient(evaluation))
                for case, evaluation in zip((whole, cut), evaluations, strict=True)
            ]
            np.testing.assert_allclose(gradients[1], gradients[0], rtol=0, atol=1e-13)


@pytest.mark.mpi(min_size=1)
@pytest.mark.parametrize("loss", ["squared", "cross_entropy", "logistic"])
@pytest.mark.parametrize("activation", ["identity", "relu", "softplus", "tanh", "sigmoid"])
def test_overflow_is_a_value_on_all_ranks_and_no_warning(world, loss, activation):
    case = make_case(world, (5, 4, 3, 1 if loss == "logistic" else 2), (1, world.size, 1, 1), loss=loss,
                     activation=activation)  # fmt: skip
    with case.grid:
        # a warning would be an error here
        for scale in (1e100, 1e160, 1e300):
            evaluation = case.objective.evaluate(scale * case.params, (0, 5))
            told = world.allgather(np.array([evaluation.loss]))[:, 0]
            assert not np.isfinite(told).all() or (told == told[0]).all()
            assert np.isfinite(told).all() == np.isfinite(told).any()
            case.objective.gradient(evaluation)
        unbounded = activation in ("identity", "relu", "softplus")
        assert np.isfinite(evaluation.loss) == (not unbounded and loss != "squared")
