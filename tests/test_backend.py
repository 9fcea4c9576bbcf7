"""Cholesky solves and inverses: exact where the answer is known, in float64 where float32 gives up, and refusals.

On the CPU, on a device that refuses implicit transfers, and on the first GPU where there is one.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import invpascal, lapack, pascal
from strict_device import backend_maker

from distnewton.backend import to_host
from distnewton.errors import NumericalError


@pytest.fixture(params=["cpu", "strict", "cupy"])
def backend_of(request):
    """Makes the backend of a dtype."""
    return backend_maker(request.param)


def reversed_pascal(n):
    """An ill-conditioned matrix of integers and its inverse; reversed, elimination leaves the integers."""
    return (np.ascontiguousarray(M[::-1, ::-1]).astype(float) for M in (pascal(n), invpascal(n)))


def too_hard_for_float32(A):
    return lapack.spotrf(A.astype(np.float32), lower=True)[1] > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_solve_and_inverse_of_a_matrix_that_float32_cannot_factorise(backend_of, dtype):
    backend = backend_of(dtype)
    n = next(n for n in range(8, 14) if too_hard_for_float32(next(reversed_pascal(n))))
    A, exact = (M.astype(dtype) for M in reversed_pascal(n))
    given = backend.asarray(A)
    inverse = to_host(backend.inverse(given))
    np.testing.assert_allclose(inverse, exact, rtol=0, atol=1e-5 * abs(exact).max())
    b = np.arange(n, dtype=dtype) - 4
    x = to_host(backend.solve(backend.cholesky(given), backend.asarray(b)))
    np.testing.assert_allclose(x, exact @ b, rtol=0, atol=1e-5 * abs(exact @ b).max())
    assert inverse.dtype == x.dtype == np.dtype(dtype)
    np.testing.assert_allclose(inverse, inverse.T, rtol=1e-6)
    assert np.array_equal(to_host(given), next(reversed_pascal(n)).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("A", [np.diag([1.0, -1.0]), np.diag([1.0, 0.0]), np.ones((2, 2))], ids=str)
def test_matrices_that_are_not_positive_definite_are_refused_with_advice(backend_of, dtype, A):
    backend = backend_of(dtype)
    A = backend.asarray(A)
    with pytest.raises(NumericalError, match=r"not positive definite.*raise method\.damping"):
        backend.inverse(A)
    with pytest.raises(NumericalError, match=r"not positive definite.*raise method\.damping"):
        backend.cholesky(A)
    with pytest.raises(NumericalError, match=r"not positive definite.*raise method\.damping"):
        backend.inverses(A[None])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(7, 3, 5), (6, 1, 300), (0, 3, 5), (600, 26, 300)])
def test_products_with_a_stack_of_matrices(backend_of, dtype, shape):
    n, k, m = shape
    backend, rng = backend_of(dtype), np.random.default_rng(1)
    D, P, U = (rng.standard_normal(size).astype(dtype) for size in (shape, (n, m), (n, k)))
    # the last one is of the size from which another way is taken
    assert (D.nbytes >= 1 << 24) == (n == 600)
    q, p = (backend.asarray(np.full(size, np.nan)) for size in ((n, k), (n, m)))
    exact = D.astype(np.float64)
    tolerance = 20 * max(k, m) * np.finfo(dtype).eps
    there = backend.asarray(D)
    assert backend.batched_matvec(there, backend.asarray(P), q) is q
    assert backend.batched_vecmat(backend.asarray(U), there, p) is p
    np.testing.assert_allclose(to_host(q), np.einsum("nkm,nm->nk", exact, P), atol=tolerance)
    np.testing.assert_allclose(to_host(p), np.einsum("nk,nkm->nm", U, exact), atol=tolerance)
