"""With one output the estimated diagonal is exact: the direction equals division by the diagonal of a dense matrix."""

import numpy as np

import distnewton
from distnewton.backend import Backend
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.point import Point
from distnewton.curvature.sample import CurvatureSample
from distnewton.directions.direction import DirectionOptions
from distnewton.directions.registry import DIRECTIONS
from distnewton.method.objective import Objective
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition
from distnewton.parallel.termination import NEVER

rng = np.random.default_rng(0)
X, y = rng.standard_normal((12, 3)), rng.integers(2, size=12).astype(float)
grid = ProcessGrid(Communicator(), Partition((3, 4, 1), (1, 1, 1)))
network = PartitionedNetwork(grid, "tanh", Backend.of("float64"))
objective = Objective(network, LOSSES["logistic"], X, y, 0.1, 1e9)
params = rng.standard_normal(objective.network.layout.n_params)


def outputs(theta: np.ndarray) -> np.ndarray:
    """A 3-4-1 network: for each layer the rows of W, then b."""
    hidden = np.tanh(X @ theta[:12].reshape(3, 4) + theta[12:16])
    return hidden @ theta[16:20] + theta[20]


evaluation = objective.evaluate(params, (0, 12))
point = Point(network, params, evaluation.subsample[1], LOSSES["logistic"], y)
sample = CurvatureSample(point, np.random.default_rng(0))
gradient = objective.gradient(evaluation)
problem = Linearization(gradient, sample, 0.1, 0.5, grid)
found = DIRECTIONS["diagonal_newton"](DirectionOptions()).solve(problem, NEVER).direction

h = 1e-6
J = np.stack([(outputs(params + h * e) - outputs(params - h * e)) / (2 * h) for e in np.eye(21)], axis=1)
p = 1 / (1 + np.exp(-outputs(params)))
G = J.T @ np.diag(p * (1 - p)) @ J / 12
np.testing.assert_allclose(found, -gradient / (np.diag(G) + 0.1 + 0.5), rtol=1e-6)

config = distnewton.make_config({"method": {"direction": "diagonal_newton"}, "run": {"iterations": 40}})
X, y = rng.standard_normal((300, 5)), np.zeros(300)
y[X[:, 0] > X[:, 1]] = 1
result = distnewton.train(config, train_data=distnewton.ArraySource(X, y))
assert result.last.train["accuracy"] > 0.95, result.last
