"""Files by columns: each rank has a folder of its own with the files it owns and no other; the same as one file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from launched import call, call_together
from resumed import free, settings

import distnewton
from distnewton.errors import ConfigError, DistNewtonError
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.cuts import files_of_ranks

mpi = pytest.mark.mpi(min_size=1, sizes=(1, 3, 4))
METHOD = {"direction": "gauss_newton", "cg_tolerance": 0.0, "cg_max": 5, "subsample": 1.0}
NAMES = ["bank.csv", "shop.parquet", "clinic.csv"]
N = 48


@dataclass
class Part:
    """Columns of one party, its rows in an order of its own."""

    columns: dict
    order: np.ndarray

    def write(self, path):
        columns = {name: [values[i] for i in self.order] for name, values in self.columns.items()}
        if path.suffix == ".parquet":
            import pyarrow as pa
            from pyarrow import parquet

            parquet.write_table(pa.table(columns), path)
            return
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")


def columns(seed=0, n=N):
    """All columns: numbers, texts, gaps, and the label, which depends on those of several files."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 6)).round(4)
    city = np.array(["Ulm", "Bonn", "Kiel"])[rng.integers(3, size=n)].tolist()
    city[3] = ""
    numbers = {f"x{k}": X[:, k].tolist() for k in range(6)}
    label = np.where(X[:, 0] + X[:, 4] * (np.array(city) == "Ulm") + 0.3 * X[:, 5] > 0, "good", "bad").tolist()
    return {"person": [f"p{i:03d}" for i in rng.permutation(n)], **numbers, "city": city, "label": label}


HELD = {"bank.csv": ["x0", "x1", "x2", "x3", "city"], "shop.parquet": ["x4", "label"], "clinic.csv": ["x5"]}


def parts(held=HELD, seed=0, n=N):
    """The files, of which that with the labels alone is in the order of the samples; and the joined one."""
    whole, rng = columns(seed, n), np.random.default_rng(seed + 1)
    files = {}
    for name, own in held.items():
        order = np.arange(n) if "label" in own else rng.permutation(n)
        mixed = ["person", *own] if name != "clinic.csv" else [*own, "person"]
        files[name] = Part({column: whole[column] for column in mixed}, order)
    every = [column for own in held.values() for column in own]
    files["joined.csv"] = Part({column: whole[column] for column in ["person", *every]}, np.arange(n))
    return files


def lay_out(world, folder, files, owned, prefix=""):
    """Make this rank's own folder, with the files it owns and the joined one, and go there."""
    home = folder / f"rank{world.rank}"
    with world.collective_errors():
        home.mkdir(exist_ok=True)
        names = [name for name in files if name != "joined.csv"]
        for name in [*names[slice(*owned[world.rank])], "joined.csv"]:
            files[name].write(home / f"{prefix}{name}")
    return home


def config_of(train, test="", iterations=4, partition=None, data=None, method=None):
    data = {"train": train, "test": test, "id_column": "person", "scale": "standard", **(data or {})}
    tables = {"network": {"layers": ["auto", 5, "auto"]}, "data": data, "partition": partition or {}}
    return settings(method or METHOD, iterations, **tables)


def objectives(result):
    return [record.objective for record in result.history]


def message(work):
    try:
        work()
    except DistNewtonError as error:
        return str(error)
    return ""


@pytest.fixture
def home(world, folder, monkeypatch):
    """This rank's folder, with training and test files."""
    owned = files_of_ranks(3, world.size)
    place = lay_out(world, folder, parts(), owned)
    lay_out(world, folder, parts(seed=5, n=30), owned, prefix="t")
    monkeypatch.chdir(place)
    return place


TEST = [f"t{name}" for name in NAMES]


@mpi
def test_training_is_that_on_the_joined_file(world, home):
    alone = distnewton.train(config_of("joined.csv", "tjoined.csv"))
    result = distnewton.train(config_of(NAMES, TEST), world)
    np.testing.assert_allclose(objectives(result), objectives(alone), rtol=1e-12, atol=0)
    assert result.last.test == pytest.approx(alone.last.test, rel=1e-12)
    names = result.model.names
    assert (names.features, names.label, names.encoding) == (
        alone.model.names.features, alone.model.names.label, alone.model.names.encoding
    )  # fmt: skip
    assert names.files == (5, 1, 1)
    weights, expected = result.model.weights(), alone.model.weights()
    wrong = weights is not None and any(abs(weights[k] - expected[k]).max() > 1e-12 for k in expected)
    assert not world.any(wrong)
    assert any("rows are joined by person, in the order of shop.parquet" in note for note in result.summary.notes)
    free(result, alone)


@mpi
@pytest.mark.parametrize("direction", ["block_diagonal", "kfac"])
def test_other_methods_train(world, home, direction):
    result = distnewton.train(config_of(NAMES, method={"direction": direction}), world)
    found = objectives(result)
    assert found[-1] < found[0]
    free(result)


@mpi
def test_a_saved_model_predicts_files_on_any_number_of_ranks(world, home):
    result = distnewton.train(config_of(NAMES), world)
    path = home.parent / "model.safetensors"
    result.model.save(path)
    expected = result.model.predict(TEST)
    model = distnewton.load_model(path, world)
    assert not world.any(model.predict(TEST) != expected)
    # the joined file has the same columns by name, here on each rank alone
    serial = distnewton.load_model(path)
    assert not world.any(serial.predict("tjoined.csv") != expected)
    metrics, joined = model.evaluate(TEST), serial.evaluate("tjoined.csv")
    assert metrics["accuracy"] == joined["accuracy"]
    assert metrics["log_loss"] == pytest.approx(joined["log_loss"], rel=1e-12)
    if world.size == 1:
        assert "3 files by columns, but the training data were 1 file(s)" in message(
            lambda: distnewton.train(config_of("joined.csv")).model.predict(TEST)
        )
    free(result, type("Held", (), {"model": model}), type("Held", (), {"model": serial}))


@mpi
def test_commands_take_several_files(world, home):
    run, common = home.parent / "run", ["--data.scale", "standard"]
    done = call_together(
        world, "train", "--data.train", '["bank.csv", "shop.parquet", "clinic.csv"]', "--data.id_column", "person",
        "--run.iterations", 3, "--run-dir", run, "--run.dtype", "float64", "--network.layers", "auto-5-auto",
        "--method.direction", "gauss_newton", *common,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "data     bank.csv, shop.parquet, clinic.csv: 48 samples, 10 features" in done.stdout
    done = call_together(world, "predict", run, *TEST, "--header", "--id-column", "person")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "person,label"
    assert [line.split(",")[0] for line in lines[1:]] == columns(seed=5, n=30)["person"]
    assert {line.split(",")[1] for line in lines[1:]} == {"good", "bad"}
    done = call_together(world, "evaluate", run, *TEST)
    assert (done.returncode, "accuracy" in done.stdout) == (0, True), done.stderr
    done = call_together(world, "predict", run, *TEST[:2])
    assert done.returncode != 0
    assert "2 files by columns, but the training data were 3 file(s); name as many" in done.stderr


@pytest.mark.mpi(min_size=1, sizes=(1, 4))
def test_a_party_with_labels_alone_and_ranks_without_columns(world, folder, monkeypatch):
    held = {"court.csv": ["label"], "bank.csv": ["x0", "x1", "x2", "x3", "city", "x5"], "shop.csv": ["x4"]}
    counts = [1, 1, 2] if world.size == 4 else []
    files = parts(held)
    monkeypatch.chdir(lay_out(world, folder, files, files_of_ranks(3, world.size, (), counts)))
    alone = distnewton.train(config_of("joined.csv"))
    result = distnewton.train(config_of(list(held), partition={"files": counts}), world)
    np.testing.assert_allclose(objectives(result), objectives(alone), rtol=1e-12, atol=0)
    partition = result.model.grid.partition
    if world.size == 4:
        # nothing of the first file, and one column for two ranks
        assert [partition.group(0, j) for j in range(4)] == [(0, 0), (0, 9), (9, 10), (10, 10)]
    # without labels rows come in the order of the first file, whose rank has no feature
    result.model.save(folder / "model.safetensors")
    model = distnewton.load_model(folder / "model.safetensors", world, files=counts)
    expected = result.model.predict(list(held))
    assert not world.any(model.predict(list(held)) != expected)
    dealt = [f"--set=partition.files={'-'.join(map(str, counts))}"] if counts else []
    done = call_together(world, "predict", folder / "model.safetensors", *held, *dealt)
    assert (done.returncode, done.stdout.split()) == (0, expected), done.stderr
    free(result, alone, type("Held", (), {"model": model}))


@pytest.mark.mpi(min_size=4, sizes=(4,))
def test_owners_follow_the_settings_and_splits_must_suit(world, home, folder, monkeypatch):
    alone = distnewton.train(config_of("joined.csv"))
    lay_out(world, folder, parts(), files_of_ranks(3, 4, (), (1, 2, 1)))
    result = distnewton.train(config_of(NAMES, partition={"files": [1, 2, 1], "splits": [4, 1, 4]}), world)
    np.testing.assert_allclose(objectives(result), objectives(alone), rtol=1e-12, atol=0)
    free(result)
    files = parts({"bank.csv": HELD["bank.csv"], "shop.csv": ["x4", "x5", "label"]})
    monkeypatch.chdir(lay_out(world, folder, files, files_of_ranks(2, 4)))
    for partition in ({"splits": [2, 2, 2]}, {"splits": [4, 1, 4]}, {"replicas": 2}):
        lay_out(world, folder, files, files_of_ranks(2, 4) if "splits" in partition else files_of_ranks(2, 2) * 2)
        result = distnewton.train(config_of(["bank.csv", "shop.csv"], partition=partition), world)
        np.testing.assert_allclose(objectives(result), objectives(alone), rtol=1e-12, atol=0)
        free(result)
    for partition, text in [
        ({"splits": [1, 4, 1], "files": [2, 2]}, "splits 1-4-1 give ranks that own different files the same features"),
        ({"files": [1, 2]}, "partition.files has 2 numbers of 3 ranks together, but there are 2 files and 4 ranks"),
        ({"blocks": 4}, "partition.blocks cut features across files by columns"),
    ]:
        for name in files:
            files[name].write(folder / f"rank{world.rank}" / name)
        found = message(lambda p=partition: distnewton.train(config_of(["bank.csv", "shop.csv"], partition=p), world))
        assert not world.any(text not in found), found
    free(alone)


@mpi
def test_a_checkpoint_goes_on_on_another_grid(world, home):
    alone = distnewton.train(config_of("joined.csv", iterations=6))
    kept = {"checkpoints": home.parent / "checkpoints"}
    free(distnewton.train(config_of(NAMES, iterations=3), world, **kept))
    if world.rank == 0:
        for name, part in parts().items():
            part.write(home / name)
    world.barrier()
    # on one rank, and with its files back on all ranks
    last = distnewton.train(config_of(NAMES, iterations=4), resume=True, **kept) if world.rank == 0 else None
    world.barrier()
    result = distnewton.train(config_of(NAMES, iterations=6), world, resume=True, **kept)
    np.testing.assert_allclose(objectives(result), objectives(alone)[4:], rtol=1e-12, atol=0)
    free(result, alone, *([last] if last else []))


def test_size_is_read_without_mpirun_only(folder, monkeypatch):
    monkeypatch.chdir(lay_out(Communicator(), folder, parts(), [(0, 3)]))
    words = [
        '--set=data.train=["bank.csv", "shop.parquet", "clinic.csv"]', "--set=data.id_column=person",
        "--set=network.layers=auto-5-auto",
    ]  # fmt: skip
    done = call("plan", *words, "--ranks", 3)
    assert done.returncode == 0, done.stderr
    assert "3-1-3" in done.stdout
    assert "1-3-1" not in done.stdout
    done = call("train", *words, "--dry-run", OMPI_COMM_WORLD_SIZE="3")
    assert done.returncode != 0
    assert "one rank cannot read the size of bank.csv, shop.parquet, clinic.csv" in done.stderr


def edited(files, name, **values):
    part = files[name]
    files[name] = Part({**part.columns, **values}, part.order)
    return files


def with_identifiers(files, name, change):
    identifiers = list(files[name].columns["person"])
    return edited(files, name, person=change(identifiers))


REFUSED = {
    "missing": (
        lambda files: with_identifiers(files, "bank.csv", lambda p: ["", "NA", *p[2:]]),
        "bank.csv: 2 of 48 rows have no identifier of the column person, such as '' (bank.csv:",
    ),
    "twice": (
        lambda files: with_identifiers(files, "clinic.csv", lambda p: [p[2], p[3], p[2], p[3], p[3], *p[5:]]),
        "clinic.csv: 2 identifier(s) appear in several rows of the column person, such as '",
    ),
    "twice beside the labels": (
        lambda files: with_identifiers(files, "shop.parquet", lambda p: [p[1], *p[1:]]),
        "shop.parquet: 1 identifier(s) appear in several rows of the column person, such as '",
    ),
    "others": (
        lambda files: with_identifiers(files, "clinic.csv", lambda p: [*p[:-2], "stranger", "strangest"]),
        "clinic.csv: 2 of its 48 identifiers are not in shop.parquet, such as 'strange",
    ),
    "lacking": (
        lambda files: with_identifiers(files, "clinic.csv", lambda p: [*p[:-2], "stranger", "strangest"]),
        "clinic.csv: lacks 2 of the 48 identifiers of shop.parquet, such as 'p",
    ),
    "column twice": (
        lambda files: edited(files, "clinic.csv", x1=files["bank.csv"].columns["x1"]),
        "bank.csv and clinic.csv: two columns are named x1; columns are taken by name: rename one",
    ),
    "labels twice": (
        lambda files: edited(files, "clinic.csv", target=files["shop.parquet"].columns["label"]),
        "found label of shop.parquet, target of clinic.csv; set data.label_column",
    ),
    "no identifiers": (
        lambda files: {**files, "clinic.csv": Part({"x5": files["clinic.csv"].columns["x5"]}, np.arange(N))},
        "clinic.csv: has no column person (data.id_column); its columns are x5",
    ),
    "nothing but identifiers": (
        lambda files: {**files, "clinic.csv": Part({"person": files["clinic.csv"].columns["person"]}, np.arange(N))},
        "clinic.csv: has no column left besides the identifiers",
    ),
    "no such file": (
        lambda files: {"clinic.cvs" if name == "clinic.csv" else name: part for name, part in files.items()},
        "owns the file (partition.files says which ranks do)",
    ),
    "a text among numbers": (
        lambda files: edited(files, "clinic.csv", x5=["tall", *files["clinic.csv"].columns["x5"][1:]]),
        "clinic.csv: column x5: 'tall' appears among numbers (clinic.csv:",
    ),
}


@mpi
@pytest.mark.parametrize("which", REFUSED)
def test_files_that_do_not_belong_together_are_refused_on_all_ranks(world, folder, monkeypatch, which):
    change, text = REFUSED[which]
    files = change(parts())
    monkeypatch.chdir(lay_out(world, folder, files, files_of_ranks(3, world.size)))
    found = message(lambda: distnewton.train(config_of(NAMES), world))
    assert not world.any(text not in found), found
    assert found == world.broadcast_json(found)


@pytest.mark.parametrize(("data", "text"), [
    ({"train": ["a.csv", "b.csv"]}, "train lists files by columns: id_column must name what joins their rows"),
    ({"train": "a.csv", "test": ["a.csv", "b.csv"], "id_column": "id"}, "test lists files by columns, but train does"),
    ({"train": ["a.csv", "b.csv"], "id_column": "id", "label_column": 3}, "columns are known by name"),
    ({"train": ["a.csv", "b.csv"], "id_column": "id", "n_features": 3}, "and no n_features"),
    ({"train": ["a.csv"], "id_column": "id"}, "at least 2"),
])
def test_settings_that_do_not_fit_are_refused(data, text):
    with pytest.raises(ConfigError, match=text):
        distnewton.make_config({"data": data})


def test_a_table_with_labels_to_ignore_and_identifiers(folder, monkeypatch):
    monkeypatch.chdir(lay_out(Communicator(), folder, parts(), [(0, 3)]))
    data = {"ignore_columns": ["x2", "city"], "label_column": "label"}
    alone = distnewton.train(config_of("joined.csv", data=data))
    result = distnewton.train(config_of(NAMES, data=data))
    assert objectives(result) == objectives(alone)
    assert result.model.names.features == ("x0", "x1", "x3", "x4", "x5")
    assert "person" not in alone.model.names.features
    with pytest.raises(ConfigError, match=r"ignore_columns = 'x9': bank\.csv, .* have no such column"):
        distnewton.train(config_of(NAMES, data={"ignore_columns": ["x9"]}))
    with pytest.raises(ConfigError, match="is for a list of files by columns"):
        distnewton.train(config_of("joined.csv", partition={"files": [1]}))
