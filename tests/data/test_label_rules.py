"""Which labels are missing, which kinds are refused, and that the others stay as they were written."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

import distnewton
from distnewton.data.labels import LabelMapping, are_numbers, labels_of, labels_of_texts
from distnewton.errors import DataError


def locate(i_sample):
    return f"data: sample {i_sample + 1}"


@pytest.mark.parametrize(("texts", "numbers"), [
    (["0", "1", "+1", "-1"], True), (["1.0", "0.0"], True), (["0.5", "1e3", "1000"], True), (["1", "x"], False),
    (["007", "12"], False), (["00", "01"], False), (["1e3", "1000"], False), (["9007199254740993", "1"], False),
    (["9007199254740992", "1"], True), (["1e999"], False), (["#happy"], False), (["1_0"], False), (["٣"], False),
    (["0.00", ".5", "5."], True), (["-0", "0"], True),
])  # fmt: skip
def test_labels_are_numbers_only_where_these_are_written_so(texts, numbers):
    assert are_numbers(texts) == numbers
    labels = labels_of_texts(np.array(texts))
    assert labels.dtype.kind == ("f" if numbers else "U")
    if not numbers and len(texts) > 1:
        assert LabelMapping.fit(labels).decode(LabelMapping.fit(labels).encode(labels)) == texts


@pytest.mark.parametrize(("values", "expected"), [
    (np.array([1, 2], np.uint8), [1.0, 2.0]), (np.array([2**53 + 1, 2**53]), ["9007199254740993", "9007199254740992"]),
    (np.array([True, False]), ["True", "False"]), (np.array([b"a", "é".encode()]), ["a", "é"]),
    (np.array(["a", 1, 1.5, 2.0], object), ["a", "1", "1.5", "2"]), (np.array([1, 2.5], object), [1.0, 2.5]),
    (np.array([2**70, 1], object), [str(2**70), "1"]), (["007", "12"], ["007", "12"]),
    (np.array([[1, 2], [3, 4]]), [[1.0, 2.0], [3.0, 4.0]]), (np.ma.array([1, 2], mask=[False, False]), [1.0, 2.0]),
    (np.array([np.float32(0.5), np.int64(3)], object), [0.5, 3.0]),
])  # fmt: skip
def test_labels_of_arrays_stay_as_they_are(values, expected):
    labels = labels_of(values, locate)
    assert labels.dtype.kind in "fU"
    assert labels.tolist() == expected


@pytest.mark.parametrize("values", [
    np.array(["a", None], object), np.array(["a", np.nan], object), np.array([1.0, np.nan]), np.array(["a", " "]),
    np.array([b"a", b""]), np.ma.array([1, 2], mask=[False, True]), np.ma.array(["a", "b"], mask=[False, True]),
    np.array([1, np.datetime64("NaT")], object), np.array([[1.0, 2.0], [np.nan, 1.0]]),
])  # fmt: skip
def test_missing_labels_are_refused(values):
    with pytest.raises(DataError, match="data: sample 2: label is missing"):
        labels_of(values, locate)


def test_missing_labels_of_data_frames_are_refused():
    pd = pytest.importorskip("pandas")
    for values in (pd.Series(["a", None]), pd.Series(["a", pd.NA], dtype="string"), pd.Series([1, None], dtype="Int64"),
                   pd.Categorical(["a", None])):  # fmt: skip
        with pytest.raises(DataError, match="data: sample 2: label is missing"):
            labels_of(values, locate)


@pytest.mark.parametrize("values", [
    np.array(["2020-01-01"], "datetime64[D]"), np.array([1], "timedelta64[s]"), np.array([1j]),
    np.array([datetime.date(2020, 1, 1)], object), np.array([1j], object), np.array([{}], object),
])  # fmt: skip
def test_other_kinds_are_refused(values):
    with pytest.raises(DataError, match="data: sample 1: label"):
        labels_of(values, locate)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(DataError, match=r"data: sample 2: label b'\\xff' is not UTF-8"):
        labels_of(np.array([b"a", b"\xff"]), locate)


@pytest.mark.parametrize("labels", [
    np.array([72048431380967004, 72048431380967104] * 3, np.int64),
    np.array([2**53, 2**53 + 1] * 3, np.uint64),
    np.array(["007", "012"] * 3),
    np.array([b"007", "ü".encode()] * 3),
])  # fmt: skip
@pytest.mark.parametrize("form", ["npz", "npy", "column"])
def test_labels_of_array_files_stay_as_they_are(tmp_path, labels, form):
    X = np.arange(12.0).reshape(6, 2)
    expected = [label.decode() if isinstance(label, bytes) else str(label) for label in labels.tolist()]
    if form == "npz":
        np.savez(tmp_path / "a.npz", X=X, y=labels)
        source = distnewton.open_data(tmp_path / "a.npz")
    elif form == "npy":
        np.save(tmp_path / "a.npy", X)
        np.save(tmp_path / "a_labels.npy", labels)
        source = distnewton.open_data(tmp_path / "a.npy")
    elif labels.dtype.kind in "iu":
        np.save(tmp_path / "a.npy", np.column_stack([X.astype(labels.dtype), labels]))
        source = distnewton.open_data(tmp_path / "a.npy", label_column=-1)
    else:
        pytest.skip("an array of numbers holds no texts")
    found = source.describe().labels
    assert [str(label) for label in found.tolist()] == expected


def test_labels_of_array_files_that_are_missing_or_infinite(tmp_path):
    for value, message in ((np.nan, "sample 2: label is missing"), (np.inf, "label of sample 2 is not a finite")):
        np.savez(tmp_path / "a.npz", X=np.ones((3, 2)), y=np.array([1.0, value, 0.0]))
        with pytest.raises(DataError, match=message):
            distnewton.open_data(tmp_path / "a.npz").describe()
