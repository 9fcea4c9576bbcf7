"""Delimited text, npy, npz, IDX and bundled data; finding files and telling formats apart."""

from __future__ import annotations

import gzip
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets

from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, DataError, MissingInputError

X = np.array([[1.5, 0.0, -3e-5], [2.0, 1e22, 0.1], [0.25, 7.0, 8.0], [4.0, 5.0, 0.0]])


def write(tmp_path, content, name="data"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(delimiter, labels, label_column=3, header=None, end="\n"):
    rows = [] if header is None else [header]
    for x, label in zip(X, labels, strict=True):
        parts = [repr(float(v)) for v in x]
        parts.insert(label_column, str(label))
        rows.append(delimiter.join(parts))
    return end.join(rows) + end


@pytest.mark.parametrize("delimiter", [",", "\t", ";", " ", ", ", "   "])
@pytest.mark.parametrize("labels", [[1, -1, 1, 0], ["g", "h", "g", "g"], [0.5, "1", "x", 2]])
@pytest.mark.parametrize("header", [None, "a,b,c,what"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_delimited(tmp_path, delimiter, labels, header, end):
    header = header and header.replace(",", delimiter)
    path = write(tmp_path, table(delimiter, labels, 3, header, end))
    source = open_data(path)
    description = source.describe()
    assert (description.format, description.n_samples, description.n_features) == ("csv", 4, 3)
    assert description.n_nonzeros == np.count_nonzero(X)
    if all(isinstance(label, int) for label in labels):
        np.testing.assert_array_equal(description.labels, labels)
    else:
        assert description.labels.tolist() == [str(label) for label in labels]
    np.testing.assert_array_equal(source.read(0, 3), X)
    np.testing.assert_array_equal(source.read(1, 2, "float32"), X[:, 1:2].astype("float32"))
    assert source.read(1, 3).flags.c_contiguous


def test_label_columns(tmp_path):
    path = write(tmp_path, table(",", [1, 2, 3, 4], 1, "a,Target,b,c"))
    for column in (None, "Target", 1, "1", -3):
        description = open_data(path, label_column=column).describe()
        np.testing.assert_array_equal(description.labels, [1, 2, 3, 4])
    np.testing.assert_array_equal(open_data(path).read(0, 3), X)
    with pytest.raises(ConfigError, match="no such column; the columns are a, Target, b, c"):
        open_data(path, label_column="nope")
    with pytest.raises(ConfigError, match="has 4 columns"):
        open_data(path, label_column=4)
    plain = write(tmp_path, table(" ", [1, 2, 3, 4], 0), "label_first")
    np.testing.assert_array_equal(open_data(plain, label_column=0).read(0, 3), X)
    with pytest.raises(ConfigError, match="the file has no header"):
        open_data(plain, label_column="nope")


def test_quotes_comments_and_late_text(tmp_path, monkeypatch):
    monkeypatch.setattr("distnewton.data.formats.delimited.BLOCK_BYTES", 16)
    text = '# made by hand\n"a","b, or c","class"\n1,2,7\n3,4,8\n"5",6,"x, y"\n7,8,z\n9,10,z\n'
    source = open_data(write(tmp_path, "\ufeff" + text), format="csv", comment="#")
    description = source.describe()
    assert description.labels.tolist() == ["7", "8", "x, y", "z", "z"]
    np.testing.assert_array_equal(source.read(0, 2), np.arange(1, 11).reshape(5, 2))
    assert source.locate(2).endswith("data:5")
    assert "byte-order mark" in description.notes[0]


@given(
    n_rows=st.integers(1, 12),
    n_columns=st.integers(1, 6),
    seed=st.integers(0, 99),
    cut=st.tuples(*[st.integers(0, 6)] * 2),
)
def test_delimited_ranges(tmp_path_factory, n_rows, n_columns, seed, cut):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n_rows, n_columns)) * 10.0 ** rng.integers(-30, 30, (n_rows, n_columns))
    text = "".join(",".join(map(repr, row)) + ",1\n" for row in values.tolist())
    start, stop = sorted(min(c, n_columns) for c in cut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distnewton.data.formats.delimited.BLOCK_BYTES", 64)
        part = open_data(write(tmp_path_factory.mktemp("c"), text), format="csv").read(start, stop)
    assert part.tobytes() == np.ascontiguousarray(values[:, start:stop]).tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,0\n3,,1\n", "data:2: column 2: value '' is missing"),
        ("a,b,y\n1,2,0\n3,NA,1\n", "data:3: b: value 'NA' is missing"),
        ("1,2,0\n3,x,1\n", "data:2: column 2: 'x' is not a finite decimal number"),
        ("1,2,0\n3,1e999,1\n", "data:2: column 2: '1e999' is not a finite"),
        ("1,2,0\n3,inf,1\n", "data:2: column 2: 'inf' is infinite"),
        ("1,2,0\n3,4\n5,6,7,8\n", "data:2: expected 3 columns as in the first line, got 2"),
        ("1,2,0\n\n3,4,5,6\n", "data:3: expected 3 columns as in the first line, got 4"),
        ("1,2,0\n3,4,?\n", "data:2: label '?' is missing"),
        ("a,b,y\n", "no samples"),
    ],
)
def test_delimited_errors(tmp_path, text, message):
    with pytest.raises(DataError) as caught:
        open_data(write(tmp_path, text), missing="refuse", categories="refuse").describe()
    assert message in str(caught.value)


def dense_sources(tmp_path):
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "X_labels.npy", np.array([0, 1, 1, 2]))
    yield open_data("X.npy", data_dir=tmp_path), X
    np.save(tmp_path / "X_train.npy", np.asfortranarray(X.astype(">f4")))
    np.save(tmp_path / "y_train.npy", np.array(["0", "1", "1", "2"]))
    yield open_data("X_train.npy", data_dir=tmp_path), X.astype("f4")
    np.save(tmp_path / "both.npy", np.insert(X, 1, [0, 1, 1, 2], axis=1))
    yield open_data("both.npy", data_dir=tmp_path, label_column=1), X
    np.savez_compressed(tmp_path / "d.npz", X=np.asfortranarray(X), y=np.array([0, 1, 1, 2]))
    yield open_data("d.npz", data_dir=tmp_path), X
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / "X.npy").read_bytes()))
    yield open_data("packed,X_labels.npy", data_dir=tmp_path), X
    pixels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
    (tmp_path / "t-images-idx3-ubyte").write_bytes(idx(pixels))
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(idx(np.array([0, 1, 1, 2], dtype=np.uint8)))
    )
    idx_source = open_data("t-images-idx3-ubyte", data_dir=tmp_path)
    assert idx_source.describe().image_shape == (1, 2, 3)
    yield idx_source, pixels.reshape(4, 6)
    (tmp_path / "other").write_bytes(gzip.compress(idx(pixels)))
    yield open_data("other, t-labels-idx1-ubyte.gz", data_dir=tmp_path), pixels.reshape(4, 6)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


@pytest.mark.parametrize("block_bytes", [8, 1 << 17])
def test_arrays(tmp_path, block_bytes, monkeypatch):
    monkeypatch.setattr("distnewton.data.formats.stored_arrays.BLOCK_BYTES", block_bytes)
    for source, expected in dense_sources(tmp_path):
        description = source.describe()
        n_features = expected.shape[1]
        assert (description.n_samples, description.n_features) == expected.shape
        assert description.n_nonzeros == np.count_nonzero(expected)
        assert [float(label) for label in description.labels] == [0, 1, 1, 2]
        for start in range(n_features + 1):
            for stop in range(start, n_features + 1):
                part = source.read(start, stop)
                assert part.flags.c_contiguous
                np.testing.assert_array_equal(part, expected[:, start:stop])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("shape", "image_shape"), [
    ((4, 6), None), ((4, 2, 3), (1, 2, 3)), ((4, 3, 5, 2), (3, 5, 2)), ((4, 2, 1, 3, 2), None),
])  # fmt: skip
def test_arrays_of_images(tmp_path, shape, image_shape, order):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    flat = pixels.reshape(4, -1)
    np.savez(tmp_path / "d.npz", X=np.asarray(pixels, order=order), y=np.zeros(4))
    np.save(tmp_path / "X.npy", np.asarray(pixels, order=order))
    np.save(tmp_path / "y.npy", np.zeros(4))
    for name in ("d.npz", "X.npy"):
        source = open_data(name, data_dir=tmp_path)
        description = source.describe()
        assert description.image_shape == image_shape
        assert description.n_nonzeros == flat.size - 1
        np.testing.assert_array_equal(source.read(0, flat.shape[1]), flat)
        np.testing.assert_array_equal(source.read(1, 4), flat[:, 1:4])
        fewer = open_data(name, data_dir=tmp_path, n_features=5, ignore_extra_features=True)
        assert fewer.describe().image_shape is None
        np.testing.assert_array_equal(fewer.read(0, 5), flat[:, :5])
    inside = open_data("X.npy", data_dir=tmp_path, label_column=0)
    assert inside.describe().image_shape is None
    np.testing.assert_array_equal(inside.read(0, 2), flat[:, 1:3])


def test_array_targets_and_errors(tmp_path):
    np.savez(tmp_path / "t.npz", X=X, y=X[:, :2])
    assert open_data(tmp_path / "t.npz").describe().labels.shape == (4, 2)
    np.savez(tmp_path / "a.npz", A=X)
    with pytest.raises(DataError, match="expected arrays X and y, got A"):
        open_data(tmp_path / "a.npz")
    np.savez(tmp_path / "o.npz", X=np.array([[None]]), y=np.zeros(1))
    with pytest.raises(DataError, match="Python objects, which are never loaded"):
        open_data(tmp_path / "o.npz")
    np.save(tmp_path / "Q.npy", X)
    with pytest.raises(DataError, match=r"no file with its labels: looked for Q_labels\.npy, Q_y\.npy"):
        open_data(tmp_path / "Q.npy")
    np.save(tmp_path / "Q_y.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"has 4 samples, but .*Q_y\.npy holds labels of shape"):
        open_data(tmp_path / "Q.npy")
    bad = X.copy()
    bad[2, 1] = np.nan
    np.savez(tmp_path / "n.npz", X=bad, y=np.zeros(4))
    with pytest.raises(DataError, match="sample 3, column 1: nan is not a finite"):
        open_data(tmp_path / "n.npz").describe()
    whole = (tmp_path / "t.npz").read_bytes()
    with pytest.raises(DataError, match="cut short or damaged"):
        open_data(write(tmp_path, whole[: len(whole) // 2], "half.npz"))
    np.save(tmp_path / "Q_y.npy", np.zeros(4))
    write(tmp_path, (tmp_path / "Q.npy").read_bytes()[:-8], "Q.npy")
    with pytest.raises(DataError, match=r"Q\.npy: file is cut short"):
        open_data(tmp_path / "Q.npy").describe()
    write(tmp_path, gzip.compress(idx(np.ones((4, 3), "u1"))[:-3]), "i-images-idx2-ubyte")
    write(tmp_path, idx(np.zeros(4, "u1")), "i-labels-idx1-ubyte")
    with pytest.raises(DataError, match="3 bytes too early"):
        open_data(tmp_path / "i-images-idx2-ubyte").read(0, 3)


@pytest.mark.parametrize("name", ["digits", "iris", "wine", "breast_cancer", "diabetes"])
def test_bundled(name):
    whole, train, test = (open_data(name + part) for part in ("", ":train", ":test"))
    n = whole.describe().n_samples
    assert test.describe().n_samples == n // 5
    assert train.describe().n_samples == n - n // 5
    d = whole.describe().n_features
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    np.testing.assert_allclose(whole.read(0, d), X, rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(whole.describe().labels, y)
    both = np.vstack([train.read(0, d), test.read(0, d)])
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(whole.read(0, d), axis=0))
    np.testing.assert_array_equal(train.read(1, 3), train.read(0, d)[:, 1:3])
    assert whole.describe().image_shape == train.describe().image_shape == ((1, 8, 8) if name == "digits" else None)
    cut = open_data(name, n_features=d - 1, ignore_extra_features=True)
    assert cut.describe().image_shape is None
    with pytest.raises(ConfigError, match=f"{name}:train and {name}:test"):
        open_data(f"{name}:valid")


@pytest.mark.parametrize("content", ["1,2,3,0\n4,5,6,1\n", "npz", "iris"])
def test_extra_features(tmp_path, content):
    if content == "npz":
        np.savez(tmp_path / "data", X=X, y=np.zeros(4))
        name = tmp_path / "data.npz"
    else:
        name = content if content == "iris" else write(tmp_path, content)
    with pytest.raises(DataError, match=r"has \d feature.*, expected 2"):
        open_data(name, n_features=2).describe()
    with pytest.raises(DataError, match=r"has \d feature.*, expected 9"):
        open_data(name, n_features=9, ignore_extra_features=True).describe()
    source = open_data(name, n_features=2, ignore_extra_features=True)
    assert source.describe().n_features == 2
    with pytest.raises(ValueError, match="requested"):
        source.read(0, 3)


def test_finding_files(tmp_path):
    write(tmp_path, "1 1:2\n", "letter.scale")
    with pytest.raises(MissingInputError, match=r"does not exist .*did you mean .*letter\.scale\?"):
        open_data("leter.scale", data_dir=tmp_path)
    with pytest.raises(MissingInputError, match="does not exist either"):
        open_data("x/y", data_dir=tmp_path)
    with pytest.raises(MissingInputError, match="is a folder"):
        open_data(tmp_path, format="csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x95abc", "pickle, which is never loaded"),
        (b"%PDF-1.4", "PDF"),
        (b"\xff\xfe1\x00", "UTF-16"),
        (b"MATLAB 5.0 MAT-file", "MATLAB"),
        (b"ab\x00cd", "binary data"),
        (b"  <HTML><head>", "data:1: looks like HTML"),
        (b'<table border="1">\n<tr><td>1</td></tr>\n', "data:1: looks like HTML"),
        (b'[{"a":1,"label":"x"},\n{"a":2,"label":"y"}]\n', "looks like JSON; save it as CSV or Parquet"),
        (b'{"a": 1, "label": "x"}\n{"a": 2, "label": "y"}\n', "looks like JSON; save it as CSV or Parquet"),
        (b"% Iris\n@RELATION iris\n@ATTRIBUTE a NUMERIC\n@DATA\n1,x\n", "looks like ARFF; save it as CSV or Parquet"),
        (b"1\n2\n", "set format = libsvm or csv"),
        (b"", "no samples"),
        (gzip.compress(b"# nothing\n", mtime=0), "no samples"),
    ],
)
def test_foreign_content(tmp_path, content, message):
    with pytest.raises(DataError) as caught:
        open_data(write(tmp_path, content))
    assert message in str(caught.value)


def test_format_asked_for(tmp_path):
    path = write(tmp_path, "1,2\n3,4\n")
    with pytest.raises(ConfigError, match="format must be auto, libsvm"):
        open_data(path, format="arff")
    with pytest.raises(DataError, match="is csv, not npy"):
        open_data(path, format="npy")
    with pytest.raises(ConfigError, match="header must be"):
        open_data(path, header="maybe")


def test_imports_are_light():
    code = (
        "import sys, distnewton.data.sources, distnewton.data.labels, distnewton.data.scaling;"
        "assert not {'sklearn', 'numba', 'scipy.sparse', 'mpi4py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
