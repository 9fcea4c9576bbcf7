"""LIBSVM files: values equal scikit-learn's bit for bit by every parser; each bad input has its message."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_svmlight_file

from distnewton.data.formats import streams
from distnewton.data.formats.libsvm import LibsvmSource
from distnewton.data.formats.libsvm_lines import Rules
from distnewton.data.sources import open_data
from distnewton.errors import DataError

PARSERS = ("lines", "numba")


def source(path, parser="auto", **rules):
    return LibsvmSource(path, Rules(path.name, **rules), parser)


def write(tmp_path, content):
    path = tmp_path / "data.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sparse_text(n_samples, n_features, density, seed, spell=repr):
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(n_samples):
        features = np.flatnonzero(rng.random(n_features) < density)
        values = rng.standard_normal(len(features)) * 10.0 ** rng.integers(-8, 8, len(features))
        pairs = (f"{j + 1}:{spell(float(x))}" for j, x in zip(features, values, strict=True))
        lines.append(" ".join([str(i % 3 - 1), *pairs]))
    return "\n".join(lines) + "\n"


def same_bits(a, b):
    return (
        a.shape == b.shape
        and np.array_equal(a.indptr, b.indptr)
        and np.array_equal(a.indices, b.indices)
        and a.data.tobytes() == b.data.tobytes()
    )


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("spell", [repr, "{:.3g}".format, "{:.18e}".format, "{:+.12f}".format])
def test_equals_scikit_learn(tmp_path, parser, spell):
    path = write(tmp_path, sparse_text(200, 30, 0.4, 1, spell))
    expected, labels = load_svmlight_file(str(path), zero_based=False)
    description = source(path, parser).describe()
    X = source(path, parser).read(0, description.n_features)
    assert same_bits(X, expected)
    assert X.indices.dtype == np.int32
    assert description.n_samples == 200
    assert description.n_nonzeros == expected.nnz
    np.testing.assert_array_equal(description.labels, labels)


digits = st.text("0123456789", min_size=1, max_size=25)
numerals = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.builds(
        lambda sign, whole, fraction, power: sign + whole + fraction + power,
        st.sampled_from(["", "+", "-"]),
        digits,
        st.one_of(st.just(""), st.just("."), digits.map(lambda d: f".{d}")),
        st.one_of(
            st.just(""),
            st.integers(-40, 40).map(lambda k: f"e{k}"),
            st.integers(-9, 9).map(lambda k: f"E{k:+d}"),
        ),
    ),
    digits.map(lambda d: f".{d}"),
    # halfway between two doubles, and next to it
    st.integers(2**53, 2**63).map(lambda m: str(2 * (m // 2) + 1)),
)


@pytest.mark.parametrize("parser", ["lines", "numba"])
@settings(max_examples=200)
@given(tokens=st.lists(numerals, min_size=1, max_size=20))
def test_numbers_are_rounded_as_float_does(tmp_path_factory, parser, tokens):
    path = write(tmp_path_factory.mktemp("n"), "".join(f"{t} 1:{t} 7:{t}\n" for t in tokens))
    X = source(path, parser).read(0, 7)
    expected = np.repeat([float(t) for t in tokens], 2)
    assert X.data.tobytes() == expected.tobytes()
    # labels that no double is written as are texts, among which -0.0 is 0
    np.testing.assert_array_equal(source(path, parser).describe().labels.astype(np.float64), expected[::2])


ACCEPTED = {
    "plain": "1 1:2 3:4\n-1 2:5\n",
    "no final newline": "1 1:2 3:4\n-1 2:5",
    "CRLF and tabs": "1\t1:2\t3:4 \r\n-1 2:5\t\r\n",
    "blank lines": "\n1 1:2 3:4\n\n  \n-1 2:5\n\n",
    "leading blanks": "  1 1:2 3:4\n\t-1 2:5\n",
    "byte-order mark": "\ufeff1 1:2 3:4\n-1 2:5\n",
    "comments": "# head, with, commas\n1 1:2 3:4 # one: two\n-1 2:5#three\n",
    "qid": "1 qid:7 1:2 3:4\n-1 qid:8 2:5\n",
    "odd numerals": "+1 001:+2. 3:.4e1\n-1.0 2:50E-1\n",
}


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted_variants(tmp_path, parser, text):
    path = write(tmp_path, text)
    description = source(path, parser).describe()
    np.testing.assert_array_equal(source(path, parser).read(0, 3).toarray(), [[2, 0, 4], [0, 5, 0]])
    np.testing.assert_array_equal(description.labels, [1, -1])
    note = {"\ufeff": "byte-order", "#": "comments", "qid": "qid"}
    assert [n for key, n in note.items() if key in text] == [
        n for n in note.values() if any(n in line for line in description.notes)
    ]


def test_rows_without_values_and_stored_zeros(tmp_path):
    path = write(tmp_path, "1\n0 2:0\n1\n")
    for parser in PARSERS:
        X = source(path, parser).read(0, 4)
        assert X.shape == (3, 4)
        assert X.nnz == 1


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("labels", [
    ["007", "12"], ["72048431380967004", "72048431380967104"], ["1e3", "1000"], ["-012", "x"], [" 07", "7"],
])  # fmt: skip
def test_labels_are_texts_that_no_number_is_written_as(tmp_path, parser, labels, monkeypatch):
    monkeypatch.setattr(streams.line_blocks, "__defaults__", (64,))
    path = tmp_path / "t"
    rows = ["5 1:1 2:2\n"] * 20
    path.write_text("".join([*rows, *(f"{label} 1:1\n" for label in labels), *rows]))
    found = source(path, parser).describe().labels.tolist()
    assert found == ["5"] * 20 + [label.strip() for label in labels] + ["5"] * 20
    path.write_text("1e0 1:1\n0.5 1:2\n2.5e1 1:3\n")
    assert source(path, parser).describe().labels.tolist() == [1.0, 0.5, 25.0]


@pytest.mark.parametrize("parser", PARSERS)
def test_class_names(tmp_path, parser, monkeypatch):
    monkeypatch.setattr(streams.line_blocks, "__defaults__", (20,))
    path = write(tmp_path, "2 1:2\n1.5 1:3\nham 1:4\nspam 2:5\nKäse 1:6\n+3 1:7\n# x\nham 2:7\n")
    description = source(path, parser).describe()
    assert description.labels.tolist() == ["2", "1.5", "ham", "spam", "Käse", "3", "ham"]
    assert source(path, parser).read(0, 1).nnz == 5
    assert source(path).locate(6) == "data.txt:8"


ERRORS = [
    ("", "no samples"),
    ("\n  \n# only\n", "no samples"),
    ("<!DOCTYPE html>\n<html>\n", "data.txt:1: looks like HTML"),
    ("1,2,3,4\n", "data.txt:1: looks like CSV"),
    (b"1 1:2\n\x00\x01\n", "data.txt:2: looks like binary"),
    (b"1 1:2\n\xff\xfe 1:2\n", "data.txt:2: label '\\xff\\xfe' is not text"),
    ("1 1:2\n1 0:3\n", "data.txt:2:3: index 0, but indices start at 1; use --set data.zero_based=true"),
    ("1 -3:1\n", "data.txt:1:3: index '-3' is not a whole number"),
    ("1 1.5:1\n", "data.txt:1:3: index '1.5' is not a whole number"),
    ("1 2147483648:1\n", "data.txt:1:3: index 2147483648 is above the largest possible, 2147483647"),
    (f"1 {'9' * 5000}:1\n", "is above the largest possible"),
    ("1 3:1 2:1\n", "data.txt:1: index 2 after 3: indices must increase; use --set data.sort_indices=true"),
    ("1 2:1 2:1\n", "data.txt:1: index 2 appears twice"),
    ("1 1:2\n\n1 3:\n", "data.txt:3:3: value missing in '3:'"),
    ("1 :2\n", "data.txt:1:3: index missing in ':2'"),
    ("1 1:2 3:abc\n", "data.txt:1:7: value 'abc' of index 3 is not a decimal number"),
    ("1 3:0x10\n", "value '0x10' of index 3 is not a decimal number"),
    ("1 3:1_0\n", "value '1_0' of index 3 is not a decimal number"),
    ("1 3:1e\n", "value '1e' of index 3"),
    ("1 3:.\n", "value '.' of index 3"),
    ("1 3:+\n", "value '+' of index 3"),
    ("1 3:--1\n", "value '--1' of index 3"),
    ("1 3:1-1\n", "value '1-1' of index 3"),
    ("1 3:1.2.3\n", "value '1.2.3' of index 3"),
    ("1 3:1:2\n", "value '1:2' of index 3"),
    ("1 3:nan\n", "data.txt:1:3: value 'nan' of index 3 is not a finite number"),
    ("1 3:-Infinity\n", "value '-Infinity' of index 3 is not a finite number"),
    ("1 3:1e999\n", "value '1e999' of index 3 is not a finite number"),
    ("1 3\n", "data.txt:1:3: expected index:value, got '3'"),
    ("1 1:2\n1:2 2:3\n", "data.txt:2: label missing: the line begins with '1:2'"),
    (" 1:2 2:3\n", "data.txt:1: label missing"),
    ("nan 1:2\n", "data.txt:1: label 'nan' is not a finite number"),
    ("1e999 1:2\n", "data.txt:1: label '1e999' is not a finite number"),
    ("1,3 1:2\n", "data.txt:1: label '1,3': multi-label rows need data.task = multilabel"),
    ("ham 1:2\nham 2:3\nham,eggs 2:3\n", "data.txt:3: label 'ham,eggs': multi-label"),
    ("1 1:2 qid:3\n", "index 'qid' is not a whole number"),
]


@pytest.mark.parametrize(("content", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors(tmp_path, content, message):
    path = write(tmp_path, content)
    texts = []
    for parser in PARSERS:
        with pytest.raises(DataError) as caught:
            source(path, parser).describe()
        texts.append(str(caught.value))
    assert message in texts[0]
    assert set(texts) == {texts[0]}


def test_errors_count_lines_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(streams.line_blocks, "__defaults__", (64,))
    path = write(tmp_path, "1 1:2 # a\n\n" * 40 + "1 1:x\n")
    for parser in PARSERS:
        with pytest.raises(DataError, match=r"data\.txt:81:3: value 'x'"):
            source(path, parser).describe()


def outcome(path, parser):
    try:
        description = source(path, parser).describe()
    except DataError as error:
        return str(error)
    X = source(path, parser).read(0, description.n_features)
    parts = (
        X.data.tobytes(),
        X.indices.tobytes(),
        X.indptr.tobytes(),
        description.labels.tolist(),
        description.notes,
    )
    return (*parts, description.n_nonzeros)


@settings(max_examples=400)
@given(
    seed=st.integers(0, 9),
    changes=st.lists(
        st.tuples(st.integers(0, 399), st.sampled_from("0123456789:::...eE++--, \t\n\r#qnaf")), max_size=6
    ),
)
def test_parsers_agree_on_damaged_files(tmp_path_factory, seed, changes):
    text = list(sparse_text(8, 6, 0.5, seed, "{:.4g}".format))
    for at, character in changes:
        text[at % len(text)] = character
    path = write(tmp_path_factory.mktemp("d"), "".join(text))
    outcomes = [outcome(path, parser) for parser in PARSERS]
    assert outcomes[1] == outcomes[0]


def test_fast_parsers_leave_only_rare_blocks_to_the_line_parser():
    from distnewton.data.formats import libsvm_lines, libsvm_numba

    for text in ("1 1:2.5 3:-1e-3 \r\n\n-1\n", sparse_text(5, 5, 0.5, 0)):
        for parse in (libsvm_lines.parse_regular, libsvm_numba.parse_block):
            assert parse(text.encode(), Rules("x"), 0, 9) is not None


@pytest.mark.parametrize("parser", PARSERS)
def test_number_of_features(tmp_path, parser):
    path = write(tmp_path, "1 1:2 3:4\n0 2:5 7:1\n")
    with pytest.raises(DataError, match=r"data\.txt:2:7: index 7 is beyond the 5 features expected"):
        source(path, parser, n_features=5).describe()
    assert source(path, parser, n_features=9).describe().n_features == 9
    lenient = source(path, parser, n_features=5, ignore_extra=True)
    description = lenient.describe()
    assert (description.n_features, description.n_nonzeros, description.n_ignored_values) == (5, 3, 1)
    assert "1 values of features beyond the 5" in description.notes[0]
    assert lenient.read(0, 9).nnz == 3


@pytest.mark.parametrize("parser", PARSERS)
def test_zero_based_and_sorted(tmp_path, parser):
    path = write(tmp_path, "1 0:2 3:4\n0 2:5 1:7\n")
    options = {"first_index": 0, "sort_indices": True}
    np.testing.assert_array_equal(
        source(path, parser, **options).read(0, 4).toarray(), [[2, 0, 0, 4], [0, 7, 5, 0]]
    )
    repeated = write(tmp_path, "1 3:1 1:2 3:2\n")
    with pytest.raises(DataError, match="index 3 appears twice"):
        source(repeated, parser, sort_indices=True).describe()


@pytest.mark.parametrize("parser", ["lines", "numba"])
@given(
    n_samples=st.integers(1, 30),
    n_features=st.integers(1, 12),
    seed=st.integers(0, 99),
    cut=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    block_bytes=st.sampled_from([16, 100, 1 << 17]),
)
def test_every_range_is_a_slice_of_the_whole(
    tmp_path_factory, parser, n_samples, n_features, seed, cut, block_bytes
):
    path = write(tmp_path_factory.mktemp("s"), sparse_text(n_samples, n_features, 0.5, seed))
    start, stop = sorted(min(c, n_features) for c in cut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.line_blocks, "__defaults__", (block_bytes,))
        part = source(path, parser).read(start, stop)
    assert same_bits(part, source(path, "lines").read(0, n_features)[:, start:stop])


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_under_any_name(tmp_path, compress):
    text = sparse_text(300, 20, 0.5, 3).encode()
    path = write(tmp_path, compress(text))
    assert open_data(path).describe().n_samples == 300
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=r"data\.txt: compressed file is cut short.* after \d+ bytes"):
        open_data(path).describe()


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_streams_behind_the_first_are_read_or_refused(tmp_path, compress):
    first, second = (compress(sparse_text(n, 20, 0.5, n).encode()) for n in (300, 200))
    empty = compress(b"")
    for whole, n_samples in ((first + empty + second, 500), (first + second + bytes(512), 500), (empty + first, 300)):
        assert open_data(write(tmp_path, whole)).describe().n_samples == n_samples
    flipped = bytes([second[0] ^ 1]) + second[1:]
    for behind in (flipped, second[:1] + b"?" + second[2:], b"neither zeros nor a stream"):
        with pytest.raises(DataError, match=r"data\.txt: compressed file is damaged after \d+ bytes"):
            open_data(write(tmp_path, first + behind)).describe()
    with pytest.raises(DataError, match=r"data\.txt: compressed file is cut short"):
        open_data(write(tmp_path, first + second[:5])).describe()


def test_float32_and_range_check(tmp_path):
    path = write(tmp_path, "1 1:0.1 2:3\n")
    X = source(path).read(0, 2, "float32")
    assert X.dtype == np.float32
    assert X.data[0] == np.float32(0.1)
    with pytest.raises(ValueError, match="start <= stop"):
        source(path).read(2, 1)


def test_memory_follows_the_columns_read(tmp_path):
    path = write(tmp_path, sparse_text(4000, 400, 0.4, 5, "{:.3g}".format))

    def peak(stop):
        tracemalloc.start()
        source(path, "lines").read(0, stop)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(100) <= 0.4 * peak(400)
