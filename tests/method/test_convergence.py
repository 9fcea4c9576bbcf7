"""A run that has converged ends by itself, and says so."""

from __future__ import annotations

import numpy as np
import pytest

from distnewton import ArraySource, make_config, train


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_that_has_converged_ends_and_says_so(dtype):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4)).astype(dtype)
    y = X @ np.arange(4.0) + 0.1 * rng.standard_normal(60)
    config = make_config({
        "network": {"layers": [4, 1], "loss": "squared"}, "run": {"iterations": 100, "dtype": dtype},
        "method": {"direction": "gauss_newton", "C": 1e6, "subsample": 1.0, "cg_max": 100}, "data": {"scale": "none"},
    })  # fmt: skip
    result = train(config, train_data=ArraySource(X, y))
    assert result.ended == "converged: the next step would gain less than the rounding error of the objective"
    assert len(result.history) < 40
    bias = np.c_[X, np.ones(60)]
    best = np.mean((bias @ np.linalg.lstsq(bias, y)[0] - y) ** 2)
    assert result.last.train["rmse"] ** 2 == pytest.approx(best, rel=1e-4)
