"""Damaged input of every kind: only errors of ours, soon, and in little memory."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
import warnings
from contextlib import suppress

import numpy as np
import pytest

from distnewton.checkpoint.manifest import (
    FORMAT_VERSION,
    CheckpointManifest,
    Part,
    StateTree,
    _with_hash,
    parse,
    render,
)
from distnewton.config import apply_settings, load_config, make_config, to_toml
from distnewton.data.sources import open_data
from distnewton.errors import DistNewtonError
from distnewton.models.model_file import read_header

LIBSVM = b"1 1:0.5 3:-2e-3 12:7\n-1 2:1.5 # note\n1 qid:3 1:1 4:2.25\n-1 3:0 5:1e10\n" * 3
TABLE = b'a,b,"the, label"\n1,2.5,cat\n-3e2,.5,dog\n\n0,+7,cat\n' * 2
RECIPE = to_toml(make_config({"method": {"schedule": "kfac:5"}})).encode()
FRAGMENTS = [
    b":", b" ", b"\n", b"\r\n", b"\t", b"#", b"qid:", b",", b'"', b"nan", b"inf", b"1e999", b"-", b"0x", b"\0", b"\xff",
    b"\xef\xbb\xbf", b"9" * 400, b"1:1", b"=", b"[", b"]", b"{", b"}", b"'", b"[method]", b"true", b"2147483648", b".",
    b"\x1f\x8b", b"BZh9", b"PK\x03\x04", b"\x93NUMPY", b"{type = \"conv\"}", b"1979-05-27", b"\xc3", b"e", b"+",
]  # fmt: skip
N_QUICK = 250
N_LONG = int(os.environ.get("DISTNEWTON_FUZZ", "20000"))
"""Inputs of each kind; the largest that were run are in the report of the change that brought this."""


def mutate(rng, seed_text):
    """A text with a few pieces removed, repeated, swapped or replaced."""
    text = bytearray(seed_text)
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(len(text) + 1)), int(rng.integers(12))
        kind = rng.integers(6)
        if kind == 0:
            del text[at : at + length]
        elif kind == 1:
            text[at:at] = text[at : at + length]
        elif kind == 2:
            text[at:at] = FRAGMENTS[rng.integers(len(FRAGMENTS))]
        elif kind == 3 and text:
            text[min(at, len(text) - 1)] = int(rng.integers(256))
        elif kind == 4:
            del text[at:]
        else:
            text[at : at + length] = rng.bytes(length)
    return bytes(text)


def read(path):
    source = open_data(path)
    found = source.describe()
    source.read(0, min(found.n_features, 1000))


def configure(path):
    load_config(path)


def override(path):
    apply_settings({}, path.read_bytes().decode("latin-1").splitlines())


def model():
    from safetensors.numpy import save

    header = {
        "format_version": 1, "widths": [2, 3, 1], "activation": "tanh", "task": "binary", "loss": "logistic",
        "classes": {"classes": ["cat", "dog"]}, "dense": True, "dtype": "float32",
        "scaling": {"kind": "minmax", "n_columns": 2, "offset": [0.5, 1e3], "factor": [1.0, 2e-2]},
    }  # fmt: skip
    shapes = {"0.weight": (3, 2), "0.bias": 3, "2.weight": (1, 3), "2.bias": 1}
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return save(tensors, {"distnewton": json.dumps(header)})


def manifest():
    part = Part(name="part-0000.safetensors", n_bytes=5, sha256="0" * 64, blocks=[[1, 0, 2, 0, 2]])
    state = StateTree(numbers={"iteration": 3}, vectors=["params"], factors=[], parts={})
    made = CheckpointManifest(
        format_version=FORMAT_VERSION, writer="x", run="0" * 16, sequence=1, iteration=3, saved_at="now",
        identity={"network": {"layers": [2, 2]}}, config_sha256="0" * 64, dtype="float32", widths=[2, 2], splits=[1, 1],
        rows_per_unit=[1], parts=[part], state=state, record={"iteration": 3}, metric=0.5,
    )  # fmt: skip
    return render(made).encode()


def read_manifest(path):
    parse(path.read_bytes(), "manifest")


def read_sealed_manifest(path):
    """The same with the hash of what the damage has left, where that is JSON: the fields themselves are at fault."""
    text = path.read_bytes()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        # NaN and inf have no canonical form: no hash fits them
        with suppress(ValueError):
            text = _with_hash({key: value for key, value in found.items() if key != "sha256"})
    parse(text, "manifest")


KINDS = {
    "libsvm": (LIBSVM, read), "table": (TABLE, read), "recipe": (RECIPE, configure), "setting": (RECIPE, override),
    "model": (model(), read_header), "manifest": (manifest(), read_manifest),
    "sealed manifest": (manifest(), read_sealed_manifest),
}  # fmt: skip


def fuzz(folder, kind, n, seed):
    """Errors that are none of ours, with what caused them; asserts on time."""
    text, use = KINDS[kind]
    rng = np.random.default_rng([seed, len(kind)])
    path = folder / "in"
    slowest, strange, n_refused, longest = 0.0, [], 0, 0
    for _ in range(n):
        damaged = mutate(rng, text)
        path.write_bytes(damaged)
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                use(path)
        except DistNewtonError as error:
            n_refused += 1
            longest = max(longest, len(str(error)))
        except Exception as error:
            strange.append((repr(error)[:300], damaged))
        slowest = max(slowest, time.process_time() - start)
    assert not strange, (len(strange), strange[0])
    assert slowest < 1.0
    assert longest < 20_000
    # else the damage is too small to test anything
    assert n_refused > 0.1 * n
    return n_refused, slowest


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_gives_only_our_errors(tmp_path, kind):
    fuzz(tmp_path, kind, N_QUICK, 0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_much_damaged_input(tmp_path, kind):
    print(kind, N_LONG, fuzz(tmp_path, kind, N_LONG, 1))


@pytest.mark.parametrize("text", [LIBSVM, b"1,2.5,cat\n-3e2,.5,dog\n"])
def test_memory_follows_the_size_of_damaged_input(tmp_path, text):
    use, rng = read, np.random.default_rng(7)
    big = text * (60_000 // len(text))
    (tmp_path / "in").write_bytes(big)
    use(tmp_path / "in")
    tracemalloc.start()
    for _ in range(4):
        (tmp_path / "in").write_bytes(mutate(rng, big))
        try:
            use(tmp_path / "in")
        except DistNewtonError:
            continue
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # a block is parsed with some arrays of its size; none grows with what a damaged number says
    assert peak < 100 * len(big)
