"""A data format and a scaling of a package that is installed beside this one: no file of distnewton knows them."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import distnewton
from distnewton.config.sections import DataConfig
from distnewton.data.formats.registry import FORMATS
from distnewton.data.scaling import SCALINGS
from distnewton.data.sources import open_data
from distnewton.errors import DataError

PACKAGE = '''
import numpy as np

from distnewton.data.formats.base import Format
from distnewton.data.in_memory import ArraySource
from distnewton.data.scaling import Scaling
from distnewton.errors import DataError


class Matlab(Format):
    name, help = "matlab", "MATLAB files with arrays X and y"

    def recognises(self, path, head):
        return head.startswith(b"MATLAB 5.0 MAT")

    def open(self, location, wanted):
        from scipy.io import loadmat

        arrays = loadmat(location.path)
        if "X" not in arrays:
            raise DataError(f"{location.path}: has no array X")
        wanted.n_kept(str(location.path), arrays["X"].shape[1])
        return ArraySource(arrays["X"], arrays["y"].ravel(), name=str(location.path))


class MaxAbs(Scaling):
    name, help, shifts_columns = "max_abs", "each column by its largest absolute value", True

    def fit(self, statistics):
        high = statistics.low + 2 * statistics.half_range
        return np.zeros(len(high)), np.maximum(np.abs(statistics.low), np.abs(high))
'''
POINTS = (
    "[distnewton.formats]\nmatlab = outside_format:Matlab\n"
    "[distnewton.scalings]\nmax_abs = outside_format:MaxAbs\n"
)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    info = tmp_path / "site" / "outside_format-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-format\nVersion: 1\n")
    (info / "entry_points.txt").write_text(POINTS)
    (tmp_path / "site" / "outside_format.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    # the registry looks at what is installed once, and keeps what it has imported
    for registry in (FORMATS, SCALINGS):
        monkeypatch.setattr(registry, "_unloaded", None)
        monkeypatch.setattr(registry, "_components", dict(registry._components))


def test_a_format_of_an_installed_package_is_read_by_name_and_by_content(outside, tmp_path):
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 4)), rng.integers(3, size=60)
    X[np.arange(60), y] += 4
    path = tmp_path / "data.bin"
    savemat(path, {"X": X, "y": y})
    for format in ("auto", "matlab"):
        np.testing.assert_array_equal(open_data(path, format=format).read(1, 3), X[:, 1:3])
        tables = {"data": {"train": str(path), "format": format}, "run": {"iterations": 2}}
        tables["method"] = {"direction": "block_diagonal"}
        assert distnewton.train(distnewton.make_config(tables)).last.loss < 1
    with pytest.raises(DataError, match="is matlab, not csv as requested"):
        open_data(path, format="csv")
    with pytest.raises(DataError, match="has 4 features, expected 5"):
        open_data(path, n_features=5)


def test_a_format_of_an_installed_package_is_among_the_choices(outside):
    (setting,) = (note for note in DataConfig.model_fields["format"].metadata if hasattr(note, "choices"))
    assert setting.choices[:2] == ("auto", "libsvm")
    assert setting.choices[-1] == "matlab"


def test_an_unknown_format_is_refused_with_the_nearest_name():
    with pytest.raises(distnewton.DistNewtonError, match="did you mean parquet"):
        distnewton.make_config({"data": {"format": "parket"}})


def test_a_scaling_of_an_installed_package_is_fitted_and_stored(outside, tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.uniform(-5, 3, (60, 4)), rng.integers(3, size=60)
    tables = {"data": {"scale": "max_abs"}, "run": {"iterations": 2}, "method": {"direction": "block_diagonal"}}
    model = distnewton.train(distnewton.make_config(tables), train_data=distnewton.ArraySource(X, y)).model
    np.testing.assert_allclose(model.scaling.factor, 1 / np.abs(X).max(axis=0), rtol=1e-6)
    model.save(tmp_path / "m")
    data = distnewton.ArraySource(X, y)
    assert distnewton.load_model(tmp_path / "m").predict(data) == model.predict(data)
