"""What is kept of sparse data so that nothing is done twice: what a pass has parsed, and a second order of values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

import distnewton
from distnewton.backend import Backend
from distnewton.data.formats import libsvm
from distnewton.data.formats.libsvm_lines import Rules
from distnewton.data.rows import keep_by_columns, row_range
from distnewton.runs.session import Session

LINES = "1 2:0.5 4:1\n-1\n# nothing\n1 1:3 2:-1 9:2\n-1 4:7\n"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "train"
    file.write_text(LINES)
    return file


@pytest.mark.parametrize(("start", "stop"), [(0, 9), (1, 4), (4, 8), (0, 0), (3, 9)])
@pytest.mark.parametrize("rows", [None, np.array([0, 2])])
def test_a_described_file_is_not_parsed_again(path, monkeypatch, start, stop, rows):
    source = libsvm.LibsvmSource(path, Rules("train"))
    expected = source.read(start, stop, "float32", rows)
    assert source.describe().n_features == 9
    monkeypatch.setattr(source, "_rows", None)
    found = source.read(start, stop, "float32", rows)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found.toarray(), expected.toarray())
    # what was kept is gone
    with pytest.raises(TypeError):
        source.read(start, stop)


def test_what_is_large_is(path, monkeypatch):
    monkeypatch.setattr(libsvm, "_KEPT_BYTES", 3 * libsvm._BYTES_OF_VALUE)
    source = libsvm.LibsvmSource(path, Rules("train"))
    source.describe()
    monkeypatch.setattr(source, "_rows", None)
    with pytest.raises(TypeError):
        source.read(0, 9)


def test_products_by_columns_are_the_same():
    rng = np.random.default_rng(0)
    X = csr_array(random_array((7, 40), density=0.2, rng=rng, dtype=np.float64))
    W, T = rng.standard_normal((40, 3)), rng.standard_normal((7, 3))
    backend = Backend.of("float64")
    expected = backend.product(X, W, np.empty((7, 3))), backend.transposed_product(X, T, np.empty((40, 3)))
    keep_by_columns(X)
    assert row_range(X, 0, 7) is X
    np.testing.assert_allclose(backend.product(X, W, np.empty((7, 3))), expected[0], rtol=1e-13)
    np.testing.assert_allclose(backend.transposed_product(X, T, np.empty((40, 3))), expected[1], rtol=1e-13)


@pytest.mark.parametrize(("subsample", "kept"), [(1.0, True), (0.5, False)])
def test_wide_data_are_kept_so_where_all_samples_are_the_curvatures(subsample, kept):
    X = csr_array(random_array((30, 9000), density=0.02, rng=np.random.default_rng(1)))
    config = distnewton.make_config({
        "network": {"layers": ["auto", 80, "auto"]},
        "method": {"direction": "gauss_newton", "subsample": subsample, "subsample_min": 1},
        "run": {"iterations": 1},
    })  # fmt: skip
    session = Session(config, given={"train": (X, np.arange(30) % 2)})
    assert hasattr(session.setup.training.objective.X, "by_columns") == kept
    assert np.isfinite(session.train(config).last.objective)
