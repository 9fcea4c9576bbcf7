"""PLINK genotypes: what is read, packed columns against dense ones, phenotypes, covariates and what is refused."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from genotypes import bed_bytes, random_calls, standardised, write_bed, write_table

from distnewton.data.columns import Wanted
from distnewton.data.fingerprint import fingerprint
from distnewton.data.packed import PackedColumns, pack, unpack
from distnewton.data.scaling import ColumnStatistics, column_statistics, fit_scaling
from distnewton.data.sources import open_data, source_files
from distnewton.errors import ConfigError, DataError, MissingInputError


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    """Several blocks in small tables."""
    monkeypatch.setattr("distnewton.data.packed._AT_ONCE", 40)


def dense(calls):
    return np.where(calls < 0, np.nan, calls).astype(float)


@pytest.mark.parametrize("n", [1, 3, 4, 9, 18])
def test_every_range_and_choice_of_rows(tmp_path, monkeypatch, n):
    monkeypatch.setattr("distnewton.data.formats.bed._AT_ONCE", 8)
    calls = random_calls(n, 11)
    calls[0] = np.maximum(calls[0], 0)
    source = open_data(write_bed(tmp_path / "c", calls, ["1.5"] * n))
    found = source.describe()
    assert (found.format, found.n_samples, found.n_features, found.packed) == ("bed", n, 11, True)
    for start, stop in [(0, 11), (0, 1), (4, 9), (6, 6)]:
        for rows in (None, np.array([], int), np.arange(0, n, 2), np.array([n - 1])):
            read = source.read(start, stop, "float32", rows)
            expected = dense(calls)[:, start:stop]
            np.testing.assert_array_equal(read.toarray(), expected if rows is None else expected[rows])
            assert read.toarray().dtype == np.float32


def table(n=23, p=9, n_numbers=2, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(4, size=(p, n), dtype=np.uint8)
    values, numbers = rng.standard_normal((4, p)), rng.standard_normal((n, n_numbers))
    packed = PackedColumns(pack(codes), n, values, numbers, dtype)
    return packed, np.concatenate([values[codes.T, np.arange(p)], numbers], axis=1).astype(dtype)


@pytest.mark.parametrize("n_numbers", [0, 2])
@pytest.mark.parametrize("n", [1, 5, 8, 23])
def test_products_and_choices_are_those_of_numbers(n, n_numbers):
    packed, X = table(n, n_numbers=n_numbers)
    rng = np.random.default_rng(1)
    W, U = rng.standard_normal((X.shape[1], 3)), rng.standard_normal((n, 3))
    order = rng.permutation(n)
    for P, A in [(packed, X), (packed[2:7], X[2:7]), (packed[1:], X[1:]), (packed[order], X[order]),
                 (packed[:, 2:5], X[:, 2:5]), (packed[1:][:, 3:], X[1:, 3:]), (packed[3:][1:3], X[3:][1:3]),
                 (packed[:, 8:], X[:, 8:]), (packed.multiply(packed), X * X),
                 (packed[1:][order[order < n - 1]], X[1:][order[order < n - 1]])]:  # fmt: skip
        rows, columns = slice(0, A.shape[0]), slice(0, A.shape[1])
        assert P.shape == A.shape
        np.testing.assert_array_equal(P.toarray(), A)
        np.testing.assert_allclose(P @ W[columns], A @ W[columns], atol=1e-13)
        np.testing.assert_allclose(P @ W[columns, 0], A @ W[columns, 0], atol=1e-13)
        np.testing.assert_allclose(P.T @ U[rows], A.T @ U[rows], atol=1e-13)
        np.testing.assert_allclose(P @ P.T, A @ A.T, atol=1e-12)
        np.testing.assert_allclose(P @ P[: n // 2].T, A @ A[: n // 2].T, atol=1e-12)
    np.testing.assert_array_equal(packed.permuted(order).toarray(), X[order])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numba_decodes_alike(monkeypatch, dtype):
    pytest.importorskip("numba")
    packed, X = table(dtype=np.dtype(dtype))
    packed.values[1, 3] = np.nan
    found = [packed[2:].toarray()]
    monkeypatch.setattr("distnewton.data.packed.NUMBA_FROM", 0)
    found.append(packed[2:].toarray())
    np.testing.assert_array_equal(*found)
    assert found[0].dtype == dtype
    assert X.shape == (23, 11)


def test_packing_is_undone():
    for n in range(1, 10):
        codes = np.random.default_rng(n).integers(4, size=(3, n), dtype=np.uint8)
        np.testing.assert_array_equal(unpack(pack(codes), 0, n), codes)


def test_counts_leave_padding_out():
    for n in (1, 4, 6, 21):
        packed, _ = table(n)
        codes = unpack(packed.codes, 0, n)
        packed.codes[:, -1] |= 0xFF << (2 * (n % 4 or 4)) & 0xFF
        for P, c in [(packed, codes), (packed[1:], codes[:, 1:]), (packed[4:], codes[:, 4:])]:
            expected = [(c == k).sum(axis=1) for k in range(4)]
            np.testing.assert_array_equal(P.counts(), expected)


def test_numbers_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("distnewton.data.packed._MOST_NUMBERS", 100)
    with pytest.raises(ConfigError, match="23 samples of 11 packed columns would take"):
        table()[0].toarray()


def test_fingerprints_of_parts_add_up():
    packed, X = table()
    whole = fingerprint(packed)
    rows = np.array([0, 3, 4, 20])
    rest = np.setdiff1d(np.arange(23), rows)
    parts = sum(fingerprint(packed[:, a:b][part], part, a) for a, b in [(0, 4), (4, 11)] for part in (rows, rest))
    assert parts % 2**64 == whole
    codes = packed.codes.copy()
    for k, i in [(0, 0), (8, 22)]:
        packed.codes[k, i // 4] ^= 1 << (2 * (i % 4))
        assert fingerprint(packed) != whole
        packed.codes[...] = codes
    assert fingerprint(packed) == whole
    packed.numbers[5, 1] += 1e-9
    assert fingerprint(packed) != whole
    assert X.shape == packed.shape


@pytest.mark.parametrize("kind", ["standard", "hardy_weinberg", "center", "minmax"])
def test_scaling_is_that_of_completed_columns(tmp_path, kind):
    calls = random_calls(30, 12, missing=0.0 if kind == "minmax" else 0.1)
    X = open_data(write_bed(tmp_path / "c", calls, ["1"] * 30)).read(0, 12, "float64")
    statistics = column_statistics(X, 2)
    scaling = fit_scaling(kind, X)
    scaling.apply(X)
    found = X.toarray()
    if kind in ("standard", "hardy_weinberg"):
        np.testing.assert_allclose(found, standardised(calls, hardy_weinberg=kind != "standard"), atol=1e-13)
    else:
        filled = dense(calls)
        filled = np.where(np.isnan(filled), np.nanmean(filled, axis=0), filled)
        other = fit_scaling(kind, filled)
        other.apply(filled)
        np.testing.assert_allclose(found, filled, atol=1e-13)
    assert not found[:, 3].any(), "a column without variation"
    completed = np.where(calls < 0, np.nanmean(dense(calls), axis=0), calls)
    with np.errstate(invalid="ignore"):
        expected = ColumnStatistics(completed, 2)
    expected.deviation[3] = 0.0
    for name in ("low", "high", "mean", "deviation"):
        np.testing.assert_allclose(getattr(statistics, name), getattr(expected, name), atol=1e-13)


@pytest.mark.parametrize("kind", ["none", "minmax"])
def test_missing_calls_need_centred_columns(tmp_path, kind):
    X = open_data(write_bed(tmp_path / "c", random_calls(30, 12), ["1"] * 30)).read(0, 12)
    with pytest.raises(DataError, match=r"\d+ calls are missing.*data.scale = standard"):
        fit_scaling(kind, X).apply(X)


@pytest.mark.parametrize("kind", ["unit_rows", "log1p_unit_rows"])
def test_rows_are_not_scaled(tmp_path, kind):
    X = open_data(write_bed(tmp_path / "c", random_calls(30, 12), ["1"] * 30)).read(0, 12)
    with pytest.raises(ConfigError, match="would unpack genotypes"):
        fit_scaling(kind, X).apply(X)


def test_all_files_of_a_name_are_known(tmp_path):
    write_bed(tmp_path / "c", random_calls(6, 5))
    for name in ("y.txt", "z.txt"):
        write_table(tmp_path / name, ["a"], np.ones((6, 1)))
    for name, files in [("c", ["c.bed"]), ("c.bed,y.txt", ["c.bed", "y.txt"]), ("c,,z.txt", ["c.bed", "z.txt"]),
                        ("c,y.txt,z.txt", ["c.bed", "y.txt", "z.txt"])]:  # fmt: skip
        assert [path.name for path in source_files(name, tmp_path)] == files
        assert open_data(name, data_dir=tmp_path, labels="none").describe().n_samples == 6


# --- phenotypes and covariates


def test_phenotypes_of_the_fam_file(tmp_path):
    calls = random_calls(6, 5)
    found = open_data(write_bed(tmp_path / "c", calls, ["2", "1", "0", "-9", "1", "NA"])).describe()
    assert found.labels.tolist() == [2, 1, 1]
    assert "3 of 6 samples lack a phenotype, and are left out" in found.notes
    source = open_data(write_bed(tmp_path / "c", calls, ["0.5", "0", "-9", "1", "2", "3"]))
    assert source.describe().labels.tolist() == [0.5, 0, 1, 2, 3], "0 is a number of a quantity"
    np.testing.assert_array_equal(source.read(0, 5).toarray(), dense(calls)[[0, 1, 3, 4, 5]])
    np.testing.assert_array_equal(source.read(1, 5, rows=np.array([1, 2])).toarray(), dense(calls)[[1, 3], 1:])
    assert source.locate(2) == f"{tmp_path / 'c.bed'}: sample 4"


def test_phenotypes_and_covariates_are_joined_by_identifiers(tmp_path):
    calls, rng = random_calls(8, 5), np.random.default_rng(0)
    y, z = rng.standard_normal((8, 2)), rng.standard_normal((8, 3))
    y[2, 1], z[5, 0] = np.nan, np.nan
    write_bed(tmp_path / "c", calls)
    write_table(tmp_path / "y.txt", ["T1", "T2"], y, order=[7, 3, 1, 0, 2, 5, 4, 6])
    write_table(tmp_path / "z.txt", ["AGE", "SEX", "PC1"], z, order=rng.permutation(8))
    source = open_data(f"{tmp_path / 'c'},{tmp_path / 'y.txt'},{tmp_path / 'z.txt'}", ignore_columns=["SEX"])
    found, kept = source.describe(), [0, 1, 3, 4, 6, 7]
    np.testing.assert_array_equal(found.labels, y[kept])
    assert found.names.features == (*(f"rs{k}_A(/G)" for k in range(5)), "AGE", "PC1")
    assert found.names.label == "T1,T2"
    assert [note for note in found.notes if "lack" in note] == [
        "1 of 8 samples lack a phenotype, and are left out", "1 of 8 samples lack a covariate, and are left out"
    ]
    expected = np.concatenate([dense(calls), z[:, [0, 2]]], axis=1)[kept]
    np.testing.assert_array_equal(source.read(0, 7).toarray(), expected)
    np.testing.assert_array_equal(source.read(3, 6).toarray(), expected[:, 3:6])
    np.testing.assert_array_equal(source.read(6, 7).toarray(), expected[:, 6:])
    for column, label in [("T1", "T1"), (1, "T2"), ("T2,T1", "T2,T1")]:
        other = open_data(f"{tmp_path / 'c'},{tmp_path / 'y.txt'}", label_column=column).describe()
        assert other.names.label == label


FORMS = [
    ("IID AGE\nI2 1\nI0 3\nI1 2\nI9 4\n", 1), ("F1 I1 2\nF2 I2 1\nF0 I0 3\n", 0), ("#IID,AGE\nI0,3\nI1,2\nI2,1\n", 0)
]  # fmt: skip


@pytest.mark.parametrize(("text", "n"), FORMS)
def test_forms_of_tables(tmp_path, text, n):
    write_bed(tmp_path / "c", random_calls(3, 5))
    (tmp_path / "y.txt").write_text(text)
    found = open_data(f"{tmp_path / 'c'},{tmp_path / 'y.txt'}").describe()
    assert found.labels.tolist() == [3, 2, 1]
    assert len([note for note in found.notes if "1 samples without genotypes are left out" in note]) == n


def test_calls_are_matched_by_identifier_and_allele(tmp_path):
    calls = random_calls(7, 6)
    names = open_data(write_bed(tmp_path / "c", calls, ["1"] * 7)).describe().names
    # others in between, other order, and alleles of rs1 and rs4 swapped
    order = [5, 4, 0, 2, 1, 3]
    swapped = np.where(calls < 0, -1, 2 - calls)
    other = np.where(np.isin(np.arange(6), [1, 4]), swapped, calls)[:, order]
    other = np.insert(other, 2, 1, axis=1)
    labels = [f"rs{k}" for k in order]
    labels.insert(2, "new")
    alleles = [("G", "A") if name in ("rs1", "rs4") else ("A", "G") for name in labels]
    source = open_data(write_bed(tmp_path / "d", other, names=labels, alleles=alleles), names=names, labels="none")
    assert source.describe().names == names
    for start, stop in [(0, 6), (2, 5)]:
        np.testing.assert_array_equal(source.read(start, stop).toarray(), dense(calls)[:, start:stop])
    alleles[1] = ("A", "C")
    source = open_data(write_bed(tmp_path / "d", other, names=labels, alleles=alleles), names=names, labels="none")
    with pytest.raises(DataError, match="1 variants have other alleles than in the model, such as rs4"):
        source.read(0, 6)
    source = open_data(write_bed(tmp_path / "d", calls[:, :4]), names=names, labels="none")
    with pytest.raises(DataError, match="2 of the model's 6 variants are missing, such as rs4, rs5"):
        source.read(0, 6)


# --- what is refused


def spoil_bed(change):
    def spoil(prefix):
        path = prefix.with_suffix(".bed")
        path.write_bytes(change(path.read_bytes()))

    return spoil


def spoil_text(suffix, change):
    def spoil(prefix):
        path = prefix.with_suffix(suffix)
        path.write_text(change(path.read_text()))

    return spoil


SPOILED = {
    "magic": (spoil_bed(lambda b: b"\x00\x00" + b[2:]), "is not a PLINK 1 .bed file: it begins with 00 00 01"),
    "samples": (spoil_bed(lambda b: b[:2] + b"\x00" + b[3:]), "is stored by samples"),
    "third byte": (spoil_bed(lambda b: b[:2] + b"\x07" + b[3:]), "its third byte is damaged"),
    "cut": (spoil_bed(lambda b: b[:-1]), "has 12 bytes, but 6 samples.* and 5 variants.*take 13: it is cut"),
    "longer": (spoil_bed(lambda b: b + b"\x00"), "has 14 bytes"),
    "compressed": (spoil_bed(gzip.compress), "is compressed"),
    "bim": (spoil_text(".bim", lambda t: t.split("\n", 1)[1]), "4 variants of its .bim file take 11"),
    "fam": (spoil_text(".fam", lambda t: t + "F7 I7 0 0 1 1\nF8 I8 0 0 1 1\nF9 I9 0 0 1 1\n"), "9 samples of its .fam"),
    "fam fields": (spoil_text(".fam", lambda t: t.replace(" 0 0", " 0", 1)), "c.fam:1: expected six fields"),
    "fam twice": (spoil_text(".fam", lambda t: t.replace("F1 I1", "F0 I0")), "c.fam: 1 samples appear more"),
    "bim fields": (spoil_text(".bim", lambda t: t.replace(" rs2", "", 1)), "c.bim:3: expected six fields"),
    "bim twice": (spoil_text(".bim", lambda t: t.replace("rs2", "rs1")), "c.bim: 1 variants appear more than once"),
    "no phenotype": (spoil_text(".fam", lambda t: t.replace(" 1\n", " -9\n")), "no sample has PHENOTYPE"),
    "text": (spoil_text(".fam", lambda t: t.replace(" 1\n", " high\n", 1)), "c.fam:1: 'high' is not a number"),
    "infinite": (spoil_text(".fam", lambda t: t.replace(" 1\n", " inf\n", 1)), "c.fam:1: 'inf' is not a finite"),
    "no bim": (lambda prefix: prefix.with_suffix(".bim").unlink(), "needs c.bim beside it"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED)
def test_damaged_files_are_refused(tmp_path, case):
    calls = np.abs(random_calls(6, 5))
    path = write_bed(tmp_path / "c", calls, ["1"] * 6)
    open_data(path).describe()
    spoil, message = SPOILED[case]
    spoil(tmp_path / "c")
    with pytest.raises((DataError, MissingInputError), match=message):
        open_data(path).describe()


def test_a_variant_without_calls_is_refused_by_name(tmp_path):
    for n in (2, 4, 7):
        calls = np.abs(random_calls(n, 6))
        calls[:, 4] = -1
        source = open_data(write_bed(tmp_path / "c", calls, ["1"] * n))
        source.read(0, 4)
        with pytest.raises(DataError, match="variant 5, rs4, is missing in all samples"):
            source.read(2, 6)
        # the training data have its mean
        names = open_data(write_bed(tmp_path / "t", np.abs(calls), ["1"] * n)).describe().names
        read = open_data(tmp_path / "c.bed", names=names, labels="none").read(4, 5)
        assert np.isnan(read.toarray()).all()


TABLES = {
    "twice": ("FID IID A\nF0 I0 1\nF0 I0 2\n", "1 samples appear more than once, such as F0 I0"),
    "columns": ("FID IID A A\nF0 I0 1 2\n", "1 columns appear more than once, such as A"),
    "fields": ("FID IID A\nF0 I0 1 2\n", "z.txt:2: expected 3 fields, got 4"),
    "text": ("FID IID A\nF0 I0 x\n", "z.txt:2: 'x' is not a number; if it marks"),
    "no column": ("FID IID\nF0 I0\n", "z.txt:1: expected FID, IID and at least one column"),
    "empty": ("\n", "z.txt: no samples"),
    "commas": (",\n", "z.txt:1: expected FID, IID and at least one column"),
    "name of a variant": ("FID IID rs1_A(/G)\n" + "".join(f"F{i} I{i} 1\n" for i in range(6)), "once, such as rs1_A"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_damaged_tables_are_refused(tmp_path, case):
    write_bed(tmp_path / "c", random_calls(6, 5), ["1"] * 6)
    text, message = TABLES[case]
    (tmp_path / "z.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(f"{tmp_path / 'c'},,{tmp_path / 'z.txt'}").describe()


def test_settings_that_do_not_fit_are_refused(tmp_path):
    write_bed(tmp_path / "c", random_calls(6, 5), ["1"] * 6)
    write_table(tmp_path / "z.txt", ["A"], np.ones((6, 1)))
    name = f"{tmp_path / 'c'},,{tmp_path / 'z.txt'}"
    with pytest.raises(ConfigError, match=r"label_column = T: .* no such column; its columns are PHENOTYPE"):
        open_data(name, label_column="T")
    with pytest.raises(ConfigError, match=r"ignore_columns = B: .* no such covariate"):
        open_data(name, ignore_columns=["B"])
    with pytest.raises(DataError, match="has 6 variants and covariates, expected 7"):
        open_data(name, n_features=7)
    names = open_data(name).describe().names
    with pytest.raises(DataError, match=r"was trained with the covariates A; give their file as c\.bed,,COVARIATES"):
        open_data(tmp_path / "c.bed", names=names, labels="none")
    write_table(tmp_path / "z.txt", ["B"], np.ones((6, 1)))
    with pytest.raises(DataError, match="has no column A, which the model was trained on"):
        open_data(name, names=names, labels="none")
    write_table(tmp_path / "z.txt", ["A"], np.full((4, 1), 1.0))
    with pytest.raises(DataError, match="2 samples lack a covariate of the model"):
        open_data(name, names=names, labels="none")
    (tmp_path / "y.npy").write_bytes(b"")
    np.save(tmp_path / "X.npy", np.ones((3, 2)))
    np.save(tmp_path / "y.npy", np.ones(3))
    with pytest.raises(ConfigError, match="only genotypes take a third file"):
        open_data(f"{tmp_path / 'X.npy'},{tmp_path / 'y.npy'},{tmp_path / 'y.npy'}")


def test_bytes_are_plink_s():
    calls = np.array([[2], [-1], [1], [0], [2]])
    assert bed_bytes(calls) == b"\x6c\x1b\x01\xe4\x00"
    assert Wanted().names is None
