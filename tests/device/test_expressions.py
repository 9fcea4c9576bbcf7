"""What devices do element by element in one pass: numpy's numbers, and a text that CUDA's compiler takes."""

from __future__ import annotations

import numpy as np
import pytest
from strict_device import LIBRARY, StrictBackend, backend_maker

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


@pytest.mark.parametrize("kind", ["float", "double"])
def test_cudas_compiler_takes_them(monkeypatch, kind):
    """No GPU is needed for that."""
    reason = "cupy, or CUDA's compiler, is not installed"
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason=reason, exc_type=ImportError)
    try:
        nvrtc.getVersion()
    except RuntimeError:
        pytest.skip(reason)
    seen = {}
    monkeypatch.setattr(LIBRARY, "update", lambda target, text, **others: seen.update({text: ["x", *others]}) or target)
    Z = StrictBackend(np.dtype("float64")).zeros(2, 3)
    for activation in ACTIVATIONS.values():
        activation.apply(Z)
        activation.multiply_derivative(Z, Z)
    add_scaled(Z, 1.0, Z)
    scale_and_add(Z, 1.0, Z)
    assert len(seen) == 8
    for text, names in seen.items():
        source = f"""
            typedef {kind} T;
            extern "C" __global__ void update({', '.join(f'const T* all_{name}' for name in names)}, T* made) {{
                int i = threadIdx.x;
                {' '.join(f'const T {name} = all_{name}[i];' for name in names)}
                made[i] = {text};
            }}"""
        program = nvrtc.createProgram(source, "update.cu", (), ())
        nvrtc.compileProgram(program, ("--gpu-architecture=compute_90",))
        # nothing of float32 is computed in float64
        assert (b".f64" in nvrtc.getPTX(program)) == (kind == "double")
