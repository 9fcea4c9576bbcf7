"""What devices do element by element in one pass: numpy's numbers."""

from __future__ import annotations

import numpy as np
import pytest
from strict_device import backend_maker

from distnewton.backend import add_scaled, scale_and_add, to_host
from distnewton.network.activations import ACTIVATIONS


@pytest.fixture(params=["strict", "cupy"])
def backend_of(request):
    return backend_maker(request.param)


def values(dtype):
    return np.array([[-200.0, -3.5, -1e-4, 0.0, 2e-3, 0.7, 4.0, 90.0], [np.nan, -np.inf, np.inf, 1, 2, 3, 4, 5]], dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_and_their_derivatives(backend_of, name, dtype):
    backend, activation = backend_of(dtype), ACTIVATIONS[name]
    tolerance = {"rtol": 20 * np.finfo(dtype).eps, "atol": np.finfo(dtype).tiny}
    S, rng = values(dtype), np.random.default_rng(0)
    there = backend.asarray(S)
    with np.errstate(all="ignore"):
        wanted = activation.apply(S.copy())
        assert activation.apply(there) is there
        np.testing.assert_allclose(to_host(there), wanted, **tolerance)
        # cotangents have an axis more, over which derivatives are broadcast
        E = rng.standard_normal((2, 3, 8)).astype(dtype)
        found = activation.multiply_derivative(backend.asarray(E), there[:, None, :])
        np.testing.assert_allclose(to_host(found), activation.multiply_derivative(E, wanted[:, None, :]), **tolerance)
        # what has overflowed must be found
        assert np.isnan(to_host(there)[1, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_vectors(backend_of, dtype):
    backend, rng = backend_of(dtype), np.random.default_rng(1)
    y, v = rng.standard_normal((2, 50)).astype(dtype)
    for function in (add_scaled, scale_and_add):
        for a in (0.3, np.float64(-2.5), 0):
            there = backend.asarray(y.copy())
            function(there, a, backend.asarray(v))
            here = y.copy()
            function(here, a, v)
            assert here.dtype == there.dtype == np.dtype(dtype)
            np.testing.assert_allclose(to_host(there), here, rtol=5 * np.finfo(dtype).eps, atol=1e-6)
