"""Missing values and categories: fitted on the training data, the same in other tables, by name and on every range."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather

from distnewton.data import encoding
from distnewton.data.columns import ColumnNames, Wanted
from distnewton.data.formats.tables import FrameSource
from distnewton.data.sources import open_data
from distnewton.data.store.convert import convert
from distnewton.errors import ConfigError, DataError, DistNewtonError

FRAME = pd.DataFrame({
    "age": [1.0, np.nan, 4.0, 10.0], "island": ["b", None, "a", "b"], "fare": [1, 2, 3, 4],
    "sex": ["m", "f", "m", "m"], "label": ["x", "y", "x", "y"],
})  # fmt: skip
SETTINGS = {"missing": "indicator", "categories": "onehot"}
#              age missing a  b missing fare f  m
ENCODED = [
    [1.0, 0, 0, 1, 0, 1, 0, 1],
    [4.0, 1, 0, 0, 1, 2, 1, 0],
    [4.0, 0, 1, 0, 0, 3, 0, 1],
    [10, 0, 0, 1, 0, 4, 0, 1],
]


def opened(tmp_path, frame, kind, **options):
    path = tmp_path / kind
    if kind == "frame":
        return FrameSource(frame, Wanted(**options))
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        feather.write_feather(pa.Table.from_pandas(frame), path)
    return open_data(path, **options)


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "frame"])
def test_columns_become_features_on_every_range(tmp_path, kind):
    source = opened(tmp_path, FRAME, kind, **SETTINGS)
    description = source.describe()
    assert description.n_features == 8
    assert description.names.features == ("age", "island", "fare", "sex")
    assert description.names.encoding.feature_names(description.names.features) == [
        "age", "age (missing)", "island=a", "island=b", "island (missing)", "fare", "sex=f", "sex=m",
    ]  # fmt: skip
    for start in range(9):
        for stop in range(start, 9):
            np.testing.assert_array_equal(source.read(start, stop), np.array(ENCODED)[:, start:stop])
    np.testing.assert_array_equal(source.read(2, 4, "float32", np.array([0, 3])), [[0, 1], [0, 1]])
    assert ColumnNames.from_json(description.names.to_json()) == description.names


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_other_tables_are_encoded_as_the_training_data(tmp_path, kind):
    names = opened(tmp_path, FRAME, kind, **SETTINGS).describe().names
    new = pd.DataFrame({"sex": ["f", "x"], "fare": [np.nan, 7], "island": ["a", "b"], "age": [3.0, np.nan]})
    source = opened(tmp_path, new, kind, names=names, n_features=8, labels="none")
    description = source.describe()
    np.testing.assert_array_equal(source.read(0, 8), [[3, 0, 1, 0, 0, 2.5, 1, 0], [4, 1, 0, 1, 0, 7, 0, 0]])
    assert any("1 values of column sex are texts that the training data lack" in n for n in description.notes)


@pytest.mark.parametrize(("rule", "fill"), [("mean", 5.0), ("median", 4.0)])
def test_missing_numbers_are_filled(tmp_path, rule, fill):
    frame = FRAME[["age", "fare", "label"]]
    source = opened(tmp_path, frame, "csv", missing=rule)
    assert source.describe().n_features == 2
    np.testing.assert_array_equal(source.read(0, 1)[:, 0], [1, fill, 4, 10])


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "frame"])
def test_who_chooses_nothing_is_told_what_was_done(tmp_path, kind):
    source = opened(tmp_path, FRAME.rename(columns={"label": "species"}), kind)
    description = source.describe()
    np.testing.assert_array_equal(source.read(0, 8), ENCODED)
    notes = "\n".join(description.notes)
    for part in (
        "4 columns become 8 features", "one for each text of island (2), sex (2)", "missing values of age, island",
        "the labels are in column species (data.label_column)",
    ):  # fmt: skip
        assert part in notes


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_few_texts_among_numbers_are_no_categories(tmp_path, kind):
    frame = pd.DataFrame({"size": [*map(str, range(9)), "oops"], "label": ["x", "y"] * 5})
    where = "csv:11" if kind == "csv" else "parquet: row 10"
    with pytest.raises(DataError, match=rf"column size: 'oops' appears among numbers \(.*{where}; 1 of 10 .*onehot"):
        opened(tmp_path, frame, kind).describe()
    assert opened(tmp_path, frame, kind, categories="onehot").describe().n_features == 10
    mostly_texts = frame.iloc[[0, 1, 2, 9]].replace({"1": "ah", "2": "oh"})
    assert opened(tmp_path, mostly_texts, kind).describe().n_features == 4


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
def test_all_faults_of_a_table_are_told_at_once(tmp_path, kind):
    n = 300
    frame = pd.DataFrame({
        "id": [f"N{i}" for i in range(n)], "when": pd.date_range("2007-11-01", periods=n),
        "born": [f"{1 + i % 28} Nov 1907" for i in range(n)], "size": [*map(str, range(n - 1)), "oops"],
        "sex": ["m", None, "f"] * (n // 3), "label": ["x", "y", "y"] * (n // 3 - 1) + ["x", None, "y"],
    })  # fmt: skip
    with pytest.raises(DataError) as caught:
        opened(tmp_path, frame, kind).describe()
    text = str(caught.value)
    for part in ("label is missing", "id: 300 different texts", "born: dates ('1 Nov 1907'",
                 "data.ignore_columns = [" if kind == "csv" else "when: is of type timestamp", "300 rows"):  # fmt: skip
        assert part in text
    assert "column sex" not in text


def test_a_table_of_numbers_stays_as_it_is(tmp_path):
    source = opened(tmp_path, FRAME[["fare", "label"]], "csv")
    assert source.describe().names == ColumnNames(("fare",), "label")


WHOLE = FRAME[["fare", "label"]].assign(size=[1.0, 2, 4, 8])[["size", "fare", "label"]]
@pytest.mark.parametrize("trained_on", ["csv", "parquet", "frame"])
@pytest.mark.parametrize("used_on", ["csv", "parquet", "frame"])
def test_true_and_false_are_the_same_in_every_format(tmp_path, trained_on, used_on):
    frame = pd.DataFrame({"tame": [True, False, True], "size": [1.0, 2, 3], "label": ["x", "y", "x"]})
    source = opened(tmp_path, frame, trained_on)
    names, n = source.describe().names, source.describe().n_features
    later = opened(tmp_path, frame, used_on, names=names, n_features=n)
    assert not any("training data lack" in note for note in later.describe().notes)
    np.testing.assert_array_equal(later.read(0, n), source.read(0, n))


GAPS = pd.DataFrame({"fare": [np.nan, 7.0], "size": [2.0, 3.0]})


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
def test_gaps_that_training_did_not_have_are_refused_with_a_way_out(tmp_path, kind):
    later = {"names": opened(tmp_path, WHOLE, kind).describe().names, "n_features": 2, "labels": "none"}
    with pytest.raises(DataError, match=r"fare: value .*is missing, but the model .*data\.missing = median"):
        opened(tmp_path, GAPS, kind, **later).describe()
    if kind == "csv":
        with pytest.raises(DataError, match="fare: 'x' is not a finite decimal number, as all values were in training"):
            opened(tmp_path, GAPS.astype(object).fillna("x"), kind, **later).describe()
        (tmp_path / "bare").write_text("1,\n2,3\n")
        with pytest.raises(DataError, match="bare:1: column 2: value '' is missing, but the model"):
            open_data(tmp_path / "bare", n_features=2, ignore_extra_features="numbered", labels="none").describe()


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
@pytest.mark.parametrize(("rule", "fill"), [("mean", 3.75), ("median", 3.0), ("indicator", 3.0)])
def test_who_names_a_rule_fills_gaps_that_training_did_not_have(tmp_path, kind, rule, fill):
    found = opened(tmp_path, WHOLE, kind, missing=rule).describe()
    assert found.n_features == 2
    assert any("missing numbers, also in other tables" in note for note in found.notes)
    later = opened(tmp_path, GAPS.assign(size=[np.nan, 3.0]), kind, names=found.names, n_features=2, labels="none")
    later.describe()
    assert later.read(0, 2).tolist() == [[fill, 2.5], [3.0, 7.0]]
    if kind != "frame":
        convert(opened(tmp_path, WHOLE, kind, missing=rule), tmp_path / "store", files=())
        assert open_data(tmp_path / "store").describe().names == found.names


@pytest.mark.parametrize("kind", ["frame", "csv", "parquet", "feather"])
def test_a_table_without_rows_has_no_samples(tmp_path, kind):
    with pytest.raises(DataError, match="no samples"):
        opened(tmp_path, FRAME.astype({"island": "str"})[:0], kind, **SETTINGS).describe()


@pytest.mark.parametrize("few", [0, 64])
def test_texts_of_few_rows_become_the_same_as_those_of_many(tmp_path, monkeypatch, few):
    monkeypatch.setattr(encoding, "_FEW", few)
    source = opened(tmp_path, FRAME, "csv", **SETTINGS)
    assert source.describe().n_features == 8
    np.testing.assert_array_equal(source.read(0, 8), ENCODED)


def test_text_that_comes_late_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("distnewton.data.formats.delimited.BLOCK_BYTES", 64)
    path = tmp_path / "t"
    path.write_text("a,b,label\n" + "1,2,x\n" * 100 + "1,red,y\n,blue,x\n")
    source = open_data(path, missing="median", categories="onehot")
    assert source.describe().names.encoding.columns[1].categories == ("2", "blue", "red")
    np.testing.assert_array_equal(source.read(0, 4)[-2:], [[1, 0, 0, 1], [1, 0, 1, 0]])


def test_all_that_cannot_be_encoded_is_told_at_once(tmp_path):
    n = 300
    frame = pd.DataFrame({
        "id": [f"N{i}" for i in range(n)], "when": [f"2007-11-{1 + i % 28:02d}" for i in range(n)],
        "size": [None, *range(1, n)], "sex": ["m", "f"] * (n // 2), "label": ["x", "y", "y"] * (n // 3),
    })  # fmt: skip
    with pytest.raises(DataError) as caught:
        opened(tmp_path, frame, "csv", missing="refuse").describe()
    text = str(caught.value)
    for part in ("id: 300 different texts", "when: dates ('2007-11-01'", "size: 1 of 300 values are missing: set data",
                 "data.ignore_columns = ['id', 'when', 'size']"):  # fmt: skip
        assert part in text
    with pytest.raises(DataError, match=r"sex: text \('f', 'm'\): set data.categories = onehot"):
        opened(tmp_path, frame[["sex", "label"]], "csv", missing="mean", categories="refuse").describe()
    with pytest.raises(ConfigError, match="missing must be one of auto, refuse, mean"):
        open_data(tmp_path / "csv", missing="mode")


def test_other_faults_stay_faults(tmp_path):
    path = tmp_path / "t"
    for text, message in (
        ("a,b,label\n1,u,x\n2,v\n", "t:3: expected 3 columns"),
        ("a,b,label\n1,u,x\n2,v,\n", "t:3: label.* is missing"),
        ("a,b,label\n1,2,x\n2,3,\n", "t:3: label.* is missing"), ("a,label\n,x\n1,y\n,\n", "t:4: label"),
    ):  # fmt: skip
        path.write_text(text)
        source = open_data(path, **SETTINGS)
        with pytest.raises(DataError, match=message):
            source.describe()


def test_stores_keep_the_encoding(tmp_path):
    source = opened(tmp_path, FRAME, "csv", **SETTINGS)
    convert(source, tmp_path / "store", files=[])
    store = open_data(tmp_path / "store")
    assert store.describe().names == source.describe().names
    np.testing.assert_array_equal(store.read(0, 8), ENCODED)


@pytest.mark.mpi(min_size=1, sizes=(1, 3))
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_model_carries_the_encoding_on_every_grid(tmp_path_factory, kind):
    from mpi4py import MPI

    import distnewton
    from distnewton.parallel.collectives import Communicator

    comm = MPI.COMM_WORLD
    folder = comm.bcast(str(tmp_path_factory.mktemp(kind)) if comm.rank == 0 else None)
    rng = np.random.default_rng(0)
    island = rng.choice(["Dream", "Biscoe", "Torgersen"], 120)
    frame = pd.DataFrame({
        "size": rng.standard_normal(120),
        "island": island,
        "label": np.where(island == "Dream", "u", "v"),
    })
    frame.loc[::7, "size"] = None
    train, new = f"{folder}/train", f"{folder}/new"
    if comm.rank == 0:
        for path, table in ((train, frame), (new, frame[["island", "size"]])):
            table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    comm.barrier()
    tables = {"data": {"train": train, "scale": "standard"}, "network": {"layers": "auto-5-auto"}}
    tables["run"] = {"iterations": 8}
    result = distnewton.train(distnewton.make_config(tables), comm)
    model = result.model
    model.save(f"{folder}/model.safetensors")
    again = distnewton.load_model(f"{folder}/model.safetensors", Communicator(comm))
    assert again.names == model.names
    names = model.names
    labels = again.predict(lambda: open_data(new, names=names, n_features=5, labels="none"))
    assert np.mean(np.array(labels) == frame["label"].to_numpy()) == 1.0


def python_frame(kind):
    rng = np.random.default_rng(0)
    island = rng.choice(["Dream", "Biscoe", "Torgersen"], 90)
    frame = pd.DataFrame({
        "size": np.where(np.arange(90) % 7, rng.standard_normal(90), np.nan), "island": island,
        "count": pd.array([None, 1, 2] * 30, "Int64"), "kind": pd.Categorical(["u", "v", None] * 30),
        "grade": pd.Categorical([1, 2, 3] * 30), "tame": pd.array([True, None, False] * 30, "boolean"),
    })  # fmt: skip
    y = pd.Series(np.where(island == "Dream", "yes", "no"), name="species")
    if kind == "pandas":
        return frame, y
    table = pa.Table.from_pandas(frame)
    return (pytest.importorskip("polars").from_arrow(table) if kind == "polars" else table), y


def with_labels(frame, y):
    """The table with its labels in the last column."""
    if isinstance(frame, pd.DataFrame):
        return frame.assign(species=y)
    table = pa.table(frame).append_column("species", pa.array(y))
    return table if isinstance(frame, pa.Table) else pytest.importorskip("polars").from_arrow(table)


@pytest.mark.mpi(min_size=1, sizes=(1, 3))
@pytest.mark.parametrize("kind", ["pandas", "pyarrow", "polars"])
def test_python_takes_tables_as_they_are(kind):
    from mpi4py import MPI

    import distnewton

    frame, y = python_frame(kind)
    config = distnewton.make_config({
        "data": {"scale": "standard"}, "network": {"layers": "auto-5-auto"}, "run": {"iterations": 8},
    })  # fmt: skip
    both = with_labels(frame, y)
    apart = distnewton.train(config, MPI.COMM_WORLD, train_data=(frame, y), test_data=(frame, y)).model
    within = distnewton.train(config, MPI.COMM_WORLD, train_data=both, test_data=both, validation_data=both).model
    assert apart.names == within.names
    # polars has no categories that are numbers
    assert apart.names.encoding.n_features == apart.grid.partition.n_features == (13 if kind == "polars" else 15)
    for model in (apart, within):
        for table in (frame, both):
            assert model.predict(table).tolist() == y.tolist()
        assert model.evaluate((frame, y))["accuracy"] == model.evaluate(both)["accuracy"] == 1.0
    new = pd.DataFrame({name: pa.table(frame)[name].to_pylist() for name in pa.table(frame).column_names})[::-1]
    assert within.predict(new).tolist() == y.tolist()[::-1]


def test_python_warns_of_texts_that_are_new():
    import distnewton

    frame, y = python_frame("pandas")
    model = distnewton.train(distnewton.make_config({"run": {"iterations": 1}}), with_labels(frame, y)).model
    with pytest.warns(UserWarning, match="90 values of column island are texts that the training data lack"):
        model.predict(frame.assign(island="Atlantis"))
    with pytest.raises(DataError, match="has no column island"):
        model.predict(frame.drop(columns="island"))
    with pytest.raises(DataError, match=r"when: is of type timestamp.*\n.*data.ignore_columns = \['when'\]"):
        distnewton.train(distnewton.make_config({}), (frame.assign(when=pd.Timestamp("2020-01-01")), y))


def test_warm_start_and_resume_compare_the_encoding(tmp_path):
    import distnewton

    frame, y = python_frame("pandas")
    config = distnewton.make_config({"run": {"iterations": 1}})
    model = distnewton.train(config, with_labels(frame, y), checkpoints=tmp_path).model
    # as many features of the same columns, but other numbers
    other = with_labels(frame.assign(island=frame["island"].replace("Dream", "Isle")), y)
    with pytest.raises(DataError, match=r"column island: encoded as .*Dream.* in the model, .*Isle.* in the run"):
        distnewton.train(config, other, start=model)
    with pytest.raises(DistNewtonError, match=r"encoding of columns \(checksum\)"):
        distnewton.train(config, other, checkpoints=tmp_path, resume=True)
    assert distnewton.train(config, with_labels(frame, y), start=model).last.iteration == 1
