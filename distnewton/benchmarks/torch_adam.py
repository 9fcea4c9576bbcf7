"""Adam of PyTorch on the same data, start, batches and regularisation, for comparison with a table of ``compare``.

``python -m distnewton.benchmarks.torch_adam RECIPE [SECTION.KEY=VALUE ...]`` (without mpirun; ``run.threads`` counts
for PyTorch, ``run.seconds`` for each rate). Prints seconds to each level of accuracy, evaluation left out. Needs
``pip install torch``.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

import numpy as np

from distnewton.config import load_config
from distnewton.training.batches import Batches
from distnewton.training.session import Session

RATES = (3e-4, 1e-3, 3e-3)
LEVELS = (0.9, 0.95, 0.97)
BATCH = 128


def torch_network(torch: Any, session: Session, seed: int) -> Any:
    """The equal ``torch.nn.Sequential`` with the session's initial weights."""
    network = session.network
    activation = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "sigmoid": torch.nn.Sigmoid}
    views = network.layout.views(network.initial_params(seed, session.config.network.init))
    modules: list[Any] = []
    for m, view in views.items():
        layer = torch.nn.Linear(*view.W.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(view.W.T.copy()))
            layer.bias.copy_(torch.from_numpy(np.array(view.b)))
        modules += [layer] if m == network.n_layers else [layer, activation[session.config.network.activation]()]
    return torch.nn.Sequential(*modules)


def train(torch: Any, session: Session, rate: float, seconds: float) -> tuple[dict[float, float], float, int]:
    """Seconds to each level, best accuracy and passes of one learning rate."""
    objective, seed = session.objective, session.config.run.seed
    X, y = torch.from_numpy(np.asarray(objective.X)), torch.from_numpy(objective.targets)
    X_test = torch.from_numpy(np.asarray(session.X_test))
    network = torch_network(torch, session, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=objective.regularization)
    batches = Batches(objective.n_samples, BATCH, seed)
    loss = torch.nn.CrossEntropyLoss()
    reached: dict[float, float] = {}
    spent, best, step = 0.0, 0.0, 0
    while spent < seconds:
        start = time.perf_counter()
        for _ in range(batches.per_pass):
            rows = torch.from_numpy(batches.rows(step))
            optimizer.zero_grad()
            loss(network(X[rows]), y[rows]).backward()
            optimizer.step()
            step += 1
        spent += time.perf_counter() - start
        with torch.no_grad():
            accuracy = float(np.mean(network(X_test).numpy().argmax(axis=1) == session.y_test))
        best = max(best, accuracy)
        for level in LEVELS:
            if accuracy >= level:
                reached.setdefault(level, spent)
    return reached, best, step // batches.per_pass


def main() -> None:
    """Run the three rates."""
    torch: Any = importlib.import_module("torch")
    config = load_config(sys.argv[1], sys.argv[2:])
    session = Session(config)
    torch.set_num_threads(session.n_threads)
    seconds = config.run.seconds if np.isfinite(config.run.seconds) else 15.0
    for rate in RATES:
        reached, best, n_passes = train(torch, session, rate, seconds)
        times = [f"{level:g} {reached[level]:.2f} s" if level in reached else f"{level:g} never" for level in LEVELS]
        print(f"torch {torch.__version__} Adam {rate:g}, {session.n_threads} thread(s):", ", ".join(times), end="; ")
        print(f"best {best:.4f}, {n_passes} passes")


if __name__ == "__main__":
    main()
