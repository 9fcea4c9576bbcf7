"""What new users stumble over in their own tables is told in words that help."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from distnewton.config import load_config
from distnewton.data.in_memory import ArraySource
from distnewton.data.partitioned import Task
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError, DataError


@pytest.mark.parametrize("field", ["1,5", '"1,5"', "-0,25", "12,"])
def test_decimal_commas_are_called_so(tmp_path, field):
    path = tmp_path / "table.csv"
    path.write_text(f"a;b;label\n1;2;x\n{field};2;y\n")
    with pytest.raises(DataError, match=r"column a: .*\(.*table.csv:3\) has a decimal comma.*point"):
        open_data(path).describe()
    with pytest.raises(DataError, match=r"table.csv:3: a: .* decimal comma.*point"):
        open_data(path, missing="refuse", categories="refuse").describe()


@pytest.mark.parametrize("header", ["", "a;b;c;label\n"])
@pytest.mark.parametrize("line", ["5,1;3,5;0;x", '"5,1";"3,5";0;x', "0;-,5;12,;x"])
def test_semicolons_separate_numbers_with_decimal_commas(tmp_path, header, line):
    path = tmp_path / "table.csv"
    path.write_text(header + f"{line}\n4,9;3,0;1;y\n" * 30)
    with pytest.raises(DataError, match=r"column (a|column 1): .* has a decimal comma.*point"):
        open_data(path).describe()


@pytest.mark.parametrize("number", ["{},5", "${}", "{}.5 %", "-{}%", "1,{:03d},000.5", "1'{:03d}", "{} €"])
def test_numbers_in_other_writing_are_no_identifiers(tmp_path, number):
    path = tmp_path / "table.csv"
    path.write_text("a;b;label\n" + "".join(f"{number.format(i)};{i};{'xy'[i % 2]}\n" for i in range(200)))
    with pytest.raises(DataError, match=r"column a: numbers with .* write them as plain numbers, or leave it out"):
        open_data(path).describe()


def test_infinite_numbers_are_called_so(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,label\n1,x\n-Inf,y\n2,x\n")
    with pytest.raises(DataError, match=r"table.csv:3: a: '-Inf' is infinite; .*data.missing_values"):
        open_data(path).describe()


def test_names_in_another_encoding_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("grün,label\n1,x\n2,y\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"table.csv:1: column name .*gr.*UTF-8"):
        open_data(path)


@pytest.mark.parametrize("separator", [",", ";"])
def test_text_in_a_feature_keeps_its_own_advice(tmp_path, separator):
    path = tmp_path / "table.csv"
    path.write_text(f"a{separator}label\n1{separator}x\nred{separator}y\n")
    with pytest.raises(DataError, match=r"write categories as numbers, leave the column out \(data.ignore_columns\)"):
        open_data(path, missing="refuse", categories="refuse").describe()
    with pytest.raises(DataError, match=r"column a: 'red' appears among numbers .*table.csv:3; 1 of 2 .*or leave"):
        open_data(path).describe()


@pytest.mark.parametrize("n_before", [1, 30_000])
def test_labels_in_another_encoding_are_refused_with_their_line(tmp_path, n_before):
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,label\n" + b"1,rot\n" * n_before + "2,grün\n".encode("latin-1") + b"3,blau\n")
    with pytest.raises(DataError, match=rf"table.csv:{n_before + 2}: label .*UTF-8"):
        open_data(path).describe()


@pytest.mark.parametrize("n_before", [1, 30_000])
def test_missing_labels_are_refused_wherever_they_stand(tmp_path, n_before):
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,label\n" + b"1,rot\n" * n_before + b"2,NA\n3,blau\n")
    with pytest.raises(DataError, match=rf"table.csv:{n_before + 2}: label 'NA' is missing"):
        open_data(path).describe()


def test_numbers_to_approximate_are_not_taken_for_classes():
    def fit(labels, task="classification"):
        source = ArraySource(np.ones((len(labels), 1)), labels, name="prices")
        return Task.fit(task, source.describe(), source)

    prices = np.random.default_rng(0).standard_normal(50)
    with pytest.raises(DataError, match=r"prices: .*network.loss = squared"):
        fit(prices)
    assert fit(prices, "regression").n_out == 1
    # few different numbers with fractions, and many whole ones, may be classes
    assert fit(np.repeat([0.5, 1.0, 1.5], 20)).n_out == 3
    assert fit(np.arange(50.0)).n_out == 50


def test_a_spreadsheet_is_no_damaged_npz(tmp_path):
    path = tmp_path / "book.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(DataError, match=r"book.xlsx: looks like a spreadsheet.*CSV"):
        open_data(path)


def test_data_in_place_of_a_recipe(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,label\n1,x\n2,y\n")
    with pytest.raises(ConfigError, match=r"is not a TOML file.*--data\.train"):
        load_config(path)
