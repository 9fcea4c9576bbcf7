"""Replace ``auto`` by a method, and settings that go with it, chosen by the size and the kind of the data.

The rules come from measurements on 24 data sets (docs/guide/defaults.md). They depend on the training data's size,
density and task, never on test data or on the ranks: the choice is the same on every grid.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from distnewton.config import Config, make_config
from distnewton.config.method import AUTO, NO_LIMIT
from distnewton.config.opening import opener
from distnewton.config.sections import UNLIMITED
from distnewton.data.description import Description
from distnewton.errors import ConfigError
from distnewton.models.warm_start import Start
from distnewton.network.layer_tables import number_of_weight_layers
from distnewton.physics.sources import problem_of

_PATIENCE = 15
_FEW, _VERY_FEW = 1000, 100
"""Numbers of samples below which a share of them is too small to estimate an accuracy, and an error of regression."""
_LARGEST_BATCH, _SMALLEST_BATCH, _BATCHES = 256, 32, 8
"""Bounds of the mini-batch size, and the least number of mini-batches in a pass, unless they are of the least size."""
_LINEAR = {"subsample": 1.0, "damping": 1e-4, "cg_max": 100, "preconditioner": "diagonal"}
_TOLERANCE, _LEAST_TOLERANCE = 1e-2, 1e-4
_LEVENBERG_MARQUARDT = {
    "direction": "dual", "subsample": 1.0, "acceleration": 0.75, "combine": "none", "damping_threshold": 0.95,
    "line_search_max": 1,
}  # fmt: skip
"""Nielsen's own rule. Rejected steps raise the damping and are not shortened: that would leave lambda too small."""
_EXACT_ROWS = 2000
"""Largest number of samples times targets for which solving in sample space takes a fraction of a second."""
_OF_RESIDUALS = {**_LEVENBERG_MARQUARDT, "damping": 1e-3, "damping_min": 1e-18}
_LEAST = {"float32": 1e-5, "float64": 1e-13}
"""Least damping at which a matrix without regularisation can be factorised."""
_FIRST_STAGE, _BOTH_STAGES = 100, 400
"""Number of iterations on mini-batches before the exact ones, and of both together."""
_LAST_DAMPING = 0.1
"""Damping of k-FAC from the best point on, once validation no longer improves at the default, a tenth of this."""
_WITHOUT_VALIDATION = 20
"""Number of iterations on mini-batches of few samples, which nothing ends: more no longer raised the test accuracy."""


class TrainingFacts(NamedTuple):
    """Facts on the training data that decide what replaces ``auto``.

    Attributes
    ----------
    n_samples : int
        Number of training samples, including those put aside for validation.
    validated : bool
        Whether there is validation data.
    n_targets : int
        For regression, number of targets of a sample.
    rarity : float
        Size of the rarest class relative to that of a mean class (:func:`rarity_of_classes`).
    residual : bool
        Whether the samples are points of a residual problem.
    packed : bool
        Whether features are genotypes; they are centred for any direction, because missing ones become means.
    """

    n_samples: int
    validated: bool
    n_targets: int = 1
    rarity: float = 1.0
    residual: bool = False
    packed: bool = False

    @classmethod
    def of(cls, config: Config, train: Description, *, validated: bool, residual: bool = False) -> TrainingFacts:
        """Collect the facts on described data, for a configuration as the user gave it."""
        labels = train.labels
        rarity = rarity_of_classes(config, labels)
        return cls(len(labels), validated, labels.size // len(labels), rarity, residual, train.packed)


def settle(config: Config, facts: TrainingFacts, start: Start | None = None) -> Config:
    """Replace ``auto`` in a configuration, except in ``data.scale``, which also depends on the values.

    Parameters
    ----------
    config : Config
        As the user gave it.
    facts : TrainingFacts
        What is known of the training data.
    start : Start or None
        Model whose activation and scaling are used.

    Returns
    -------
    Config
    """
    if facts.residual:
        config = settle_residual(config)
    n_samples = min(config.data.n_train or facts.n_samples, facts.n_samples)
    tree: dict[str, dict[str, Any]] = config.model_dump()
    has_validation = _settle_validation(tree, config, n_samples, facts.validated)
    for section, settings in _form(config, start, packed=facts.packed).items():
        tree[section] |= {key: value for key, value in settings.items() if tree[section][key] == AUTO}
    if config.method.direction == AUTO:
        chosen = _method(config, n_samples, facts.n_targets * has_validation, tree["run"]["patience"])
        tree["method"] = {"C": config.method.C, **chosen}
        tolerance = max(_LEAST_TOLERANCE, _TOLERANCE * facts.rarity)
        tree["run"]["tolerance"] = config.run.tolerance or tolerance * _is_linear(config)
    if tree["run"]["iterations"] == AUTO:
        tree["run"]["iterations"] = _iterations(config, tree["method"], n_samples, validated=has_validation)
    if tree["method"]["C"] == AUTO:
        tree["method"]["C"] = "l"
    return make_config(tree)


def _settle_validation(tree: dict[str, dict[str, Any]], config: Config, n_samples: int, validated: bool) -> bool:
    """Choose the share and patience of validation in a tree; tell whether there is validation data."""
    chooses = config.method.direction == AUTO
    if tree["data"]["validation_fraction"] == AUTO:
        tree["data"]["validation_fraction"] = _validation_share(config, n_samples, validated) if chooses else 0.0
    has_validation: bool = validated or tree["data"]["validation_fraction"] > 0.0
    if tree["run"]["patience"] == AUTO:
        tree["run"]["patience"] = _PATIENCE if chooses and has_validation else 0
    return has_validation


def _form(config: Config, start: Start | None, *, packed: bool) -> dict[str, dict[str, str]]:
    """Choose values for scaling, activation and init: those of the first model, or else by the task."""
    chooses = config.method.direction == AUTO
    init = "zero" if chooses and _is_linear(config) else "he"
    if start is not None:
        network = {"activation": start.architecture.activation, "init": init}
        return {"data": {"scale": start.scaling.kind}, "network": network}
    if not chooses:
        return {"data": {"scale": AUTO if packed else "none"}, "network": {"activation": "tanh", "init": init}}
    return {"network": {"activation": "tanh" if config.task == "regression" else "relu", "init": init}}


def settle_residual(config: Config) -> Config:
    """Replace ``auto`` for a residual problem: float64, and the exact direction on all points.

    Parameters
    ----------
    config : Config
        Configuration as the user gave it, or as this function returned it.

    Returns
    -------
    Config
    """
    tree: dict[str, dict[str, Any]] = config.model_dump()
    if "dtype" not in config.run.model_fields_set:
        tree["run"]["dtype"] = "float64"
    tree["data"] |= {"task": "regression", "validation_fraction": 0.0}
    if tree["data"]["scale"] not in (AUTO, "none"):
        raise ConfigError("data.scale has no meaning for the points of a residual problem", collective=True)
    if tree["run"]["device"] == "gpu":
        raise ConfigError("residuals are numpy functions: residual problems need run.device = cpu", collective=True)
    tree["run"]["device"] = "cpu"
    tree["data"]["scale"], tree["network"]["loss"] = "none", "squared"
    if config.method.direction == AUTO:
        tree["method"] = {"C": config.method.C, **_OF_RESIDUALS}
    if tree["method"]["C"] == AUTO:
        tree["method"]["C"] = math.inf
    return make_config(tree)


def settle_by_data(config: Config) -> Config:
    """Settle a configuration (:func:`settle`) by its training file, whose size this process reads.

    Parameters
    ----------
    config : Config
        Configuration as the user gave it; without a file, or with a direction, it is returned unchanged.

    Returns
    -------
    Config

    Raises
    ------
    DistNewtonError
        If the file is missing or at fault.
    """
    data = config.data
    if config.method.direction != AUTO or not data.train:
        return config
    if (problem := problem_of(None, data)) is not None:
        return settle(config, TrainingFacts(problem.n_points, validated=False, residual=True))
    train = opener(data, None, data.train)().describe()
    return settle(config, TrainingFacts.of(config, train, validated=bool(data.validation)))


def rarity_of_classes(config: Config, labels: Any) -> float:
    """Return by how much the rarest class is smaller than a mean class, where a linear network learns three or more.

    Outputs of a linear network are problems of their own. The norm of the gradient of all of them says little of a rare
    class, so that the tolerance has to fall with its size, as LIBLINEAR's does.

    Parameters
    ----------
    config : Config
        Configuration as the user gave it.
    labels : ndarray
        Labels of the training samples.

    Returns
    -------
    float
        At most 1; 1 for two classes, whose outputs are one problem, and for anything but classes.
    """
    if not _is_linear(config) or config.task != "classification":
        return 1.0
    counts = np.unique(labels, return_counts=True)[1]
    return float(counts.min() / counts.mean()) if len(counts) > 2 else 1.0


def choice_note(config: Config, settled: Config, *, residual: bool = False) -> str:
    """Write a line on what was chosen; empty where nothing was.

    Parameters
    ----------
    config, settled : Config
        Configuration as the user gave it, and as :func:`settle` returned it.
    residual : bool
        Whether the samples are points of a residual problem.

    Returns
    -------
    str
    """
    if config.method.direction != AUTO:
        return ""
    data, run = settled.data, settled.run
    why = "residuals" if residual else "a linear network" if _is_linear(config) else "hidden layers"
    words = [settled.method.title, *([] if residual else [f"scale {data.scale}"])]
    words += [] if _is_linear(config) else [settled.network.activation]
    words += [f"{100 * data.validation_fraction:g} % for validation"] if data.validation_fraction else []
    words += [f"patience {run.patience}"] if run.patience else []
    return f"chosen for {why} (method.direction = auto): {', '.join(words)}"


def _is_linear(config: Config) -> bool:
    return number_of_weight_layers(config.network.layers) == 1


def _method(config: Config, n_samples: int, n_targets: int, patience: int) -> dict[str, Any]:
    """Choose a direction and its options, except defaults; ``n_targets`` is 0 without validation data."""
    if _is_linear(config):
        return {"direction": "gauss_newton", **_LINEAR}
    if config.run.tolerance:
        # a tolerance needs the gradient of all samples
        return {"direction": "gauss_newton"}
    batch = _LARGEST_BATCH
    while batch > _SMALLEST_BATCH and batch * _BATCHES > n_samples:
        batch //= 2
    kfac = {"direction": "kfac", "batch": batch}
    iterations = _first_iterations(config)
    if config.network.loss != "squared" or not 0 < n_samples * n_targets <= _EXACT_ROWS or not iterations:
        if not n_targets or not patience:
            return kfac
        # progress ends where the noise of mini-batches moves directions of small curvature: damping shortens these
        return {**kfac, "damping": _LAST_DAMPING, "schedule": [{**kfac, "iterations": NO_LIMIT}]}
    # for smooth functions without noise, Levenberg-Marquardt on all samples finds better fits than mini-batches; with
    # noise, validation keeps the earlier model
    first = {**kfac, "iterations": iterations, "C": "l" if config.method.C == AUTO else AUTO}
    last = {**_LEVENBERG_MARQUARDT, "damping_min": _LEAST[config.run.array_dtype], "schedule": [first]}
    return {**last, "C": math.inf} if config.method.C == AUTO else last


def _first_iterations(config: Config) -> int:
    """Return the number of iterations on mini-batches before the exact ones."""
    return _FIRST_STAGE if config.run.iterations == AUTO else min(_FIRST_STAGE, 3 * config.run.n_iterations // 5)


def _iterations(config: Config, method: dict[str, Any], n_samples: int, *, validated: bool) -> int:
    """Return the largest number of iterations of a run."""
    if config.method.direction != AUTO:
        return config.run.n_iterations
    if config.run.seconds < math.inf:
        return UNLIMITED
    ended_by_nothing = not validated and n_samples < _FEW
    if ended_by_nothing and config.task == "classification" and method["direction"] == "kfac":
        return _WITHOUT_VALIDATION
    return _BOTH_STAGES if method["direction"] == "dual" else config.run.n_iterations


def _validation_share(config: Config, n_samples: int, validated: bool) -> float:
    """Return the share of the samples that is put aside to choose the best iteration."""
    if validated or _is_linear(config):
        return 0.0
    if n_samples >= _FEW:
        return 0.1
    # an error of regression can be estimated from fewer samples than an accuracy
    return 0.2 if config.task == "regression" and n_samples >= _VERY_FEW else 0.0
