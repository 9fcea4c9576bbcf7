"""Data sets of the benchmarks: what scikit-learn brings along, and files of a folder of public data."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import normalize

REGRESSION = {"diabetes", "friedman", "friedman_small", "smooth8", "smooth8_small", "abalone", "protein", "wave"}


def _split(X: Any, y: Any, n: int = 20_000) -> tuple[Any, Any, Any, Any]:
    rows = np.random.default_rng(0).permutation(len(y))[:n]
    X, y = X[rows], y[rows]
    n_classes = np.unique(y, return_counts=True)
    by_class = y if len(n_classes[0]) < 50 and n_classes[1].min() > 1 else None
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0, stratify=by_class)
    return X_train, y_train, X_test, y_test


def _table(path: Path, label: int, header: bool = False, delimiter: str = ",") -> tuple[Any, Any]:
    with gzip.open(path, "rt") as file:
        rows = [row for row in csv.reader(file, delimiter=delimiter) if row][int(header) :]
    y = np.unique([row[label] for row in rows], return_inverse=True)
    features = np.array([row[:label] + row[label + 1 or len(row) :] for row in rows], float)
    numbers = np.array([row[label] for row in rows]) if y[0][0].isalpha() else np.array([float(r[label]) for r in rows])
    return features, y[1] if numbers.dtype.kind == "U" else numbers


def _libsvm(path: Path) -> tuple[Any, Any]:
    X, y = datasets.load_svmlight_file(io.BytesIO(bz2.decompress(path.read_bytes())))
    return X.toarray(), y


def _pictures(folder: Path, which: str, n: int) -> tuple[Any, Any]:
    images = gzip.decompress((folder / f"{which}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{which}-labels-idx1-ubyte.gz").read_bytes())
    X, y = np.frombuffer(images, np.uint8, offset=16), np.frombuffer(labels, np.uint8, offset=8)
    return X.reshape(-1, 784)[:n].astype(float), y[:n].astype(float)


def _smooth() -> tuple[Any, Any]:
    X = np.random.default_rng(0).uniform(-1, 1, (6000, 8))
    y = np.sin(3 * X[:, 0]) * np.cos(2 * X[:, 1]) + X[:, 2] * X[:, 3] + np.exp(-(X[:, 4] ** 2)) + 0.1 * X[:, 5:].sum(1)
    return X, y


def _wave() -> tuple[Any, Any]:
    """A smooth oscillating function of one variable, without noise."""
    X = np.linspace(-1, 1, 2000)[:, None]
    return X, np.sin(8 * X[:, 0]) * np.exp(-(X[:, 0] ** 2)) + 0.3 * np.cos(15 * X[:, 0])


def _zip(data: Path, which: str) -> tuple[Any, Any]:
    table = np.loadtxt(io.BytesIO(gzip.decompress((data / f"usps/zip.{which}.gz").read_bytes())))
    return table[:, 1:], table[:, 0]


def _frequent(X: Any, y: Any) -> tuple[Any, Any]:
    classes, counts = np.unique(y, return_counts=True)
    kept = np.isin(y, classes[counts > 100])
    return X[kept], y[kept]


def sets(data: Path) -> dict[str, Callable[[], tuple[Any, Any, Any, Any]]]:
    """The data sets: features and labels of training and test."""
    return {
        "digits": lambda: _split(*datasets.load_digits(return_X_y=True)),
        "cancer": lambda: _split(*datasets.load_breast_cancer(return_X_y=True)),
        "wine": lambda: _split(*datasets.load_wine(return_X_y=True)),
        "iris": lambda: _split(*datasets.load_iris(return_X_y=True)),
        "letter": lambda: (*_libsvm(data / "letter/letter.scale.bz2"), *_libsvm(data / "letter/letter.scale.t.bz2")),
        "pendigits": lambda: (*_libsvm(data / "pendigits/pendigits.bz2"), *_libsvm(data / "pendigits/pendigits.t.bz2")),
        "usps": lambda: (*_zip(data, "train"), *_zip(data, "test")),
        "magic04": lambda: _split(*_table(data / "magic04/magic04.data.gz", 10)),
        "higgs": lambda: (
            *_table(data / "higgs/higgs_train_10k.csv.gz", 0), *_table(data / "higgs/higgs_test_5k.csv.gz", 0)
        ),
        "covertype": lambda: _split(*_table(data / "covertype_small/covtype.first5999.csv.gz", 54, header=True)),
        "ijcnn1": lambda: _split(*_libsvm(data / "ijcnn1_val/ijcnn1.val.bz2")),
        "kddcup99": lambda: _split(
            *_frequent(*_table(data / "kddcup99_10pct/kddcup.tsv.gz", 41, header=True, delimiter="\t"))
        ),
        "mnist10k": lambda: (
            *_pictures(data / "mnist", "train", 10_000), *_pictures(data / "mnist", "t10k", 5_000)
        ),
        "diabetes": lambda: _split(*datasets.load_diabetes(return_X_y=True)),
        "friedman": lambda: _split(*datasets.make_friedman1(4000, 10, noise=0.5, random_state=0)),
        "friedman_small": lambda: _split(*datasets.make_friedman1(1500, 10, noise=0.5, random_state=0)),
        "smooth8": lambda: _split(*_smooth()),
        "wave": lambda: _split(*_wave()),
        "smooth8_small": lambda: _split(*(part[:2000] for part in _smooth())),
        "abalone": lambda: _split(*_table(data / "abalone/abalone.data.gz", 8)),
        "protein": lambda: _split(*_table(data / "protein_casp/data.csv.gz", 9)),
    }  # fmt: skip


def sparse_sets(data: Path) -> dict[str, Callable[[], tuple[Any, Any, Any, Any]]]:
    """Sparse data sets: features and labels of training and test; news20 as log1p of counts, in rows of norm 1."""

    def read(path: Path, n_features: int) -> tuple[Any, Any]:
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else bz2.decompress(path.read_bytes())
        return datasets.load_svmlight_file(io.BytesIO(content), n_features=n_features)

    def news20(which: str) -> tuple[Any, Any]:
        X, y = read(data / f"news20_bydate/news20_bydate.{which}.libsvm.xz", 130_107)
        return normalize(X.log1p()), y

    return {
        "a9a": lambda: (*read(data / "a9a/a9a.bz2", 123), *read(data / "a9a/a9a.t.bz2", 123)),
        "w8a": lambda: _split(*read(data / "w8a/w8a.bz2", 300), n=50_000),
        "rcv1_small": lambda: _split(*read(data / "rcv1_small/rcv1_small.libsvm.bz2", 47_236)),
        "news20": lambda: (*news20("train"), *news20("test")),
    }
