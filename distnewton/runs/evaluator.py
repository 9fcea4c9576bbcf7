"""Evaluation of a model: the task's metrics on all sets, and its predictions on the last one."""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.backend import Array, like, scalar, take_rows, to_host
from distnewton.method.objective import Evaluation
from distnewton.method.trainer import Measured
from distnewton.models.metrics import task_metrics
from distnewton.models.predictions import summarize
from distnewton.parallel.replicas import SampleShare
from distnewton.physics.metrics import drawn_field, residual_metrics, solution_metrics
from distnewton.runs.setup import Setup


class MetricsEvaluator:
    """Computes the metrics of a run at given points.

    Parameters
    ----------
    setup : Setup
        Network, training and held-out data, as they are now; a residual problem has the metrics of
        :mod:`distnewton.physics.metrics`.

    Attributes
    ----------
    last : tuple or None
        The set that was evaluated last: its name, outputs, targets and share of the samples.

    Notes
    -----
    All methods are collective.
    """

    def __init__(self, setup: Setup) -> None:
        data, training = setup.data, setup.training
        self._task, self._residuals, self._held_out = data.task, data.residuals, data.held_out
        # the network passes values only, without derivatives
        self._network, self._objective, self._targets = setup.placement.network, training.objective, training.targets
        self._whole: Array | None = None
        self.last: tuple[str, Array, Array, SampleShare] | None = None
        self._params: Array | None = None

    def measure(self, params: Array, evaluation: Evaluation) -> Measured:
        """Compute the task's metrics by set, from the evaluation's outputs and a pass over each held-out set.

        Parameters
        ----------
        params : Array of shape (n_params_local,)
            This rank's variables.
        evaluation : Evaluation
            Evaluation of the objective at these variables.

        Returns
        -------
        dict of str to dict
        """
        share, self._params = self._objective.share, params
        if self._residuals is None:
            self.last = "train", evaluation.outputs, self._targets, share
            metrics = {"train": self._judged(evaluation.outputs, self._targets, share)}
        else:
            own = evaluation.outputs, evaluation.targets
            metrics = {"train": residual_metrics(self._residuals, self._network.grid, *own)}
        if self._held_out:
            # held-out samples may have features that no training sample has
            params = self._whole = self._objective.network.expanded(params, self._whole)
        for which, held in self._held_out.items():
            outputs = held.outputs(self._network, params, self._objective.chunk_rows)
            self.last = which, outputs, held.targets, held.share
            metrics[which] = self._judged(outputs, held.targets, held.share)
        return metrics

    def predictions(self) -> dict[str, Any]:
        """Summarise the predictions on the set evaluated last; add a residual problem's solution for its picture."""
        found: dict[str, Any] = {}
        if self.last is not None:
            which, outputs, targets, share = self.last
            whole = self._network.grid.gather_samples(outputs, share)
            task = self._task
            found = summarize(task, which, task.to_user(to_host(whole)), task.to_user(to_host(targets)))
        if self._residuals is not None and self._params is not None:
            found |= drawn_field(self._residuals, self._network, self._params)
        return found

    def _judged(self, outputs: Array, targets: Array, share: SampleShare) -> dict[str, float]:
        """Compute the task's metrics from the outputs of this replica's samples and the targets of all samples."""
        grid = self._network.grid
        if self._residuals is not None:
            return solution_metrics(self._residuals.problem, grid.gather_samples(outputs, share), targets)
        if share.whole or self._task.name != "classification":
            outputs = grid.gather_samples(outputs, share)
            return task_metrics(self._task.name, self._sized(outputs), self._sized(targets))
        n_right = np.array([scalar((outputs.argmax(axis=1) == take_rows(targets, share.own)).sum())])
        return {"accuracy": float(grid.sum_of_samples(n_right)[0]) / share.n_samples}

    def _sized(self, values: Array) -> Array:
        """Scale outputs or targets to the user's units; the mean is left out: adding it would cost digits."""
        scaling = self._task.scaling
        return values if scaling is None else values.astype(np.float64) * like(values, np.array(scaling.deviation))
