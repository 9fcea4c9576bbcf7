"""Adam of PyTorch on the same data, start, batches and regularisation, for comparison with a table of ``compare``.

``python -m benchmarks.torch_adam RECIPE [SECTION.KEY=VALUE ...]`` (without mpirun; ``run.threads`` counts
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
from distnewton.method.batches import Batches
from distnewton.models.model import Model
from distnewton.runs.session import Session

RATES = (3e-4, 1e-3, 3e-3)
LEVELS = (0.9, 0.95, 0.97)
BATCH = 128


def torch_network(torch: Any, session: Session, seed: int) -> Any:
    """The equal ``torch.nn.Sequential`` with the session's initial weights."""
    network, nn = session.setup.placement.network, torch.nn
    activation = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}[session.setup.config.network.activation]
    params = network.initial_params(seed, session.setup.config.network.init)
    model = Model(session.setup.placement.architecture, network, params, session.setup.training.scaling)
    modules: list[Any] = []
    for m, layer in enumerate(network.shape.layers, start=1):
        if layer.kernel is None:
            images = layer.rows_per_unit > 1
            modules += [nn.Flatten()] if images else []
            modules.append(nn.Linear(layer.n_in * layer.rows_per_unit, layer.n_out))
        else:
            kernel = layer.kernel
            modules.append(nn.Conv2d(layer.n_in, layer.n_out, kernel.size, kernel.stride, kernel.padding))
        modules += [] if m == network.n_layers else [activation()]
        if layer.pooling is not None:
            pool = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}[layer.pooling.kind]
            modules.append(pool(layer.pooling.window.size, layer.pooling.window.stride))
    made = nn.Sequential(*modules)
    weights = model.weights() or {}
    made.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return made


def torch_inputs(torch: Any, session: Session, X: Any) -> Any:
    """Features as torch takes them: images with their channels first."""
    X = torch.from_numpy(np.asarray(X))
    shape = session.setup.placement.network.shape.image_shape
    if shape is None:
        return X
    channels, height, width = shape
    return X.reshape(-1, height, width, channels).permute(0, 3, 1, 2).contiguous()


def train(
    torch: Any, session: Session, rate: float, seconds: float
) -> tuple[dict[float, float], float, float, int]:
    """Seconds to each level, best accuracy, seconds to it, and passes of one learning rate."""
    objective, seed = session.setup.training.objective, session.setup.config.run.seed
    X, y = torch_inputs(torch, session, objective.X), torch.from_numpy(objective.targets)
    test = session.setup.data.held_out["test"]
    X_test = torch_inputs(torch, session, test.X)
    network = torch_network(torch, session, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=objective.regularization)
    batches = Batches(objective.n_samples, BATCH, seed)
    loss = torch.nn.CrossEntropyLoss()
    reached: dict[float, float] = {}
    spent, best, best_seconds, step = 0.0, 0.0, 0.0, 0
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
            outputs = [network(part).numpy() for part in X_test.split(1000)]
            accuracy = float(np.mean(np.concatenate(outputs).argmax(axis=1) == test.targets))
        if accuracy > best:
            best, best_seconds = accuracy, spent
        for level in LEVELS:
            if accuracy >= level:
                reached.setdefault(level, spent)
    return reached, best, best_seconds, step // batches.per_pass


def main() -> None:
    """Run the three rates."""
    torch: Any = importlib.import_module("torch")
    config = load_config(sys.argv[1], sys.argv[2:])
    session = Session(config)
    torch.set_num_threads(session.setup.n_threads)
    seconds = config.run.seconds if np.isfinite(config.run.seconds) else 15.0
    for rate in RATES:
        reached, best, best_seconds, n_passes = train(torch, session, rate, seconds)
        times = [f"{level:g} {reached[level]:.2f} s" if level in reached else f"{level:g} never" for level in LEVELS]
        threads = f"{torch.get_num_threads()} thread(s)"
        print(f"torch {torch.__version__} Adam {rate:g}, {threads}:", ", ".join(times), end="; ")
        print(f"best {best:.4f} after {best_seconds:.2f} s, {n_passes} passes")


if __name__ == "__main__":
    main()
