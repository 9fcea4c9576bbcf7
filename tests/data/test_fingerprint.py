"""The hash by which a run knows its data: the same on any grid and in any form, another for any other data."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from launched import call_together
from scipy import sparse

from distnewton.data.fingerprint import combined, fingerprint
from distnewton.data.sources import open_data
from distnewton.data.store import rows_of_blocks
from distnewton.data.store.convert import convert

TYPES = [np.float32, np.float64]


def some(dtype, n=301, n_columns=23):
    rng = np.random.default_rng(0)
    return rng.integers(-3, 4, size=(n, n_columns)).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("values_at_once", [1, 100, 1 << 16])
def test_parts_add_up_dense_or_sparse(dtype, values_at_once, monkeypatch):
    X = some(dtype)
    whole = fingerprint(X)
    monkeypatch.setattr("distnewton.data.fingerprint._BLOCK_VALUES", values_at_once)
    rng = np.random.default_rng(1)
    of_rows = np.array_split(rng.permutation(len(X)), 3)
    for form in (np.asarray, np.asfortranarray, sparse.csr_array):
        parts = [
            fingerprint(form(X[np.sort(rows), first:last]), np.sort(rows), first)
            for rows in of_rows for first, last in ((0, 5), (5, 5), (5, 12), (12, 23))
        ]  # fmt: skip
        assert sum(parts) % 2**64 == whole
    stored = sparse.csr_array((np.zeros(4, dtype), [0, 1, 2, 3], [0, 4]), shape=(1, 9))
    assert fingerprint(stored) == 0


@pytest.mark.parametrize("dtype", TYPES)
def test_other_data_have_another_hash(dtype):
    X, seen = some(dtype), set()
    seen.add(fingerprint(X))
    changed = 1
    for i, k in np.ndindex(40, X.shape[1]):
        for value in (np.nextafter(X[i, k], dtype(9)), -X[i, k] if X[i, k] else dtype(1), dtype(1e6)):
            other = X.copy()
            other[i, k] = value
            seen.add(fingerprint(other))
            changed += 1
    # whole numbers share most of their bits, and two columns of them most of their values
    for n_columns in (1, 2, X.shape[1]):
        few = X[:, :n_columns]
        seen.add(fingerprint(few + 7))
        changed += 1
        for i, k in zip(*np.triu_indices(40, 1), strict=True):
            if (few[i] != few[k]).any():
                order = np.arange(len(few))
                order[[i, k]] = k, i
                seen.add(fingerprint(few[order] + 7))
                changed += 1
    assert len(seen) == changed


def test_labels_and_weights_count():
    labels, weights = np.array([0.0, 1.0, 1.0]), np.ones(3)
    known = [
        combined(5, labels), combined(6, labels), combined(5, labels[::-1]), combined(5, labels, weights),
        combined(5, labels, 2 * weights), combined(5, labels.astype(str)), combined(5, np.array(["a", "b", "b"])),
    ]  # fmt: skip
    assert len(set(known)) == len(known)
    assert combined(5 + 2**64, labels, None) == combined(5, labels)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rounded", [False, True])
def test_a_store_knows_the_hash_of_what_it_holds(tmp_path, monkeypatch, dtype, rounded):
    X = np.random.default_rng(0).standard_normal((60, 9)).round(4)
    for name in ("DenseRows", "SparseRows"):
        few = partial(getattr(rows_of_blocks, name), block_values=100)
        monkeypatch.setattr(f"distnewton.data.store.convert.{name}", few)
    (tmp_path / "d.csv").write_text("".join(",".join(map(str, row)) + ",1\n" for row in X.tolist()))
    (tmp_path / "d.libsvm").write_text("".join(
        "1 " + " ".join(f"{k + 1}:{x}" for k, x in enumerate(row) if x > 0) + "\n" for row in X.tolist()
    ))  # fmt: skip
    for name in ("d.csv", "d.libsvm"):
        convert(open_data(tmp_path / name), tmp_path / f"{name}.store", files=[], float32=rounded)
        text, store = open_data(tmp_path / name), open_data(tmp_path / f"{name}.store")
        values = text.read(0, 9, dtype)
        values = values.astype(np.float32).astype(dtype) if rounded else values
        assert store.stored_fingerprint(dtype) == fingerprint(values) == fingerprint(store.read(0, 9, dtype))
        narrow = open_data(tmp_path / f"{name}.store", n_features=8, ignore_extra_features=True)
        assert narrow.stored_fingerprint(dtype) is None


def rows_of(changed=None):
    lines = [f"{k % 7}.25,{k % 3},{'ab'[k % 2]}\n" for k in range(40)]
    match changed:
        case "a value":
            lines[17] = lines[17].replace(".25", ".26")
        case "a label":
            lines[17] = lines[17].replace("b", "a")
        case "two rows":
            lines[3], lines[30] = lines[30], lines[3]
    return "".join(lines)


@pytest.mark.mpi(min_size=1, sizes=(4,))
def test_a_run_resumes_with_its_data_alone(world, folder):
    data = folder / "data.csv"

    def train(text, *more):
        world.barrier()
        if world.rank == 0:
            data.write_text(text)
        world.barrier()
        return call_together(
            world, "train", f"--data.train={data}", "--network.layers=auto-4-auto", "--method.direction=gauss_newton",
            "--run.seed=1", f"--run-dir={folder}/R", "--run.checkpoint_minutes=0", "--quiet", *more,
        )  # fmt: skip

    assert train(rows_of(), "--run.iterations=1").returncode == 0
    for changed in ("a value", "a label", "two rows"):
        done = train(rows_of(changed), "--resume", "--run.iterations=2")
        assert (done.returncode, done.stderr.count("values, labels and weights (hash)")) == (65, 1), done.stderr
        assert f"the data are now {data}" in done.stderr
        assert "network.start" in done.stderr
    grids = [[], ["--partition.splits=1-4-1"], ["--partition.splits=2-1-2", "--partition.replicas=2"]]
    # a store of the same values is the same data
    if world.rank == 0:
        data.write_text(rows_of())
        convert(open_data(data), folder / "store", files=[])
    world.barrier()
    done = train(rows_of(), "--resume", "--run.iterations=2", f"--data.train={folder}/store")
    assert done.returncode == 0, done.stderr
    for more in grids if world.size == 4 else [[]]:
        done = train(rows_of(), "--resume", "--run.iterations=2", *more)
        assert done.returncode == 0, done.stderr
