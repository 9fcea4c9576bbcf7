"""``doctor --verify-gpu`` on the stand-in for a GPU: all agrees, and each fault that is planted is found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from launched import call
from strict_device import LIBRARY, StrictArray, StrictBackend, StrictGpus, unwrap, wrap

from distnewton.cluster.doctor import verify_gpu
from distnewton.cluster.doctor.gpu_cases import NETWORKS, difference
from distnewton.cluster.doctor.verify_gpu import verify
from distnewton.directions.registry import DIRECTIONS
from distnewton.launch import devices
from distnewton.network.network import PartitionedNetwork


@pytest.fixture(autouse=True)
def gpus(monkeypatch):
    monkeypatch.setattr(devices, "GPUS", StrictGpus())
    monkeypatch.setattr(verify_gpu, "_SIZE", 32)


def test_what_is_right_agrees(tmp_path):
    done = call("doctor", "--verify-gpu", "--json", tmp_path / "gpu.json")
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "gpu.json").read_text())
    trials = report["gpu"]["trials"]
    assert {trial["verdict"] for trial in trials if trial["group"] != "messages"} == {"agrees"}
    of_runs = {trial["name"] for trial in trials if trial["group"] == "directions"}
    assert of_runs == {f"{name}, {kind}" for name in DIRECTIONS for kind in NETWORKS}
    assert report["gpu"]["device"] == "strict device"
    assert {"Python", "numpy", "driver"} <= report["gpu"]["versions"].keys()
    assert "SLOW     GPU       messages: not tried" in done.stdout


def test_without_a_gpu_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(devices, "GPUS", StrictGpus(0))
    done = call("doctor", "--verify-gpu")
    assert done.returncode == 78
    assert "PROBLEM  GPU       there is none" in done.stdout


def late_upload(patch):
    """The copy is made when the device next works, from memory that the caller may have overwritten."""
    waiting, to_host = [], LIBRARY.to_host

    def done(array):
        while waiting:
            values, out = waiting.pop()
            np.copyto(out._numbers, values)
        return to_host(array)

    patch.setattr(LIBRARY, "upload", lambda values, out: waiting.append((values, out)), raising=False)
    patch.setattr(LIBRARY, "to_host", done, raising=False)


def late_download(patch):
    patch.setattr(LIBRARY, "download", lambda array, out: None, raising=False)


def wrong_sum(patch):
    sums = StrictArray.__getattr__
    patch.setattr(StrictArray, "__getattr__", lambda self, name: (
        lambda **options: sums(StrictArray(self._numbers[1:]), name)(**options)) if name == "sum" else sums(self, name))


def wrong_dtype(patch):
    patch.setattr(LIBRARY.xp, "exp", lambda a: wrap(np.exp(unwrap(a).astype(np.float64))))


def whole_division(patch):
    divide = StrictArray.__truediv__
    patch.setattr(StrictArray, "__truediv__", lambda self, other: (
        wrap(self._numbers // other) if self.dtype.kind == "i" else divide(self, other)))


def silent_transfer(patch):
    patch.setattr(StrictArray, "__array__", lambda self, dtype=None, copy=None: self._numbers)


def transfer_inside(patch):
    patch.setattr(LIBRARY, "vecdot", lambda x, y: wrap(np.vecdot(np.asarray(x), np.asarray(y))), raising=False)


def rounded_factors(patch):
    """As TF32 does, where nobody asked for it."""

    def product(self, A, B, out):
        out[...] = wrap((unwrap(A).astype(np.float16) @ unwrap(B).astype(np.float16)).astype(out.dtype))
        return out

    patch.setattr(StrictBackend, "_matmul", product)


def swallowed_nan(patch):
    update = LIBRARY.update

    def clean(target, expression, **others):
        result = update(target, expression, **others)
        result._numbers[...] = np.nan_to_num(result._numbers)
        return result

    patch.setattr(LIBRARY, "update", clean, raising=False)


def wrong_kernel(patch):
    update = LIBRARY.update
    patch.setattr(LIBRARY, "update", lambda target, text, **others: update(
        target, text.replace("a * v", "v"), **others), raising=False)  # fmt: skip


def other_triangle(patch):
    factor = LIBRARY.xp.linalg.cholesky
    patch.setattr(LIBRARY.xp.linalg, "cholesky", lambda A: LIBRARY.xp.swapaxes(factor(A), -1, -2))


def shifted_rows(patch):
    rows = LIBRARY.sparse_rows
    patch.setattr(LIBRARY, "sparse_rows", lambda X, start, stop: rows(X, start + 1, stop + 1), raising=False)


def wrong_strides(patch):
    strided = LIBRARY.xp.stride_tricks.as_strided
    patch.setattr(LIBRARY.xp.stride_tricks, "as_strided", lambda a, shape, strides: strided(
        a, shape, (*strides[:-2], strides[-1], strides[-2])))  # fmt: skip


def lost_order(patch):
    to_host = LIBRARY.to_host
    patch.setattr(LIBRARY, "to_host", lambda array: np.ascontiguousarray(to_host(array)), raising=False)


def one_buffer(patch):
    buffer = np.empty(1 << 20, np.uint8)
    patch.setattr(LIBRARY, "pinned", lambda n_bytes: buffer[:n_bytes], raising=False)


def one_by_one(patch):
    forward = PartitionedNetwork.forward

    def by_sample(network, params, X, *args, **options):
        for _ in range(X.shape[0]):
            LIBRARY.scalar(wrap(np.float64(0)))
        return forward(network, params, X, *args, **options)

    patch.setattr(PartitionedNetwork, "forward", by_sample)


FAULTS = {
    "upload": (late_upload, "transfers"), "download": (late_download, "transfers"),
    "sum": (wrong_sum, "functions float64"), "dtype": (wrong_dtype, "functions float32"),
    "integers": (whole_division, "functions float64"),
    "silent transfer": (silent_transfer, "transfers"), "transfer inside": (transfer_inside, "operations float64"),
    "TF32": (rounded_factors, "operations float32"), "NaN": (swallowed_nan, "kernels float64"),
    "kernel": (wrong_kernel, "kernels float32"), "triangle": (other_triangle, "operations float64"),
    "rows": (shifted_rows, "operations float32"), "strides": (wrong_strides, "operations float64"),
    "order": (lost_order, "transfers"), "buffer": (one_buffer, "transfers"),
    "number of transfers": (one_by_one, "crossings"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(monkeypatch, fault):
    plant, group = FAULTS[fault]
    assert all(trial.verdict == "agrees" for trial in verify(groups=(group,)).trials)
    plant(monkeypatch)
    found = verify(groups=(group,))
    wrong = [trial for trial in found.trials if trial.verdict == "differs"]
    assert wrong
    assert all(trial.text for trial in wrong)
    assert any(result.level == "problem" for result in found.results())
    print(fault, [(trial.name, trial.text) for trial in wrong][:2])


@pytest.mark.parametrize(("found", "text"), [
    (np.ones(3, np.float32), "is float32"), (np.ones((3, 1)), "of shape"),
    (np.array([1.0, np.nan, 1.0]), "other places"),
    (np.array([1.0, 1.0, 1.1]), "is off by 1.0e-01"),
])  # fmt: skip
def test_differences_have_their_reason(found, text):
    off, why = difference(found, np.ones(3), 1e-3)
    assert text in why
    assert off > 1e-3
