"""Training on PLINK genotypes: ridge against its closed form, every method against dense data, predictions."""

from __future__ import annotations

import numpy as np
import pytest
from genotypes import random_calls, standardised, write_bed, write_table

import distnewton
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, DataError

pytestmark = pytest.mark.mpi(min_size=1, sizes=(1, 3, 4))

N, P, C = 40, 70, 0.7
EXACT = {
    "direction": "gauss_newton", "subsample": 1.0, "C": C, "cg_tolerance": 1e-13, "cg_max": 1000, "cg_min": 1,
    "damping": 1e-6,
}  # fmt: skip


def cohort(world, folder, n=N, p=P, seed=0):
    """A cohort with two phenotypes, one sample without the second, and two covariates; all ranks have its numbers."""
    rng = np.random.default_rng(seed)
    calls = random_calls(n, p, seed)
    z = np.column_stack([rng.uniform(20, 70, n), rng.integers(2, size=n)]).astype(float)
    y = np.maximum(calls, 0)[:, :5] @ rng.standard_normal((5, 2)) + 0.1 * z[:, :1] + rng.standard_normal((n, 2))
    y[7, 1] = np.nan
    if world.rank == 0:
        write_bed(folder / "c", calls)
        write_table(folder / "y.txt", ["T1", "T2"], y, order=rng.permutation(n))
        write_table(folder / "z.txt", ["AGE", "SEX"], z, order=rng.permutation(n))
    world.barrier()
    return calls, y, z


def config(folder, train, method=None, **more):
    tree = {
        "data": {"train": train, "directory": str(folder), **more.pop("data", {})},
        "network": {"layers": ["auto", "auto"], "loss": "squared", **more.pop("network", {})},
        "method": EXACT if method is None else method,
        "partition": more.pop("partition", {}),
        "run": {"dtype": "float64", "iterations": 8, "deterministic": True, "threads": 1, **more},
    }  # fmt: skip
    return distnewton.make_config(tree)


def centred(A):
    return (A - A.mean(axis=0)) / A.std(axis=0)


def same_on_ranks(world, weights, expected, tolerance):
    """Whether rank 0's weights are as expected: told to all."""
    close = world.rank > 0 or bool(abs(weights - expected).max() <= tolerance * abs(expected).max())
    assert not world.any(not close)


@pytest.mark.parametrize("kind", ["standard", "hardy_weinberg", "auto"])
def test_ridge_is_its_closed_form(world, folder, kind):
    calls, y, _ = cohort(world, folder)
    result = distnewton.train(config(folder, "c,y.txt", data={"scale": kind}), world)
    kept = np.arange(N) != 7
    X, Y = standardised(calls, kept, hardy_weinberg=kind == "hardy_weinberg"), centred(y[kept])
    n = len(X)
    # in the space of samples; the matrix of ridge is 2/n X^T X + I/C
    W = X.T @ np.linalg.solve(X @ X.T + np.eye(n) * n / (2 * C), Y - Y.mean(axis=0))
    found = (result.model.weights() or {}).get("0.weight")
    same_on_ranks(world, None if found is None else found.T, W, 1e-8)
    outputs = result.model.predict(open_data(folder / "c.bed", names=result.model.names, labels="none"))
    values = np.array([line.split() for line in outputs], float)
    np.testing.assert_allclose(values[kept], X @ W * y[kept].std(axis=0) + y[kept].mean(axis=0), rtol=1e-7)
    result.model.grid.free()


METHODS = [
    ({"direction": "gauss_newton", "subsample": 0.5}, {}),
    ({"direction": "block_diagonal", "subsample": 0.5, "subsample_min": 1}, {}),
    ({"direction": "block_diagonal", "preconditioner": "diagonal", "subsample_min": 1}, {"partition": {"blocks": 4}}),
    ({"direction": "dual", "subsample": 1.0}, {}),
    ({"direction": "dual", "subsample": 0.5, "subsample_min": 1, "damping_form": "diagonal"}, {}),
    ({"direction": "kfac", "batch": 16}, {}),
    ({"direction": "mini_block_fisher", "batch": 16}, {}),
    ({"direction": "adam", "batch": 16}, {}),
    ({"direction": "grouped_newton"}, {}),
    ({"direction": "gauss_newton", "subsample": 0.5, "subsample_min": 1}, {"data": {"validation_fraction": 0.2}}),
]


@pytest.mark.mpi(min_size=1, sizes=(3,))
@pytest.mark.parametrize(("method", "more"), METHODS, ids=lambda value: value.get("direction", ""))
def test_methods_do_what_they_do_with_dense_data(world, folder, method, more):
    calls, y, _ = cohort(world, folder)
    kept = np.arange(N) != 7
    network = {"layers": ["auto", 5, "auto"]}
    packed = config(folder, "c,y.txt", method, network=network, iterations=4, **more)
    source = distnewton.ArraySource(standardised(calls, kept), y[kept])
    if more.get("data"):
        # of samples that are put aside others are the means
        source = distnewton.ArraySource(np.where(calls < 0, 0, calls)[kept].astype(float), y[kept])
        world.barrier()
        if world.rank == 0:
            write_bed(folder / "c", np.where(calls < 0, 0, calls))
        world.barrier()
        more = {"data": {**more["data"], "scale": "standard"}}
    dense = config(folder, "", method, network=network, iterations=4, **more)
    results = [distnewton.train(packed, world), distnewton.train(dense, world, train_data=source)]
    objectives = [[record.objective for record in result.history] for result in results]
    np.testing.assert_allclose(*objectives, rtol=1e-7)
    assert objectives[0][-1] < objectives[0][0]
    for result in results:
        result.model.grid.free()


@pytest.mark.mpi(min_size=1, sizes=(2, 4))
@pytest.mark.parametrize("direction", ["gauss_newton", "dual"])
def test_replicas_do_what_one_grid_does(world, folder, direction):
    if world.size % 2:
        pytest.skip("two replicas")
    cohort(world, folder)
    method = {"direction": direction, "subsample": 0.6, "subsample_min": 1, "damping": 0.1}
    data = {"scale": "standard"}
    alone = distnewton.train(config(folder, "c,y.txt,z.txt", method, iterations=4, data=data))
    result = distnewton.train(
        config(folder, "c,y.txt,z.txt", method, iterations=4, data=data, partition={"replicas": 2}), world
    )
    objectives = [[record.objective for record in history] for history in (alone.history, result.history)]
    np.testing.assert_allclose(*objectives, rtol=1e-9)
    result.model.grid.free()


def test_what_is_damaged_is_refused_on_all_ranks(world, folder):
    calls, _, _ = cohort(world, folder)
    calls[:, 66] = -1
    if world.rank == 0:
        write_bed(folder / "d", calls, ["1.5"] * N)
        (folder / "e.bed").write_bytes((folder / "d.bed").read_bytes()[:-1])
        for suffix in (".bim", ".fam"):
            (folder / "e").with_suffix(suffix).write_bytes((folder / "d").with_suffix(suffix).read_bytes())
    world.barrier()
    for name, message in [("d.bed", "variant 67, rs66, is missing in all samples"), ("e", "it is cut short")]:
        with pytest.raises(DataError, match=message):
            distnewton.train(config(folder, name), world)
    with pytest.raises(ConfigError, match=r"would unpack genotypes"):
        distnewton.train(config(folder, "c,y.txt", data={"scale": "unit_rows"}), world)
    with pytest.raises(ConfigError, match=r"has genotypes, which need run.device = cpu"):
        distnewton.train(config(folder, "c,y.txt", device="gpu"), world)


def ridge(X, Z, Y, c):
    """Weights of X, which are penalised by 1/c, and of Z, which are not: least squares on what Z leaves."""
    n, Y = len(X), Y - Y.mean(axis=0)
    rest = np.eye(n) - Z @ np.linalg.pinv(Z)
    A = rest @ X
    W = A.T @ np.linalg.solve(A @ A.T + np.eye(n) * n / (2 * c), rest @ Y)
    return W, np.linalg.lstsq(Z, Y - X @ W)[0]


SOLVERS = {
    "gauss_newton": {}, "diagonal damping": {"damping_form": "diagonal"},
    "preconditioned": {"preconditioner": "diagonal"},
    "dual": {"direction": "dual", "damping": 1e-4, "line_search_max": 5},
}  # fmt: skip


@pytest.mark.parametrize("solver", SOLVERS)
def test_covariates_need_not_be_penalised(world, folder, solver):
    calls, y, z = cohort(world, folder)
    method = {**EXACT, **SOLVERS[solver]}
    method = {key: value for key, value in method.items() if method["direction"] != "dual" or not key.startswith("cg")}
    data = {"unpenalised": ["AGE", "S*"]}
    result = distnewton.train(config(folder, "c,y.txt,z.txt", method, iterations=25, data=data), world)
    kept = np.arange(N) != 7
    X, Z, Y = standardised(calls, kept), centred(z[kept]), centred(y[kept])
    W, V = ridge(X, Z, Y, C)
    found = (result.model.weights() or {}).get("0.weight")
    same_on_ranks(world, None if found is None else found.T, np.concatenate([W, V]), 1e-8)
    objective = (W**2).sum() / (2 * C) + ((Y - X @ W - Z @ V) ** 2).sum() / len(X)
    np.testing.assert_allclose(result.history[-1].objective, objective, rtol=1e-12)
    result.model.grid.free()
