"""A MATLAB file trains like the arrays in it, dense or sparse, and says what is wrong with it."""

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from scipy import io, sparse

import distnewton

rng = np.random.default_rng(0)
X, y = rng.standard_normal((60, 6)), rng.integers(3, size=60)
X[np.arange(60), y] += 4
folder = Path(tempfile.mkdtemp())
config = distnewton.make_config({"run": {"iterations": 3}})
expected = distnewton.train(config, train_data=distnewton.ArraySource(X, y)).last.objective
for name, features in (("dense", X), ("sparse", sparse.csc_array(X))):
    io.savemat(folder / f"{name}.mat", {"X": features, "y": y})
    source = distnewton.open_data(folder / f"{name}.mat")
    np.testing.assert_array_equal(sparse.csr_array(source.read(2, 5)).toarray(), X[:, 2:5])
    assert abs(distnewton.train(config, train_data=source).last.objective - expected) < 1e-5

io.savemat(folder / "wrong.mat", {"features": X, "y": y})
(folder / "damaged.mat").write_bytes((folder / "dense.mat").read_bytes()[:300])
for name, words, options in (
    ("wrong", "no array X; it has features, y", {}),
    ("damaged", "cannot be read", {}),
    ("dense", "has 6 features, expected 7", {"n_features": 7}),
    ("dense", "give no label_column", {"label_column": 0}),
):
    with pytest.raises(distnewton.DistNewtonError, match=re.escape(words)):
        distnewton.open_data(folder / f"{name}.mat", **options)
