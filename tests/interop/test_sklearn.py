"""Estimators: scikit-learn's own checks, its linear models as oracles, searches, and ranks."""

from __future__ import annotations

import importlib
import pickle
import sys

import numpy as np
import pytest
from launched import launches, mpirun, run

reason = "scikit-learn is not installed: pip install 'distnewton[sklearn]'"
pytest.importorskip("sklearn", reason=reason)
from scipy.sparse import csr_array  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.linear_model import LogisticRegression, Ridge  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from distnewton.cli.main import main  # noqa: E402
from distnewton.data.columns import ColumnNames  # noqa: E402
from distnewton.data.in_memory import ArraySource  # noqa: E402
from distnewton.errors import ConfigError, DataError, MissingExtraError  # noqa: E402
from distnewton.models.loading import load_model  # noqa: E402
from distnewton.sklearn import NewtonClassifier, NewtonRegressor  # noqa: E402

# most tests need few iterations
pytestmark = pytest.mark.filterwarnings("ignore:training ended after max_iter:sklearn.exceptions.ConvergenceWarning")

ALONE = {"run": {"threads": 1}}
EXACT = {"tol": 1e-9, "settings": {"method": {"cg_tolerance": 1e-6, "cg_max": 200}}}


def blobs(n=90, n_features=6, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    return 1.5 * rng.standard_normal((n_classes, n_features))[y] + rng.standard_normal((n, n_features)), y


def with_one(X):
    return np.column_stack([X, np.ones(len(X))])


@parametrize_with_checks([NewtonClassifier(), NewtonRegressor()])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_without_hidden_layers_it_is_logistic_regression(n_classes, weighted):
    X, y = blobs(n_classes=n_classes)
    weights = np.random.default_rng(1).random(len(y)) * 3 if weighted else None
    found = NewtonClassifier((), C=0.3, **EXACT).fit(X, y, weights)
    # the bias is regularised like all variables
    oracle = LogisticRegression(C=0.3, fit_intercept=False, tol=1e-12, max_iter=1000).fit(with_one(X), y, weights)
    np.testing.assert_allclose(found.decision_function(X), oracle.decision_function(with_one(X)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.predict_proba(X), oracle.predict_proba(with_one(X)), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.predict(X), oracle.predict(with_one(X)))
    total = len(y) if weights is None else weights.sum()
    losses = -np.log(oracle.predict_proba(with_one(X))[np.arange(len(y)), y])
    value = 0.5 * (oracle.coef_**2).sum() / 0.3 / total + np.average(losses, weights=weights)
    assert found.loss_curve_[-1] == pytest.approx(value, rel=1e-8)


def test_without_hidden_layers_it_is_ridge_regression():
    X, _ = blobs()
    Y = X[:, :2] ** 2 + X[:, 2:4]
    weights = np.random.default_rng(1).random(len(Y)) * 3
    for y in (Y, Y[:, 0]):
        found = NewtonRegressor((), C=0.3, **EXACT).fit(X, y, weights)
        # targets are scaled; the deviation changes nothing for a linear model, the mean is no longer regularised
        mean = np.average(y, axis=0, weights=weights)
        oracle = Ridge(alpha=1 / (2 * 0.3), fit_intercept=False, tol=1e-12).fit(with_one(X), y - mean, weights)
        np.testing.assert_allclose(found.predict(X), oracle.predict(with_one(X)) + mean, rtol=0, atol=1e-6)
        assert found.predict(X).shape == y.shape


def test_labels_come_back_as_they_were():
    X, y = blobs()
    for labels in (
        np.array(["red", "green", "blue"]), np.array(["b", "a", "c"], object), np.array([3.0, -1.0, 2.0]),
        np.array([2**60, 2**60 + 1, 5]), np.array([7, -3, 0], np.int8),
    ):  # fmt: skip
        found = NewtonClassifier(5, max_iter=15, random_state=0).fit(X, labels[y])
        np.testing.assert_array_equal(found.classes_, np.unique(labels))
        assert found.predict(X).dtype == labels.dtype
        assert found.score(X, labels[y]) > 0.85
        assert found.predict_proba(X).argmax(axis=1).tolist() == [
            np.flatnonzero(found.classes_ == label)[0] for label in found.predict(X)
        ]
    positive = y == 1
    found = NewtonClassifier(5, max_iter=15).fit(X, positive)
    assert found.predict(X).dtype == bool
    assert found.score(X, positive) > 0.9
    np.testing.assert_allclose(found.predict_proba(X).sum(axis=1), 1, rtol=1e-12)
    assert (found.decision_function(X) > 0).tolist() == found.predict(X).tolist()


def test_the_model_file_has_the_users_labels(tmp_path):
    X, y = blobs()
    labels = np.array(["red", "green", "blue"])[y]
    found = NewtonClassifier(5, max_iter=5, scale="standard").fit(X, labels)
    found.model_.save(tmp_path / "model.safetensors")
    from distnewton import ArraySource

    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.predict(ArraySource(X, labels)) == found.predict(X).tolist()


def test_a_model_file_knows_the_columns_of_a_data_frame(tmp_path):
    pandas = pytest.importorskip("pandas")
    X, y = blobs()
    names = list("abcdef")
    frame = pandas.DataFrame(X, columns=names)
    found = NewtonClassifier(5, max_iter=5, random_state=0).fit(frame, y)
    assert found.feature_names_in_.tolist() == names
    found.model_.save(tmp_path / "model.safetensors")
    order = [4, 0, 5, 1, 3, 2]
    lines = [",".join([names[j] for j in order] + ["note"])]
    lines += [",".join([*(repr(float(row[j])) for j in order), "7"]) for row in X]
    (tmp_path / "new.csv").write_text("\n".join(lines) + "\n")
    assert main(["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "new.csv"), "--out",
                 str(tmp_path / "labels")]) == 0  # fmt: skip
    assert (tmp_path / "labels").read_text().split() == [str(label) for label in found.predict(frame)]
    for target, label in ((X[:, 0], "label"), (pandas.Series(X[:, 0], name="price"), "price")):
        regressor = NewtonRegressor((), max_iter=2, random_state=0).fit(frame, target)
        assert regressor.model_.names == ColumnNames(tuple(names), label)
    assert NewtonRegressor((), max_iter=2, random_state=0).fit(X, X[:, 0]).model_.names is None


def test_sparse_features_and_class_weights():
    X, y = blobs()
    X = np.where(np.abs(X) > 1.5, X, 0)
    dense, sparse = (NewtonClassifier(5, random_state=1, max_iter=8).fit(Z, y) for Z in (X, csr_array(X)))
    np.testing.assert_allclose(dense.predict_proba(X), sparse.predict_proba(csr_array(X)), rtol=1e-7)
    few = np.flatnonzero((y > 0) | (np.arange(len(y)) % 5 == 0))
    balanced = NewtonClassifier(5, random_state=1, max_iter=8, class_weight="balanced").fit(X[few], y[few])
    weights = len(few) / 3 / np.bincount(y[few])[y[few]]
    given = NewtonClassifier(5, random_state=1, max_iter=8).fit(X[few], y[few], weights)
    np.testing.assert_allclose(balanced.predict_proba(X), given.predict_proba(X), rtol=1e-9)


def test_samples_without_weight_are_as_good_as_absent():
    X, y = blobs()
    weights = np.where(y == 2, 0.0, 2.0)
    X[y == 2] *= 100
    # scaled by standard deviations, which they would change
    options = {"random_state": 0, "max_iter": 6, "scale": "standard"}
    found = NewtonClassifier(4, **options).fit(X, y, weights)
    assert found.classes_.tolist() == [0, 1]
    rest = y != 2
    again = NewtonClassifier(4, **options).fit(X[rest], y[rest], weights[rest])
    np.testing.assert_allclose(found.predict_proba(X), again.predict_proba(X), rtol=1e-9)
    with pytest.raises(ValueError, match=r"weights of all samples are 0|at least one non-zero"):
        NewtonClassifier().fit(X, y, 0 * weights)
    with pytest.raises(ValueError, match="weights of all samples are 0"):
        NewtonClassifier(class_weight={0: 0, 1: 0}).fit(X, y, weights)
    with pytest.raises(ValueError, match=r"at least 2 classes, got 1 class: .*2"):
        NewtonClassifier().fit(X, y, np.where(y == 2, 1, 0))


def test_fit_is_silent_unless_asked(capfd):
    X, y = blobs()
    NewtonClassifier(4, max_iter=3).fit(X, y)
    assert capfd.readouterr() == ("", "")
    NewtonClassifier(4, max_iter=3, verbose=True).fit(X, y)
    out, err = capfd.readouterr()
    assert err == ""
    assert "method   gauss_newton" in out
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["0", "1", "2", "3"]


def test_random_states_settings_and_what_is_fitted():
    X, y = blobs()
    one, same, other = (NewtonClassifier(4, max_iter=3, random_state=r).fit(X, y) for r in (3, 3, 4))
    assert np.array_equal(one.decision_function(X), same.decision_function(X))
    assert not np.allclose(one.decision_function(X), other.decision_function(X))
    state = np.random.RandomState(3)
    assert np.array_equal(NewtonClassifier(4, max_iter=3, random_state=state).fit(X, y).predict(X), one.predict(X))
    found = NewtonClassifier(
        [5, 4], "relu", C=np.inf, direction="sgd", batch_size=16, max_iter=7, dtype="float32", scale="minmax",
        settings={"method": {"learning_rate": 0.02}, "network": {"init": "glorot"}},
    )  # fmt: skip
    config = found._config("cross_entropy", 5)
    assert config.network.layers == ["auto", 5, 4, "auto"]
    assert (config.method.C, config.method.batch, config.method.learning_rate) == (np.inf, 16, 0.02)
    assert (config.network.init, config.network.activation, config.run.seed) == ("glorot", "relu", 5)
    assert (config.run.iterations, config.run.dtype, config.data.scale) == (7, "float32", "minmax")
    assert NewtonClassifier(C=0.25)._config("squared", 0).method.C == "0.25 l"
    fitted = found.fit(X, y)
    assert fitted.n_iter_ == 7
    assert len(fitted.history_) == len(fitted.loss_curve_) == 8
    assert fitted.model_.architecture.dtype == "float32"
    revived = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(revived.predict_proba(X), fitted.predict_proba(X))
    assert not hasattr(clone(fitted), "model_")
    with pytest.raises(ConfigError, match="subsample has no effect with direction = adam"):
        NewtonClassifier(direction="adam", subsample=0.5).fit(X, y)
    with pytest.raises(ConfigError, match="settings: method must be a table"):
        NewtonClassifier(settings={"method": "adam"}).fit(X, y)


def test_early_stopping_and_warm_start():
    X, y = blobs()
    found = NewtonClassifier(8, early_stopping=True, validation_fraction=0.3, n_iter_no_change=3, tol=0, C=np.inf,
                             random_state=0).fit(X, y)  # fmt: skip
    assert 1 <= found.n_iter_ < 100
    scores = [record.validation["accuracy"] for record in found.history_]
    assert max(scores) == max(scores[: len(scores) - 3])
    first = NewtonClassifier(8, warm_start=True, max_iter=3, random_state=0).fit(X, y)
    curve = first.loss_curve_
    again = first.fit(X, y)
    assert again.loss_curve_[0] == pytest.approx(curve[-1], rel=1e-12)
    assert again.loss_curve_[-1] < curve[-1]
    with pytest.raises(DataError, match="classes"):
        first.fit(X, y + 1)


@pytest.mark.filterwarnings("error")
def test_max_iter_before_convergence_is_warned_of():
    X, y = blobs()
    with pytest.warns(ConvergenceWarning, match=r"after max_iter = 2 iterations.*tol = 0\.001") as caught:
        NewtonClassifier(4, max_iter=2, random_state=0).fit(X, y)
    assert caught[0].filename == __file__, "the line that calls fit"
    with pytest.warns(ConvergenceWarning):
        NewtonRegressor(4, max_iter=2, random_state=0).fit(X, X[:, 0] ** 2)
    assert NewtonClassifier(4, max_iter=500, random_state=0).fit(X, y).n_iter_ < 500
    # none of these has a criterion that could have been met
    NewtonClassifier(4, max_iter=2, tol=0).fit(X, y)
    NewtonClassifier(4, max_iter=0).fit(X, y)
    NewtonClassifier(4, max_iter=2, direction="sgd", batch_size=16).fit(X, y)
    NewtonClassifier(4).partial_fit(X, y, classes=[0, 1, 2])


def test_partial_fit_goes_on_from_the_fitted_weights():
    X, y = blobs(300)
    names = np.array(["red", "green", "blue"])
    found = NewtonClassifier(6, scale="standard", random_state=0)
    few = y != 2
    found.partial_fit(X[few][:60], names[y[few][:60]], classes=names)
    assert found.classes_.tolist() == sorted(names), "also those that the part lacks"
    assert found.predict_proba(X).shape == (300, 3)
    weights = found.model_.params.copy()
    found.partial_fit(X[y == 0][:9], names[y[y == 0][:9]])
    assert not np.array_equal(found.model_.params, weights)
    for start in range(0, 300, 60):
        found.partial_fit(X[start : start + 60], names[y[start : start + 60]])
    assert (found.n_iter_, len(found.loss_curve_)) == (7, 8)
    assert found.score(X, names[y]) > 0.85
    fitted = NewtonClassifier(6, max_iter=3, random_state=0).fit(X, y)
    before = fitted.loss_curve_
    assert fitted.partial_fit(X, y).loss_curve_[:-1] == before
    assert fitted.loss_curve_[-1] < before[-1]
    regressor = NewtonRegressor(6, random_state=0)
    for _ in range(12):
        regressor.partial_fit(X, 1e4 * X[:, 0])
    assert regressor.score(X, 1e4 * X[:, 0]) > 0.9


def test_what_partial_fit_refuses():
    X, y = blobs()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        NewtonClassifier(4).partial_fit(X, y)
    with pytest.raises(ValueError, match=r"labels that are not in classes: \[2\]"):
        NewtonClassifier(4).partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="at least 2 classes"):
        NewtonClassifier(4).partial_fit(X[y == 1], y[y == 1], classes=[1])
    with pytest.raises(ValueError, match="early_stopping"):
        NewtonRegressor(4, early_stopping=True).partial_fit(X, X[:, 0])
    with pytest.raises(ValueError, match="class_weight"):
        NewtonClassifier(4, class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="features"):
        NewtonClassifier(4).partial_fit(X, y, classes=[0, 1, 2]).partial_fit(X[:, 1:], y)


def test_pipelines_and_searches():
    X, y = blobs()
    pipeline = make_pipeline(StandardScaler(), NewtonClassifier(max_iter=10, random_state=0))
    grid = {"newtonclassifier__hidden_layer_sizes": [(4,), (3, 3)], "newtonclassifier__C": [0.1, 10.0]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(1e3 * X + 5, y)
    assert search.best_score_ > 0.9
    assert search.best_estimator_[-1].n_features_in_ == 6


SEARCH = """
import sys, multiprocessing
import numpy as np
from sklearn.model_selection import GridSearchCV
from distnewton.sklearn import NewtonClassifier

def score(estimator, X, y):
    worker = multiprocessing.current_process().name != "MainProcess"
    assert worker and "mpi4py.MPI" not in sys.modules, sorted(sys.modules)
    return estimator.score(X, y)

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=60)
    X = 2.0 * y[:, None] + rng.standard_normal((60, 3))
    search = GridSearchCV(NewtonClassifier(3, max_iter=4, random_state=0), {"C": [0.1, 1.0]}, cv=2, n_jobs=2,
                          scoring=score, error_score="raise")
    search.fit(X, y)
    print("found", search.best_params_, "mpi4py.MPI" in sys.modules, flush=True)
"""


@pytest.mark.parametrize(
    "n_ranks", [pytest.param(0, marks=launches), pytest.param(2, marks=[*launches, pytest.mark.slow])]
)
def test_workers_of_a_search_are_no_ranks(tmp_path, n_ranks):
    script = tmp_path / "search.py"
    script.write_text(SEARCH)
    launcher = mpirun(n_ranks) if n_ranks else []
    done = run([*launcher, sys.executable, script], limit=100)
    assert done.returncode == 0, done.stderr
    # the best model is fitted again on all data, over the ranks; lines of two ranks may be mixed
    assert done.stdout.count("True" if n_ranks else "False") == max(1, n_ranks), done.stdout


@pytest.mark.mpi(min_size=1)
def test_over_ranks_all_have_the_model_of_one_process(world):
    X, y = blobs()
    labels = np.array(["red", "green", "blue"])[y]
    weights = np.random.default_rng(5).random(len(y))
    for options in ({"scale": "standard"}, {"direction": "dual"}):
        common = {"hidden_layer_sizes": (6, 4), "max_iter": 5, "random_state": 0, "settings": ALONE, **options}
        spread = NewtonClassifier(**common, comm=world.mpi).fit(X, labels, weights)
        alone = NewtonClassifier(**common, comm=None).fit(X, labels, weights)
        good = np.allclose(spread.predict_proba(X), alone.predict_proba(X), rtol=1e-6, atol=1e-9)
        good &= np.array_equal(spread.predict(X), alone.predict(X))
        assert not world.any(not good)
    parts = [NewtonClassifier(4, random_state=0, settings=ALONE, comm=comm) for comm in (world.mpi, None)]
    for part in parts:
        for rows in (y != 2, y != 0, y >= 0):
            part.partial_fit(X[rows], labels[rows], classes=["red", "green", "blue"])
    good = np.allclose(parts[0].predict_proba(X), parts[1].predict_proba(X), rtol=1e-6, atol=1e-9)
    assert not world.any(not good)
    # no other rank is needed any more
    if world.rank == world.size - 1:
        assert spread.score(X, labels) > 0.85
    Y = X[:, :2] ** 2
    regressor = NewtonRegressor((5,), max_iter=8, random_state=0, settings=ALONE, comm=world.mpi).fit(X, Y)
    alone = NewtonRegressor((5,), max_iter=8, random_state=0, settings=ALONE, comm=None).fit(X, Y)
    assert not world.any(not np.allclose(regressor.predict(X), alone.predict(X), rtol=1e-6))


@pytest.mark.mpi(min_size=2)
def test_a_search_over_ranks_and_the_seed_of_rank_0(world):
    X, y = blobs()
    # by itself it takes all ranks of the launch; clones do, too
    search = GridSearchCV(NewtonClassifier(4, max_iter=3, random_state=0), {"C": [0.1, 10.0]}, cv=2).fit(X, y)
    best = world.allgather_json([search.best_params_, search.cv_results_["mean_test_score"].tolist()])
    assert not world.any(best.count(best[0]) < world.size)
    network = search.best_estimator_.model_.network
    assert not world.any(network.grid.size != 1)
    # without a seed, and with one that differs: rank 0's
    for state in (None, np.random.RandomState(world.rank)):
        found = NewtonClassifier(4, max_iter=2, random_state=state).fit(X, y)
        views = world.allgather_json(found.loss_curve_)
        assert not world.any(views.count(views[0]) < world.size)


@pytest.mark.mpi(min_size=2)
def test_other_data_on_a_rank_are_refused_by_all(world):
    X, y = blobs()
    wrong = world.rank == world.size - 1
    changed = X.copy()
    changed[7, 2] += 1e-9
    for given in (
        (changed if wrong else X, y), (X, np.roll(y, int(wrong))), (X, y, np.arange(len(y)) + wrong),
        (csr_array(changed if wrong else X), y),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"rank {world.size - 1} has other data than rank 0"):
            NewtonClassifier(comm=world.mpi).fit(*given)


def test_the_extra_is_named_where_scikit_learn_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "distnewton.sklearn")
    with pytest.raises(MissingExtraError, match=r"pip install 'distnewton\[sklearn\]'"):
        importlib.import_module("distnewton.sklearn")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"solver": "adam"}, r"NewtonRegressor has no parameter solver: direction names the method\. Its .*: C, act"),
        ({"alpha": 1.0}, "no parameter alpha: C, the inverse of alpha, sets"),
        ({"learning_rate_init": 0.1}, "no parameter learning_rate_init: Newton methods have no learning rate"),
        ({"C": 1.0, "cg_max": 50}, "no parameter cg_max: other settings are keys of settings"),
    ],
)
def test_unknown_parameters_are_told_where_they_are(parameters, message):
    with pytest.raises(TypeError, match=message):
        NewtonRegressor((30,), **parameters)


@pytest.mark.parametrize(("parameters", "message"), [
    ({"hidden_layer_sizes": (4.5,)}, "hidden_layer_sizes must be an instance of int"),
    ({"hidden_layer_sizes": 4.5}, "hidden_layer_sizes must be an instance of int"),
    ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes == 0, must be >= 1"),
    ({"max_iter": 2.5}, "max_iter must be an instance of int"), ({"C": "1"}, "C must be an instance of float"),
    ({"C": True}, "C must be a number, not True"),
    ({"C": 0}, "C == 0, must be > 0"), ({"n_iter_no_change": 1.5}, "n_iter_no_change must be an instance of int"),
])  # fmt: skip
def test_parameters_are_checked_rather_than_truncated(parameters, message):
    with pytest.raises((TypeError, ValueError), match=message):
        NewtonRegressor(**parameters).fit(np.eye(4), np.arange(4.0))


TIMES = np.datetime64("2026-01-01") + np.arange(4) % 2


@pytest.mark.parametrize(("y", "message"), [
    (TIMES, "labels are times"), (TIMES.astype(object), r"y\[0\]: label is a date"),
    (np.ma.masked_equal([0, 1, 0, 1], 1), r"y\[1\]: label is missing"),
    (np.array(["a", None, "b", "a"], object), r"y\[1\]: label is missing"),
])  # fmt: skip
def test_labels_that_are_none_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        NewtonClassifier(()).fit(np.eye(4), y)
    with pytest.raises(ValueError, match=message):
        NewtonClassifier(()).partial_fit(np.eye(4), y, classes=[0, 1])


def test_labels_of_pandas_that_are_missing_are_refused():
    pandas = pytest.importorskip("pandas")
    for y in (pandas.array(["a", None, "b", "a"], "string"), pandas.array([0, None, 1, 1], "Int64")):
        with pytest.raises(ValueError, match=r"y\[1\]: label is missing|contains NaN"):
            NewtonClassifier(()).fit(np.eye(4), y)


def test_features_behind_a_mask_are_refused():
    X = np.ma.masked_equal(np.eye(4), 0.0)
    y = [0, 1, 0, 1]
    with pytest.raises(ValueError, match="X hides values behind a mask"):
        NewtonClassifier(()).fit(X, y)
    with pytest.raises(ValueError, match="X hides values behind a mask"):
        NewtonClassifier((), max_iter=1).fit(np.eye(4), y).predict(X)
    with pytest.raises(DataError, match="X hides values behind a mask"):
        ArraySource(X, y)


def test_a_communicator_is_cloned_as_it_is_and_left_out_of_pickles():
    import pickle

    from sklearn.base import clone

    class Ranks:
        def __deepcopy__(self, memo):
            raise TypeError("a communicator cannot be copied")

        __reduce__ = __deepcopy__

    ranks = Ranks()
    model = NewtonClassifier((3,), C=2.0, comm=ranks)
    cloned = clone(model)
    assert cloned.comm is ranks
    assert model.comm is ranks
    assert (cloned.hidden_layer_sizes, cloned.C) == ((3,), 2.0)
    assert pickle.loads(pickle.dumps(model)).comm == "auto"
    assert pickle.loads(pickle.dumps(NewtonClassifier(comm=None))).comm is None


@pytest.mark.parametrize("kind", ["pandas", "pyarrow", "polars"])
def test_tables_with_texts_and_missing_values(kind, tmp_path):
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    island, size = rng.choice(["Dream", "Biscoe", "Torgersen"], 90), rng.standard_normal(90)
    frame = pandas.DataFrame({"size": np.where(np.arange(90) % 7, size, np.nan), "island": island})
    if kind != "pandas":
        table = pytest.importorskip("pyarrow").Table.from_pandas(frame)
        frame = table if kind == "pyarrow" else pytest.importorskip("polars").from_arrow(table)
    y = (island == "Dream").astype(int)
    classifier = NewtonClassifier((4,), max_iter=8).fit(frame, y)
    assert classifier.feature_names_in_.tolist() == ["size", "island"]
    assert classifier.n_features_in_ == 2
    assert classifier.columns_.encoding.n_features == classifier.model_.names.encoding.n_features == 5
    again = pickle.loads(pickle.dumps(classifier))
    assert classifier.score(frame, y) == again.score(frame, y) == 1.0
    with pytest.raises(ValueError, match="give a table with the same columns"):
        classifier.predict(np.zeros((2, 5)))
    other = pandas.DataFrame({"size": [1.0], "island": ["Atlantis"]})
    with pytest.warns(UserWarning, match="1 values of column island are texts"):
        classifier.predict(other)
    with pytest.raises(ValueError, match="feature names"):
        classifier.predict(other[["island"]])
    regressor = NewtonRegressor((4,), max_iter=8).fit(frame, np.column_stack([y, 2 * y]))
    assert regressor.predict(frame).shape == (90, 2)
    with pytest.raises(DataError, match=r"island: text .*set data.categories"):
        NewtonClassifier(settings={"data": {"categories": "refuse"}}).fit(frame, y)
    part = NewtonClassifier((4,)).partial_fit(frame, y, classes=[0, 1])
    assert part.columns_ == part.partial_fit(frame, y).columns_ == classifier.columns_
    assert classifier.fit(np.column_stack([size, size]), y).columns_ is None
