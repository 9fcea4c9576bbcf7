"""`predict --header` and `--id-column`: CSV that others join with their tables."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest
from launched import call_together

mpi = pytest.mark.mpi(min_size=1, sizes=(1, 3))


def frame(n=40):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 3)).round(3)
    kind = np.where(X[:, 0] > 0, "a, b", 'say "no"')
    return pd.DataFrame({"code": [f"00{i}" for i in range(n)], "x": X[:, 0], "y": X[:, 1], "z": X[:, 2], "kind": kind})


def write(table, path):
    getattr(table, "to_parquet" if path.suffix == ".parquet" else "to_csv")(path, index=False)


def fields(text):
    return list(csv.reader(io.StringIO(text)))


@mpi
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_identifiers_header_and_probabilities(world, folder, suffix):
    table, data, new = frame(), folder / f"data.{suffix}", folder / f"new.{suffix}"
    if world.rank == 0:
        write(table, data)
        write(table.drop(columns="kind")[::-1], new)
    world.barrier()
    train = ["train", f"--data.train={data}", "--data.ignore_columns=code", "--data.label_column=kind"]
    train += ["--network.layers=auto-auto", "--run.iterations=4", f"--run-dir={folder / 'run'}"]
    done = call_together(world, *train)
    assert done.returncode == 0, done.stderr

    def predict(*flags):
        done = call_together(world, "predict", str(folder / "run"), str(new), *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout

    labels = predict().splitlines()
    assert set(labels) == {"a, b", 'say "no"'}
    assert fields(predict("--header")) == [["kind"], *([label] for label in labels)]
    codes = table["code"].tolist()[::-1]
    assert fields(predict("--id-column", "code")) == [[code, label] for code, label in zip(codes, labels, strict=True)]
    whole = fields(predict("--id-column=0", "--header", "--probabilities", "--out=-"))
    assert whole[0] == ["code", "kind", "probability_a, b", 'probability_say "no"']
    assert [row[:2] for row in whole[1:]] == [[code, label] for code, label in zip(codes, labels, strict=True)]
    for row in whole[1:]:
        assert float(row[2]) + float(row[3]) == pytest.approx(1, abs=1e-5)
        assert (float(row[2]) > 0.5) == (row[1] == "a, b")
    assert predict("--id-column", "code", "--header", "--out", str(folder / "out.csv")) == ""
    world.barrier()
    read = pd.read_csv(folder / "out.csv", dtype=str)
    assert read["code"].tolist() == codes
    assert read["kind"].tolist() == labels


@mpi
def test_columns_that_are_not_there_and_several_targets(world, folder):
    if world.rank == 0:
        write(frame().drop(columns=["code", "kind"]), folder / "data.csv")
        np.savez(folder / "data.npz", X=frame()[["x", "y"]], y=frame()[["z", "x"]])
    world.barrier()
    loss = ["--network.layers=auto-auto", "--network.loss=squared", "--run.iterations=3"]
    for name in ("data.csv", "data.npz"):
        done = call_together(world, "train", f"--data.train={folder / name}", *loss, f"--run-dir={folder / name}-run")
        assert done.returncode == 0, done.stderr
    done = call_together(world, "predict", f"{folder}/data.csv-run", f"{folder}/data.csv", "--id-column=code")
    assert done.returncode == 78
    assert "--id-column = 'code'" in done.stderr
    assert "no such column; the columns are x, y, z" in done.stderr
    done = call_together(world, "predict", f"{folder}/data.npz-run", f"{folder}/data.npz", "--id-column=0")
    assert "is not a table with columns" in done.stderr
    done = call_together(world, "predict", f"{folder}/data.npz-run", f"{folder}/data.npz", "--header")
    rows = fields(done.stdout)
    assert rows[0] == ["prediction_0", "prediction_1"]
    plain = call_together(world, "predict", f"{folder}/data.npz-run", f"{folder}/data.npz").stdout.split()
    assert [value for row in rows[1:] for value in row] == plain
