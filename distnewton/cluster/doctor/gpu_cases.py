"""Computations that :mod:`~distnewton.cluster.doctor.verify_gpu` compares on GPU and CPU, as functions of a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnewton.backend import Backend, add_scaled, like, namespace, scale_and_add, take_rows, vecdot
from distnewton.config import make_config
from distnewton.data.in_memory import ArraySource
from distnewton.directions.composition import possible_options
from distnewton.directions.registry import DIRECTIONS
from distnewton.network.activations import ACTIVATIONS, Activation
from distnewton.parallel.collectives import Communicator

ALLOWED = {"float32": 2e-5, "float64": 1e-11}
"""Largest allowed difference, relative to the largest number of a result: sums are taken in another order."""
Case = Callable[[Backend], Any]
_RNG = np.random.default_rng(0)
X, Y = _RNG.standard_normal((2, 60, 8))
_ROOTS = _RNG.standard_normal((5, 6, 6))
SPD = _ROOTS @ _ROOTS.transpose(0, 2, 1) + np.eye(6)
LONG = _RNG.standard_normal(5000)
EDGES = np.array([
    [-200.0, -3.5, -1e-4, -0.0, 0.0, 2e-3, 0.7, 4.0, 90.0, 1e-40],
    [np.nan, -np.inf, np.inf, 1, 2, 3, 4, 5, 6e37, -6e37],
])


def difference(found: Any, wanted: Any, allowed: float) -> tuple[float, str]:
    """Return the difference relative to the largest number, and what is wrong; empty if nothing is."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return np.inf, f"is {found.dtype} of shape {found.shape}, expected {wanted.dtype} of {wanted.shape}"
    special = ~np.isfinite(wanted)
    if not np.array_equal(found[special], wanted[special], equal_nan=True) or not np.isfinite(found[~special]).all():
        return np.inf, "has NaN or infinite values in other places"
    a, b = (values[~special].astype(np.float64) for values in (found, wanted))
    largest = float(np.abs(b).max(initial=0.0))
    off = float(np.abs(a - b).max(initial=0.0)) / (largest or 1.0)
    return off, f"is off by {off:.1e} of its largest number, allowed are {allowed:.0e}" if off > allowed else ""


def _sparse() -> Any:
    from scipy.sparse import csr_array

    return csr_array(X * (np.abs(X) > 1.0))


def _features(backend: Backend) -> Any:
    """Sparse rows in the backend's dtype."""
    return backend.features(_sparse().astype(backend.dtype))


OPERATIONS: dict[str, Case] = {
    "dot": lambda b: b.dot(b.asarray(LONG), b.asarray(LONG[::-1].copy())),
    "vecdot": lambda b: vecdot(b.asarray(X), b.asarray(Y)),
    "product": lambda b: b.product(b.asarray(X), b.asarray(SPD[0, :, :4].repeat(2, 0)[:8].copy()), b.empty(60, 4)),
    "transposed product": lambda b: b.transposed_product(b.asarray(X), b.asarray(Y), b.empty(8, 8)),
    "sparse product": lambda b: b.product(_features(b), b.asarray(X[:8]), b.empty(60, 8)),
    "sparse transposed product": lambda b: b.transposed_product(_features(b), b.asarray(Y), b.empty(8, 8)),
    "sparse rows": lambda b: b.product(b.library.sparse_rows(_features(b), 7, 31), b.asarray(X[:8]), b.empty(24, 8)),
    "chosen sparse rows": lambda b: b.product(
        take_rows(_features(b), np.array([5, 3, 40])), b.asarray(X[:8]), b.empty(3, 8)
    ),
    "chosen rows": lambda b: take_rows(b.asarray(X), np.array([5, 3, 3, 40])),
    "stacked matvec": lambda b: b.stacked_matvec(b.asarray(SPD), b.asarray(X[:5, :6].copy())),
    "batched matvec": lambda b: b.batched_matvec(b.asarray(_ROOTS), b.asarray(X[:5, :6].copy()), b.empty(5, 6)),
    "batched vecmat": lambda b: b.batched_vecmat(b.asarray(X[:5, :6].copy()), b.asarray(_ROOTS), b.empty(5, 6)),
    "windows": lambda b: b.windows(b.asarray(X.reshape(2, 6, 8, 5)), (2, 3), (2, 1)).sum(axis=(3, 4)),
    "inverse": lambda b: b.inverse(b.asarray(SPD[0])),
    "inverses": lambda b: b.inverses(b.asarray(SPD)),
    "solve": lambda b: b.solve(b.cholesky(b.asarray(SPD[0])), b.asarray(LONG[:6])),
    "triangular solve": lambda b: b.solve_triangular(
        b.asarray(np.linalg.cholesky(SPD[0])), b.asarray(LONG[:6]), transposed=True
    ),
    "as the dtype": lambda b: b.asarray(np.arange(7)),
}
"""Methods of :class:`~distnewton.backend.Backend`, and sparse features."""


def _of_library(function: Callable[[Any, Any], Any]) -> Case:
    """A function of the library's functions and an array."""

    def case(backend: Backend) -> Any:
        array = backend.asarray(X)
        return function(namespace(array), array)

    return case


LIBRARY_CASES: dict[str, Case] = {
    name: _of_library(function)
    for name, function in {
        "sum": lambda xp, a: a.sum(axis=0), "sum of all": lambda xp, a: xp.cumsum(a.sum().reshape(1)),
        "mean": lambda xp, a: a.mean(axis=1), "max": lambda xp, a: a.max(axis=1), "min": lambda xp, a: a.min(axis=0),
        "argmax": lambda xp, a: a.argmax(axis=1), "argsort": lambda xp, a: a.argsort(axis=1),
        "cumsum": lambda xp, a: xp.cumsum(a, axis=0, dtype=np.float64),
        "sum of flags": lambda xp, a: (a > 0).sum(axis=0), "exp": lambda xp, a: xp.exp(a),
        "log": lambda xp, a: xp.log(xp.abs(a)), "sqrt": lambda xp, a: xp.sqrt(xp.abs(a)),
        "cbrt": lambda xp, a: xp.cbrt(a), "tanh": lambda xp, a: xp.tanh(a), "expm1": lambda xp, a: xp.expm1(a),
        "logaddexp": lambda xp, a: xp.logaddexp(a, 2 * a), "where": lambda xp, a: xp.where(a > 0, a, -1.0),
        "maximum": lambda xp, a: xp.maximum(a, 0.5), "divide": lambda xp, a: a / 3.0, "power": lambda xp, a: a**2,
        "tensordot": lambda xp, a: xp.tensordot(a, a, axes=((0,), (0,))), "matmul": lambda xp, a: a @ a.T,
        "concatenate": lambda xp, a: xp.concatenate([a, a], axis=1), "stack": lambda xp, a: xp.stack([a, a]),
        "repeat": lambda xp, a: xp.repeat(a, 3, axis=0), "swapaxes": lambda xp, a: xp.swapaxes(a, 0, 1) * 2,
        "broadcast": lambda xp, a: xp.broadcast_to(a[:1], (4, 8)) + a[:4], "isfinite": lambda xp, a: xp.isfinite(a),
        "to float64": lambda xp, a: a.astype(np.float64), "integers by integers": lambda xp, a: xp.arange(9) / 2,
        "whole numbers": lambda xp, a: xp.arange(9) + 1, "searchsorted": lambda xp, a: xp.searchsorted(
            xp.arange(0, 8), like(a, np.array([2, 5])), side="right"
        ),
    }.items()
}  # fmt: skip
"""Functions that numpy and cupy share."""


def kernel_cases(dtype: np.dtype[Any]) -> dict[str, Case]:
    """Return the kernels of the package, on edge cases of a dtype: zero, infinite, NaN, subnormal and large numbers."""
    S = EDGES.astype(dtype)
    cases: dict[str, Case] = {}
    for name, activation in ACTIVATIONS.items():
        cases[name] = partial(_activated, activation, S)
        cases[f"derivative of {name}"] = partial(_derived, activation, S)
    changes = {"add scaled": add_scaled, "scale and add": scale_and_add}
    return cases | {name: partial(_changed, change, S) for name, change in changes.items()}


def _activated(activation: Activation, S: NDArray[Any], backend: Backend) -> Any:
    return activation.apply(backend.asarray(S.copy()))


def _derived(activation: Activation, S: NDArray[Any], backend: Backend) -> Any:
    # from values of the activation alone, as the package calls it
    Z = activation.apply(S[:, :4].copy())
    return activation.multiply_derivative(backend.asarray(S[::-1, :4].copy()), backend.asarray(Z))


def _changed(change: Callable[[Any, float, Any], None], S: NDArray[Any], backend: Backend) -> Any:
    target = backend.asarray(S.copy())
    change(target, -2.5, backend.asarray(S[::-1].copy()))
    return target


_IMAGE = {
    "input": [1, 4, 4],
    "layers": [{"type": "conv", "channels": 3, "kernel": 2, "padding": 1}, {"type": "max_pool", "size": 2, "stride": 1},
               {"type": "conv", "channels": 4, "kernel": 2}, {"type": "avg_pool", "size": 2, "stride": 1},
               {"type": "dense", "width": "auto"}],
}  # fmt: skip
_DENSE = {"layers": ["auto", 8, 7, "auto"]}
NETWORKS: dict[str, dict[str, Any]] = {"dense": _DENSE, "sparse": _DENSE, "images": _IMAGE}
_OPTIONS = {"C": 50.0, "subsample": 0.5, "subsample_min": 1, "batch": 16, "learning_rate": 0.05, "rate_period": 2}


def runs() -> Iterator[tuple[str, Callable[[str], Any]]]:
    """Yield short runs of every direction on every kind of data: a name, and a function from a device to records."""
    for name in DIRECTIONS:
        known = {key for options in possible_options(DIRECTIONS[name]) for key in options.model_fields} | {"C"}
        method = {"direction": name} | {key: value for key, value in _OPTIONS.items() if key in known}
        for kind in NETWORKS:
            yield f"{name}, {kind}", partial(records, kind=kind, method=method)


SAME_STEPS: dict[str, Any] = {
    "direction": "gauss_newton", "C": 50.0, "subsample": 1.0, "cg_max": 3, "cg_min": 3, "line_search_max": 1,
}  # fmt: skip
"""A method whose number of steps does not depend on the number of samples."""


def records(device: str, kind: str, method: dict[str, Any], n: int = 40) -> Any:
    """Return the records of a run of two iterations on ``cpu`` or ``gpu``, on n samples."""
    from scipy.sparse import csr_array

    from distnewton.runs.session import train

    rng = np.random.default_rng(3)
    features: Any = rng.standard_normal((n, 16))
    if kind == "sparse":
        features = csr_array(features * (rng.random(features.shape) < 0.15))
    run = {"iterations": 2, "dtype": "float64", "deterministic": True, "threads": 1, "device": device}
    config = make_config({"network": NETWORKS[kind], "method": method, "run": run})
    data = ArraySource(features, rng.integers(3, size=n))
    return train(config, Communicator(), train_data=data).history
