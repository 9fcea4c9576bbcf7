"""Variables that regularisation leaves out: objective, model, directions and combination against dense matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import alternating, linearization, make_case, named_direction

import distnewton
from distnewton.curvature.groups import ParameterGroups
from distnewton.errors import ConfigError, NumericalError
from distnewton.method.combination import combine
from distnewton.method.newton import regularizer
from distnewton.parallel.termination import NEVER
from distnewton.runs.training_data import penalised_variables

pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 3))

WIDTHS, FREE, ROWS, DAMPING = (6, 4, 3), np.array([0, 3, 5]), (0, 9), 0.3


def masked_case(comm, splits, **options):
    """A case of which the first-layer weights of some features are not penalised, and the diagonal of P."""
    case = make_case(comm, WIDTHS, splits, loss="cross_entropy", C=0.8, **options)
    case.objective.penalised = penalised_variables(case.network, FREE)
    mask = np.ones(case.dense.n_params)
    mask[case.dense.index(1, FREE, (0, WIDTHS[1]), False)] = 0
    return case, mask


def masked_model(case, damping=DAMPING, form="identity", rooted=False):
    problem = linearization(case, ROWS, damping=damping, rooted=rooted, of_sample=rooted)
    gradient = case.objective.gradient(case.objective.evaluate(case.params, ROWS))
    return replace(problem, gradient=gradient, damping_form=form, penalised=case.objective.penalised)


def dense_model(case, mask):
    """Gradient and Gauss-Newton matrix."""
    g = case.dense.gradient(case.theta) - (1 - mask) * case.theta / case.dense.C
    return g, case.dense.gauss_newton(case.theta, list(range(*ROWS))) - np.diag(1 - mask) / case.dense.C


def test_objective_and_gradient(world):
    for splits in alternating(world.size, 2):
        case, mask = masked_case(world, splits)
        with case.grid:
            evaluation = case.objective.evaluate(case.params, ROWS)
            g, _ = dense_model(case, mask)
            np.testing.assert_allclose(case.whole(case.objective.gradient(evaluation)), g, atol=1e-12)
            expected = case.theta @ (mask * case.theta) / (2 * case.dense.C)
            np.testing.assert_allclose(regularizer(case.objective, case.params), expected, rtol=1e-13)


@pytest.mark.parametrize("form", ["identity", "diagonal"])
def test_products_combinations_and_directions(world, form):
    rng = np.random.default_rng(3)
    for splits in alternating(world.size, 2):
        case, mask = masked_case(world, splits)
        with case.grid:
            problem = masked_model(case, form=form)
            g, G = dense_model(case, mask)
            damped = G + DAMPING * (np.eye(len(G)) if form == "identity" else np.diag(np.diag(G)))
            d = rng.standard_normal((2, len(g)))
            own = [v[case.own_index] for v in d]
            np.testing.assert_allclose(case.whole(problem.matvec(own[0])), damped @ d[0], atol=1e-11)
            found = combine(problem, case.params, own)
            whole = -np.linalg.solve(d @ damped @ d.T, d @ g) @ d
            np.testing.assert_allclose(case.whole(found.direction), whole, atol=1e-11)
            P = np.diag(mask)
            expected = [g @ whole, whole @ G @ whole, whole @ whole, whole @ P @ whole, case.theta @ P @ whole]
            scalars = [found.slope, found.curvature, found.squared_norm, found.penalised_norm, found.params_dot]
            np.testing.assert_allclose(scalars, expected, rtol=1e-10)
            exact = np.linalg.solve(damped, -g)
            for name in ("gauss_newton", "dual"):
                options = {"damping_form": form, "cg_tolerance": 1e-14, "cg_max": 500}
                model = masked_model(case, form=form, rooted=name == "dual")
                solved = named_direction(name, **options).solve(model, NEVER)
                np.testing.assert_allclose(case.whole(solved.direction), exact, atol=1e-8, err_msg=f"{name} {splits}")


def test_the_exact_direction_forgets_what_depends_on_the_damping(world):
    case, mask = masked_case(world, alternating(world.size, 2)[0])
    with case.grid:
        direction = named_direction("dual")
        problem = masked_model(case, rooted=True)
        g, G = dense_model(case, mask)
        for damping in (0.3, 3.0):
            found = direction.solve(replace(problem, damping=damping), NEVER).direction
            np.testing.assert_allclose(case.whole(found), np.linalg.solve(G + damping * np.eye(len(G)), -g), atol=1e-10)
        with pytest.raises(NumericalError, match=r"and no data\.unpenalised"):
            direction.solve(replace(problem, damping=0.0), NEVER)


def test_the_summary_of_groups(world):
    case, mask = masked_case(world, alternating(world.size, 2)[0])
    u = np.random.default_rng(4).standard_normal(case.dense.n_params)
    with case.grid:
        problem = masked_model(case)
        groups = ParameterGroups("all", case.grid.partition, case.grid.rank)
        some, all_ = (
            problem.sample.summarise(u[case.own_index], groups, problem.regularization, penalised)
            for penalised in (problem.penalised, None)
        )
        free = 1 - mask
        np.testing.assert_allclose(all_.gradient - some.gradient, [u @ (free * case.theta) / case.dense.C], rtol=1e-9)
        np.testing.assert_allclose(all_.hessian - some.hessian, [[u @ (free * u) / case.dense.C]], rtol=1e-9)


def run(comm, unpenalised, columns=True, **network):
    rng = np.random.default_rng(0)
    names = distnewton.data.columns.ColumnNames(("age", "PC1", "PC2"), "y") if columns else None
    source = distnewton.ArraySource(rng.standard_normal((30, 3)), rng.standard_normal(30), columns=names)
    config = distnewton.make_config({
        "data": {"unpenalised": unpenalised}, "network": {"loss": "squared", **network}, "method": {"C": 0.1},
        "run": {"iterations": 3, "dtype": "float64"},
    })  # fmt: skip
    return distnewton.train(config, comm, train_data=source)


def test_names_and_patterns(world):
    objectives = []
    for names in (["PC1", "PC2"], ["PC*"], ["age"], []):
        result = run(world, names, layers=["auto", "auto"])
        objectives.append(result.history[-1].objective)
        result.model.grid.free()
    np.testing.assert_allclose(objectives[0], objectives[1], rtol=1e-14)
    assert len(set(np.round(objectives[1:], 6))) == 3
    assert max(objectives[:3]) < objectives[3], "less is penalised"
    for names, columns, message in [
        (["sex"], True, r"data\.unpenalised = sex: data has no such feature; its features are age, PC1, PC2"),
        (["age"], False, "data.unpenalised names features, but those of data have no names"),
    ]:
        with pytest.raises(ConfigError, match=message):
            run(world, names, columns, layers=["auto", "auto"])
