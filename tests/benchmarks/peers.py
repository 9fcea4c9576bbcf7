"""What ``auto`` reaches beside what people would pick: one table and one picture, wins and losses alike.

``python -m benchmarks.peers DATA [SET ...] [--seeds 3] [--methods NAME ...] [--out docs/benchmarks/peers.json]``
(``PYTHONPATH=tests``; DATA is a folder with the public files of :mod:`~benchmarks.data_sets`). Each method has the same
network, weights to start with, samples, and seconds of this process's processor time (:data:`SECONDS`, enough for Adam
to come to its best), one thread, evaluation left out. A tenth of the training samples chooses the iteration that
counts, and among learning rates; the table has its test metric. Adam comes first of a set and seed, so that the others
are measured at the time of its best, too. Trees take the time that they need. A package that is missing is named. On
sparse sets LIBLINEAR's program and ``distnewton-train`` are compared as processes, reading and start included. Runs
that the file has already are replaced, so that some methods can be measured again.

``python -m benchmarks.peers --render docs/benchmarks`` writes page and pictures from the file.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from sklearn.datasets import dump_svmlight_file
from sklearn.model_selection import train_test_split

import distnewton
from benchmarks.data_sets import REGRESSION, sets, sparse_sets
from benchmarks.peers_page import render
from distnewton.launch.deadline import Stop

BATCH, HIDDEN = 128, {"wave": [20, 20]}
RATES = (1e-3, 3e-3, 1e-2)
SECONDS = {
    "digits": 1.0, "cancer": 0.5, "letter": 6.0, "pendigits": 2.0, "usps": 2.5, "magic04": 5.0, "higgs": 1.5,
    "covertype": 3.0, "ijcnn1": 6.0, "kddcup99": 3.0, "smooth8_small": 2.0, "friedman_small": 1.5, "abalone": 1.0,
    "protein": 6.0, "wave": 1.5,
}  # fmt: skip
"""Sets of the table, and a method's seconds on each."""
ADAM = ("Adam", "Adam, cosine", "AdamW", "AdamW, cosine")
OURS = "distnewton auto"
Point = tuple[float, float, float]
"""Errors of validation and test, and the seconds until then."""
PACKAGES = ("distnewton", "numpy", "scipy", "torch", "pytorch-optimizer", "schedulefree", "scikit-learn", "lightgbm",
            "xgboost")  # fmt: skip


class Problem:
    """A set split in three, standardised for methods that do not scale by themselves."""

    def __init__(self, name: str, data: tuple[Any, Any, Any, Any], seed: int) -> None:
        X, y, self.X_test, y_test = data
        self.name, self.seed, self.regression = name, seed, name in REGRESSION
        self.dtype = "float64" if name == "wave" else "float32"
        if not self.regression:
            labels = np.unique(np.concatenate([y, y_test]), return_inverse=True)[1]
            y, y_test = labels[: len(y)], labels[len(y) :]
        by_class = None if self.regression else y
        self.X, self.X_val, self.y, self.y_val = train_test_split(
            X, y, test_size=0.1, random_state=seed, stratify=by_class
        )
        self.y_test, self.n_out = y_test, 1 if self.regression else int(y.max()) + 1
        self.mean, self.deviation = self.X.mean(0), self.X.std(0)
        self.deviation[self.deviation == 0] = 1.0
        self.centre, self.unit = (self.y.mean(), self.y.std()) if self.regression else (0.0, 1.0)

    def scaled(self, X: Any) -> Any:
        """Standardised features."""
        return (X - self.mean) / self.deviation

    def error(self, outputs: Any, truth: Any) -> float:
        """Root mean square error, or share of wrong answers: the less the better."""
        if self.regression:
            return math.sqrt(np.mean((outputs * self.unit + self.centre - truth) ** 2))
        return _share(np.mean(outputs != truth))

    def config(self, **run: Any) -> distnewton.Config:
        """Nothing but the loss, the network's hidden layers, and one thread."""
        network = {"loss": "squared" if self.regression else "cross_entropy"}
        network["layers"] = ["auto", *HIDDEN.get(self.name, [100]), "auto"]
        tables = {"network": network, "run": {"threads": 1, "seed": self.seed, "dtype": self.dtype, **run}}
        return distnewton.make_config(tables)


def _share(share: Any) -> float:
    """A share of wrong answers, rounded so that equal ones compare equal, however they were computed."""
    return round(float(share), 12)


class Follower:
    """Errors and the processor's seconds of each iteration; tells when they are spent."""

    save_seconds = 0.0

    def __init__(self, problem: Problem, budget: float) -> None:
        self._problem, self._budget, self.points = problem, budget, []

    def start(self, summary: Any) -> None:
        """Training begins."""
        self.note, self._start = summary.notes[0], time.process_time()

    def iteration(self, record: Any) -> None:
        """Take an iteration; evaluation is left out in proportion to the wall clock."""
        share = record.training_seconds / max(record.elapsed_seconds, 1e-9)
        measured = record.validation, record.test
        error = [m["rmse"] if self._problem.regression else _share(1 - m["accuracy"]) for m in measured]
        self.points.append((*error, (time.process_time() - self._start) * share))

    def must_stop(self) -> Stop:
        """Whether the budget is spent."""
        return Stop.CLOCK if self.points and self.points[-1][2] >= self._budget else Stop.NO


def ours(problem: Problem, budget: float) -> tuple[list[Point], dict[str, Any]]:
    """``distnewton.train`` with nothing chosen."""
    follower = Follower(problem, budget)
    distnewton.train(
        problem.config(seconds=1e9), (problem.X, problem.y), validation_data=(problem.X_val, problem.y_val),
        test_data=(problem.X_test, problem.y_test), observers=[follower], clock=follower,
    )  # fmt: skip
    # the iteration that reaches the budget may be long
    return [point for point in follower.points if point[2] <= 1.05 * budget], {"note": follower.note}


def chosen(runs: list[tuple[list[Point], dict[str, Any]]]) -> dict[str, Any]:
    """The point that validation chooses of some runs: its test error and seconds, and those of the whole run."""
    points, more = min(runs, key=lambda run: _best(run[0])[0])
    best = _best(points)
    return {"validation": best[0], "test": best[1], "seconds": best[2], "spent": points[-1][2], **more}


def _best(points: list[Point]) -> Point:
    return min(points, key=lambda point: point[0] if math.isfinite(point[0]) else math.inf)


def adams_best(runs: list[list[Point]]) -> tuple[float, float]:
    """The least test error of some runs, and the seconds until the first of them has it."""
    return min(point[1:] for points in runs for point in points if math.isfinite(point[1]))


def beside_adam(runs: list[list[Point]], best: tuple[float, float]) -> dict[str, float | None]:
    """The least test error until Adam's best, and the seconds until an error as small as that, if it is reached."""
    points = [point for run in runs for point in run]
    within = [test for _, test, seconds in points if seconds <= best[1] and math.isfinite(test)]
    reached = [seconds for _, test, seconds in points if test <= best[0]]
    return {"within": min(within, default=None), "reached": min(reached, default=None)}


def torch_network(problem: Problem) -> Any:
    """The same network with the same weights to start with."""
    import torch

    start = distnewton.train(problem.config(iterations=0), (problem.X, problem.y)).model
    widths, kind = start.architecture.shape.widths, torch.nn.Tanh if problem.regression else torch.nn.ReLU
    modules = [m for a, b in pairwise(widths) for m in (torch.nn.Linear(a, b), kind())][:-1]
    network = torch.nn.Sequential(*modules).to(getattr(torch, problem.dtype))
    network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in start.weights().items()})
    return network


def torch_run(
    problem: Problem, budget: float, make: Callable[..., Any], rate: float, cosine: bool
) -> tuple[list[Point], dict[str, Any]]:
    """An optimiser with one rate, from pass to pass until the budget is spent."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(problem.seed)
    dtype = getattr(torch, problem.dtype)
    inputs, *others = (torch.tensor(problem.scaled(X), dtype=dtype) for X in (problem.X, problem.X_val, problem.X_test))
    targets = torch.tensor(problem.y)
    if problem.regression:
        targets = torch.tensor((problem.y - problem.centre) / problem.unit, dtype=dtype)[:, None]
    loss = torch.nn.MSELoss() if problem.regression else torch.nn.CrossEntropyLoss()
    network = torch_network(problem)
    optimizers = make(network, rate)
    full = isinstance(optimizers[0], torch.optim.LBFGS)
    points, spent = [], 0.0
    while spent < budget and (not points or math.isfinite(points[-1][0])):
        begin = time.process_time()
        for part in optimizers:
            getattr(part, "train", lambda: None)()
        for rows in [slice(None)] if full else torch.randperm(len(inputs)).split(BATCH):
            share = (spent + time.process_time() - begin) / budget
            if share >= 1.0:
                break
            now = rate * (1 + math.cos(math.pi * share)) / 2 if cosine else rate
            _step(network, loss, optimizers, inputs[rows], targets[rows], now)
        spent += time.process_time() - begin
        for part in optimizers:
            getattr(part, "eval", lambda: None)()
        with torch.no_grad():
            outputs = [network(X).numpy() for X in others]
        answers = [Z[:, 0] if problem.regression else Z.argmax(1) for Z in outputs]
        points.append((problem.error(answers[0], problem.y_val), problem.error(answers[1], problem.y_test), spent))
    return points, {"rate": rate}


def _step(network: Any, loss: Any, optimizers: list[Any], X: Any, y: Any, rate: float) -> None:
    def closure() -> Any:
        for part in optimizers:
            part.zero_grad()
        value = loss(network(X), y)
        value.backward()
        return value

    first = optimizers[0]
    if type(first).__name__ == "LBFGS":
        first.step(closure)
        return
    closure()
    for part in optimizers:
        for group in part.param_groups:
            group["lr"] = rate
        part.step()


def _muon(network: Any, rate: float) -> list[Any]:
    """Muon for matrices, AdamW for biases, as its authors have it."""
    import torch

    parts = [[p for p in network.parameters() if (p.ndim == 2) == matrices] for matrices in (True, False)]
    return [torch.optim.Muon(parts[0], lr=rate), torch.optim.AdamW(parts[1], lr=rate)]


def _of(module: str, name: str, **options: Any) -> Callable[[Any, float], list[Any]]:
    """An optimiser of a package."""

    def make(network: Any, rate: float) -> list[Any]:
        found = __import__(module, fromlist=["x"])
        return [getattr(found, name)(network.parameters(), lr=rate, **options)]

    return make


OPTIMIZERS: dict[str, tuple[str, Callable[..., Any], tuple[float, ...], bool]] = {
    "Adam": ("torch", _of("torch.optim", "Adam"), RATES, False),
    "Adam, cosine": ("torch", _of("torch.optim", "Adam"), RATES[1:2], True),
    "AdamW": ("torch", _of("torch.optim", "AdamW"), RATES, False),
    "AdamW, cosine": ("torch", _of("torch.optim", "AdamW"), RATES[1:2], True),
    "SGD": ("torch", _of("torch.optim", "SGD", momentum=0.9, nesterov=True), (1e-2, 1e-1), False),
    "SOAP": ("pytorch_optimizer", _of("pytorch_optimizer", "SOAP"), (3e-3, 1e-2), False),
    "Shampoo": ("pytorch_optimizer", _of("pytorch_optimizer", "ScalableShampoo"), (1e-2,), False),
    "Muon": ("torch", _muon, (3e-3, 2e-2), False),
    "schedule-free": ("schedulefree", _of("schedulefree", "AdamWScheduleFree"), (3e-3, 1e-2), False),
    "L-BFGS": ("torch", _of("torch.optim", "LBFGS", max_iter=10, line_search_fn="strong_wolfe"), (1.0,), False),
}
"""Optimisers by name: package, how it is made, rates, and whether they fall by a cosine."""


def tree_methods(problem: Problem) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Gradient boosting with defaults, by name: package, and how the model is made."""
    kind = "Regressor" if problem.regression else "Classifier"

    def make(module: str, name: str, **options: Any) -> Callable[[], Any]:
        return lambda: getattr(__import__(module, fromlist=["x"]), name + kind)(random_state=problem.seed, **options)

    return {
        "HistGradientBoosting": ("sklearn", make("sklearn.ensemble", "HistGradientBoosting")),
        "LightGBM": ("lightgbm", make("lightgbm", "LGBM", n_jobs=1, verbose=-1)),
        "XGBoost": ("xgboost", make("xgboost", "XGB", n_jobs=1)),
    }


def trees(problem: Problem, make: Callable[[], Any]) -> dict[str, Any]:
    """Test error and seconds of gradient boosting."""
    begin = time.process_time()
    y = (problem.y - problem.centre) / problem.unit if problem.regression else problem.y
    model = make().fit(problem.X, y)
    seconds = time.process_time() - begin
    return {"test": problem.error(model.predict(problem.X_test), problem.y_test), "seconds": seconds, "spent": seconds}


def least_squares(problem: Problem, budget: float) -> list[Point]:
    """``scipy.optimize.least_squares`` (MINPACK's Levenberg-Marquardt) with the exact Jacobian, in float64."""
    from scipy.optimize import least_squares as minimise

    start = distnewton.train(problem.config(iterations=0), (problem.X, problem.y)).model.weights()
    shapes = [value.shape for value in start.values()]
    X, y = problem.scaled(problem.X), (problem.y - problem.centre) / problem.unit

    def parts(theta: Any) -> list[Any]:
        cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        return [piece.reshape(shape) for piece, shape in zip(np.split(theta, cuts), shapes, strict=True)]

    def forward(theta: Any, A: Any) -> list[Any]:
        layers, pieces = [A], parts(theta)
        for k in range(0, len(pieces), 2):
            A = A @ pieces[k].T + pieces[k + 1]
            A = A if k + 2 == len(pieces) else np.tanh(A)
            layers.append(A)
        return layers

    def jacobian(theta: Any) -> Any:
        layers, pieces, columns = forward(theta, X), parts(theta), []
        delta = np.ones((len(X), 1))
        for k in range(len(pieces) - 2, -1, -2):
            A = layers[k // 2]
            columns[:0] = [(delta[:, :, None] * A[:, None, :]).reshape(len(X), -1), delta]
            delta = (delta @ pieces[k]) * (1 - A**2)
        return np.hstack(columns)

    begin, points = time.process_time(), []
    theta = np.concatenate([value.ravel() for value in start.values()]).astype(float)
    while not points or points[-1][2] < budget:
        found = minimise(
            lambda t: forward(t, X)[-1][:, 0] - y, theta, jacobian, method="lm", max_nfev=20, xtol=1e-15, ftol=1e-15,
            gtol=1e-15,
        )  # fmt: skip
        theta, seconds = found.x, time.process_time() - begin
        outputs = [forward(theta, problem.scaled(A))[-1][:, 0] for A in (problem.X_val, problem.X_test)]
        points.append((problem.error(outputs[0], problem.y_val), problem.error(outputs[1], problem.y_test), seconds))
        if found.status > 0:
            break
    return points


def network_runs(problem: Problem, method: str, budget: float) -> list[tuple[list[Point], dict[str, Any]]] | str:
    """Runs of a method that trains the network, one a rate; the name of the package that is missing."""
    if method == OURS:
        return [ours(problem, budget)]
    if method == "scipy least_squares":
        return [(least_squares(problem, budget), {})]
    package, make, rates, cosine = OPTIMIZERS[method]
    return [torch_run(problem, budget, make, rate, cosine) for rate in rates] if find_spec(package) else package


def dense_rows(
    problem: Problem, methods: list[str], budget: float, best: tuple[float, float]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Methods and what they reach on a set, of several rates the one that validation chooses; ``best`` is Adam's."""
    of_adam: list[list[Point]] = []
    trees_of = tree_methods(problem)
    for method in methods:
        if method in trees_of:
            package, make = trees_of[method]
            yield method, trees(problem, make) if find_spec(package) else {"missing": package}
            continue
        runs = network_runs(problem, method, budget)
        if isinstance(runs, str):
            yield method, {"missing": runs}
            continue
        points = [run[0] for run in runs]
        if method in ADAM:
            of_adam += points
            best = adams_best(of_adam)
            yield method, chosen(runs) | {"least": adams_best(points)}
        else:
            yield method, chosen(runs) | beside_adam(points, best)


def methods_of(problem: Problem) -> list[str]:
    """The methods that are compared on a set, Adam first."""
    networks = [*ADAM, OURS, *(method for method in OPTIMIZERS if method not in ADAM)]
    # trees hardly vary with the split
    more = ["scipy least_squares"] if problem.name == "wave" else list(tree_methods(problem)) * (problem.seed == 0)
    return networks + more


def linear_rows(data: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """LIBLINEAR's program and ours with no option, as processes."""
    X, y, X_test, y_test = data
    start = "from distnewton.cli import liblinear_commands as c; c.{}_console()"
    programs = {
        "distnewton-train": [[sys.executable, "-c", start.format(which)] for which in ("train", "predict")],
        "LIBLINEAR": [["liblinear-train"], ["liblinear-predict"]],
    }
    with tempfile.TemporaryDirectory() as folder:
        files = SimpleNamespace(**{name: f"{folder}/{name}" for name in ("train", "test", "model", "labels")})
        dump_svmlight_file(X, y, files.train, zero_based=False)
        dump_svmlight_file(X_test, y_test, files.test, zero_based=False)
        for method, (train, predict) in programs.items():
            if not shutil.which(train[0]):
                yield method, {"missing": train[0]}
                continue
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([*train, "-q", files.train, files.model], check=True, cwd=folder)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([*predict, files.test, files.model, files.labels], check=True, stdout=subprocess.DEVNULL)
            seconds = sum(getattr(after, key) - getattr(before, key) for key in ("ru_utime", "ru_stime"))
            wrong = float(np.mean(np.loadtxt(files.labels) != y_test))
            yield method, {"test": wrong, "seconds": seconds, "spent": seconds}


def measure(name: str, data: Any, seed: int, arguments: argparse.Namespace) -> None:
    """Compare the methods on a set, and put what they reach into the file, one after the other."""
    sparse, rows = name not in SECONDS, data[0].shape
    metric = "root mean square error" if name in REGRESSION else "wrong answers"
    budget = None if sparse else arguments.seconds or SECONDS[name]
    facts = {"samples": rows[0], "features": rows[1], "metric": metric, "sparse": sparse, "seconds": budget}
    if not sparse:
        facts["deviation"] = float(np.std(data[3])) if name in REGRESSION else 1.0
    found = linear_rows(data)
    if not sparse:
        problem, known = Problem(name, data, seed), _known(arguments.out, name, seed)
        found = dense_rows(problem, arguments.methods or methods_of(problem), budget, known)
    for method, run in found:
        print(name, seed, method, run, flush=True)
        _store(arguments.out, name, facts, method, {"seed": seed, **run})


def _known(path: Path, name: str, seed: int) -> tuple[float, float]:
    """Adam's best error on a set with a seed, and its seconds, as the file has it; it is inf where it has none."""
    table = json.loads(path.read_text())["sets"] if path.exists() else {}
    methods = table.get(name, {}).get("methods", {})
    least = [tuple(run["least"]) for m in ADAM for run in methods.get(m, []) if run["seed"] == seed and "least" in run]
    return min(least, default=(math.inf, math.inf))


def _store(path: Path, name: str, facts: dict[str, Any], method: str, run: dict[str, Any]) -> None:
    """Put a run into the file, in place of the one that it may have; other processes may do so, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        table = json.loads(file.read() or '{"sets": {}}')
        row = table["sets"].setdefault(name, {"methods": {}})
        where = machine()
        row |= facts | {"processor": where["processor"]}
        runs = [other for other in row["methods"].get(method, []) if other.get("seed") != run["seed"]]
        row["methods"][method] = sorted([*runs, run], key=lambda one: one["seed"])
        table["machine"] = where
        file.truncate(0)
        file.write(text_of(table))


def text_of(table: dict[str, Any]) -> str:
    """The file's text: a line for each run."""
    sets_of = []
    for name, row in table["sets"].items():
        facts = json.dumps({key: value for key, value in row.items() if key != "methods"})
        methods = [
            f"  {json.dumps(method)}: [\n   " + ",\n   ".join(json.dumps(_rounded(run)) for run in runs) + "]"
            for method, runs in row["methods"].items()
        ]
        sets_of.append(f' {json.dumps(name)}: {facts[:-1]}, "methods": {{\n' + ",\n".join(methods) + "}}")
    return f'{{"machine": {json.dumps(table["machine"])}, "sets": {{\n' + ",\n".join(sets_of) + "}}\n"


def _rounded(run: dict[str, Any]) -> dict[str, Any]:
    """A run with six digits of each number."""
    return json.loads(json.dumps(run), parse_float=lambda text: float(f"{float(text):.6g}"))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version(), "packages": versions}


def main() -> None:
    """Measure, or write page and pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--seconds", type=float, help="of each method, in place of those of the set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/peers.json"))
    parser.add_argument("--render", type=Path)
    arguments = parser.parse_args()
    if arguments.render:
        render(arguments.render)
        return
    dense, sparse = sets(arguments.data), sparse_sets(arguments.data)
    for seed in range(arguments.seeds):
        for name in arguments.sets or [*SECONDS, *sparse]:
            if name in SECONDS or seed == 0:
                measure(name, (dense | sparse)[name](), seed, arguments)


if __name__ == "__main__":
    main()
