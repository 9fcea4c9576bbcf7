"""Residual problems: losses against plain formulas, runs alike on every grid, unknown constants, and bad input."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
from launched import call_together
from problems import alternating

import distnewton
from distnewton.config import DataConfig
from distnewton.errors import ConfigError, DistNewtonError
from distnewton.physics import Box, Given, Problem, Sphere, Term, derivatives
from distnewton.physics.residuals import ResidualLoss
from distnewton.physics.sources import problem_of

SQUARE = Box([0, 0], [1, 2])


def heat(n=9, **options):
    """u_t = u_xx with a coupled component, on a few points."""
    return Problem(
        [
            Term("heat", SQUARE.interior(n), lambda x, u, du, d2u: (
                du[0, 1] - d2u[0, 0] - np.sin(x[0]) * u[1], u[1] * du[0, 0] - np.exp(-u[0] ** 2) * d2u[1, 1]
            )),
            Term(
                "ends", SQUARE.face(n // 2, (0, 0), (1, 1)), lambda u, x, round: u[0] - (1.0 + round) * x[0],
                weight=3.0,
            ),
        ],
        n_outputs=2, solution=lambda x: np.stack([x[0] * x[1], x[0]]), **options,
    )  # fmt: skip


def config(widths=(2, 4, 3, 2), iterations=3, partition=None, run=None, **method):
    return distnewton.make_config({
        "network": {"layers": list(widths), "activation": "tanh"}, "partition": partition or {},
        "method": method, "run": {"iterations": iterations, "checkpoint_minutes": 0.0, **(run or {})},
    })  # fmt: skip


def numbers_of(result):
    """What must not depend on the grid."""
    return [[r.objective, r.gradient_norm or 0.0, *r.train.values(), *r.test.values()] for r in result.history]


def test_loss_gradient_and_rows_equal_plain_formulas():
    problem = heat(6)
    loss = ResidualLoss(problem, seed=4)
    rng = np.random.default_rng(0)
    order = rng.permutation(problem.n_points)
    Z = rng.standard_normal((len(order), 5 * 2))
    x = loss.points[order]

    def rows(z, i):
        """Weighted residuals of a point from its channels, whose squares are its loss."""
        (u, v), (u_x, v_x), (u_t, _), (u_xx, _), (_, v_tt) = z.reshape(5, 2)
        n, scale = problem.n_points, np.sqrt
        if order[i] < 6:
            equations = u_t - u_xx - np.sin(x[i, 0]) * v, v * u_x - np.exp(-(u**2)) * v_tt
            return np.array([scale(n / 6) * r for r in equations]) + 0 * v_x
        return np.array([scale(3.0 * n / 3) * (u - x[i, 0]), 0.0 * u])

    step = 1e-30
    J = np.stack([
        np.stack([rows(Z[i] + 1j * step * e, i).imag / step for e in np.eye(10)], axis=-1) for i in range(len(Z))
    ])
    R = np.stack([rows(Z[i], i) for i in range(len(Z))])
    for term in loss.terms:
        at = loss.points[term.rows]
        term.check(Z[: len(at)], at, np.arange(len(at)))
    np.testing.assert_allclose(loss.values(Z, order), (R**2).sum(axis=1), rtol=1e-13)
    np.testing.assert_allclose(loss.gradient(Z, order), 2 * np.einsum("na,nac->nc", R, J), rtol=0, atol=1e-12)
    hessian = loss.hessian(Z, order)
    np.testing.assert_allclose(hessian.roots(0, None), np.sqrt(2) * J, rtol=0, atol=1e-12)
    np.testing.assert_allclose(loss.residuals(Z, order), np.sqrt(2) * R, rtol=0, atol=1e-12)
    V = rng.standard_normal(Z.shape)
    np.testing.assert_allclose(hessian.matvec(V), 2 * np.einsum("nac,nad,nd->nc", J, J, V), rtol=0, atol=1e-11)
    mean = loss.values(Z, order).mean()
    squares = loss.mean_squares(Z, order)
    assert mean == pytest.approx(squares[0] + 3.0 * squares[1], rel=1e-13)


@pytest.mark.mpi(min_size=1, sizes=(4,))
@pytest.mark.parametrize(
    "method",
    [
        {},
        {"direction": "gauss_newton", "subsample": 0.7, "subsample_min": 1, "cg_tolerance": 1e-12, "cg_max": 200},
        {"direction": "adam", "batch": 5},
    ],
    ids=["auto", "gauss_newton", "adam"],
)
def test_runs_are_alike_on_all_grids_and_replicas(world, method):
    problem = heat(resample=2)
    reference = distnewton.train(config(**method), problem)
    alone, field = numbers_of(reference), reference.predictions["values"]
    n = world.size
    splits = [((1, n // 2, 1, n // 2), 2)] if n % 2 == 0 else [((1, 1, 1, 1), n)]
    if not method:
        splits += [(s, 1) for s in alternating(n, 3)] + [((1, 1, 1, 1), n)]
    for chosen, replicas in splits:
        partition = {"splits": list(chosen), "replicas": replicas}
        together = distnewton.train(config(partition=partition, **method), world.mpi, train_data=problem)
        np.testing.assert_allclose(numbers_of(together), alone, rtol=1e-7)
        np.testing.assert_allclose(together.predictions["values"], field, rtol=1e-5, atol=1e-6)
        together.model.grid.free()


@pytest.mark.mpi(min_size=2, sizes=(2, 4))
def test_a_matrix_that_ranks_share_makes_the_same_run_as_on_one(world, monkeypatch):
    monkeypatch.setattr("distnewton.solvers.least_squares.MOST_VARIABLES", 0)
    problem = heat(24)
    alone = numbers_of(distnewton.train(config(iterations=4), problem))
    monkeypatch.setattr("distnewton.directions.sample_space.MOST_REPLICATED", 0)
    monkeypatch.setattr("distnewton.solvers.block_cholesky._NARROWEST", 4)
    monkeypatch.setattr("distnewton.curvature.gram._CHUNK_SIZE", 1 << 8)
    for splits in alternating(world.size, 3):
        together = distnewton.train(
            config(partition={"splits": list(splits)}, iterations=4), world.mpi, train_data=problem
        )
        np.testing.assert_allclose(numbers_of(together), alone, rtol=1e-9)
        together.model.grid.free()


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize("direction", ["block_diagonal", "block_dual", "kfac", "dual", "gauss_newton", "adam"])
def test_directions_lead_down(world, direction):
    method = {"direction": direction}
    if direction == "kfac":
        method |= {"batch": 6, "learning_rate": 1e-3}
    if direction == "block_dual":
        method |= {"damping": 1.0}
    result = distnewton.train(config(iterations=6, **method), world.mpi, train_data=heat())
    assert result.last.objective < 0.9 * result.history[0].objective
    assert set(result.last.train) == {"rmse", "heat", "ends"}
    assert result.last.objective == pytest.approx(result.last.train["rmse"] ** 2, rel=1e-9)
    result.model.grid.free()


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize("direction", ["mini_block_fisher", "grouped_newton"])
def test_directions_without_derivatives_are_refused(world, direction):
    with pytest.raises(ConfigError, match="take another direction"):
        distnewton.train(config(iterations=1, direction=direction), world.mpi, train_data=heat())


def test_points_are_drawn_anew_by_rounds_and_a_resumed_run_goes_on_alike(tmp_path):
    problem = heat(resample=2)
    first, second = problem.points(3, 0), problem.points(3, 1)
    assert (problem.points(3, 1) == second).all()
    assert not (first[:9] == second[:9]).any()
    loss = ResidualLoss(problem, 3)
    Z, row = np.ones((1, 10)), np.array([problem.n_points - 1])
    for iteration, number in ((0, 0), (2, 0), (3, 1), (6, 2)):
        loss.renew(iteration)
        expected = 3.0 * problem.n_points / 4 * (1.0 - (1 + number) * loss.points[-1, 0]) ** 2
        assert loss.values(Z, row)[0] == pytest.approx(expected, rel=1e-13)
    whole = distnewton.train(config(iterations=6), problem)
    for stop in (3, 4):
        folder = tmp_path / str(stop)
        distnewton.train(config(iterations=stop), problem, checkpoints=folder)
        resumed = distnewton.train(config(iterations=6), problem, checkpoints=folder, resume=True)
        assert resumed.last.objective == whole.last.objective


@pytest.mark.mpi(min_size=1, sizes=(3,))
def test_unknown_constants_are_found_on_every_grid(world):
    x = np.linspace(0, 1, 21)
    problem = Problem(
        [
            Term("equation", Box([0], [1]).interior(20), lambda u, du, rate: du[0, 0] + rate * u[0]),
            Term("observed", x, lambda u, data: u[0] - data, data=2.0 * np.exp(-1.5 * x)),
        ],
        unknowns={"rate": 0.5}, solution=lambda x: 2.0 * np.exp(-1.5 * x[0]),
    )  # fmt: skip
    alone = distnewton.train(config((1, 6, 2), 40), problem)
    assert alone.history[0].test["rate"] == 0.5
    assert alone.last.test["rate"] == pytest.approx(1.5, abs=1e-4)
    assert alone.last.test["relative_l2"] < 1e-4
    for splits in alternating(world.size, 2):
        partition = {"splits": list(splits)}
        together = distnewton.train(config((1, 6, 2), 8, partition), world.mpi, train_data=problem)
        np.testing.assert_allclose(numbers_of(together), numbers_of(alone)[:9], rtol=1e-6)
        together.model.grid.free()


@pytest.mark.mpi(min_size=1, sizes=(3,))
def test_derivatives_of_a_model_are_those_of_its_outputs(world):
    partition = {"splits": [1, world.size, 1, world.size]}
    model = distnewton.train(config(partition=partition, iterations=1), world.mpi, train_data=heat()).model
    X = np.random.default_rng(0).random((4, 2))
    found = derivatives(model, X)
    np.testing.assert_allclose(found["u"].T, model.predict(X), rtol=0, atol=1e-13)
    h = 1e-4
    for i, e in enumerate(np.eye(2)):
        up, down = model.predict(X + h * e), model.predict(X - h * e)
        np.testing.assert_allclose(found["du"][:, i].T, (up - down) / (2 * h), rtol=0, atol=1e-6)
        second = (up - 2 * model.predict(X) + down) / h**2
        np.testing.assert_allclose(found["d2u"][:, i].T, second, rtol=0, atol=1e-5)
    model.grid.free()


@pytest.mark.mpi(min_size=1, sizes=(3,))
def test_a_recipe_names_a_problem(world, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "own_equations", types.SimpleNamespace(heat=heat, two=2, __spec__=None))
    monkeypatch.setattr("distnewton.physics.sources._is_module", lambda name: name == "own_equations")
    common = ["--network.layers", "2-3-2", "--run.iterations", "2", "--quiet"]
    done = call_together(
        world, "train", "--data.train", "own_equations:heat", *common, "--run-dir", folder / "run"
    )
    assert done.returncode == 0, done.stderr
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert '"relative_l2"' in lines[-1]
    assert 'dtype = "float64"' in (folder / "run" / "config.toml").read_text()
    done = call_together(world, "train", "--data.train", "own_equations:two", *common, "--run-dir", folder / "no")
    assert done.returncode == 78
    assert "own_equations has no problem two" in done.stderr


@pytest.fixture
def points_file(folder, world):
    """A file of points with what was observed there, in several formats."""
    x = np.linspace(0, 1, 21)
    table = np.stack([x, 1 + x, 2.0 * np.exp(-1.5 * x)], axis=1)
    if world.rank == 0:
        np.savetxt(folder / "table.csv", table, delimiter=",", header="x,t,u", comments="")
        np.save(folder / "points.npy", table[:, :2])
        np.save(folder / "points_labels.npy", table[:, 2])
        np.savez(folder / "both.npz", X=table[:, :2], y=table[:, 2])
    world.barrier()
    return folder, table


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize("name", ["table.csv", "points.npy", "both.npz"])
def test_points_and_observations_come_from_files(world, points_file, name):
    folder, table = points_file

    def problem(points, **options):
        return Problem([
            Term("seen", points, lambda u, data: u[0] - data, **options),
            Term("law", table[:, :2], lambda u, du: du[0, 0] + 1.5 * u[0]),
        ])

    term = problem(str(folder / name)).terms[0]
    np.testing.assert_allclose(term.points.array, table[:, :2])
    np.testing.assert_allclose(term.data, table[:, 2])
    given = problem(table[:, :2], data=table[:, 2])
    found, expected = (
        distnewton.train(config((2, 3, 1)), world.mpi, train_data=made) for made in (problem(folder / name), given)
    )
    np.testing.assert_allclose(numbers_of(found), numbers_of(expected), rtol=1e-12)
    for result in (found, expected):
        result.model.grid.free()
    # without observations all columns are coordinates
    n = {"table.csv": 3}.get(name, 2)
    assert Given(folder / name).array.shape == (21, n)
    assert Problem([Term("law", SQUARE.interior(3), lambda u: u[0])], test=str(folder / "points.npy")).test.n == 21


@pytest.mark.mpi(min_size=1, sizes=(3,))
def test_files_that_hold_no_points_are_refused_by_the_name_of_the_term(world, folder):
    if world.rank == 0:
        (folder / "bad.csv").write_text("1,2\n3,nan\n4,5\n")
        (folder / "text.csv").write_text("a,b\nc,d\ne,f\n")
    world.barrier()
    messages = {"bad.csv": "bad.csv:2: ", "text.csv": "text.csv:2: ", "no.csv": "does not exist"}
    for name, message in messages.items():
        for residual in (lambda u: u[0], lambda u, data: u[0] - data):
            with pytest.raises(DistNewtonError, match=f"term seen: .*{message}"):
                Term("seen", folder / name, residual)


@pytest.mark.mpi(min_size=2, sizes=(3,))
@pytest.mark.parametrize("what", ["points", "data", "names"])
def test_points_that_differ_over_ranks_are_refused(world, what):
    other = float(world.rank == world.size - 1)
    x = np.linspace(0, 1, 5) + other * (what == "points")
    name = "other" if other and what == "names" else "seen"
    problem = Problem([Term(name, x, lambda u, data: u[0] - data, data=x - x[0] + other * (what == "data"))])
    text = "term other, seen" if what == "names" else "term seen"
    with pytest.raises(ConfigError, match=f"{text}: the ranks have different points or data"):
        distnewton.train(config((1, 3, 1), 1), world.mpi, train_data=problem)


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize("name", ["table.csv", "points.npy"])
def test_a_recipe_names_files_of_points(world, points_file, monkeypatch, name):
    folder, table = points_file

    def problem():
        """Terms with other points, which the files replace."""
        return Problem([
            Term("seen", [[0.0, 1.0]], lambda u, data: u[0] - data, data=[1.0]),
            Term("law", SQUARE.interior(7), lambda u, du: du[0, 0] + 1.5 * u[0]),
        ])

    monkeypatch.setitem(sys.modules, "own_equations", types.SimpleNamespace(wave=problem, __spec__=None))
    monkeypatch.setattr("distnewton.physics.sources._is_module", lambda name: name == "own_equations")
    given = Problem([
        Term("seen", table[:, :2], lambda u, data: u[0] - data, data=table[:, 2]),
        Term("law", table[:, :2], lambda u, du: du[0, 0] + 1.5 * u[0]),
    ])
    expected = distnewton.train(config((2, 3, 1)), world.mpi, train_data=given)
    data = {"train": "own_equations:wave", "directory": str(folder), "points": {"seen": name, "law": "points.npy"}}
    tree = config((2, 3, 1)).model_dump(exclude_unset=True)
    found = distnewton.train(distnewton.make_config({**tree, "data": data}), world.mpi)
    np.testing.assert_allclose(numbers_of(found), numbers_of(expected), rtol=1e-12)
    for result in (found, expected):
        result.model.grid.free()
    common = ["--network.layers", "2-3-1", "--run.iterations", "1", "--quiet", "--data.train", "own_equations:wave"]
    for points, code, text in (
        (f"seen={folder / name}", 0, ""), (f"seen={folder / 'no.csv'}", 66, "term seen: "),
        ("front=a.csv", 78, "data.points: the problem has no term front; its terms are seen, law"),
    ):  # fmt: skip
        done = call_together(world, "train", *common, "--data.points", points, "--run-dir", folder / f"run{code}")
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr


def test_columns_of_files_of_points_are_chosen_as_of_other_data(points_file):
    folder, table = points_file
    term = Term("seen", [[0.0]], lambda u, data: u[0] - data, data=[1.0])
    data = DataConfig(points={"seen": str(folder / "table.csv")}, label_column="t", ignore_columns=["u"])
    (read,) = problem_of(Problem([term]), data).terms
    np.testing.assert_allclose(read.points.array[:, 0], table[:, 0])
    np.testing.assert_allclose(read.data, table[:, 1])
    with pytest.raises(ConfigError, match=r"data\.points is for the terms of residual problems"):
        problem_of(None, DataConfig(train="digits:train", points={"seen": "a.csv"}))


def test_test_data_of_a_recipe_go_before_the_known_solution(tmp_path):
    x = np.random.default_rng(0).random((20, 2))
    np.savez(tmp_path / "test.npz", X=x, y=x[:, 0])
    problem = Problem([Term("law", SQUARE.interior(9), lambda u, x: u[0] - x[0])], solution=lambda x: 5.0 + x[0])
    tree = config((2, 3, 1), 15).model_dump(exclude_unset=True)
    found = distnewton.train(distnewton.make_config({**tree, "data": {"test": str(tmp_path / "test.npz")}}), problem)
    assert found.last.test["rmse"] < 0.1
    assert distnewton.train(config((2, 3, 1), 15), problem).last.test["rmse"] > 4.0


def one(residual, **options):
    return Problem([Term("law", SQUARE.interior(5), residual, **options)])


def late(u, x, round):
    """NaN from the second round on."""
    return (u[0] - x[0]) / (round == 0)


def changing(u, x):
    """Changes the points that it is given."""
    x *= 2.0
    return u[0] - x[0]


def solved(**options):
    return Problem([Term("law", SQUARE.interior(5), lambda u: u[0] - 1.0)], **options)


BAD = {
    "not finite": (lambda: one(lambda u, x: u[0] / (0 * x[0])), r"term law: the residual is not finite at x = \["),
    "wrong shape": (lambda: one(lambda u: u[0][:3]), r"term law: expected residuals of shape \(n,\) = \(5,\)"),
    "a number": (lambda: one(lambda u: 1.0), "term law: expected residuals of shape"),
    "complex": (lambda: one(lambda u: 1j * u[0]), "term law: the residual of real numbers is complex"),
    "independent": (lambda: one(lambda x, u: x[0]), "term law: the residual does not depend on the network"),
    "abs": (lambda: one(lambda u: abs(u[0] - 9.0)), "term law: derivatives by complex steps differ"),
    "real part": (lambda: one(lambda u, du: u[0] + du[0, 0].real ** 2), "term law: derivatives by complex steps"),
    "argument": (lambda: one(lambda u, v: u[0]), "term law: the residual has no argument 'v'"),
    "data without points": (lambda: one(lambda u, data: u[0], data=np.ones(5)), "term law: data belong to given"),
    "no data": (lambda: one(lambda u, data: u[0]), "term law: the residual takes data"),
    "weight": (lambda: one(lambda u: u[0], weight=-1.0), "term law: the weight must be positive"),
    "dimensions": (
        lambda: Problem([Term("a", SQUARE.interior(5), lambda u: u[0]), Term("b", [0.1], lambda u: u[0])]),
        "the same dimension, got a: 2, b: 1",
    ),
    "names": (lambda: Problem([Term("a", [1.0], lambda u: u[0])] * 2), "different names"),
    "points": (lambda: Given([[0.0, np.nan]]), "finite numbers of shape"),
    "box": (lambda: Box([0, 1], [1, 1]), "low < high"),
    "too wide": (lambda: Box([-1.7e308], [1.7e308]), "two finite corners"),
    "raises": (lambda: one(lambda u: math.sin(u[0])), "term law: the residual fails with TypeError: only"),
    "no points": (lambda: SQUARE.interior(0), "number of points"),
    "face": (lambda: SQUARE.face(3, (2, 0)), "axes below 2"),
    "sphere": (lambda: Sphere([0, 0], -1), "positive radius"),
    "too far": (lambda: Sphere([1.7e308], 1.7e308), "positive radius"),
    "boolean": (lambda: one(lambda u: u[0] > 0.0), "term law: expected residuals of shape .* got bool"),
    "nothing": (lambda: one(lambda u: []), "term law: expected residuals of shape .* got nothing"),
    "ragged": (lambda: one(lambda u: [[[1.0, 2.0], [1.0]]]), "term law: the residual fails with ValueError"),
    "changes its points": (lambda: one(changing), "term law: .* read-only"),
    "changes its channels": (lambda: one(lambda u: np.multiply(u, 2.0, out=u)[0]), "term law: .* read-only"),
    "no signature": (lambda: one(max), "term law: the arguments of the residual cannot be read"),
    "weight as text": (lambda: one(lambda u: u[0], weight="a"), "term law: the weight must be positive"),
    "reserved": (lambda: Problem([Term("rmse", [1.0], lambda u: u[0])]), "term rmse: records use this name"),
    "no list": (lambda: Problem(Term("law", [1.0], lambda u: u[0])), "a list of terms"),
    "outputs": (lambda: solved(n_outputs="1"), "n_outputs is a whole number, at least 1, got '1'"),
    "rounds": (lambda: solved(resample=1.5), r"resample is a whole number, at least 0, got 1\.5"),
    "unknown without a term": (lambda: solved(unknowns={"k": 1.0}), "unknown k: no term has it"),
    "unknown as a channel": (lambda: solved(unknowns={"u": 1.0}), "unknown 'u': choose another name"),
    "unknown as NaN": (
        lambda: Problem([Term("law", [1.0], lambda u, k: u[0] - k)], unknowns={"k": np.nan}),
        "unknown k: the first value must be a finite number",
    ),
    "points as text": (lambda: Term("law", [["a"]], lambda u: u[0]), "term law: expected points as finite numbers"),
    "complex points": (lambda: Term("law", [1j], lambda u: u[0]), "term law: expected points as finite numbers"),
    "ragged points": (lambda: Term("law", [[1.0], []], lambda u: u[0]), "term law: expected points as finite"),
    "huge integers": (lambda: Term("law", [10**400], lambda u: u[0]), "term law: expected points as finite"),
    "beyond float64": (
        lambda: Problem([Term("law", [[0.0, 1.0], [1e200, 0.0]], lambda u: u[0])]),
        r"term law: the points reach 1e\+200",
    ),
    "box of texts": (lambda: Box(["a"], ["b"]), "two finite corners"),
    "face as a number": (lambda: SQUARE.face(3, 0), "axes below 2"),
    "complex data": (
        lambda: Term("law", [1.0], lambda u, data: u[0] - data, data=[1j]), "term law: data belong to given points"
    ),
    "solution": (lambda: solved(solution=lambda x: x), "solution: expected"),
    "complex solution": (lambda: solved(solution=lambda x: 1j * x[0]), "solution: expected"),
    "solution fails": (lambda: solved(solution=lambda x: x[7]), "solution: the function fails with IndexError"),
    "test": (lambda: solved(test=[1.0]), "test has points of 1 dimensions, the terms of 2"),
}  # fmt: skip


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize("replicas", [False, True])
def test_what_is_not_finite_at_later_points_is_told_by_the_name_of_the_term(world, replicas):
    partition = {"splits": [1, 1, 1, 1], "replicas": world.size} if replicas else {}
    # the points that are tried at first are fine
    problem = Problem([
        Term("fine", SQUARE.interior(30), lambda u, x: u[0] - x[0]),
        Term("law", np.linspace([0, 0], [1, 2], 30), lambda u, x: u[0] / (x[0] < 0.9)),
    ])
    with pytest.raises(DistNewtonError, match=r"objective is not finite at the start: term law: .* at x = \["):
        distnewton.train(config((2, 3, 2, 1), 1, partition), world.mpi, train_data=problem)
    problem = Problem([Term("law", SQUARE.interior(8), late)], resample=1)
    with pytest.raises(DistNewtonError, match=r"not finite in iteration 2: term law: .* at x = \["):
        distnewton.train(config((2, 3, 2, 1), 3, partition), world.mpi, train_data=problem)
    world.barrier()


def test_what_becomes_complex_later_is_told_by_the_name_of_the_term():
    law = Term("law", SQUARE.interior(8), lambda u, x, round: u[0] + np.emath.sqrt(x[0] - round))
    problem = Problem([law], resample=1)
    with pytest.raises(ConfigError, match="term law: the residual of real numbers is complex"):
        distnewton.train(config((2, 3, 1), 3), problem)


def test_functions_in_pieces_have_exact_derivatives():
    problem = one(lambda u, x: np.where(u[0] > 0.2, u[0] ** 2, 3.0 * u[0]) + np.maximum(u[0], x[0]))
    loss = ResidualLoss(problem, 0)
    Z = np.linspace(-1.0, 1.1, 5)[:, None]
    (term,) = loss.terms
    term.check(Z, loss.points, np.arange(5))
    u, x = Z[:, 0], loss.points[:, 0]
    expected = np.where(u > 0.2, 2.0 * u, 3.0) + (u > x)
    np.testing.assert_allclose(term.derivatives(Z, loss.points, np.arange(5))[:, 0, 0], expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import absent_module", r"ModuleNotFoundError in own_bad\.py, line 1"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("def f(n):\n    pass", r"TypeError: f\(\) missing 1 required"),
        ("def f():\n    return 1 / 0", r"ZeroDivisionError in own_bad\.py, line 2"),
    ],
)
def test_a_module_that_fails_is_told_without_a_traceback(tmp_path, monkeypatch, text, message):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_bad", raising=False)
    (tmp_path / "own_bad.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"data\.train = own_bad:f: {message}"):
        problem_of(None, DataConfig(train="own_bad:f"))
    sys.modules.pop("own_bad", None)


def test_the_start_says_that_the_method_was_chosen_for_residuals():
    summary = distnewton.train(config((2, 3, 1), 1), one(lambda u, x: u[0] - x[0])).summary
    assert any("chosen for residuals (method.direction = auto): dual" in note for note in summary.notes)


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize("kind", BAD)
def test_bad_problems_are_refused_by_the_name_of_the_term_on_all_ranks(world, kind):
    make, message = BAD[kind]
    with pytest.raises(ConfigError, match=message):
        distnewton.train(config((2, 3, 1), 1), world.mpi, train_data=make())
    world.barrier()


@pytest.mark.mpi(min_size=1, sizes=(3,))
def test_relu_is_refused_where_second_derivatives_are_needed(world):
    settings = config().model_copy(update={"network": config().network.model_copy(update={"activation": "relu"})})
    with pytest.raises(ConfigError, match="term heat: the residual needs second derivatives, which relu does not have"):
        distnewton.train(settings, world.mpi, train_data=heat())


@pytest.mark.parametrize(("section", "setting"), [("run", {"device": "gpu"}), ("data", {"scale": "standard"})])
def test_settings_without_a_meaning_are_refused(section, setting):
    tree = {"network": {"layers": [2, 3, 2]}, section: setting}
    with pytest.raises(ConfigError, match="residual problem"):
        distnewton.train(distnewton.make_config(tree), heat())


def test_folders_and_bundled_sets_are_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    assert problem_of(None, DataConfig(train="pictures:train")) is None
    assert problem_of(None, DataConfig(train="digits:train")) is None
    assert problem_of(None, DataConfig(train="nothing:there")) is None
    monkeypatch.syspath_prepend(str(tmp_path / "pictures"))
    assert problem_of(None, DataConfig(train="train:wave")) is None


def test_points_lie_where_they_should():
    generator = np.random.default_rng(0)
    inside, faces = SQUARE.interior(200).draw(generator), SQUARE.boundary(40).draw(generator)
    assert ((inside > 0) & (inside < [1, 2])).all()
    # a quarter of the box holds a quarter of the points, nearly
    assert abs(((inside < [0.5, 1]).all(axis=1)).sum() - 50) <= 3
    on = [(faces[:, 0] == 0), (faces[:, 0] == 1), (faces[:, 1] == 0), (faces[:, 1] == 2)]
    assert [int(side.sum()) for side in on] == [10] * 4
    sphere = Sphere([1, 2, 3], 2).surface(30).draw(generator)
    np.testing.assert_allclose(np.linalg.norm(sphere - [1, 2, 3], axis=1), 2)
