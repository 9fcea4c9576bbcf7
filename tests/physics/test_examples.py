"""The worked examples: known solutions fulfil their equations, and small versions come near them."""

from __future__ import annotations

import numpy as np
import pytest

import distnewton
from distnewton.config import load_config
from distnewton.physics import Problem, examples
from distnewton.physics.residuals import ResidualLoss

# small versions: points, layers, iterations, and the relative error they come to at most
SMALL = {
    "poisson2d": (60, [2, 8, 1], 30, 0.5),
    "poisson5d": (60, [5, 8, 1], 15, 0.5),
    "heat": (60, [2, 8, 1], 25, 0.3),
    "burgers": (60, [2, 8, 8, 1], 15, 0.9),
    "kovasznay": (60, [2, 8, 3], 25, 0.9),
    "helmholtz": (60, [2, 8, 1], 15, 1.5),
    "inverse_diffusion": (60, [2, 8, 2], 25, 0.1),
    "sinc": (60, [1, 8, 1], 25, 0.8),
    "robot_arm": (200, [8, 8, 2], 25, 0.5),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_version_comes_near_its_solution(name):
    n, layers, iterations, error = SMALL[name]
    config = distnewton.make_config({"network": {"layers": layers}, "run": {"iterations": iterations}})
    result = distnewton.train(config, getattr(examples, name)(n))
    assert result.last.objective < 0.9 * result.history[0].objective
    assert result.last.test["relative_l2"] < error
    assert result.model.architecture.dtype == "float64"


@pytest.mark.parametrize("name", [name for name in SMALL if name != "inverse_diffusion"])
def test_the_known_solution_fulfils_the_equations(name):
    problem: Problem = getattr(examples, name)(40)
    loss, d = ResidualLoss(problem, 0), problem.dimension
    X = loss.points

    def u(points):
        return problem.solved(points)

    h, slopes, curves = 1e-4, [], []
    for e in np.eye(d):
        up, down = u(X + h * e), u(X - h * e)
        slopes.append((up - down) / (2 * h))
        curves.append((up - 2 * u(X) + down) / h**2)
    seconds = [sum(curves)] if len(loss.jet.seconds) == 1 < d else curves
    channels = [u(X), *slopes[: len(loss.jet.directions)], *seconds[: len(loss.jet.seconds)]]
    inside = slice(0, problem.terms[0].points.n)
    # beyond a curriculum's last round
    loss.terms[0].round = 100
    residual = loss.terms[0].values(np.stack(channels, axis=1).reshape(len(X), -1)[inside], X[inside], np.arange(40))
    # Burgers' front is too steep for differences
    scale = np.abs(np.stack(channels)).max()
    assert np.abs(residual).max() < (1e-6 if name != "burgers" else 1e-2) * max(1.0, scale)


@pytest.mark.parametrize("name", SMALL)
def test_a_recipe_names_its_example(name):
    config = load_config(name)
    assert config.data.train == f"distnewton.physics.examples:{name}"
    problem = getattr(examples, name)()
    assert config.network.layers[0] == problem.dimension
    assert config.network.layers[-1] == problem.n_all_outputs
