"""Cholesky solves and inverses: exact where the answer is known, in float64 where float32 gives up, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import invpascal, lapack, pascal

from distnewton.backend import Backend
from distnewton.errors import NumericalError


def reversed_pascal(n):
    """An ill-conditioned matrix of integers and its inverse; reversed, elimination leaves the integers."""
    return (np.ascontiguousarray(M[::-1, ::-1]).astype(float) for M in (pascal(n), invpascal(n)))


def too_hard_for_float32(A):
    return lapack.spotrf(A.astype(np.float32), lower=True)[1] > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_solve_and_inverse_of_a_matrix_that_float32_cannot_factorise(dtype):
    backend = Backend.of(dtype)
    n = next(n for n in range(8, 14) if too_hard_for_float32(next(reversed_pascal(n))))
    A, exact = (M.astype(dtype) for M in reversed_pascal(n))
    kept = A.copy()
    inverse = backend.inverse(A)
    np.testing.assert_allclose(inverse, exact, rtol=0, atol=1e-5 * abs(exact).max())
    b = np.arange(n, dtype=dtype) - 4
    x = backend.solve(A, b)
    np.testing.assert_allclose(x, exact @ b, rtol=0, atol=1e-5 * abs(exact @ b).max())
    assert inverse.dtype == x.dtype == np.dtype(dtype)
    assert np.array_equal(inverse, inverse.T)
    assert np.array_equal(A, kept)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("A", [np.diag([1.0, -1.0]), np.diag([1.0, 0.0]), np.ones((2, 2))], ids=str)
def test_matrices_that_are_not_positive_definite_are_refused_with_advice(dtype, A):
    backend = Backend.of(dtype)
    with pytest.raises(NumericalError, match=r"not positive definite.*raise method\.damping"):
        backend.inverse(A.astype(dtype))
    with pytest.raises(NumericalError, match=r"not positive definite.*raise method\.damping"):
        backend.solve(A.astype(dtype), np.ones(2, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(7, 3, 5), (6, 1, 300), (0, 3, 5), (600, 26, 300)])
def test_products_with_a_stack_of_matrices(dtype, shape):
    n, k, m = shape
    backend, rng = Backend.of(dtype), np.random.default_rng(1)
    D, P, U = (rng.standard_normal(size).astype(dtype) for size in (shape, (n, m), (n, k)))
    # the last one is of the size from which another way is taken
    assert (D.nbytes >= 1 << 24) == (n == 600)
    q, p = np.full((n, k), np.nan, dtype), np.full((n, m), np.nan, dtype)
    exact = D.astype(np.float64)
    tolerance = 20 * max(k, m) * np.finfo(dtype).eps
    assert backend.batched_matvec(D, P, q) is q
    assert backend.batched_vecmat(U, D, p) is p
    np.testing.assert_allclose(q, np.einsum("nkm,nm->nk", exact, P), atol=tolerance)
    np.testing.assert_allclose(p, np.einsum("nk,nkm->nm", U, exact), atol=tolerance)
