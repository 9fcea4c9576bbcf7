"""The package's own kernels as CUDA's compiler makes them, executed on the CPU: numpy's numbers to 2 units of rounding.

``kernels.ptx`` holds them, so that neither cupy nor the compiler is needed. After a change of an expression,
``PYTHONPATH=.:tests python tests/device/test_kernels.py`` writes it anew, with cupy and nvidia-cuda-nvrtc-cu12.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ptx import Thread, element, fused, rounded
from strict_device import LIBRARY, StrictBackend

from distnewton.backend import add_scaled, scale_and_add
from distnewton.network.activations import ACTIVATIONS

FILE = Path(__file__).with_name("kernels.ptx")
TYPES = {"float32": "float", "float64": "double"}
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-42, 1e-20, -3e-4, 0.3, -0.7, 1.0, -1.0, 2.5, -9.0, 17.3, -40.0,
         88.7, -88.8, 90.0, -104.0, 300.0, -710.0, 3e38, -3e38]  # fmt: skip


def expressions():
    """Expressions of the kernels, each with its names."""
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LIBRARY, "update", lambda target, text, **others: seen.update({text: ["x", *others]}) or target,
                      raising=False)  # fmt: skip
        Z = StrictBackend(np.dtype("float64")).zeros(2, 3)
        for activation in ACTIVATIONS.values():
            activation.apply(Z)
            activation.multiply_derivative(Z, Z)
        add_scaled(Z, 1.0, Z)
        scale_and_add(Z, 1.0, Z)
    return seen


def compiled(text, names, dtype):
    """PTX of an expression, of one element."""
    from cupy_backends.cuda.libs import nvrtc

    source = f"""
        typedef {TYPES[dtype]} T;
        extern "C" __global__ void update({', '.join(f'const T* all_{name}' for name in names)}, T* made) {{
            int i = threadIdx.x;
            {' '.join(f'const T {name} = all_{name}[i];' for name in names)}
            made[i] = {text};
        }}"""
    program = nvrtc.createProgram(source, "update.cu", (), ())
    nvrtc.compileProgram(program, ("--gpu-architecture=compute_90",))
    return nvrtc.getPTX(program).decode().rstrip("\0")


def stored():
    """PTX by dtype and expression."""
    parts = re.split(r"(?m)^// kernel (\w+): (.*)\n", FILE.read_text())
    return {(dtype, text): code for dtype, text, code in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)}


KERNELS = [(dtype, text) for text in expressions() for dtype in TYPES]


def reference(text, values, dtype):
    """By numpy in this type; in a wider one, rounded; and the largest number that is added up on the way."""
    own, wide = np.dtype(dtype).type, {"float32": np.float64, "float64": np.longdouble}[dtype]
    functions = {name: getattr(np, name) for name in ("exp", "expm1", "fabs", "fmax", "log1p", "tanh")}

    def evaluated(expression, change, T):
        numbers = {name: change(T(value)) for name, value in values.items()}
        return eval(expression, {"__builtins__": {}}, numbers | functions | {"T": T})

    with np.errstate(all="ignore"):
        exact = evaluated(text, lambda value: value, wide)
        # sums of terms of either sign round in units of the terms
        sums = text if "expm1" in text or "log1p" in text else text.replace(" - ", " + ")
        size = max(abs(exact), abs(evaluated(sums, abs, wide)))
        return evaluated(text, lambda value: value, own), own(exact), own(size)


@pytest.mark.parametrize(("dtype", "text"), KERNELS)
def test_kernels_give_numpys_numbers(dtype, text):
    code, names, kind = stored()[dtype, text], expressions()[text], np.dtype(dtype).type
    rng, worst = np.random.default_rng(5), 0.0
    with np.errstate(over="ignore", under="ignore"):
        edges = [[kind(value)] * len(names) for value in EDGES]
        edges += [[kind(rng.choice(EDGES)) for _ in names] for _ in range(60)]
    edges += rng.standard_normal((60, len(names))).astype(dtype).tolist()
    edges += (10 * rng.standard_normal((30, len(names)))).astype(dtype).tolist()
    for values in edges:
        found = kind(element(code, [float(value) for value in values], dtype))
        same, wanted, size = reference(text, dict(zip(names, values, strict=True)), dtype)
        if not np.isfinite(found) or not np.isfinite(size):
            # on the way, too, numbers overflow as numpy's do
            assert np.array_equal(found, same, equal_nan=True) or found == wanted, (values, found, same)
            continue
        off = abs(float(found) - float(wanted)) / float(np.spacing(abs(size)))
        assert off <= 2, (values, found, wanted)
        worst = max(worst, off)
    print(dtype, text, f"{worst:.2f} units")


def test_the_stored_kernels_are_those_of_the_package():
    assert stored().keys() == set(KERNELS)
    # nothing of float32 is computed in float64
    assert all((".f64" in code) == (dtype == "float64") for (dtype, _), code in stored().items())


def test_kernels_of_the_compiler_that_is_installed():
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="no cupy", exc_type=ImportError)
    try:
        nvrtc.getVersion()
    except RuntimeError:
        pytest.skip("CUDA's compiler is not installed")
    for dtype, text in KERNELS:
        code = compiled(text, expressions()[text], dtype)
        for value in (0.3, -2.0, np.nan):
            values = [value] * len(expressions()[text])
            np.testing.assert_equal(element(code, values, dtype), element(stored()[dtype, text], values, dtype))


def test_rounding_is_that_of_ieee():
    """Against numpy's own arithmetic, which is right."""
    rng = np.random.default_rng(1)
    for kind, dtype in (("f32", np.float32), ("f64", np.float64)):
        for scale in (1.0, 1e-30, 1e30 if kind == "f32" else 1e300):
            a, b = (scale * rng.standard_normal((2, 50))).astype(dtype)
            with np.errstate(all="ignore"):
                for x, y in zip(a, b, strict=True):
                    assert dtype(fused(float(x), 1.0, float(y), kind)) == x + y
                    assert dtype(fused(float(x), float(y), 0.0, kind)) == x * y
    assert rounded(Fraction(1, 3), "f32") == float(np.float32(1) / np.float32(3))
    assert rounded(Fraction(-1, 3), "f32", "rm") < -1 / 3 < rounded(Fraction(-1, 3), "f32", "rz")


@pytest.mark.parametrize(
    "line", ["sin.approx.f32 %f2, %f1;", "atom.add.f32 %f2, [%rd1], %f1;", "fma.rp.f32 %f2, %f1, %f1, %f1;"]
)
def test_unknown_instructions_are_refused(line):
    text = "f(.param .u64 f_param_0)\n{\n mov.f32 %f1, 0f3F800000;\n mov.u64 %rd1, 0;\n " + line + "\n ret;\n}"
    with pytest.raises((KeyError, AssertionError, ValueError)):
        Thread(text, [0], {}).run()


if __name__ == "__main__":
    parts = []
    for dtype, text in KERNELS:
        code = re.sub(r"\n\s*\n+", "\n", re.sub(r"(?m)//.*$", "", compiled(text, expressions()[text], dtype))).strip()
        parts.append(f"// kernel {dtype}: {text}\n{code}\n")
    FILE.write_text("".join(parts))
