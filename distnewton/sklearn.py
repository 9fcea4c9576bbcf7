"""Estimators for scikit-learn, which train on one process like any other estimator, or on all ranks under mpirun.

``settings`` takes any setting of a training run, as a tree for :func:`distnewton.make_config`. The parameters are short
names of the settings that one wants to search over:

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

C scales the loss as in scikit-learn's linear models and in LIBLINEAR: theta^2 / 2 + C sum_i w_i loss_i is minimised.

Under MPI all ranks call ``fit`` with the same data. Afterwards each rank holds the whole trained network, so
``predict`` and all other methods are not collective: a single rank may call them.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from copy import copy
from dataclasses import KW_ONLY, dataclass, field
from numbers import Integral, Real
from typing import Any, Self

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
from distnewton.launch.threads import blas_libraries
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

_COUNTERPARTS = {
    "solver": "direction names the method",
    "alpha": "C, the inverse of alpha, sets the regularisation",
    "learning_rate_init": "Newton methods have no learning rate; for direction='kfac', 'sgd' or 'adam' it is "
    "settings={'method': {'learning_rate': 0.01}}",
}
"""Where parameters of scikit-learn's networks are found here, if they have other names."""

# tells the workers that joblib starts from here on that they are not ranks
is_rank()


# dataclass writes the constructor from which scikit-learn reads the parameters, so each is declared once
@dataclass(eq=False, repr=False)
class _NewtonEstimator(BaseEstimator):
    """Common part of both estimators: one attribute for each parameter, as scikit-learn requires of constructors."""

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

    _several = False  # whether a sample may have several labels

    def __new__(cls, *_args: Any, **parameters: Any) -> Self:
        """Say which parameters there are if one is unknown, which users of scikit-learn's networks may expect."""
        known = cls._get_param_names()
        for name in (name for name in parameters if name not in known):
            there = _COUNTERPARTS.get(name, "other settings are keys of settings, as {'method': {'cg_max': 50}}")
            raise TypeError(f"{cls.__name__} has no parameter {name}: {there}. Its parameters: {', '.join(known)}")
        made: Self = super().__new__(cls)
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __sklearn_clone__(self) -> Any:
        """Copy the estimator unfitted, on the same ranks: a communicator itself cannot be copied."""
        plain = copy(self)
        plain.comm = None
        cloned = super(_NewtonEstimator, plain).__sklearn_clone__()
        cloned.comm = self.comm
        return cloned

    def __getstate__(self) -> dict[str, Any]:
        """State to pickle: ``comm`` becomes ``auto``, since another process cannot use this one's communicator."""
        state: dict[str, Any] = {**super().__getstate__()}
        return state if self.comm is None else {**state, "comm": "auto"}

    def _train(
        self, X: Any, y: Array, sample_weight: Array | None, loss: str, label: Any, *,
        classes: Array | None = None, partial: bool = False,
    ) -> None:  # fmt: skip
        """Train on checked data and set the fitted attributes; partial_fit trains one iteration from the last model."""
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
        """Communicator of the ranks that train."""
        mpi = communicator_of_launch() if isinstance(self.comm, str) and self.comm == "auto" else self.comm
        return mpi if isinstance(mpi, Communicator) else Communicator(mpi)

    def _warn_of_end(self, result: Result, config: Config, partial: bool) -> None:
        """Warn if training diverged, or ended before it converged."""
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
        """Configuration from the parameters; a partial fit makes one iteration."""
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
        """Merge ``settings`` into a tree."""
        for section, table in (self.settings or {}).items():
            if not isinstance(table, Mapping):
                raise ConfigError(f'settings: {section} must be a table, as {{"method": {{"cg_max": 50}}}}')
            tree[section] = tree.get(section, {}) | dict(table)

    def _checked_sizes(self, partial: bool) -> list[int]:
        """Widths of the hidden layers; checks the numeric parameters, and those that partial_fit does not support."""
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
        """Observers of the run: the terminal, if `verbose` is set."""
        if not self.verbose or comm.rank:
            return []
        from distnewton.reporting.progress import Progress
        from distnewton.reporting.terminal import make_console

        return [Progress(make_console(80))]

    def _checked_weights(self, X: Any, sample_weight: Any) -> Array | None:
        """Sample weights as an array, if given."""
        if sample_weight is None:
            return None
        weights: Array = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return weights

    def _training_data(self, X: Any, y: Any, *, reset: bool = True, **checks: Any) -> tuple[Any, Array]:
        """Checked features and labels; a table with texts or missing values is encoded as numbers."""
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
        """Encode a table as in training; None if the training data had numbers only."""
        if self.columns_ is None:
            return None
        if not is_frame(X):
            raise ValueError("fit saw a table with texts or missing values: give a table with the same columns")
        validate_data(self, X, skip_check_array=True, reset=False)
        found = encode_frame(X, wanted=Wanted(names=self.columns_), name="X")
        assert found is not None  # noqa: S101  (known columns are always encoded)
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
    r"""A neural-network classifier, trained by a Gauss-Newton method.

    .. math:: \min_\theta \tfrac12 \theta^T\theta + C \sum_i w_i\, \xi(z(x_i); y_i)

    with the cross-entropy loss, which for two classes is the logistic loss of a single output.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        Neurons of the hidden layers; ``()`` for a linear model.
    activation : str
        Activation of the hidden layers, a value of ``network.activation``: ``tanh``, ``relu``, ...
    C : float
        Inverse of the regularisation, as in scikit-learn's linear models; ``inf`` for none.
    direction : str
        Method that computes the direction. The default gives the same model on any number of ranks; ``block_diagonal``,
        meant for many ranks, needs no communication.
    max_iter : int
        Maximum number of iterations; for ``kfac``, ``adam`` and other mini-batch methods, of passes over the samples.
    tol : float
        Training ends when the gradient norm is at most this fraction of the initial one; mini-batch methods ignore it.
    subsample : float or None
        Fraction of the samples used for the curvature, by default 0.05 and at least 512 samples.
    batch_size : int or None
        Samples in a mini-batch, for directions that use mini-batches.
    scale : str
        Scaling of the features, which becomes part of the model: ``none`` (for instance after a scaler in a pipeline),
        ``standard``, ``minmax`` and others.
    class_weight : dict, "balanced" or None
        Weights of the classes, multiplied with ``sample_weight``.
    dtype : {"float64", "float32"}
        Floating-point type of the computation.
    random_state : int, RandomState or None
        Seed of the initial weights and the subsamples. Under MPI rank 0's value is used.
    warm_start : bool
        Whether fit starts from the weights and the scaling of the last fit, which must have had the same classes.
    early_stopping : bool
        Whether to hold out samples, and to keep the model that does best on them.
    validation_fraction : float
        Fraction of the samples held out.
    n_iter_no_change : int
        Training ends after this many iterations without a better model.
    verbose : bool
        Whether fit prints a line for each iteration.
    settings : mapping or None
        Further settings, as ``{"method": {"cg_max": 50}, "run": {"seconds": 60.0}}``. They override the parameters.
    comm : "auto", None or mpi4py.MPI.Intracomm
        Ranks that train: those of the launch, this process alone, or those of a communicator.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Names of the columns, if X had names.
    columns_ : ColumnNames or None
        How a table (pandas, polars, pyarrow) with texts or missing values was encoded; None for other data.
    n_iter_ : int
        Number of iterations made.
    history_ : History
        Record of each iteration, including the start.
    loss_curve_ : list of float
        Objective divided by the sum of the weights, at the start and after each iteration.
    model_ : Model
        The network on this process; ``model_.save(file)`` writes a file that the command line and torch read.
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
            Features. Missing values and texts of a table (pandas, polars, pyarrow) are encoded like those of a file;
            ``settings`` can change how: ``{"data": {"missing": "mean", "categories": "refuse"}}``.
        y : array-like of shape (n_samples,), or array-like or sparse matrix of shape (n_samples, n_labels)
            Labels: numbers, texts or any others. For several labels per sample, a column of 0 and 1 for each label: the
            loss is then logistic for each label, and ``classes_`` numbers the columns.
        sample_weight : array-like of shape (n_samples,) or None
            Weight of each sample; a sample of weight 0 is ignored.

        Returns
        -------
        NewtonClassifier
            The fitted estimator.

        Notes
        -----
        Collective: all ranks must pass the same data.
        """
        label = getattr(y, "name", None)
        y = y.toarray() if hasattr(y, "toarray") else y
        shape = np.asarray(y).shape
        self._several = len(shape) == 2 and shape[1] > 1
        X, y = self._training_data(X, y, multi_output=self._several)
        check_classification_targets(y)
        if self._several:
            return self._fit_labels(X, y, self._checked_weights(X, sample_weight))
        X, y, weights = self._weighted(X, y, sample_weight)
        self.classes_, indices = np.unique(y, return_inverse=True)
        self._check_classes()
        self._train(X, _names(self.classes_)[indices], weights, self._loss(), label)
        return self

    def _weighted(self, X: Any, y: Array, sample_weight: Any) -> tuple[Any, Array, Array | None]:
        """Samples that have a weight, with their weights multiplied by those of their classes."""
        weights = self._checked_weights(X, sample_weight)
        if self.class_weight is not None:
            by_class = compute_sample_weight(self.class_weight, y)
            weights = by_class if weights is None else weights * by_class
        return _present(X, y, weights)

    def _check_classes(self) -> None:
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs at least 2 classes, got 1 class: {self.classes_[0]!r}")

    def _fit_labels(self, X: Any, y: Array, weights: Array | None) -> NewtonClassifier:
        """Train on a column of 0 and 1 for each label."""
        if type_of_target(y) != "multilabel-indicator":
            raise ValueError("Unknown label type: with several columns, y must hold 0 and 1 for each label")
        if self.class_weight is not None:
            raise ValueError("class_weight is for samples with one label; use sample_weight")
        X, y, weights = _present(X, y, weights)
        self.classes_ = np.arange(y.shape[1])
        self._train(X, y.astype(np.float64), weights, self._loss(), None)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> NewtonClassifier:
        """Train for one iteration on a part of the data, starting from the weights of the last call or of fit.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,)
            Labels; some classes may be missing.
        classes : array-like of shape (n_classes,) or None
            All classes; required in the first call.
        sample_weight : array-like of shape (n_samples,) or None
            Weight of each sample.

        Returns
        -------
        NewtonClassifier
            The fitted estimator.

        Notes
        -----
        Collective: all ranks must pass the same data. The features are scaled as for the first part. C weighs only the
        samples of this part against the regularisation. ``tol`` and ``max_iter`` are ignored, and directions that
        remember earlier steps start afresh in each call.
        """
        label = getattr(y, "name", None)
        is_first, self._several = _check_partial_fit_first_call(self, classes), False
        X, y = self._training_data(X, y, reset=is_first)
        check_classification_targets(y)
        if isinstance(self.class_weight, str):
            raise ValueError("partial_fit does not support class_weight='balanced': give the weights of the classes")
        if unknown := sorted(set(y.tolist()) - set(self.classes_.tolist())):
            raise ValueError(f"y has labels that are not in classes: {unknown[:10]}")
        self._check_classes()
        X, y, weights = self._weighted(X, y, sample_weight)
        names = _names(self.classes_)
        labels = names[np.searchsorted(self.classes_, y)]
        self._train(X, labels, weights, self._loss(), label, classes=names, partial=True)
        return self

    def decision_function(self, X: Any) -> Array:
        """Compute the outputs of the network: logits of the classes; for two classes, the log-odds of the second.

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
        """Compute the probabilities of the classes.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        # compute outputs first: this raises NotFittedError for an unfitted estimator
        outputs = self._outputs(X)
        link = "softmax" if len(self.classes_) > 2 else "logistic"
        return probabilities(link, outputs, each=self._several)

    def predict(self, X: Any) -> Array:
        """Predict the most likely class of each sample, or its labels.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,), or of 0 and 1 with shape (n_samples, n_labels)
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
    r"""A neural-network regressor, trained by a Gauss-Newton method.

    .. math:: \min_\theta \tfrac12 \theta^T\theta + C \sum_i w_i \|z(x_i) - y_i\|^2

    Parameters
    ----------
    hidden_layer_sizes, activation, C, direction, max_iter, tol, subsample, batch_size, scale, dtype
        See :class:`NewtonClassifier`.
    random_state, warm_start, early_stopping, validation_fraction, n_iter_no_change, verbose, settings, comm
        See :class:`NewtonClassifier`.

    Attributes
    ----------
    n_features_in_, feature_names_in_, columns_, n_iter_, history_, loss_curve_, model_
        See :class:`NewtonClassifier`.

    Notes
    -----
    The training targets are scaled to mean 0 and standard deviation 1, so C and ``loss_curve_`` do not depend on the
    units of y. Predictions are in the units of y.
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
            Features. Missing values and texts of a table (pandas, polars, pyarrow) are encoded like those of a file;
            ``settings`` can change how: ``{"data": {"missing": "mean", "categories": "refuse"}}``.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,) or None
            Weight of each sample; a sample of weight 0 is ignored.

        Returns
        -------
        NewtonRegressor
            The fitted estimator.

        Notes
        -----
        Collective: all ranks must pass the same data.
        """
        return self._fit(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> NewtonRegressor:
        """Train for one iteration on a part of the data, starting from the weights of the last call or of fit.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,) or None
            Weight of each sample.

        Returns
        -------
        NewtonRegressor
            The fitted estimator.

        Notes
        -----
        See :meth:`NewtonClassifier.partial_fit`; y, too, is scaled as for the first part.
        """
        return self._fit(X, y, sample_weight, reset=not hasattr(self, "model_"), partial=True)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool = True, partial: bool = False
    ) -> NewtonRegressor:
        label = getattr(y, "name", None)
        X, y = self._training_data(X, y, reset=reset, multi_output=True, y_numeric=True)
        X, y, weights = _present(X, y, self._checked_weights(X, sample_weight))
        self._train(X, y, weights, "squared", label, partial=partial)
        self._one_column = y.ndim == 1
        return self

    def predict(self, X: Any) -> Array:
        """Predict the targets of each sample.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets), as y in fit
        """
        outputs = self._outputs(X)
        return outputs[:, 0] if self._one_column else outputs


def _refuse_labels(y: Any) -> None:
    """Refuse dates and masked values, which scikit-learn would accept as classes."""
    if np.ma.isMaskedArray(y) or getattr(getattr(y, "dtype", None), "kind", None) in tuple("OMmV"):
        try:
            labels_of(y, lambda i: f"y[{i}]")
        except DataError as error:
            raise ValueError(str(error)) from None


def _refuse_hidden(X: Any) -> None:
    """Refuse masked features, which scikit-learn would use without their mask."""
    if np.ma.is_masked(X):
        raise ValueError("X hides values behind a mask; fill them in: X.filled(0.0)")


def _present(X: Any, y: Array, weights: Array | None) -> tuple[Any, Array, Array | None]:
    """Drop samples of weight 0, so that they affect neither the scaling nor the classes."""
    if weights is None or weights.all():
        return X, y, weights
    rows = np.flatnonzero(weights)
    if not rows.size:
        raise ValueError("the weights of all samples are 0: nothing is left to train on")
    return X[rows], y[rows], weights[rows]


def _names(classes: Array) -> Array:
    """Labels in a form that a model file can hold, in the order of the classes; else the classes' numbers."""
    if classes.dtype.kind == "U" or (
        classes.dtype.kind in "iuf" and len(np.unique(classes.astype(np.float64))) == len(classes)
    ):
        return classes
    if all(isinstance(label, str) for label in classes.tolist()):
        return classes.astype(np.str_)
    return np.arange(len(classes))


def _check_same_data(comm: Communicator, X: Any, y: Array, weights: Array | None) -> None:
    """Refuse data that differ between ranks, for instance after separate random splits (collective)."""
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
    return min((library["num_threads"] for library in blas_libraries()), default=1)
