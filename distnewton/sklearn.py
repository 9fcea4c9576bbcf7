"""Estimators for scikit-learn: one process like any other estimator, or all ranks under mpirun.

Each setting of a training run has a name in ``settings``, a tree as of :func:`distnewton.make_config`. The parameters
are short names of those that one wants to search over:

====================  =================================================================
parameter             setting
====================  =================================================================
hidden_layer_sizes    ``network.layers``, without features and outputs
activation            ``network.activation``
C                     ``method.C``, as a multiple of l: see below
direction             ``method.direction``
subsample             ``method.subsample``
batch_size            ``method.batch``
max_iter              ``run.iterations``
tol                   ``run.tolerance``
early_stopping        ``data.validation_fraction`` and ``run.patience``, which are
                      then ``validation_fraction`` and ``n_iter_no_change``
scale                 ``data.scale``
dtype                 ``run.dtype``
random_state          ``run.seed``
====================  =================================================================

C counts as in scikit-learn's linear models and in LIBLINEAR: minimised is theta^2 / 2 + C sum_i w_i loss_i.

Under MPI all ranks call ``fit`` with the same data. Each then holds the whole trained network, so that ``predict`` and
all else are no collective calls: one rank may make them alone.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from copy import copy
from dataclasses import KW_ONLY, dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.config import Config, make_config
from distnewton.data.columns import ColumnNames, Wanted, names_from_frame
from distnewton.data.formats.tables import encode_frame, is_frame
from distnewton.data.in_memory import ArraySource
from distnewton.data.labels import labels_of
from distnewton.directions.options import FullBatchOptions
from distnewton.errors import ConfigError, DataError, MissingExtraError
from distnewton.launch.membership import communicator_of_launch, is_rank, is_worker
from distnewton.launch.startup import guard
from distnewton.method.divergence import DIVERGED
from distnewton.models.loading import whole_model
from distnewton.network.losses import probabilities
from distnewton.parallel.collectives import Communicator
from distnewton.runs.session import Observer, Result, train

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state, check_scalar, check_X_y, compute_sample_weight
    from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets, type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError:
    raise MissingExtraError("distnewton.sklearn", "sklearn") from None

__all__ = ["NewtonClassifier", "NewtonRegressor"]

# workers that joblib starts from here on know that they are no ranks
is_rank()


# scikit-learn reads the parameters off the constructor, which dataclass writes: each is said once
@dataclass(eq=False, repr=False)
class _NewtonEstimator(BaseEstimator):
    """What both estimators have in common: an attribute for each parameter, as scikit-learn asks of constructors."""

    hidden_layer_sizes: Any = (100,)
    activation: str = "tanh"
    _: KW_ONLY
    C: float = 1.0
    direction: str = "gauss_newton"
    max_iter: int = 100
    tol: float = 1e-3
    subsample: float | None = None
    batch_size: int | None = None
    scale: str = "none"
    dtype: str = "float64"
    random_state: Any = None
    warm_start: bool = False
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    verbose: bool = False
    settings: Mapping[str, Any] | None = None
    comm: Any = "auto"

    _several = False  # whether a sample has any number of labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __sklearn_clone__(self) -> Any:
        """A copy that is not fitted, on the same ranks: a communicator itself cannot be copied."""
        plain = copy(self)
        plain.comm = None
        cloned = super(_NewtonEstimator, plain).__sklearn_clone__()
        cloned.comm = self.comm
        return cloned

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: ``comm`` becomes ``auto``, since no other process has this one's communicator."""
        state: dict[str, Any] = {**super().__getstate__()}
        return state if self.comm is None else {**state, "comm": "auto"}

    def _train(
        self, X: Any, y: Array, sample_weight: Array | None, loss: str, label: Any, *,
        classes: Array | None = None, partial: bool = False,
    ) -> None:  # fmt: skip
        """Train on checked data, one iteration from the last model on where it is a part; sets what is known after."""
        comm = self._communicator()
        limits = self._config(loss, 0, partial=partial).run
        guard(comm, limits.hang_seconds, limits.warn_seconds, checked="messages" in limits.checks)
        _check_same_data(comm, X, y, sample_weight)
        seed = comm.broadcast_json(int(check_random_state(self.random_state).randint(2**31 - 1)))
        config = self._config(loss, seed, partial=partial)
        names = self.columns_ or names_from_frame(getattr(self, "feature_names_in_", ()), label)
        name = f"the data of {type(self).__name__}"
        source = ArraySource(X, y, sample_weight=sample_weight, name=name, columns=names, classes=classes)
        start = getattr(self, "model_", None) if self.warm_start or partial else None
        result = train(config, comm, train_data=source, start=start, observers=self._observers(comm))
        self.model_ = whole_model(result.model)
        result.model.grid.free()
        self.history_ = result.history
        curve = [record.objective for record in result.history]
        goes_on = partial and start is not None
        known: Mapping[str, Any] = vars(self) if goes_on else {"loss_curve_": curve[:1], "n_iter_": 0}
        self.loss_curve_: list[float] = [*known["loss_curve_"], *curve[1:]]
        self.n_iter_: int = known["n_iter_"] + result.last.iteration
        if comm.rank == 0:
            self._warn_of_end(result, config, partial)

    def _communicator(self) -> Communicator:
        """The ranks that train."""
        mpi = communicator_of_launch() if isinstance(self.comm, str) and self.comm == "auto" else self.comm
        return mpi if isinstance(mpi, Communicator) else Communicator(mpi)

    def _warn_of_end(self, result: Result, config: Config, partial: bool) -> None:
        """Warn of training that diverged, or ended before it converged."""
        run = config.run
        could_converge = bool(run.tolerance or self.early_stopping) and run.n_iterations > 0
        if result.ended.startswith(DIVERGED):
            warnings.warn(result.ended, ConvergenceWarning, stacklevel=4)
        if could_converge and not (partial or result.stopped or result.ended):
            warnings.warn(
                f"training ended after max_iter = {run.n_iterations} iterations, before it converged "
                f"(tol = {self.tol:g}): raise max_iter, scale the features, or raise tol",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _config(self, loss: str, seed: int, *, partial: bool = False) -> Config:
        """The parameters as a configuration; of one iteration for a part of the data."""
        hidden = self._checked_sizes(partial)
        C = float("inf") if np.isinf(self.C) else f"{float(self.C)!r} l"
        method: dict[str, Any] = {"direction": self.direction, "C": C}
        given = {"subsample": self.subsample, "batch": self.batch_size}
        method |= {name: value for name, value in given.items() if value is not None}
        tree: dict[str, dict[str, Any]] = {
            "data": {"scale": self.scale},
            "network": {"layers": ["auto", *hidden, "auto"], "activation": self.activation, "loss": loss},
            "method": method,
            "run": {"iterations": 1 if partial else int(self.max_iter), "dtype": self.dtype, "seed": seed},
        }
        if self._several:
            tree["data"]["task"] = "multilabel"
        if self.early_stopping:
            tree["data"]["validation_fraction"] = float(self.validation_fraction)
            tree["run"]["patience"] = int(self.n_iter_no_change)
        if is_worker():
            tree["run"]["threads"] = _blas_threads()
        self._add_settings(tree)
        config = make_config(tree)
        if config.method.has(FullBatchOptions) and not config.method.schedule:
            tree["run"].setdefault("tolerance", float(self.tol))
            config = make_config(tree)
        return config

    def _add_settings(self, tree: dict[str, dict[str, Any]]) -> None:
        """Put ``settings`` into a tree."""
        for section, table in (self.settings or {}).items():
            if not isinstance(table, Mapping):
                raise ConfigError(f'settings: {section} must be a table, as {{"method": {{"cg_max": 50}}}}')
            tree[section] = tree.get(section, {}) | dict(table)

    def _checked_sizes(self, partial: bool) -> list[int]:
        """Widths of the hidden layers; checks the numbers among the parameters, and what a part of the data allows."""
        if partial and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True: it sees one part of the data at a time")
        sizes = [self.hidden_layer_sizes] if isinstance(self.hidden_layer_sizes, Real) else self.hidden_layer_sizes
        hidden = [int(check_scalar(size, "hidden_layer_sizes", Integral, min_val=1)) for size in sizes]
        for name in ("max_iter", "n_iter_no_change", "C", "tol"):
            if isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name} must be a number, not {getattr(self, name)}")
        check_scalar(self.max_iter, "max_iter", Integral, min_val=0)
        check_scalar(self.n_iter_no_change, "n_iter_no_change", Integral, min_val=1)
        check_scalar(self.C, "C", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.tol, "tol", Real, min_val=0)
        return hidden

    def _observers(self, comm: Communicator) -> list[Observer]:
        """Who follows the run: the terminal, if asked for."""
        if not self.verbose or comm.rank:
            return []
        from distnewton.reporting.progress import Progress
        from distnewton.reporting.terminal import make_console

        return [Progress(make_console(80))]

    def _checked_weights(self, X: Any, sample_weight: Any) -> Array | None:
        """Weights of the samples as an array, if there are some."""
        if sample_weight is None:
            return None
        weights: Array = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return weights

    def _training_data(self, X: Any, y: Any, *, reset: bool = True, **checks: Any) -> tuple[Any, Array]:
        """Checked features and labels; of a table with texts or missing values the numbers that these become."""
        _refuse_hidden(X)
        _refuse_labels(y)
        if reset:
            data = (self.settings or {}).get("data", {})
            rules = {rule: data[rule] for rule in ("missing", "categories") if rule in data}
            found = encode_frame(X, getattr(y, "name", None), Wanted(**rules), "X") if is_frame(X) else None
            self.columns_: ColumnNames | None = None if found is None else found[1]
            numbers = None if found is None else found[0]
        else:
            numbers = self._encoded(X)
        checks |= {"accept_sparse": "csr", "dtype": [np.float64, np.float32]}
        if numbers is None:
            checked: tuple[Any, Array] = validate_data(self, X, y, reset=reset, **checks)
        else:
            validate_data(self, X, skip_check_array=True, reset=reset)
            checked = check_X_y(numbers, y, estimator=self, **checks)
        return checked

    def _encoded(self, X: Any) -> Array | None:
        """Numbers of a table, encoded as that of training; None where training had only numbers."""
        if self.columns_ is None:
            return None
        if not is_frame(X):
            raise ValueError("fit saw a table with texts or missing values: give a table with the same columns")
        validate_data(self, X, skip_check_array=True, reset=False)
        found = encode_frame(X, wanted=Wanted(names=self.columns_), name="X")
        assert found is not None  # noqa: S101  (columns that are known are always encoded)
        for note in found[2]:
            warnings.warn(note, stacklevel=4)
        return found[0]

    def _outputs(self, X: Any) -> Array:
        """Outputs of the network, of shape (n_samples, n_out)."""
        check_is_fitted(self)
        _refuse_hidden(X)
        numbers = self._encoded(X)
        if numbers is None:
            numbers = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        outputs, _, _ = self.model_.outputs(ArraySource(numbers, np.zeros(numbers.shape[0]), name="X"))
        return outputs.astype(np.float64, copy=False)


@dataclass(eq=False, repr=False)
class NewtonClassifier(ClassifierMixin, _NewtonEstimator):
    r"""A neural network for classes, trained by a Gauss-Newton method.

    .. math:: \min_\theta \tfrac12 \theta^T\theta + C \sum_i w_i\, \xi(z(x_i); y_i)

    with the cross-entropy, which for two classes is the logistic loss of one output.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        Neurons of the hidden layers; ``()`` for a linear model.
    activation : str
        Activation of the hidden layers, a value of ``network.activation``: ``tanh``, ``relu``, ...
    C : float
        Inverse of the regularisation, as in scikit-learn's linear models; ``inf`` for none.
    direction : str
        Method of the direction. The default gives the same model on any number of ranks; ``block_diagonal``, made for
        many ranks, needs no communication.
    max_iter : int
        At most so many iterations; those of ``kfac``, ``adam`` and other methods of mini-batches are passes over the
        samples.
    tol : float
        Training ends when the norm of the gradient is at most this share of the first one; methods of mini-batches do
        not know it.
    subsample : float or None
        Share of the samples whose curvature counts, by default 0.05 and at least 512.
    batch_size : int or None
        Samples of a mini-batch, for directions that take some.
    scale : str
        Scaling of the features that becomes part of the model: ``none`` (say in a pipeline behind a scaler),
        ``standard``, ``minmax`` and others.
    class_weight : dict, "balanced" or None
        How much classes count, on top of ``sample_weight``.
    dtype : {"float64", "float32"}
        Of the computation.
    random_state : int, RandomState or None
        Of initial weights and subsamples. Under MPI rank 0's counts.
    warm_start : bool
        Whether fit starts from the weights and the scaling of the last fit; the classes must be the same.
    early_stopping : bool
        Whether to put samples aside, and to keep the model that does best on them.
    validation_fraction : float
        Share of the samples put aside.
    n_iter_no_change : int
        Iterations without a better model after which training ends.
    verbose : bool
        Whether fit shows a line an iteration.
    settings : mapping or None
        Further settings, as ``{"method": {"cg_max": 50}, "run": {"seconds": 60.0}}``. They win over parameters.
    comm : "auto", None or mpi4py.MPI.Intracomm
        The ranks that train: those of the launch, this process alone, or those given.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Where X had names of columns.
    columns_ : ColumnNames or None
        How the columns of a table (pandas, polars, pyarrow) with texts or missing values became numbers; else None.
    n_iter_ : int
        Iterations done.
    history_ : History
        Record of each iteration, the start included.
    loss_curve_ : list of float
        Objective, over the sum of the weights, at the start and after each iteration.
    model_ : Model
        The network on this process; ``model_.save(file)`` writes what the command line and torch read.
    """

    class_weight: Any = field(default=None, kw_only=True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NewtonClassifier:
        """Train the network.

        Parameters
        ----------
        X : array-like, table or sparse matrix of shape (n_samples, n_features)
            Features. Of a table (pandas, polars, pyarrow) missing values and texts become numbers as of a file, which
            ``settings`` may change: ``{"data": {"missing": "mean", "categories": "refuse"}}``.
        y : array-like of shape (n_samples,), or array-like or sparse matrix of shape (n_samples, n_labels)
            Labels: numbers, texts or any others; or 0 and 1 for each label, of which a sample may have any number. The
            loss is then logistic, of each label, and ``classes_`` numbers the columns.
        sample_weight : array-like of shape (n_samples,) or None
            How much each sample counts; one of weight 0 is as good as absent.

        Returns
        -------
        NewtonClassifier
            Itself.

        Notes
        -----
        Collective over the ranks, which all pass the same data.
        """
        label = getattr(y, "name", None)
        y = y.toarray() if hasattr(y, "toarray") else y
        shape = np.asarray(y).shape
        self._several = len(shape) == 2 and shape[1] > 1
        X, y = self._training_data(X, y, multi_output=self._several)
        check_classification_targets(y)
        weights = self._checked_weights(X, sample_weight)
        if self._several:
            return self._fit_labels(X, y, weights)
        if self.class_weight is not None:
            by_class = compute_sample_weight(self.class_weight, y)
            weights = by_class if weights is None else weights * by_class
        X, y, weights = _present(X, y, weights)
        self.classes_, indices = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs at least 2 classes, got 1 class: {self.classes_[0]!r}")
        self._train(X, _names(self.classes_)[indices], weights, self._loss(), label)
        return self

    def _fit_labels(self, X: Any, y: Array, weights: Array | None) -> NewtonClassifier:
        """Train on a column of 0 and 1 for each label."""
        if type_of_target(y) != "multilabel-indicator":
            raise ValueError("Unknown label type: of several columns, y holds 0 and 1: whether a sample has a label")
        if self.class_weight is not None:
            raise ValueError("class_weight is for one label a sample; give sample_weight")
        X, y, weights = _present(X, y, weights)
        self.classes_ = np.arange(y.shape[1])
        self._train(X, y.astype(np.float64), weights, self._loss(), None)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> NewtonClassifier:
        """Train one iteration on a part of the data, from the weights of the last call, or of fit, on.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,)
            Labels; some classes may be missing.
        classes : array-like of shape (n_classes,) or None
            All classes, needed in the first call.
        sample_weight : array-like of shape (n_samples,) or None
            How much each sample counts.

        Returns
        -------
        NewtonClassifier
            Itself.

        Notes
        -----
        Collective over the ranks, which all pass the same data. The scaling of the features is that of the first part;
        C weighs the samples of this part alone against the regularisation. ``tol`` and ``max_iter`` do not count, and
        directions that remember earlier steps begin anew with each call.
        """
        label = getattr(y, "name", None)
        is_first, self._several = _check_partial_fit_first_call(self, classes), False
        X, y = self._training_data(X, y, reset=is_first)
        check_classification_targets(y)
        if isinstance(self.class_weight, str):
            raise ValueError("class_weight = 'balanced' is not known to partial_fit: give weights of the classes")
        if unknown := sorted(set(y.tolist()) - set(self.classes_.tolist())):
            raise ValueError(f"y has labels that classes does not have: {unknown[:10]}")
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs at least 2 classes, got 1 class: {self.classes_[0]!r}")
        weights = self._checked_weights(X, sample_weight)
        if self.class_weight is not None:
            by_class = compute_sample_weight(self.class_weight, y)
            weights = by_class if weights is None else weights * by_class
        X, y, weights = _present(X, y, weights)
        names = _names(self.classes_)
        labels = names[np.searchsorted(self.classes_, y)]
        self._train(X, labels, weights, self._loss(), label, classes=names, partial=True)
        return self

    def decision_function(self, X: Any) -> Array:
        """Outputs of the network: logits of the classes, or of two classes those of the second over the first.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
        """
        outputs = self._outputs(X)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        # outputs first: they refuse an estimator that is not fitted
        outputs = self._outputs(X)
        link = "softmax" if len(self.classes_) > 2 else "logistic"
        return probabilities(link, outputs, each=self._several)

    def predict(self, X: Any) -> Array:
        """The most likely class of each sample, or its labels.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,), or of 0 and 1 of shape (n_samples, n_labels)
        """
        scores = self.decision_function(X)
        if self._several:
            return (scores > 0).astype(np.intp)
        chosen = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
        labels: Array = self.classes_[chosen]
        return labels

    def _loss(self) -> str:
        return "logistic" if self._several or len(self.classes_) == 2 else "cross_entropy"


@dataclass(eq=False, repr=False)
class NewtonRegressor(RegressorMixin, _NewtonEstimator):
    r"""A neural network for numbers, trained by a Gauss-Newton method.

    .. math:: \min_\theta \tfrac12 \theta^T\theta + C \sum_i w_i \|z(x_i) - y_i\|^2

    Parameters
    ----------
    hidden_layer_sizes, activation, C, direction, max_iter, tol, subsample, batch_size, scale, dtype
        As of :class:`NewtonClassifier`.
    random_state, warm_start, early_stopping, validation_fraction, n_iter_no_change, verbose, settings, comm
        As of :class:`NewtonClassifier`.

    Attributes
    ----------
    n_features_in_, feature_names_in_, columns_, n_iter_, history_, loss_curve_, model_
        As of :class:`NewtonClassifier`.

    Notes
    -----
    y_i is scaled to mean 0 and deviation 1 by the targets of training, so that C and ``loss_curve_`` mean the same in
    all units; predictions are in the units of y.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NewtonRegressor:
        """Train the network.

        Parameters
        ----------
        X : array-like, table or sparse matrix of shape (n_samples, n_features)
            Features. Of a table (pandas, polars, pyarrow) missing values and texts become numbers as of a file, which
            ``settings`` may change: ``{"data": {"missing": "mean", "categories": "refuse"}}``.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Numbers.
        sample_weight : array-like of shape (n_samples,) or None
            How much each sample counts; one of weight 0 is as good as absent.

        Returns
        -------
        NewtonRegressor
            Itself.

        Notes
        -----
        Collective over the ranks, which all pass the same data.
        """
        label = getattr(y, "name", None)
        X, y = self._training_data(X, y, multi_output=True, y_numeric=True)
        X, y, weights = _present(X, y, self._checked_weights(X, sample_weight))
        self._train(X, y, weights, "squared", label)
        self._one_column = y.ndim == 1
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> NewtonRegressor:
        """Train one iteration on a part of the data, from the weights of the last call, or of fit, on.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Numbers.
        sample_weight : array-like of shape (n_samples,) or None
            How much each sample counts.

        Returns
        -------
        NewtonRegressor
            Itself.

        Notes
        -----
        As of :meth:`NewtonClassifier.partial_fit`; the scaling of y is that of the first part, too.
        """
        label = getattr(y, "name", None)
        reset = not hasattr(self, "model_")
        X, y = self._training_data(X, y, reset=reset, multi_output=True, y_numeric=True)
        X, y, weights = _present(X, y, self._checked_weights(X, sample_weight))
        self._train(X, y, weights, "squared", label, partial=True)
        self._one_column = y.ndim == 1
        return self

    def predict(self, X: Any) -> Array:
        """Numbers for each sample.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets), as y was
        """
        outputs = self._outputs(X)
        return outputs[:, 0] if self._one_column else outputs


def _refuse_labels(y: Any) -> None:
    """Refuse times and what a mask hides, which scikit-learn takes for classes."""
    if np.ma.isMaskedArray(y) or getattr(getattr(y, "dtype", None), "kind", None) in tuple("OMmV"):
        try:
            labels_of(y, lambda i: f"y[{i}]")
        except DataError as error:
            raise ValueError(str(error)) from None


def _refuse_hidden(X: Any) -> None:
    """Refuse features that a mask hides, which scikit-learn takes as they are."""
    if np.ma.is_masked(X):
        raise ValueError("X hides values behind a mask; fill them in: X.filled(0.0)")


def _present(X: Any, y: Array, weights: Array | None) -> tuple[Any, Array, Array | None]:
    """The samples whose weight is not 0: others count neither for the scaling nor among the classes."""
    if weights is None or weights.all():
        return X, y, weights
    rows = np.flatnonzero(weights)
    if not rows.size:
        raise ValueError("the weights of all samples are 0: nothing is left to train on")
    return X[rows], y[rows], weights[rows]


def _names(classes: Array) -> Array:
    """Labels as a model file can hold them, in the order of the classes; their numbers where it cannot."""
    if classes.dtype.kind == "U" or (
        classes.dtype.kind in "iuf" and len(np.unique(classes.astype(np.float64))) == len(classes)
    ):
        return classes
    if all(isinstance(label, str) for label in classes.tolist()):
        return classes.astype(np.str_)
    return np.arange(len(classes))


def _check_same_data(comm: Communicator, X: Any, y: Array, weights: Array | None) -> None:
    """Refuse data that differ between the ranks, say by a random split of each (collective)."""
    if comm.size == 1:
        return
    arrays = [*([X.data, X.indices, X.indptr] if hasattr(X, "indptr") else [X]), weights]
    digest = [zlib.crc32(np.ascontiguousarray(A).data) for A in arrays if A is not None]
    digest.append(zlib.crc32("\n".join(map(str, y.ravel().tolist())).encode()))
    views = comm.allgather_json([*X.shape, *digest])
    if others := [rank for rank, view in enumerate(views) if view != views[0]]:
        raise ConfigError(
            f"rank {others[0]} has other data than rank 0: under MPI all ranks pass the same X, y and sample_weight to "
            "fit; splits and shuffles need the same random_state on all ranks",
            collective=True,
        )


def _blas_threads() -> int:
    """BLAS threads that joblib leaves to this worker."""
    from threadpoolctl import threadpool_info

    return min((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
