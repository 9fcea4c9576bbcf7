"""Which columns of a table are features: by name where the table has names, by place where it has none."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from distnewton.data.columns import ColumnNames, check_names
from distnewton.data.in_memory import ArraySource
from distnewton.data.sources import open_data
from distnewton.data.store.convert import convert
from distnewton.errors import ConfigError, DataError

NAMES = ColumnNames(("a", "b", "c"), "sort")
ROWS = [("x", 1.0, -2.5, 3e2), ("y", 4.0, 0.25, 6.0), ("x", 7.0, 8.0, -9.0)]
X = np.array([row[1:] for row in ROWS])
VALUES = dict(zip(("sort", "a", "b", "c"), zip(*ROWS, strict=True), strict=True)) | {
    "id": ("n1", "n2", "n3"), "number": (10, 20, 30),
}


def csv(path, columns, *, header=True, end="\n", quoted=False, repeat=1):
    lines = [",".join(columns)] if header else []
    lines += [",".join(str(VALUES[name][i]) for name in columns) for i in range(3)] * repeat
    if quoted:
        lines[-1] = ",".join(f'"{part}"' for part in lines[-1].split(","))
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def parquet(path, columns, **_):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    pq.write_table(pa.table({name: list(VALUES[name]) for name in columns}), path)
    return path


def opened(path, **options):
    return open_data(path, **{"n_features": 3, "names": NAMES, **options})


@pytest.mark.parametrize("write", [csv, parquet])
@pytest.mark.parametrize("columns", [
    ["a", "b", "c", "sort"], ["sort", "c", "a", "b"], ["id", "b", "a", "sort", "number", "c"],
    ["c", "id", "b", "a", "sort"],
])  # fmt: skip
def test_columns_are_taken_by_name_whatever_their_order(tmp_path, write, columns):
    source = opened(write(tmp_path / "new", columns))
    description = source.describe()
    assert description.n_features == 3
    assert description.names == NAMES
    assert description.labelled
    assert description.labels.tolist() == ["x", "y", "x"]
    assert description.n_nonzeros == 9
    np.testing.assert_array_equal(source.read(0, 3), X)
    np.testing.assert_array_equal(source.read(1, 2, "float32", np.array([0, 2])), X[[0, 2], 1:2])
    left_out = [note for note in description.notes if "left out" in note]
    assert len(left_out) == ("id" in columns)
    assert source.read(0, 3).flags.c_contiguous


@pytest.mark.parametrize("columns", [["id", "b", "a", "sort", "number", "c"], ["b", "c", "a", "sort"]])
@pytest.mark.parametrize("more", [{}, {"end": "\r\n"}, {"quoted": True}, {"repeat": 20_000}])
def test_text_in_all_manners_of_lines(tmp_path, columns, more):
    path = csv(tmp_path / "new.csv", columns, **more)
    n = more.get("repeat", 1)
    for labels in ("required", "none"):
        source = opened(path, labels=labels)
        found = source.describe()
        np.testing.assert_array_equal(source.read(0, 3), np.tile(X, (n, 1)))
        assert found.labelled == (labels == "required")
        assert found.labels.tolist() == ["x", "y", "x"] * n if found.labelled else np.isnan(found.labels).all()


@pytest.mark.parametrize("write", [csv, parquet])
def test_labels_need_not_be_there_where_none_are_wanted(tmp_path, write):
    path = write(tmp_path / "new", ["b", "c", "a"])
    for labels in ("if_there", "none"):
        source = opened(path, labels=labels)
        assert not source.describe().labelled
        np.testing.assert_array_equal(source.read(0, 3), X)
    with pytest.raises(DataError, match="has no column sort, which held the labels in training"):
        opened(path)


def test_one_feature_alone_is_a_table(tmp_path):
    names = ColumnNames(("fare",), "label")
    (tmp_path / "t").write_text("fare\n1.5\n7\n")
    source = open_data(tmp_path / "t", names=names, n_features=1, labels="none")
    assert source.describe().n_samples == 2
    assert source.read(0, 1).ravel().tolist() == [1.5, 7.0]
    with pytest.raises(DataError, match="neither `index:value` pairs nor"):
        open_data(tmp_path / "t")


def test_labels_that_are_not_wanted_may_hold_anything(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("sort,a,b,c\n,1,2,3\nNA,4,5,6\n?,7,8,9\n")
    np.testing.assert_array_equal(opened(path, labels="none").read(0, 3), np.arange(1.0, 10).reshape(3, 3))
    assert opened(path, labels="none").describe().n_samples == 3
    with pytest.raises(DataError, match=r"new\.csv:2: label '' is missing"):
        opened(path, labels="if_there").describe()


@pytest.mark.parametrize("write", [csv, parquet])
def test_missing_and_double_columns_are_named(tmp_path, write):
    with pytest.raises(DataError, match=r"has no column b, which the model was trained on; its columns are a, c, sort"):
        opened(write(tmp_path / "less", ["a", "c", "sort"]))
    if write is csv:
        with pytest.raises(DataError, match="has two columns b; columns are taken by name"):
            opened(csv(tmp_path / "twice", ["a", "b", "b", "c", "sort"]))


def test_tables_without_names_are_taken_by_place(tmp_path):
    path = csv(tmp_path / "new.csv", ["a", "b", "c", "sort"], header=False)
    source = opened(path)
    np.testing.assert_array_equal(source.read(0, 3), X)
    assert source.describe().names is None
    bare = csv(tmp_path / "bare.csv", ["a", "b", "c"], header=False)
    for labels in ("if_there", "none"):
        found = opened(bare, labels=labels).describe()
        assert not found.labelled
        assert "no label column, all 3 columns are features" in found.notes[0]
        np.testing.assert_array_equal(opened(bare, labels=labels).read(0, 3), X)
    np.testing.assert_array_equal(opened(path, labels="none").read(0, 3), X)
    with pytest.raises(DataError, match=r"has 2 feature columns besides the label \(column 3\), expected 3"):
        opened(bare)


def test_a_header_that_names_labels_has_some(tmp_path):
    """A model without names: three columns of which one is called label are no three features."""
    path = tmp_path / "new.csv"
    path.write_text("a,label,c\n1,2,3\n")
    with pytest.raises(DataError, match="has 2 feature columns besides the label"):
        open_data(path, n_features=3, labels="none")
    with pytest.raises(DataError, match="has 2 feature columns besides the label"):
        open_data(path, n_features=3, labels="none", label_column="c")


@pytest.mark.parametrize("ignored", [["id", "number"], [0, -1], ["0", "number"]])
@pytest.mark.parametrize("write", [csv, parquet])
def test_columns_can_be_ignored(tmp_path, ignored, write):
    path = write(tmp_path / "new", ["id", "a", "sort", "b", "c", "number"])
    source = open_data(path, ignore_columns=ignored, label_column="sort")
    description = source.describe()
    assert description.names == NAMES
    np.testing.assert_array_equal(source.read(0, 3), X)
    # without a label column that is named, the last one that is not ignored
    last = open_data(write(tmp_path / "last", ["id", "a", "b", "c", "sort", "number"]), ignore_columns=ignored)
    assert last.describe().labels.tolist() == ["x", "y", "x"]
    with pytest.raises(ConfigError, match="ignore_columns names sort, the label column"):
        open_data(path, ignore_columns=["sort"], label_column="sort")
    with pytest.raises(ConfigError, match=r"ignore_columns = 'ID'.* no such column; the columns are id, a"):
        open_data(path, ignore_columns=["ID"])


def test_what_cannot_be_a_name_gives_none(tmp_path):
    assert open_data(csv(tmp_path / "plain", ["a", "b", "c", "sort"])).describe().names == NAMES
    assert open_data(csv(tmp_path / "bare", ["a", "b", "c", "sort"], header=False)).describe().names is None
    path = tmp_path / "twice"
    path.write_text("a,a,label\n1,2,x\n3,4,y\n")
    assert open_data(path).describe().names is None


@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
def test_arrays_without_labels(tmp_path, kind):
    path = tmp_path / f"new.{kind}"
    if kind == "npy":
        np.save(path, X)
    elif kind == "npz":
        np.savez(path, X=X)
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["X"] = X
    for column in (None, 1):
        source = open_data(path, n_features=3, labels="if_there", label_column=column)
        assert not source.describe().labelled
        assert np.isnan(source.describe().labels).all()
        np.testing.assert_array_equal(source.read(0, 3), X)
    with_labels = open_data(path, n_features=2, labels="if_there", label_column=1)
    assert with_labels.describe().labels.tolist() == X[:, 1].tolist()
    with pytest.raises(DataError, match=r"labels|arrays X and y|no data set 'y'"):
        open_data(path, n_features=3)


def test_extra_features_are_left_out_only_where_they_are_numbered(tmp_path):
    csv(tmp_path / "dense.csv", ["a", "b", "c", "sort"], header=False)
    (tmp_path / "sparse").write_text("x 1:1 9:2\ny 2:4\n" + "x 1:3\n" * 9)
    for name in ("dense.csv", "sparse"):
        convert(open_data(tmp_path / name), tmp_path / f"{name}.store", files=[])
    np.save(tmp_path / "dense.npy", X)
    np.save(tmp_path / "dense_y.npy", np.arange(3))
    for name in ("dense.csv", "dense.csv.store", "dense.npy"):
        with pytest.raises(DataError, match=r"has 3 feature.* expected 2"):
            open_data(tmp_path / name, n_features=2, ignore_extra_features="numbered")
        assert open_data(tmp_path / name, n_features=2, ignore_extra_features=True).describe().n_features == 2
    for name in ("sparse", "sparse.store"):
        assert open_data(tmp_path / name, n_features=2, ignore_extra_features="numbered").describe().n_features == 2


@pytest.mark.parametrize("write", [csv, parquet])
def test_a_store_keeps_the_names(tmp_path, write):
    source = open_data(write(tmp_path / "table", ["a", "sort", "c", "b"]), label_column="sort")
    names = ColumnNames(("a", "c", "b"), "sort")
    assert source.describe().names == names
    convert(source, tmp_path / "store", files=[])
    # the label column of the recipe may stay; another one is too late
    store = open_data(tmp_path / "store", label_column="sort")
    assert store.describe().names == names
    assert store.describe().labels.tolist() == ["x", "y", "x"]
    first = open_data(tmp_path / "store", n_features=2, ignore_extra_features=True)
    assert first.describe().names.features == ("a", "c")
    with pytest.raises(ConfigError, match="give label_column to distnewton convert"):
        open_data(tmp_path / "store", label_column="a")
    with pytest.raises(DataError, match="feature 1 is the column c, but in training it was b"):
        check_names("store", store.describe().names, NAMES)
    tree = json.loads((tmp_path / "store" / "store.json").read_text())
    tree["content"]["columns"]["features"].pop()
    digest = hashlib.sha256(json.dumps(tree["content"], sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (tmp_path / "store" / "store.json").write_text(json.dumps(tree | {"checksum": digest}))
    with pytest.raises(DataError, match="the columns become 2 features, but the store has 3"):
        open_data(tmp_path / "store")


def test_stores_of_before_there_were_names(tmp_path):
    source = open_data(csv(tmp_path / "table", ["a", "b", "c", "sort"]), label_column="sort")
    convert(source, tmp_path / "store", files=[])
    tree = json.loads((tmp_path / "store" / "store.json").read_text())
    del tree["content"]["columns"], tree["content"]["sums_bytes"]
    digest = hashlib.sha256(json.dumps(tree["content"], sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (tmp_path / "store" / "store.json").write_text(json.dumps(tree | {"checksum": digest, "version": 1}))
    store = open_data(tmp_path / "store")
    assert store.describe().names is None
    np.testing.assert_array_equal(store.read(0, 3), X)


class Table:
    """What DataFrames and their columns have: the protocols that numpy and scikit-learn look for."""

    def __init__(self, values, columns=None, name=None):
        self._values, self.shape = np.asarray(values), np.shape(values)
        if columns is not None:
            self.columns = columns
        self.name = name

    def __array__(self, dtype=None, copy=None):
        return self._values.astype(dtype) if dtype else self._values

    def __len__(self):
        return len(self._values)


def test_data_frames_have_names():
    sort = Table(["x", "y", "x"], name="sort")

    def names(columns, y=sort):
        return ArraySource(Table(X, columns), y).describe().names

    assert names(["a", "b", "c"]) == NAMES
    assert names(["a", "b", "c"], ["x", "y", "x"]) == ColumnNames(("a", "b", "c"), "label")
    assert names(["a", "b", "c"], Table(["x", "y", "x"], name=0)) == ColumnNames(("a", "b", "c"), "label")
    for columns in (["a", "b", "sort"], ["a", "a", "c"], ["a", "", "c"], [0, 1, 2], None):
        assert names(columns) is None
    assert ArraySource(X, sort, columns=NAMES).describe().names == NAMES
    np.testing.assert_array_equal(ArraySource(Table(X, ["a", "b", "c"]), sort).read(0, 3), X)
