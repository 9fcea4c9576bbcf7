"""Where cupy's types, reductions and indices are not what one may expect: a table, on the stand-in and on a GPU.

From cupy's page on its differences from numpy: reductions leave arrays without axes; lists are no operands; casts of
numbers that have no whole number, and several values for one place, are undefined.
"""

from __future__ import annotations

import numpy as np
import pytest
from strict_device import backend_maker

from distnewton.backend import like, namespace, on_device, scalar, to_host

DTYPES = {
    # of numbers of Python and numpy
    "float * 2": (lambda xp, a, k: a * 2, "float32"), "float * 0.5": (lambda xp, a, k: a * 0.5, "float32"),
    "2 - float": (lambda xp, a, k: 2 - a, "float32"), "float ** 2": (lambda xp, a, k: a**2, "float32"),
    "where": (lambda xp, a, k: xp.where(a > 0, a, -1.0), "float32"),
    "maximum": (lambda xp, a, k: xp.maximum(a, 0), "float32"),
    "float of numpy": (lambda xp, a, k: a * np.float64(0.5), "float64"),
    # of whole numbers
    "integer / integer": (lambda xp, a, k: k / 2, "float64"), "integer + 1": (lambda xp, a, k: k + 1, "int64"),
    "integer * float": (lambda xp, a, k: k * a, "float64"), "integer % 2": (lambda xp, a, k: k % 2, "int64"),
    "exp of integers": (lambda xp, a, k: xp.exp(k), "float64"),
    "small integers": (lambda xp, a, k: k.astype(np.uint8) + k.astype(np.uint8), "uint8"),
    "small integers * float": (lambda xp, a, k: k.astype(np.uint8) * a, "float32"),
    # reductions
    "sum": (lambda xp, a, k: a.sum(), "float32"), "mean": (lambda xp, a, k: a.mean(), "float32"),
    "sum in float64": (lambda xp, a, k: a.sum(dtype=np.float64), "float64"),
    "sum of integers": (lambda xp, a, k: k.astype(np.int32).sum(), "int64"),
    "sum of small integers": (lambda xp, a, k: k.astype(np.uint8).sum(), "uint64"),
    "sum of flags": (lambda xp, a, k: (a > 0).sum(), "int64"),
    "mean of flags": (lambda xp, a, k: (a > 0).mean(), "float64"),
    "mean of integers": (lambda xp, a, k: k.mean(), "float64"), "argmax": (lambda xp, a, k: a.argmax(), "int64"),
    "cumsum of flags": (lambda xp, a, k: xp.cumsum(a > 0), "int64"), "all": (lambda xp, a, k: (a > 0).all(), "bool"),
    # products and factors
    "product": (lambda xp, a, k: a @ a, "float32"),
    "tensordot": (lambda xp, a, k: xp.tensordot(a, a, axes=1), "float32"),
    "inverse": (lambda xp, a, k: xp.linalg.inv(xp.eye(2, dtype=a.dtype)), "float32"),
    "norm": (lambda xp, a, k: xp.linalg.norm(a), "float32"),
    # made anew
    "zeros": (lambda xp, a, k: xp.zeros(3), "float64"), "arange": (lambda xp, a, k: xp.arange(3), "int64"),
    "ones": (lambda xp, a, k: xp.ones(3, a.dtype), "float32"),
    "full_like": (lambda xp, a, k: xp.full_like(a, 1), "float32"),
    "searchsorted": (lambda xp, a, k: xp.searchsorted(k, k, side="left"), "int64"),
    "argsort": (lambda xp, a, k: a.argsort(), "int64"), "counts": (lambda xp, a, k: xp.unique(
        k, return_inverse=True, return_counts=True)[2], "int64"),
}  # fmt: skip


@pytest.fixture(params=["strict", "cupy"])
def arrays(request):
    """The functions, numbers of float32, and numbers of int64."""
    a = backend_maker(request.param)("float32").asarray(np.array([1.5, -2.0, 0.25]))
    return namespace(a), a, like(a, np.array([0, 2, 5]))


@pytest.mark.parametrize("case", DTYPES)
def test_types_of_results(arrays, case):
    function, dtype = DTYPES[case]
    xp, a, k = arrays
    made = function(xp, a, k)
    assert on_device(made)
    assert made.dtype == np.dtype(dtype)
    host = np.array([1.5, -2.0, 0.25], np.float32), np.array([0, 2, 5])
    wanted = np.asarray(function(np, *host))
    assert (made.shape, wanted.dtype) == (wanted.shape, np.dtype(dtype))
    if made.dtype.kind == "f":
        np.testing.assert_allclose(to_host(made), wanted, rtol=1e-6)
    else:
        np.testing.assert_array_equal(to_host(made), wanted)


def test_reductions_leave_arrays_without_axes(arrays):
    _, a, _ = arrays
    for made in (a.sum(), a.max(), a[0], (a > 0).any()):
        assert on_device(made)
        assert made.shape == ()
    assert scalar(a.max()) == 1.5


def test_lists_are_no_operands(arrays):
    xp, a, _ = arrays
    with pytest.raises(TypeError):
        xp.maximum(a, [0.0, 1.0, 2.0])


@pytest.mark.parametrize("dtype", ["int64", "uint8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_the_stand_in_refuses_casts_that_are_undefined(dtype, value):
    a = backend_maker("strict")("float64").asarray(np.array([1.0, value]))
    if dtype == "int64" and value == -1.0:
        assert to_host(a.astype(dtype)).tolist() == [1, -1]
    else:
        with pytest.raises(AssertionError, match="does not say"):
            a.astype(dtype)


def test_the_stand_in_refuses_several_values_for_one_place():
    a = backend_maker("strict")("float64").zeros(4)
    a[like(a, np.array([3, 1]))] = 2.0
    with pytest.raises(ValueError, match="not known on a GPU"):
        a[like(a, np.array([1, 2, 1]))] = 1.0
    assert to_host(a).tolist() == [0, 2, 0, 2]
