"""The quadratic model around a point, computed once for all directions that are tried there."""

from __future__ import annotations

import math
from typing import Any

from distnewton.backend import Array
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.point import Point
from distnewton.curvature.sample import CurvatureSample
from distnewton.directions.direction import Direction
from distnewton.frozen import frozen
from distnewton.method.batches import draw_state, draws, set_draw_state
from distnewton.method.nonfinite import not_finite
from distnewton.method.objective import Evaluation, Objective


@frozen
class LinearizedPoint:
    """Gradient and curvature sample of a point.

    Attributes
    ----------
    evaluation : Evaluation
        Evaluation of the objective at the point.
    gradient : Array of shape (n_params_local,)
        This rank's block of the gradient.
    norm : float
        Norm of the whole gradient.
    sample : CurvatureSample
        Samples of the curvature.
    """

    evaluation: Evaluation
    gradient: Array
    norm: float
    sample: CurvatureSample


class Linearizer:
    """Linearises points, one after the other.

    Parameters
    ----------
    direction : Direction
        Method that uses the model; it decides which curvature is computed.
    sketch : int
        Number of random output cotangents of a sample in place of all outputs; 0 uses all outputs.
    seed, stage : int
        Seed of random cotangents, and number of the stage; each stage draws different numbers.

    Attributes
    ----------
    n_points : int
        Number of points so far; each point draws different numbers.
    """

    def __init__(self, direction: Direction, sketch: int, seed: int, stage: int) -> None:
        self._direction, self._sketch, self._seed, self._stage = direction, sketch, seed, stage
        self._point: LinearizedPoint | None = None
        self._drawn: list[int] | None = None
        self.n_points = 0

    def model(self, objective: Objective, evaluation: Evaluation, damping: float) -> tuple[float, Linearization]:
        """Return the norm of the gradient at a point, and the model around it.

        Parameters
        ----------
        objective : Objective
            Objective that is minimised.
        evaluation : Evaluation
            Evaluation of the objective at the point.
        damping : float
            lambda.

        Returns
        -------
        tuple of float and Linearization

        Raises
        ------
        NumericalError
            If the gradient is not finite.

        Notes
        -----
        Collective over the grid.
        """
        if self._point is None or self._point.evaluation is not evaluation:
            self._point = None  # frees its Jacobian before the next one is allocated
            self._point = self._linearize(objective, evaluation)
        point, grid, form = self._point, objective.network.grid, self._direction.damping_form
        of_sample = point.sample.n_samples == objective.n_samples
        problem = Linearization(
            point.gradient, point.sample, objective.regularization, damping, grid, form, of_sample, objective.penalised
        )
        return point.norm, problem

    def forget(self) -> None:
        """Free the gradient and the curvature of the last point."""
        self._point = None

    def state(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return the number of the next point, and the position of its generator if it is already linearised."""
        point = self._point
        drawn = draw_state(point.sample.generator) if point is not None and point.evaluation is evaluation else None
        return {"n_points": self.n_points, "drawn": drawn}

    def restore(self, numbers: dict[str, Any]) -> None:
        """Restore a state."""
        self.n_points, self._drawn = numbers["n_points"], numbers["drawn"]

    def _linearize(self, objective: Objective, evaluation: Evaluation) -> LinearizedPoint:
        """Compute gradient and curvature sample of a point."""
        network = objective.network
        grid = network.grid
        with grid.ledger.phase("gradient"):
            gradient = objective.gradient(evaluation)
            (squared,) = grid.sum_of_variables(network.backend.dot(gradient, gradient))
            if not math.isfinite(squared):
                raise not_finite("the gradient", objective, evaluation, gradient=gradient)
        with grid.ledger.phase("jacobian"):
            activations, targets = objective.curvature_samples(evaluation)
            # a point that was linearised before the checkpoint keeps its number, and its generator its position
            self.n_points -= self._drawn is not None
            generator = draws(self._seed, self._stage, self.n_points)
            point = Point(network, evaluation.params, activations, objective.loss, targets)
            sample = CurvatureSample(point, generator, share=evaluation.share)
            if self._direction.curvature in {"jacobian", "roots"}:
                sample.linearize(self._sketch, rooted=self._direction.curvature == "roots")
            if self._drawn is not None:
                set_draw_state(generator, self._drawn)
                self._drawn = None
        self.n_points += 1
        return LinearizedPoint(evaluation, gradient, math.sqrt(squared), sample)
