"""HDF5 and Parquet: values and labels, only one's own columns, missing values, damage, missing packages."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distnewton.data.sources import open_data
from distnewton.data.store.convert import convert
from distnewton.errors import ConfigError, DataError, MissingExtraError

h5py = pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((31, 6))


def hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("__", "/")] = values
    return path


def table(path, label="class", labels=None, **more):
    columns = {f"f{j}": X[:, j] for j in range(4)} | {"whole": np.arange(31), "flag": X[:, 5] > 0}
    columns |= {label: np.arange(31) % 3 if labels is None else labels} | more
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def numbers():
    return np.column_stack([X[:, :4], np.arange(31.0), X[:, 5] > 0])


def test_hdf5_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr("distnewton.data.formats.hdf5._BLOCK_BYTES", 100)
    more = {"train__A": X[:5].astype("f4"), "train__B": ["a", "ä"] * 2 + ["c"]}
    path = hdf5(tmp_path / "data.bin", X=X, y=np.arange(31) % 4, **more)
    source = open_data(path)
    description = source.describe()
    assert (description.format, description.n_samples, description.n_features) == ("hdf5", 31, 6)
    np.testing.assert_array_equal(description.labels, np.arange(31) % 4)
    np.testing.assert_array_equal(source.read(2, 5), X[:, 2:5])
    assert source.read(2, 5, "float32").dtype == np.float32
    other = open_data(f"{path}:train/A,train/B")
    assert other.describe().labels.tolist() == ["a", "ä", "a", "ä", "c"]
    np.testing.assert_array_equal(other.read(0, 6), X[:5].astype("f4"))
    column = open_data(f"{path}:X", label_column=1, format="hdf5")
    np.testing.assert_array_equal(column.describe().labels, X[:, 1])
    np.testing.assert_array_equal(column.read(0, 3), X[:, [0, 2, 3]])
    assert "data set 'Z', only X, train/A, train/B, y" in error(f"{path}:Z")
    assert "FILE:FEATURES,LABELS, got 'a,b,c'" in error(f"{path}:a,b,c", ConfigError)


def test_hdf5_images_and_letters_of_any_case(tmp_path):
    images = RNG.integers(256, size=(9, 3, 4, 5), dtype=np.uint8)
    path = hdf5(tmp_path / "images.h5", x=images, Y=np.arange(9))
    source = open_data(path)
    assert source.describe().image_shape == (3, 4, 5)
    np.testing.assert_array_equal(source.read(7, 33), images.reshape(9, -1)[:, 7:33])


def test_hdf5_reads_only_its_columns(tmp_path, monkeypatch):
    path = hdf5(tmp_path / "data.h5", X=X, y=np.arange(31))
    asked = []
    whole = h5py.Dataset.__getitem__

    def watched(self, key, *more):
        asked.append(key)
        return whole(self, key, *more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    open_data(path).read(2, 4)
    assert asked == [(slice(0, 31), slice(2, 4))]


def test_hdf5_faults(tmp_path):
    bad = X.copy()
    bad[3, 2] = np.nan
    assert "sample 4, column 2: nan is not a finite number" in error(hdf5(tmp_path / "nan.h5", X=bad, y=np.arange(31)))
    assert "holds labels of shape (30,)" in error(hdf5(tmp_path / "short.h5", X=X, y=np.arange(30)))
    assert "features must be numbers" in error(hdf5(tmp_path / "text.h5", X=[["a", "b"]], y=[1]))
    assert "is a single value" in error(hdf5(tmp_path / "single.h5", X=1.0, y=[1]))
    whole = hdf5(tmp_path / "data.h5", X=X, y=np.arange(31)).read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[:1500])
    assert "HDF5 file is cut short or damaged" in error(tmp_path / "cut.h5")
    (tmp_path / "data.h5.gz").write_bytes(gzip.compress(whole))
    assert "is a compressed HDF5 file; decompress it first" in error(tmp_path / "data.h5.gz")


def error(path, kind=DataError, **options):
    with pytest.raises(kind) as caught:
        open_data(path, missing="refuse", categories="refuse", **options).describe()
    return str(caught.value)


def test_parquet_tables(tmp_path, monkeypatch):
    monkeypatch.setattr("distnewton.data.formats.parquet.BATCH_VALUES", 20)
    source = open_data(table(tmp_path / "data"))
    description = source.describe()
    assert (description.format, description.n_samples, description.n_features) == ("parquet", 31, 6)
    assert description.n_nonzeros == np.count_nonzero(numbers())
    np.testing.assert_array_equal(description.labels, np.arange(31) % 3)
    np.testing.assert_array_equal(source.read(0, 6), numbers())
    np.testing.assert_array_equal(source.read(1, 5, "float32"), numbers()[:, 1:5].astype("f4"))
    assert source.read(1, 5).flags.c_contiguous
    assert source.read(3, 3).shape == (31, 0)
    assert source.locate(4).endswith("data: row 5")
    texts = open_data(table(tmp_path / "texts", labels=pa.array(["ä", "b", "c"] * 10 + ["b"]).dictionary_encode()))
    assert texts.describe().labels.tolist() == ["ä", "b", "c"] * 10 + ["b"]
    for column in ("f1", 1, -6):
        other = open_data(table(tmp_path / "other"), label_column=column)
        np.testing.assert_array_equal(other.describe().labels, X[:, 1])
    cut = open_data(table(tmp_path / "cut"), n_features=2, ignore_extra_features=True).describe()
    assert (cut.n_features, cut.n_ignored_values) == (2, 4 * 31)


@pytest.mark.parametrize("rows", [None, [0, 6, 7, 30]])
def test_wide_parquet_tables_are_read_by_groups_of_columns(tmp_path, monkeypatch, rows):
    """A reader that has all columns of a table open takes 15 kB for each of them."""
    monkeypatch.setattr("distnewton.data.formats.parquet.BATCH_VALUES", 20)
    monkeypatch.setattr("distnewton.data.formats.parquet.ParquetSource.n_at_once", 4)
    asked, opened = [], []
    whole = pq.ParquetFile.iter_batches

    def watched(self, **options):
        asked.append(options["columns"])
        opened.append(self)
        return whole(self, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    path = table(tmp_path / "data", labels=["a", "b", "c"] * 10 + ["b"])
    source = open_data(path)
    description = source.describe()
    assert asked == [["f0", "f1", "f2", "f3", "class"], ["whole", "flag"]]
    assert len(set(opened)) == 1, "the end of the file is read once"
    assert (description.n_samples, description.n_nonzeros) == (31, np.count_nonzero(numbers()))
    assert description.labels.tolist() == ["a", "b", "c"] * 10 + ["b"]
    for start, stop in [(0, 6), (1, 6), (2, 3), (6, 6)]:
        for dtype in ("float32", "float64"):
            expected = numbers()[:, start:stop].astype(dtype)
            expected = expected if rows is None else expected[rows]
            np.testing.assert_array_equal(source.read(start, stop, dtype, rows and np.array(rows)), expected)
    convert(open_data(path), tmp_path / "store", files=[path])
    np.testing.assert_array_equal(open_data(tmp_path / "store").read(0, 6), numbers())
    bad = X[:, 5].copy()
    bad[8] = np.nan
    assert "row 9: column last: value nan" in error(table(tmp_path / "bad", last=bad, label="y"))


def test_texts_that_are_new_are_counted_once_in_groups_of_columns(tmp_path, monkeypatch):
    path = tmp_path / "data"
    columns = {"town": list("abcdefgh"), "x": np.arange(8.0), "y": np.arange(8) % 2}
    pq.write_table(pa.table(columns), path)
    names = open_data(path, categories="onehot").describe().names
    monkeypatch.setattr("distnewton.data.formats.parquet.ParquetSource.n_at_once", 3)
    pq.write_table(pa.table(columns | {"town": list("abcxefgy")}), path)
    notes = open_data(path, names=names).describe().notes
    assert any("2 values of column town are texts" in note for note in notes), notes


READING = """
import sys
from pathlib import Path
import distnewton
import scipy.sparse
from distnewton.data.sources import open_data
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
before = peak()
source = open_data(sys.argv[1])
X = source.read(0, 6_000, "float32")
print(peak() - before, source.reading_bytes + X.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read there")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_plans_know_what_reading_takes(tmp_path, kind):
    """Within a fifth for 200 to 1,000 MB, measured by hand; small files are nearer to what varies from run to run."""
    n = 8_000
    names = [f"f{j}" for j in range(n)]
    if kind == "csv":
        lines = ["".join([f"{value:.6f}," for value in row.tolist()]) + "1" for row in RNG.standard_normal((5, n))]
        (tmp_path / "data").write_text("\n".join([",".join([*names, "y"]), *lines * 30]))
    else:
        values = RNG.standard_normal((n, 150)).astype("f4")
        frame = pa.table([*map(pa.array, values), pa.array(np.ones(150))], [*names, "y"])
        pq.write_table(frame, tmp_path / "data", use_dictionary=False)
    done = subprocess.run(
        [sys.executable, "-c", READING, tmp_path / "data"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    taken, expected = map(float, done.stdout.split())
    assert 0.6 * expected < taken < 1.4 * expected, (taken, expected)


def test_parquet_reads_only_its_columns(tmp_path, monkeypatch):
    source = open_data(table(tmp_path / "data"))
    asked = []
    batches = source._batches
    monkeypatch.setattr(type(source), "_batches", lambda self, places: asked.append(places) or batches(places))
    source.read(1, 3)
    assert asked == [[1, 2]]


def test_parquet_faults(tmp_path):
    bad = X[:, 0].copy()
    bad[8] = np.inf
    assert "row 9: column g: value inf is not a finite number" in error(table(tmp_path / "inf", g=bad))
    missing = pa.array([None if i == 11 else 1.0 for i in range(31)])
    assert "row 12: column g: value is missing" in error(table(tmp_path / "null", g=missing))
    labels = pa.array([None if i == 30 else "a" for i in range(31)])
    assert "row 31: label is missing" in error(table(tmp_path / "label", labels=labels))
    assert "column g is of type string, not numbers" in error(table(tmp_path / "text", g=["a"] * 31))
    assert "expected a label and at least one feature" in error(one_column(tmp_path / "one"))
    assert "no such column" in error(table(tmp_path / "data"), ConfigError, label_column="nope")
    whole = (tmp_path / "data").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    assert "Parquet file is cut short or damaged" in error(tmp_path / "cut")
    damaged = bytearray(whole)
    damaged[4:400] = bytes(396)
    (tmp_path / "damaged").write_bytes(damaged)
    assert "amaged" in error(tmp_path / "damaged")
    (tmp_path / "data.gz").write_bytes(gzip.compress(whole))
    assert "is a compressed Parquet file" in error(tmp_path / "data.gz")


def one_column(path):
    pq.write_table(pa.table({"a": [1.0]}), path)
    return path


def test_both_become_stores(tmp_path):
    for path in (hdf5(tmp_path / "a.h5", X=X, y=np.arange(31)), table(tmp_path / "b.parquet")):
        source, target = open_data(path), tmp_path / f"store-{path.name}"
        n = source.describe().n_features
        convert(source, target, files=[path])
        assert open_data(target).read(0, n).tobytes() == open_data(path).read(0, n).tobytes()


def test_what_to_install(tmp_path, monkeypatch):
    path = hdf5(tmp_path / "a", X=X, y=np.arange(31))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'distnewton\[hdf5\]'"):
        open_data(path)
