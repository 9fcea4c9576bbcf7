"""Residual problems beside PyTorch: Adam (the best of three rates, cosine) and L-BFGS (strong Wolfe), in float64.

    PYTHONPATH=tests python -m benchmarks.physics [NAME ...] [--alone] [--out=FILE]

Prints the table of docs/guide/physics.md, a row a recipe. Each peer has the processor seconds that the recipe took, on
one thread: the same network, points, weights and seed. Derivatives in the inputs are torch.autograd's. ``--alone``
leaves the peers out. ``--out`` writes the solutions, for docs/pictures/draw.py, over those of these names in FILE
(docs/benchmarks/equations.json).
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

import distnewton
from distnewton.config import load_config
from distnewton.physics import examples
from distnewton.physics.residuals import ResidualLoss

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None

NAMES = ("poisson2d", "poisson5d", "heat", "burgers", "kovasznay", "helmholtz", "inverse_diffusion", "sinc")
# the same residuals for torch, by term
TORCH = {
    "poisson2d": {
        "equation": lambda x, u, du, d2u: d2u[0] + d2u[1]
        + 2 * np.pi**2 * torch.sin(np.pi * x[:, 0]) * torch.sin(np.pi * x[:, 1]),
        "boundary": lambda x, u, du, d2u: u,
    },
    "heat": {
        "equation": lambda x, u, du, d2u: du[1] - d2u[0] / 4,
        "start": lambda x, u, du, d2u: u - torch.sin(np.pi * x[:, 0]),
        "ends": lambda x, u, du, d2u: u,
    },
    "poisson5d": {
        "equation": lambda x, u, du, d2u: sum(d2u) + np.pi**2 * torch.cos(np.pi * x).sum(dim=1),
        "boundary": lambda x, u, du, d2u: u - torch.cos(np.pi * x).sum(dim=1),
    },
    "helmholtz": {
        "equation": lambda x, u, du, d2u: d2u[0] + d2u[1] + 100 * u
        - (100 - 25 * np.pi**2) * torch.sin(3 * np.pi * x[:, 0]) * torch.sin(4 * np.pi * x[:, 1]),
        "boundary": lambda x, u, du, d2u: u,
    },
    "sinc": {"fit": lambda x, u, du, d2u: u - torch.sinc(10 * x[:, 0])},
}


def channels(model, x):
    """u, and its first and second derivatives along the axes."""
    x = x.clone().requires_grad_(True)
    u = model(x)[:, 0]
    (slopes,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    curves = [torch.autograd.grad(slopes[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])]
    return u, slopes.T, curves


class Peer:
    """A torch network on the points of a problem."""

    def __init__(self, name, layers, seed=0):
        torch.manual_seed(seed)
        modules = []
        for a, b in pairwise(layers):
            modules += [torch.nn.Linear(a, b, dtype=torch.float64), torch.nn.Tanh()]
        self.model = torch.nn.Sequential(*modules[:-1])
        self.problem, self.residuals = getattr(examples, name)(), TORCH[name]
        self.loss_of_points = ResidualLoss(self.problem, seed)

    def loss(self):
        total = 0.0
        for term in self.loss_of_points.terms:
            x = torch.tensor(self.loss_of_points.points[term.rows])
            needs = any(name in term.term.arguments for name in ("du", "d2u", "laplacian"))
            u, du, d2u = channels(self.model, x) if needs else (self.model(x)[:, 0], None, None)
            total = total + term.term.weight * (self.residuals[term.name](x, u, du, d2u) ** 2).mean()
        return total

    def error(self):
        X = self.problem.test_points(0)
        with torch.no_grad():
            u = self.model(torch.tensor(X)).numpy()
        return float(np.linalg.norm(u - self.problem.solved(X)) / np.linalg.norm(self.problem.solved(X)))

    def adam(self, seconds, rate):
        """Adam with a cosine over the processor seconds."""
        optimizer, start = torch.optim.Adam(self.model.parameters(), rate), time.process_time()
        while (done := (time.process_time() - start) / seconds) < 1.0:
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * rate * (1 + np.cos(np.pi * done))
            optimizer.zero_grad()
            self.loss().backward()
            optimizer.step()
        return self.error()

    def lbfgs(self, seconds):
        """L-BFGS with the strong Wolfe conditions."""
        optimizer = torch.optim.LBFGS(
            self.model.parameters(), max_iter=20, history_size=50, tolerance_grad=0, tolerance_change=0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure():
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        start = time.process_time()
        while time.process_time() - start < seconds:
            optimizer.step(closure)
        return self.error()


def drawn(found, error):
    """The first component of a solution, from a run's predictions: a curve, or levels of 0 to 9 along the axes."""
    values = np.array(found["values"][0])
    low, high = values.min(), values.max()
    about = {"error": error, "low": round(float(low), 3) + 0.0, "high": round(float(high), 3) + 0.0}
    if len(found["axes"]) == 1:
        return about | {"curve": values.round(3).tolist()}
    levels = np.minimum(9, (10 * (values - low) / (high - low)).astype(int)).reshape(len(found["axes"][0]), -1)
    # a row of the picture has the same second coordinate, the largest on top
    return about | {"levels": ["".join(map(str, row)) for row in levels.T[::-1]]}


def store(path, name, solution):
    """Put a solution into the file of all."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = {n: solution if n == name else known[n] for n in NAMES if n in {*known, name}}
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def main(names, *, alone=False, out=None):
    """Print a row a problem."""
    about = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    model = about.partition("model name")[2].splitlines()[0].lstrip("\t :")
    print(f"{model}, one thread, numpy {np.__version__}, torch {torch.__version__ if torch else '-'}\n")
    print("| recipe | weights, points | iterations | relative L2 error | processor s | L-BFGS | Adam |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        config = load_config(name)
        problem, start = getattr(examples, name)(), time.process_time()
        result = distnewton.train(config, problem)
        seconds, error = time.process_time() - start, result.last.test["relative_l2"]
        if out is not None and "axes" in result.predictions:
            store(Path(out), name, drawn(result.predictions, error))
        layers, cells = config.network.layers, ["", ""]
        if name in TORCH and not alone:
            errors = [Peer(name, layers).adam(seconds, rate) for rate in (1e-2, 3e-3, 1e-3)]
            cells = [f"{Peer(name, layers).lbfgs(seconds):.1e}", f"{min(errors):.1e}"]
        size = f"{result.summary.shape.n_params:,}, {problem.n_points:,}"
        cells = [name, size, f"{result.last.iteration}", f"{error:.1e}", f"{seconds:.1f}", *cells]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    named = [name for name in sys.argv[1:] if not name.startswith("--")]
    given = [name.removeprefix("--out=") for name in sys.argv[1:] if name.startswith("--out=")]
    main(named or NAMES, alone="--alone" in sys.argv, out=given[0] if given else None)
