"""Commands on PLINK genotypes: train, predict, evaluate and plan."""

from __future__ import annotations

import numpy as np
import pytest
from genotypes import random_calls, write_bed, write_table
from launched import call_together

N, P = 40, 30


def cohort(folder):
    """A cohort, and the same variants in another order, some with swapped alleles, among others."""
    rng = np.random.default_rng(0)
    calls = random_calls(N, P)
    z = rng.standard_normal((N, 2))
    y = np.maximum(calls, 0)[:, :4].sum(axis=1) + z[:, 0] + 0.1 * rng.standard_normal(N)
    y[3] = np.nan
    write_bed(folder / "c", calls)
    write_table(folder / "y.txt", ["T", "U"], np.column_stack([y, rng.standard_normal(N)]))
    write_table(folder / "z.txt", ["AGE", "SEX"], z)
    order, swapped = rng.permutation(P), rng.random(P) < 0.5
    other = np.where(calls < 0, -1, np.where(swapped, 2 - calls, calls))[:, order]
    alleles = [("G", "A") if swapped[k] else ("A", "G") for k in order]
    other, names = np.insert(other, 4, 1, axis=1), [f"rs{k}" for k in order]
    names.insert(4, "new")
    alleles.insert(4, ("C", "T"))
    write_bed(folder / "d", other, names=names, alleles=alleles)
    write_bed(folder / "e", calls[:, :-3])
    return y


@pytest.mark.mpi(min_size=1, sizes=(1, 3))
def test_a_model_meets_other_files(world, folder):
    if world.rank == 0:
        cohort(folder)
    world.barrier()

    def command(*words, code=0):
        done = call_together(world, *words)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    data = ["--data-dir", str(folder)]
    log = command(
        "train", "--data.train=c,y.txt,z.txt", *data, "--data.label_column=T", "--data.unpenalised=AGE,S*",
        "--network.layers=auto-auto", "--network.loss=squared", f"--run-dir={folder / 'run'}",
    )  # fmt: skip
    assert "32 features (genotypes), labels in column T" in log
    assert "1 of 40 samples lack a phenotype, and are left out" in log
    predicted = [command("predict", str(folder / "run"), f"{name},,z.txt", *data) for name in ("c", "d", "d.bed")]
    numbers = np.array([text.split() for text in predicted], float)
    assert numbers.shape == (3, N)
    np.testing.assert_allclose(numbers[1:], numbers[[0, 0]], rtol=1e-5)
    evaluated = [command("evaluate", str(folder / "run"), f"{name},y.txt,z.txt", *data) for name in ("c", "d")]
    assert "39" in evaluated[0]
    assert evaluated[0].replace("c.bed", "d.bed") == evaluated[1]
    text = command("predict", str(folder / "run"), "e,,z.txt", *data, code=65)
    assert "3 of the model's 30 variants are missing, such as rs27, rs28, rs29" in text
    text = command("predict", str(folder / "run"), "c", *data, code=65)
    assert "was trained with the covariates AGE, SEX; give their file as c.bed,,COVARIATES" in text


def test_plans_count_two_bits(tmp_path):
    from distnewton.config import make_config
    from distnewton.network.shapes import dense_shape
    from distnewton.planning.memory import features_bytes
    from distnewton.planning.problem import Share
    from distnewton.runs.data_size import describe_data
    from distnewton.runs.planned import planned_problem

    cohort(tmp_path)
    data = {"train": "c,y.txt", "directory": str(tmp_path)}
    tree = {"data": data, "network": {"layers": ["auto", "auto"], "loss": "squared"}}
    size = describe_data(make_config(tree))
    assert (size.n_samples, size.n_features, size.n_out, size.packed) == (39, P, 2, True)
    config = make_config({**tree, "method": {"direction": "gauss_newton"}})
    shape = dense_shape((1000, 1))
    problem = planned_problem(config, shape, size._replace(n_samples=10_000, n_test=0))
    share = Share(shape, shape.partition((4, 1)), 0)
    found = features_bytes(problem, share, 10_000)
    assert 250 * 10_000 / 4 <= found <= 1.05 * 250 * 10_000 / 4
