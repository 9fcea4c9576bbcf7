"""Tables as users have them: headers, indices, labels, wide lines and comments mean the same in every format."""

from __future__ import annotations

import bz2
import gzip
import importlib.util

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather
from pyarrow import parquet as pq

from distnewton.data.columns import ColumnNames, Wanted
from distnewton.data.formats.header import is_header
from distnewton.data.formats.tables import FrameSource
from distnewton.data.labels import LabelMapping
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
MISSING = {b"", b"na"}


REFUSED = {"missing": "refuse", "categories": "refuse"}


def opened(path, text, **options):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_data(path, **options)


def iris(names):
    classes = ["setosa", "virginica"] * 40
    frame = pd.DataFrame(RNG.standard_normal((80, 4)), columns=names)
    return frame.assign(species=classes)


@pytest.mark.parametrize("names", [range(4), list("abcd"), [2010, 2011, 2012, 2013]])
def test_a_header_of_numbers_is_one(tmp_path, names):
    iris(names).to_csv(tmp_path / "t.csv", index=False)
    description = open_data(tmp_path / "t.csv").describe()
    assert description.n_samples == 80
    assert description.names.features == tuple(map(str, names))
    assert set(description.labels) == {"setosa", "virginica"}


def rows(text):
    return [line.split(",") for line in text.split()]


@pytest.mark.parametrize(("first", "below", "verdict"), [
    ("a,b,c", "1,2,3 4,5,6", True), ("1,2,0", "3,4,1 5,6,0", False), ("id,2010,2011,label", "7,1,2,0 8,2,3,1", True),
    ("5.1,3.5,setosa", "4.9,3,setosa", False), ("1,2,spam", "3,4,ham", False), ("p,x,s", "e,x,y p,y,s", False),
    ("gene,cell,type", "a,b,t u,v,t", True), ("1,2,label", "3.5,4,0 2,1,1", True), (",0,1,2", "0,.1,.2,.3", True),
    ("0,1,2,3", "4,5,6,7", False), ("0,1,2,3", ".5,1,2,3", True), ("x,2.5,0", "1,2,1", "unknown"),
    ("2010,2011,rare", "1,2,a 1,3,b " * 20, "unknown"), ("NA,1,a", "2,3,a", False), ("a,b", "", True),
    ("1,2", "", False), (",1940,1945", "food,22.2,44.5 rent,10.5,15.5", True), (",3,1", "red,4,2 red,5,2", False),
    ("1940,1945,1950,1955", "22,44,59,73 7,8,2,4", True),
    ("142.24,144.78,147.32,149.86,z", "0,1,0,2,3 1,0,0,0,1", True),
    ("1,3,5,7", "2,4,6,8 1,0,0,1", False), ("1.5,2.5,3.5,4.6", "1,0,2,4", False),
    (",3,1", "7,4,2 9,5,2", False), (",3.5,1", "7,4,2 8,5,2", True), (",.5,1", "7,4,2 9,5,2 " * 20, False),
    (",.5,.7", " ".join(f"{i * i},4,2" for i in range(20)), "unknown"),
])  # fmt: skip
def test_what_is_a_header(first, below, verdict):
    encoded = [[field.encode() for field in row] for row in rows(below)]
    assert is_header([field.encode() for field in first.split(",")], encoded, MISSING) == verdict


@pytest.mark.parametrize("text", [
    '"","142.24","144.78"\n"9.4",0,1\n"9.5",0,2\n', '"","y","b"\n"1","y",2\n"2","n",2\n',
    '"P","q","b"\n"P",2,1\n"Q",NA,2\n"P",4,1\n',
])  # fmt: skip
def test_quotes_around_texts_alone_tell_a_header(tmp_path, text):
    found = opened(tmp_path / "t", text).describe()
    assert found.n_samples == text.count("\n") - 1


def test_quotes_around_all_fields_tell_nothing(tmp_path):
    assert opened(tmp_path / "t", '"1","2","x"\n"3","4","y"\n').describe().n_samples == 2
    with pytest.raises(DataError, match=r"data\.header"):
        opened(tmp_path / "t", '"x","2.5","0"\n"1","2","1"\n"3","4","0"\n')


def test_a_line_that_may_be_both_is_refused_with_the_setting(tmp_path):
    text = "x,2.5,0\n1,2,1\n3,4,0\n"
    with pytest.raises(DataError, match=r"t:1: this line may be .*data\.header = true.*data\.header = false"):
        opened(tmp_path / "t", text)
    assert opened(tmp_path / "t", text, header=True).describe().n_samples == 2
    with pytest.raises(DataError, match=r"column 1: 'x' appears among numbers \(.*t:1; 1 of 3"):
        opened(tmp_path / "t", text, header=False).describe()


def written(tmp_path, frame, kind, **options):
    path = tmp_path / kind
    if kind == "csv":
        frame.to_csv(path)
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "arrow":
        feather.write_feather(pa.Table.from_pandas(frame), path)
    else:
        return FrameSource(frame, Wanted(**options))
    return open_data(path, **options)


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "frame"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_index_of_pandas_is_no_feature_and_no_label(tmp_path, kind, shuffled):
    frame = pd.DataFrame(RNG.standard_normal((60, 3)), columns=["a", "b", "c"]).assign(kind=np.arange(60) // 20)
    if shuffled:
        frame = frame.sample(frac=0.5, random_state=0)
    source = written(tmp_path, frame, kind)
    description = source.describe()
    assert description.names == ColumnNames(("a", "b", "c"), "kind")
    np.testing.assert_array_equal(source.read(0, 3), frame[["a", "b", "c"]])
    np.testing.assert_array_equal(description.labels, frame["kind"])
    if kind == "csv" or shuffled:
        assert any("index column" in note for note in description.notes)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_first_column_that_is_called_an_index_is_told(tmp_path, kind):
    frame = iris(list("abcd")).reset_index()
    frame.to_csv(tmp_path / "t", index=False) if kind == "csv" else frame.to_parquet(tmp_path / "t")
    found = open_data(tmp_path / "t").describe()
    assert found.n_features == 5
    told = "column index is a feature; if it numbers rows, set data.ignore_columns = index"
    assert any(told in note for note in found.notes)
    left_out = open_data(tmp_path / "t", ignore_columns=["index"]).describe()
    assert left_out.n_features == 4
    assert not any("column index" in note for note in left_out.notes)


def test_tables_with_an_index_are_taken_by_name(tmp_path):
    names = ColumnNames(("m2_price", "rooms"), "age")
    source = opened(
        tmp_path / "t", ",rooms,district,age,m2_price\n0,3,x,40,1.5\n1,4,y,50,2.5\n", names=names, n_features=2
    )
    np.testing.assert_array_equal(source.read(0, 2), [[1.5, 3], [2.5, 4]])
    assert opened(tmp_path / "t", ",a,x,b,y\n0,3,u,40,1.5\n", ignore_columns=["x"]).describe().names == ColumnNames(
        ("a", "b"), "y"
    )


def test_columns_without_distinct_names_are_taken_by_place_with_a_note(tmp_path):
    for header, why in (("a,a,label", "two columns are named a"), ("a,,label", "a column has no name")):
        description = opened(tmp_path / "t", f"{header}\n1,2,x\n3,4,y\n").describe()
        assert description.names is None
        assert any(why in note and "by position" in note for note in description.notes)


LABELS = {
    "zeros in front": ["007", "012", "007"], "beyond doubles": ["72048431380967004", "72048431380967104", "1"],
    "neighbours": ["9007199254740992", "9007199254740993", "1"], "exponents": ["1e3", "1000", "1e3"],
    "a comment sign": ["#happy", "sad", "ok"], "a quote": ['say "hi"', "b", "b"],
}  # fmt: skip


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("kind", ["first", "last", "wide", "parquet"])
def test_labels_come_back_as_written(tmp_path, labels, kind):
    X = RNG.standard_normal((3, 600 if kind == "wide" else 2)).round(3)
    fields = ['"' + label.replace('"', '""') + '"' if '"' in label else label for label in labels]
    if kind == "parquet":
        pq.write_table(pa.table({"a": X[:, 0], "b": X[:, 1], "label": labels}), tmp_path / "t")
        source = open_data(tmp_path / "t")
    else:
        lines = [
            [label, *map(str, x)] if kind == "first" else [*map(str, x), label]
            for label, x in zip(fields, X, strict=True)
        ]
        text = "\n".join(map(",".join, lines)) + "\n"
        source = opened(tmp_path / "t", text, label_column=0 if kind == "first" else -1, header=False)
    found = source.describe().labels
    mapping = LabelMapping.fit(found)
    assert mapping.decode(mapping.encode(found)) == labels
    np.testing.assert_array_equal(source.read(0, X.shape[1]), X)


def test_integers_beyond_doubles_in_typed_columns(tmp_path):
    pq.write_table(pa.table({"a": [1.0, 2.0], "label": [2**53, 2**53 + 1]}), tmp_path / "t")
    assert open_data(tmp_path / "t").describe().labels.tolist() == ["9007199254740992", "9007199254740993"]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "frame"])
@pytest.mark.parametrize("labels", [
    ["a", None], [1.0, None], ["a", " "], pd.to_datetime(["2020-01-01", None]),
    pd.Series(["a", None], dtype="category"), pd.Series([1, None], dtype="Int64"),
    pd.Series([True, None], dtype="boolean"),
])  # fmt: skip
def test_missing_labels_are_refused_in_typed_columns(tmp_path, kind, labels):
    frame = pd.DataFrame({"a": [1.0, 2.0], "label": labels})
    with pytest.raises(DataError, match=r"row 2: label is missing"):
        written(tmp_path, frame, kind).describe()


@pytest.mark.parametrize("kind", ["parquet", "frame"])
def test_times_are_refused_as_labels_and_features(tmp_path, kind):
    when = pd.to_datetime(["2020-01-01", "2020-01-02"])
    with pytest.raises(DataError, match="labels must be numbers or text, got a column of timestamp"):
        written(tmp_path, pd.DataFrame({"a": [1.0, 2.0], "label": when}), kind).describe()
    frame = pd.DataFrame({"when": when, "what": ["x", "y"], "b": [1.0, 2.0], "label": [0, 1]})
    with pytest.raises(
        DataError, match=r"column when is of type timestamp.* a time.*\n.*column what is of type .*string"
    ):
        written(tmp_path, frame, kind, **REFUSED)
    source = written(tmp_path, frame.assign(id=["u", "v"]), kind)
    with pytest.raises(DataError, match=r"column when: is of type timestamp.*\n.*ignore_columns = \['when'\]"):
        source.describe()


def test_nullable_columns_and_frames_of_polars(tmp_path):
    frame = pd.DataFrame({"a": pd.array([1, 2], "Int64"), "b": pd.array([True, False], "boolean"), "y": ["u", "v"]})
    tables = [frame, pa.Table.from_pandas(frame)]
    if importlib.util.find_spec("polars"):
        tables.append(importlib.import_module("polars").DataFrame({"a": [1, 2], "b": [True, False], "y": ["u", "v"]}))
    for table in tables:
        source = FrameSource(table, Wanted(label_column="y"))
        np.testing.assert_array_equal(source.read(0, 2), [[1, 1], [2, 0]])
        assert source.describe().labels.tolist() == ["u", "v"]


def test_classes_may_be_called_as_missing_values_are(tmp_path):
    text = "a,label\n1,None\n2,NA\n3,-\n4,yes\n"
    with pytest.raises(DataError, match=r"t:2: label 'None' is missing.*data\.missing_values"):
        opened(tmp_path / "t", text).describe()
    assert opened(tmp_path / "t", text, missing_values=["?"]).describe().labels.tolist() == ["None", "NA", "-", "yes"]
    with pytest.raises(DataError, match="t:3: a: value '-999' is missing"):
        opened(tmp_path / "t", "a,label\n1,x\n-999,y\n", missing_values=["-999"], **REFUSED).describe()


def test_all_problems_of_a_block_are_told_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        opened(tmp_path / "t", "a,b,c,label\n1,NA,x,u\n2,1,y,v\n,2,z,\n", **REFUSED).describe()
    lines = str(caught.value).split("\n")
    expected = (2, "b: value 'NA' is missing"), (2, "c: 'x' is not a"), (4, "a: value ''"), (4, "label '' is missing")
    for line, (i_line, text) in zip(lines, expected, strict=True):
        assert f"t:{i_line}: {text}" in line


@pytest.mark.parametrize("text", [
    "time,b,label\n12:30:00,1,x\n12:31:00,2,y\n", "chr1:100-200,chr2:5,label\n1,2,x\n3,4,y\n",
    "when b label\n12:30 1 x\n12:31 2 y\n", "1:30,4:50,label\n1,2,x\n3,4,y\n",
    "5\t12:30\tx\n6\t12:31\ty\n", "2020-01-01 10:05,3,4\n2020-01-02 11:06,4,5\n", "label 1:100 2:300\nx 1 2\ny 3 4\n",
])  # fmt: skip
def test_a_colon_makes_no_libsvm_file(tmp_path, text):
    assert opened(tmp_path / "t", text, ignore_columns=[0]).format == "csv"


@pytest.mark.parametrize(
    "text", ["1 1:2 3:4\n", "x qid:3 1:2\n", "# c\n0\n1 7:.5e-3\n", "1:2 3:4\n", "-1 \t1:5 # x,y\n"]
)
def test_pairs_make_a_libsvm_file(tmp_path, text):
    assert type(opened(tmp_path / "t", text)).__name__ == "LibsvmSource"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{} 1:nan 2:{}", "value 'nan' of index 1"), ("{} 1:x 2:{}", "value 'x' of index 1"),
        ("{} 1: 2:{}", "value missing in '1:'"), ("{} 1: 3.5 2: {}", "value missing in '1:'"),
        ("{} -1:3 2:{} 3:1", "index '-1' is not"), ("{},3 1:2 2:{}", "multi-label"),
        ("{} 1:0,5 2:{},5", "value '0,5' of index 1"), ("{} a:3 2:{} 3:1", "index 'a' is not"),
        ("{} 1:x", "value 'x' of"),
    ],
)  # fmt: skip
def test_pairs_that_are_wrong_on_every_line_make_no_table(tmp_path, line, message):
    text = "".join(line.format(i % 2, i) + "\n" for i in range(400))
    with pytest.raises(DataError, match=rf"t:1(:\d+)?: .*{message}"):
        opened(tmp_path / "t", text).describe()


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("labels", ["text", "number"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_any_length(tmp_path, header, labels, end):
    n = 20_000
    X = RNG.standard_normal((3, n)).round(4)
    names = [f"ENSG{i:011d}" for i in range(n)]
    tags = ["u", "v", "u"] if labels == "text" else ["1", "0", "1"]
    lines = [",".join([*names, "label"])] if header else []
    lines += [",".join([*map(str, x.tolist()), tag]) for x, tag in zip(X, tags, strict=True)]
    source = opened(tmp_path / "t", end.join(lines) + end)
    description = source.describe()
    assert (description.n_samples, description.n_features) == (3, n)
    np.testing.assert_array_equal(source.read(0, n), X)
    np.testing.assert_array_equal(source.read(700, 9000, "float32", np.array([0, 2])), X[[0, 2], 700:9000].astype("f4"))
    if header:
        order = RNG.permutation(n)[:5000]
        chosen = ColumnNames(tuple(names[i] for i in order), "label")
        np.testing.assert_array_equal(open_data(tmp_path / "t", names=chosen).read(0, 5000), X[:, order])


def test_a_wide_line_that_is_wrong_is_named(tmp_path):
    line = ",".join(["1.5"] * 1000)
    for broken, message in (
        (line.replace("1.5", "x", 1), "t:2: column 1: 'x'"), (line + ",1", "t:2: expected 1000 columns"),
        (line.replace("1.5", "", 1), "t:2: column 1: value '' is missing"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            opened(tmp_path / "t", f"{line}\n{broken}\n{line}\n", **REFUSED).describe()
    for taken in (line.replace("1.5", "+1.5", 1), line.replace("1.5", '"1.5"'), "\n   \n" + line):
        source = opened(tmp_path / "t", f"{line}\n{taken}\n{line}\n")
        assert source.describe().n_samples == 3
        np.testing.assert_array_equal(source.read(0, 999), np.full((3, 999), 1.5))


def test_comments_are_lines_that_a_setting_names(tmp_path):
    head = "# made by hand\n" * 6000
    text = head + "a,b,label\n1,2,x\n# 5,6,x\n3,4,y\n"
    source = opened(tmp_path / "t", text, comment="#")
    np.testing.assert_array_equal(source.read(0, 2), [[1, 2], [3, 4]])
    assert source.locate(1).endswith("t:6004")
    with pytest.raises(DataError, match=r"t:.*data\.comment|t: neither"):
        opened(tmp_path / "t", "a,b\n1,x\n# 5\n3,y\n").describe()
    with pytest.raises(DataError, match=r"t:21: expected 2 columns.*data\.comment"):
        opened(tmp_path / "t", "# made by me, with care\n" * 20 + "a,b,c\n").describe()
    rows_of_signs = opened(tmp_path / "t", "label,a\n#happy,1\nsad,2\n#happy,3\n")
    assert rows_of_signs.describe().n_samples == 3
    with pytest.raises(ConfigError, match="comment must be one"):
        opened(tmp_path / "t", text, comment="//")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_many_leading_comments_of_libsvm_text(tmp_path, pack):
    path = tmp_path / "t"
    path.write_bytes(pack(b"# c\n" * 30_000 + b"1 1:2\n0 2:3\n"))
    assert open_data(path).describe().n_samples == 2


@pytest.mark.mpi(min_size=1, sizes=(1, 3))
@pytest.mark.parametrize("kind", ["csv", "wide", "parquet", "arrow"])
def test_ranks_read_their_own_columns_and_see_the_same_errors(tmp_path_factory, kind):
    from mpi4py import MPI

    from distnewton.data.partitioned import open_and_describe
    from distnewton.parallel.collectives import Communicator

    comm = Communicator(MPI.COMM_WORLD)
    folder = comm.broadcast_json(str(tmp_path_factory.mktemp(kind)) if comm.rank == 0 else None)
    n = 900 if kind == "wide" else 7
    X = np.random.default_rng(1).standard_normal((5, n)).round(3)
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(n)]).assign(label=["007", "12", "007", "12", "x"])
    path, bad = f"{folder}/good", f"{folder}/bad"
    if comm.rank == 0:
        for target, table in ((path, frame), (bad, frame.assign(f3=[1, 2, None, 4, 5]))):
            if kind == "parquet":
                table.to_parquet(target)
            elif kind == "arrow":
                feather.write_feather(pa.Table.from_pandas(table), target)
            else:
                table.to_csv(target)
    comm.barrier()
    source, description = open_and_describe(comm, lambda: open_data(path))
    assert description.labels.tolist() == ["007", "12", "007", "12", "x"]
    bounds = np.linspace(0, n, comm.size + 1).astype(int)
    own = source.read(bounds[comm.rank], bounds[comm.rank + 1])
    assert not comm.any(not np.array_equal(own, X[:, bounds[comm.rank] : bounds[comm.rank + 1]]))
    with pytest.raises(DataError, match="column f3: 1 of 5 values are missing") as caught:
        open_and_describe(comm, lambda: open_data(bad, missing="refuse"))
    texts = comm.allgather_json(str(caught.value))
    assert len(set(texts)) == 1
