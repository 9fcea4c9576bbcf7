"""What a user gets who chooses nothing, beside PyTorch's Adam with three rates, on many data sets.

``python -m benchmarks.defaults DATA [SET ...]`` (``PYTHONPATH=tests``; DATA is a folder with the public files that the
recipes name). One thread each; seconds are of this process's processor time, evaluation left out, so that another
program on the machine disturbs little. Adam has the same network, standardised features and batches of 128, for 60
passes. Columns: the best test metric of Adam's best rate and its seconds (*T*); that of ``distnewton.train`` with
nothing but the data and the loss within *T*; the metric of the model that it returns; its seconds to Adam's best; and
gradient boosting, where it takes the data. Accuracy, or root mean square error. Needs ``pip install torch``.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import train_test_split

import distnewton

RATES, PASSES, BATCH = (1e-3, 3e-3, 1e-2), 60, 128
REGRESSION = {"diabetes", "friedman", "friedman_small", "smooth8", "smooth8_small", "abalone", "protein"}


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
        "smooth8_small": lambda: _split(*(part[:2000] for part in _smooth())),
        "abalone": lambda: _split(*_table(data / "abalone/abalone.data.gz", 8)),
        "protein": lambda: _split(*_table(data / "protein_casp/data.csv.gz", 9)),
    }  # fmt: skip


class Follower:
    """Takes the test metric and the processor's seconds of each iteration."""

    def __init__(self, metric: str) -> None:
        self._metric, self._start, self.values, self.seconds = metric, 0.0, [], []

    def start(self, summary: Any) -> None:
        """Training begins."""
        self._start = time.process_time()

    def iteration(self, record: Any) -> None:
        """Take an iteration; evaluation is left out in proportion to the wall clock."""
        share = record.training_seconds / max(record.elapsed_seconds, 1e-9)
        self.values.append(record.test[self._metric])
        self.seconds.append((time.process_time() - self._start) * share)


def ours(data: tuple[Any, Any, Any, Any], metric: str) -> tuple[list[float], list[float], float, str]:
    """Test metrics and seconds of each iteration, the metric of the model, and what was chosen."""
    X, y, X_test, y_test = data
    tree = {"network": {"loss": "squared" if metric == "rmse" else "cross_entropy"}, "run": {"threads": 1}}
    follower = Follower(metric)
    result = distnewton.train(
        distnewton.make_config(tree), (X, y), test_data=(X_test, y_test), observers=[follower]
    )
    chosen = result.best.iteration if result.best else result.last.iteration
    return follower.values, follower.seconds, follower.values[chosen], result.summary.notes[0]


def adam(
    data: tuple[Any, Any, Any, Any], metric: str, rate: float, activation: str
) -> tuple[list[float], list[float]]:
    """Test metric and processor's seconds of each pass of PyTorch's Adam."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    X, y, X_test, y_test = data
    mean, deviation = X.mean(0), X.std(0)
    deviation[deviation == 0] = 1.0
    inputs, test = (torch.tensor((part - mean) / deviation, dtype=torch.float32) for part in (X, X_test))
    classes, indices = np.unique(y, return_inverse=True)
    regression = metric == "rmse"
    n_out = 1 if regression else len(classes)
    centre, unit = (y.mean(), y.std()) if regression else (0.0, 1.0)
    targets = torch.tensor((y - centre) / unit, dtype=torch.float32)[:, None] if regression else torch.tensor(indices)
    kind = torch.nn.Tanh if activation == "tanh" else torch.nn.ReLU
    network = torch.nn.Sequential(torch.nn.Linear(X.shape[1], 100), kind(), torch.nn.Linear(100, n_out))
    loss = torch.nn.MSELoss() if regression else torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    values, seconds, spent = [], [], 0.0
    for _ in range(PASSES):
        start = time.process_time()
        for rows in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            loss(network(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        spent += time.process_time() - start
        with torch.no_grad():
            outputs = network(test).numpy()
        right = math.sqrt(np.mean((outputs[:, 0] * unit + centre - y_test) ** 2)) if regression else 0.0
        values.append(right if regression else float((classes[outputs.argmax(1)] == y_test).mean()))
        seconds.append(spent)
    return values, seconds


def trees(data: tuple[Any, Any, Any, Any], metric: str) -> float:
    """Test metric of gradient boosting with its defaults."""
    X, y, X_test, y_test = data
    kind = HistGradientBoostingRegressor if metric == "rmse" else HistGradientBoostingClassifier
    predicted = kind(random_state=0).fit(X, y).predict(X_test)
    return math.sqrt(np.mean((predicted - y_test) ** 2)) if metric == "rmse" else float((predicted == y_test).mean())


def main() -> None:
    """Print the table, a line a set."""
    known = sets(Path(sys.argv[1]))
    print("| set | samples x features | Adam, best | T | ours in T | model | seconds to Adam's best / T | trees |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    ratios = []
    for name in sys.argv[2:] or known:
        data, metric = known[name](), "rmse" if name in REGRESSION else "accuracy"
        sign = -1.0 if metric == "rmse" else 1.0
        values, seconds, model, _ = ours(data, metric)
        runs = [adam(data, metric, rate, "tanh" if metric == "rmse" else "relu") for rate in RATES]
        best, T = max(((sign * max(sign * np.array(v)), s[int(np.argmax(sign * np.array(v)))]) for v, s in runs),
                      key=lambda found: (sign * found[0], -found[1]))  # fmt: skip
        within = sign * max(sign * v for v, s in zip(values, seconds, strict=True) if s <= max(T, seconds[1]))
        reached = [s / T for v, s in zip(values, seconds, strict=True) if sign * v >= sign * best]
        ratios += [reached[0] if reached else math.nan]
        print(
            f"| {name} | {data[0].shape[0]} x {data[0].shape[1]} | {best:.4f} | {T:.2f} | {within:.4f} | {model:.4f} | "
            f"{ratios[-1]:.2f} | {trees(data, metric):.4f} |",
            flush=True,
        )
    found = np.array([r for r in ratios if r > 0])
    mean = np.exp(np.log(found).mean())
    print(f"geometric mean of the ratio, of the {len(found)} of {len(ratios)} sets where it was reached: {mean:.2f}")


if __name__ == "__main__":
    main()
