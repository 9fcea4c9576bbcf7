"""Dialects of delimited text: line breaks and separators within quotes, line ends, byte-order marks, trailing ones."""

from __future__ import annotations

import csv
import os
import random

import numpy as np
import pytest
from launched import call_together

from distnewton.data.sources import open_data
from distnewton.errors import DataError

mpi = pytest.mark.mpi(min_size=1, sizes=(1, 3))
ROWS = "a,b,label\n1,2,x\n3,4,y\n5,6,x\n"


def opened(path, text, **options):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_data(path, **options)


@pytest.mark.parametrize("text", [
    ROWS, ROWS.replace("\n", "\r\n"), "\ufeff" + ROWS, '\ufeff"a","b","label"\n' + ROWS.partition("\n")[2],
    ROWS.replace(",", ";"), ROWS.replace(",", "\t"), ROWS.replace(",", ", "), ROWS + "\n", ROWS + "  \n\t\n",
    (ROWS + "\n").replace("\n", "\r\n"), ROWS[:-1], ROWS.replace("\n", ",\n"), ROWS.replace("1", '"1"'),
    ROWS.replace(",", ";").replace("\n", ";\r\n"), ROWS.replace(",", "|"), ROWS.replace(",", " | "),
], ids=range(16))  # fmt: skip
def test_the_same_table_in_every_dialect(tmp_path, text):
    source = opened(tmp_path / "t", text)
    found = source.describe()
    assert found.names.features == ("a", "b")
    assert found.labels.tolist() == ["x", "y", "x"]
    np.testing.assert_array_equal(source.read(0, 2), [[1, 2], [3, 4], [5, 6]])
    trailing = ",\n" in text or ";\r" in text
    assert any("separators at the ends" in note for note in found.notes) == trailing


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    ("n", "options"), [(2, {}), (2, {"label_column": -1}), (2, {"header": False}), (600, {"label_column": -1})]
)
def test_separators_at_the_ends_make_no_column(tmp_path, n, header, options):
    X = np.arange(4.0 * n).reshape(4, n)
    lines = [";".join([*map(str, x), label, ""]) for x, label in zip(X.tolist(), "xyxy", strict=True)]
    head = [";".join([*(f"c{i}" for i in range(n)), "label", ""])] * header
    options = {**options, "header": True} if header else options
    source = opened(tmp_path / "t", "\n".join(head + lines) + "\n", **options)
    assert source.describe().labels.tolist() == list("xyxy")
    np.testing.assert_array_equal(source.read(0, n), X)
    for line, message in (
        (lines[1] + "3", r"t:\d+: '3' follows the last separator"),
        (lines[1][:-1], rf"t:\d+: expected {n + 2} columns .*, got {n + 1}; it ends with no separator"),
    ):
        with pytest.raises(DataError, match=message):
            opened(tmp_path / "t", "\n".join(head + lines * 100 + [line]) + "\n", **options).describe()
    longer = [*(line[:-1] for line in head + lines), lines[1]]
    with pytest.raises(DataError, match=rf"expected {n + 1} columns .* it ends with a separator"):
        opened(tmp_path / "t", "\n".join(longer) + "\n", **options).describe()


@pytest.mark.parametrize(("label", "written"), [
    ("x,1", '"x,1"'), ('x "q"', '"x ""q"""'), ("x\nz", '"x\nz"'), ("x\n\nz", '"x\n\nz"'), ("x\r\nz", '"x\r\nz"'),
    ("x\n2,b", '"x\n2,b"'), ('5" pipe', '5" pipe'), ("'x'", "'x'"),
])  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_quotes_enclose_is_one_field(tmp_path, label, written, end):
    lines = ["a,label", f"1,{written}", "3,y", f"5,{written}"]
    source = opened(tmp_path / "t", end.join(lines) + end)
    assert source.describe().labels.tolist() == [label, "y", label]
    assert source.read(0, 1).ravel().tolist() == [1, 3, 5]
    wrong = opened(tmp_path / "w", end.join([*lines, "q,y"]) + end)
    with pytest.raises(DataError, match=rf"'q' appears among numbers \(.*w:{5 + 2 * written.count(chr(10))};"):
        wrong.describe()
    named = source.locate(2)
    assert named.endswith(f"t:{4 + written.count(chr(10))}"), "the line on which a sample begins"


def test_a_header_may_have_line_breaks(tmp_path):
    source = opened(tmp_path / "t", '"a\n1",b,"la\r\nbel"\r\n1,2,x\r\n3,4,y\r\n')
    assert source.describe().names.features == ("a\n1", "b")
    np.testing.assert_array_equal(source.read(0, 2), [[1, 2], [3, 4]])


@pytest.mark.parametrize("n_before", [0, 500])
@pytest.mark.parametrize("n_behind", [3, 300_000])
def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path, n_before, n_behind):
    text = "a,b,label\n" + "1,2,y\n" * n_before + '3,4,"x\n' + "5,6,x\n" * n_behind
    with pytest.raises(DataError, match=rf"t:{n_before + 2}: a field begins with a quote that is not closed"):
        opened(tmp_path / "t", text).describe()


def test_what_is_no_table_of_lines_is_named(tmp_path):
    with pytest.raises(DataError, match="t:1: has carriage returns within"):
        opened(tmp_path / "t", ROWS.replace("\n", "\r"))
    with pytest.raises(DataError, match="t:3: expected 3 columns as in the first line, got 4; it ends with a sep"):
        opened(tmp_path / "t", ROWS.replace("3,4,y", "3,4,y,")).describe()


def test_random_tables_are_those_of_pythons_own_reader(tmp_path, monkeypatch):
    """``DISTNEWTON_FUZZ=2000`` makes 2,000 tables."""
    for seed in range(int(os.environ.get("DISTNEWTON_FUZZ", "60"))):
        rng = random.Random(seed)
        monkeypatch.setattr("distnewton.data.formats.delimited.BLOCK_BYTES", rng.choice([1, 7, 40, 1 << 21]))
        delimiter, end = rng.choice(",;\t"), rng.choice(["\n", "\r\n"])
        columns = rng.choice([2, 3, 600]) if seed % 9 == 0 else rng.choice([2, 3])
        rows = []
        for i in range(rng.randrange(2, 12)):
            pieces = rng.choices(["a", "\n", '"', delimiter, " b", "\r\n", "'"], k=rng.randrange(5))
            text = "t" + "".join(pieces)
            rows.append([*(str(rng.randrange(9)) for _ in range(columns - 1)), text + "." * (i % 2)])
        path = tmp_path / str(seed)
        with path.open("w", newline="", encoding="utf-8") as file:
            quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
            writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
            writer.writerow([*(f"f{j}" for j in range(columns - 1)), "label"])
            writer.writerows(rows)
        source = open_data(path, header=True)
        assert source.describe().labels.tolist() == [row[-1].strip() for row in rows], seed
        expected = [[float(value) for value in row[:-1]] for row in rows]
        np.testing.assert_array_equal(source.read(0, columns - 1), expected)


@mpi
def test_line_breaks_in_texts_change_nothing_on_ranks(world, folder):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3)).round(3).tolist()
    if world.rank == 0:
        for name, inner in (("plain", " "), ("broken", "\n")):
            lines = [f'{a},"left{inner}{"or" if b > 0 else "not"}",{b},{c},{"y" if a > 0 else "n"}' for a, b, c in X]
            (folder / name).write_text("a,side,b,c,label\n" + "\n".join(lines) + "\n")
    world.barrier()
    told = []
    for name in ("plain", "broken"):
        run, data = folder / f"run-{name}", folder / name
        done = call_together(
            world, "train", f"--data.train={data}", "--network.layers=auto-4-auto", "--run.iterations=3",
            "--data.categories=onehot", f"--run-dir={run}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        done = call_together(world, "predict", str(run), str(data), "--probabilities")
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert told[0].count("\n") == 41
    assert told[0] == told[1]
