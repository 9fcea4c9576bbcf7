"""The kinds of stages: Newton iterations on all samples, and Newton steps or learning-rate steps on mini-batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from distnewton.backend import Array, add_scaled, scale_and_add, take_rows
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.point import Point
from distnewton.curvature.sample import CurvatureSample
from distnewton.directions.direction import Direction, DirectionResult
from distnewton.frozen import frozen
from distnewton.method.batches import Batches, Subsamples, draws
from distnewton.method.newton import NewtonStep, regularizer
from distnewton.method.objective import Evaluation, Objective, subsample_size
from distnewton.method.records import DirectionRecord, IterationRecord, gather_direction
from distnewton.parallel.termination import NEVER

_IN_CACHE = 1 << 14
"""Number of elements to which a step is applied at a time."""
MAX_REJECTIONS = 30
"""Directions rejected in a row before training ends: by then lambda has grown 190,000 times."""

_LEAST_PART = 512
"""Fewest samples in a part; the gradient of fewer is too noisy."""


class Stage(Protocol):
    """A method with its state, which trains from a point on.

    Attributes
    ----------
    evaluation : Evaluation
        Evaluation of the current point on all samples.
    value : float
        Objective at the current point.
    exhausted : str
        Why no direction decreases the objective any more; empty if one may.
    remedy : str
        What the user can change if training diverges.
    """

    evaluation: Evaluation
    value: float
    remedy: str

    @property
    def exhausted(self) -> str: ...  # noqa: D102

    def start(self, params: Array, known: Evaluation | None) -> None:
        """Begin at a point, whose evaluation may already be known; collective."""
        ...

    def iterate(self, record: IterationRecord) -> None:
        """Do one iteration and fill its record; collective."""
        ...

    def state(self) -> State:
        """Return what the next iteration needs besides the point."""
        ...

    def restore(self, params: Array, state: State) -> None:
        """Begin at a point with a state; collective."""
        ...


class FullBatch:
    """Newton iterations: the gradient of all samples, the curvature of a subsample ([DNM]).

    The first iterations may take several steps, each on a part of the samples ([DSS]): far from a minimum, a part gives
    as good a direction as all samples. Each iteration cuts all samples, in a new order, into disjoint parts, half as
    many as the iteration before. An iteration that does not lower the objective of all samples is undone, and no
    further iteration uses parts.

    Parameters
    ----------
    objective : Objective
        Objective that is minimised.
    newton : NewtonStep
        The Newton step.
    subsample, subsample_min : float, int
        Share of the samples whose curvature a step uses, and their least number.
    seed : int
        Seed of subsamples and parts.
    parts : int
        Number of steps in the first iteration; fewer if a part would have less than 512 samples.
    """

    evaluation: Evaluation
    value: float
    remedy = "raise method.damping"

    def __init__(
        self, objective: Objective, newton: NewtonStep, subsample: float, subsample_min: int, seed: int, parts: int = 1
    ) -> None:
        self._objective, self._newton, self._seed = objective, newton, seed
        n = objective.n_samples
        self._n_curvature = subsample_size(n, subsample, subsample_min)
        self._subsamples = Subsamples(n, self._n_curvature, seed)
        self._n_parts = max(1, min(parts, n // _LEAST_PART))
        self._n_accepted = self._n_passes = 0

    @property
    def exhausted(self) -> str:
        """Reason to end: only rounding is left to gain, or too many directions in a row were rejected."""
        if self._n_parts > 1:
            return ""
        if self._newton.converged:
            return "converged: the next step would gain less than the rounding error of the objective"
        return "no direction decreases the objective any more" if self._newton.n_rejected >= MAX_REJECTIONS else ""

    def start(self, params: Array, known: Evaluation | None) -> None:
        """Evaluate the point, and keep its activations for the gradient."""
        # a known evaluation holds no activations
        with self._objective.network.grid.ledger.phase("gradient"):
            self._evaluate(params)

    def iterate(self, record: IterationRecord) -> None:
        """Take one Newton step, whose accepted trial is the next iteration's evaluation, or one step for each part."""
        if self._n_parts > 1:
            self._pass_in_parts(record)
            return
        following = self._curvature(self._n_accepted + 1)
        accepted = self._newton.step(self._objective, self.evaluation, self.value, following, record)
        if accepted is not None:
            self.evaluation, self.value = accepted
            self._n_accepted += 1

    def state(self) -> State:
        """Return the numbers of the subsample and of parts, the objective as it was summed, and the method's state."""
        numbers = {
            "n_accepted": self._n_accepted, "value": self.value, "n_parts": self._n_parts, "n_passes": self._n_passes
        }  # fmt: skip
        return State(numbers, parts={"newton": self._newton.state(self.evaluation)})

    def restore(self, params: Array, state: State) -> None:
        """Evaluate the point in the way in which the accepted trial was evaluated."""
        self._n_accepted, self._n_parts, self._n_passes = (
            state.numbers[name] for name in ("n_accepted", "n_parts", "n_passes")
        )
        self._newton.restore(state.parts["newton"], self._objective.network.layout)
        self.start(params, None)
        self.value = state.numbers["value"]

    def _evaluate(self, params: Array) -> None:
        """Evaluate a point and make it the current one."""
        self.evaluation = self._objective.evaluate(params, self._curvature(self._n_accepted))
        self.value = self.evaluation.loss + regularizer(self._objective, params)

    def _pass_in_parts(self, record: IterationRecord) -> None:
        """Take a step on each part of the samples; undo all of them unless the whole objective falls."""
        before = self.evaluation, self.value
        params = before[0].params
        parts = Batches(self._objective.n_samples, -(-self._objective.n_samples // self._n_parts), self._seed)

        def step(i: int) -> None:
            nonlocal params
            part = self._objective.batch(parts.rows(self._n_passes * parts.per_pass + i))
            curvature = 0, min(part.n_samples, self._n_curvature)
            params = _step_on(part, self._newton, params, curvature, record)

        _several_steps(record, parts.per_pass, step)
        self._n_passes += 1
        self._n_parts //= 2
        # the next iteration's gradient needs the same activations
        with self._objective.network.grid.ledger.phase("evaluation" if self._n_parts > 1 else "gradient"):
            self._evaluate(params)
        if not self.value < before[1]:
            self.evaluation, self.value = before
            self._n_parts = 1
            self._newton.forget()
            record.note = "; ".join(filter(None, [record.note, "undone: the objective of all samples rose"]))

    def _curvature(self, i: int) -> tuple[int, int] | Array:
        """Return the curvature samples of the i-th point."""
        return (0, self._objective.n_samples) if self._subsamples.whole else self._subsamples.rows(i)


def _step_on(
    objective: Objective, newton: NewtonStep, params: Array, curvature: tuple[int, int], record: IterationRecord
) -> Array:
    """Take a Newton step on some of the samples; return the new point, or the same one if it was rejected."""
    with objective.network.grid.ledger.phase("gradient"):
        evaluation = objective.evaluate(params, curvature)
        value = evaluation.loss + regularizer(objective, params)
    accepted = newton.step(objective, evaluation, value, None, record)
    return params if accepted is None else accepted[0].params


def _several_steps(record: IterationRecord, n_steps: int, step: Callable[[int], None]) -> None:
    """Do several Newton steps as one iteration; the record holds sums over the steps, and scalars of the last one."""
    directions: list[DirectionRecord] = []
    trials, mended, step_sizes = 0, [], []
    for i in range(n_steps):
        step(i)
        trials += record.line_search_trials
        step_sizes.append(record.step_size)
        mended += [record.note] if record.note and record.step_size else []
        directions += [record.direction] if record.direction else []
        record.note = ""
    record.steps = n_steps
    record.line_search_trials, record.step_size = trials, float(np.mean(step_sizes))
    record.direction = DirectionRecord.sum(directions)
    rejected = step_sizes.count(0.0)
    notes = [f"{rejected} of {n_steps} batches rejected"] if rejected else []
    notes += [f"{len(mended)} of {n_steps} batches: {mended[-1]}"] if mended else []
    record.note = "; ".join(notes)


class _MiniBatch:
    """Base of stages on mini-batches: an iteration takes several steps, then evaluates all samples.

    Parameters
    ----------
    objective : Objective
        Objective that is minimised.
    batches : Batches
        The mini-batches.
    n_steps : int
        Number of steps in an iteration; 0 for a pass over the samples.
    """

    exhausted = ""
    remedy = "raise method.damping or method.batch"

    def __init__(self, objective: Objective, batches: Batches, n_steps: int) -> None:
        self._objective, self._batches = objective, batches
        self._n_steps = n_steps or batches.per_pass
        self._ledger = objective.network.grid.ledger
        self._t = 0

    def start(self, params: Array, known: Evaluation | None) -> None:
        """Begin at a point, and evaluate it unless its evaluation is known."""
        self._params = params
        self._evaluate(params, known)

    def _evaluate(self, params: Array, known: Evaluation | None = None) -> None:
        """Evaluate the objective of all samples for the record; the method itself does not need it."""
        with self._ledger.phase("evaluation"):
            self.evaluation = known or self._objective.evaluate(params, None)
            self.value = self.evaluation.loss + regularizer(self._objective, params)


class BatchNewton(_MiniBatch):
    """Newton steps on mini-batches ([SGN]): gradient, curvature and line search use the same samples."""

    def __init__(self, objective: Objective, newton: NewtonStep, batches: Batches, n_steps: int) -> None:
        super().__init__(objective, batches, n_steps)
        self._newton = newton

    def iterate(self, record: IterationRecord) -> None:
        """Take steps on the next batches; the record holds sums over the steps, and scalars of the last one."""
        _several_steps(record, self._n_steps, lambda _: self._step(record))
        self._evaluate(self._params)

    def state(self) -> State:
        """Return the number of the next batch, and the method's state."""
        return State({"t": self._t}, parts={"newton": self._newton.state(self.evaluation)})

    def restore(self, params: Array, state: State) -> None:
        """Begin at a point with the next batch."""
        self.start(params, None)
        self._t = state.numbers["t"]
        self._newton.restore(state.parts["newton"], self._objective.network.layout)

    def _step(self, record: IterationRecord) -> None:
        objective = self._objective.batch(self._batches.rows(self._t))
        self._params = _step_on(objective, self._newton, self._params, (0, objective.n_samples), record)
        self._t += 1


@frozen
class RateOptions:
    """Settings of steps with a learning rate."""

    learning_rate: float  # step length
    rate_decay: str = "none"  # how the rate falls to zero over ``horizon`` steps: ``none``, ``linear`` or ``cosine``
    horizon: int = 1  # number of steps of the stage
    momentum: float = 0.0  # share of the last step kept
    average: float = 0.0  # decay of the average of the iterates; 0: the last iterate is the result
    # bound kappa on alpha_0^2 d^T P d, the squared length of a step in the metric of its preconditioner before the
    # decay of alpha; inf: none
    kl_clip: float = math.inf
    damping: float = 0.0  # lambda of the preconditioner
    # seed of random cotangents, and number of the stage
    seed: int = 0
    stage: int = 0
    sketch: int = 0  # random cotangents a sample, for directions that use a Jacobian; 0: all outputs

    def rate(self, step: int) -> float:
        """Return the step length of a step, numbered from 0."""
        done = min(1.0, step / max(1, self.horizon))
        factor = {"none": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
        return self.learning_rate * factor[self.rate_decay]


class RateSteps(_MiniBatch):
    r"""Steps of a learning rate along a direction on mini-batches.

    .. math:: v = \mu v + \nu d, \qquad \theta \mathrel{+}= \alpha v, \qquad
        \nu = \min\big(1, \sqrt{\kappa / (\alpha_0^2 |d^T g|)}\big)

    or, for directions that average the gradient, theta += alpha nu d with d and g of the averaged gradient. |d^T g| is
    d^T P d, the squared length of d in the metric of its preconditioner. With `average`, the evaluated point and the
    result are the average of the iterates, which is a plain mean over the first steps.

    Parameters
    ----------
    objective : Objective
        Objective that is minimised.
    direction : Direction
        Method for the direction.
    batches : Batches
        The mini-batches.
    n_steps : int
        Number of steps in an iteration; 0 for a pass over the samples.
    options : RateOptions
        Settings.
    """

    def __init__(
        self,
        objective: Objective,
        direction: Direction,
        batches: Batches,
        n_steps: int,
        options: RateOptions,
    ) -> None:
        super().__init__(objective, batches, n_steps)
        self._direction, self._options = direction, options
        self.remedy = f"lower method.learning_rate (now {options.learning_rate:g})"
        zeros: Callable[[int], Array] = objective.network.backend.zeros
        self._direction_seconds = 0.0
        self._velocity = zeros(objective.network.layout.n_params)
        self._mean = zeros(objective.network.layout.n_params) if options.average else None

    def start(self, params: Array, known: Evaluation | None) -> None:
        """Begin at a point; the iterates move in place, but the evaluated point stays unchanged."""
        super().start(params, known)
        self._params = params.copy()

    def state(self) -> State:
        """Return the number of the next batch, momentum, the iterate if its average counts, and the direction."""
        vectors = {"velocity": self._velocity} if self._options.momentum else {}
        if self._mean is not None:
            vectors |= {"mean": self._mean, "iterate": self._params}
        return State({"t": self._t}, vectors, parts={"direction": self._direction.state()})

    def restore(self, params: Array, state: State) -> None:
        """Begin at a point with the next batch."""
        self.start(params, None)
        self._t = state.numbers["t"]
        self._velocity = state.vectors.get("velocity", self._velocity)
        if self._mean is not None:
            self._mean, self._params = state.vectors["mean"], state.vectors["iterate"]
        self._direction.restore(state.parts["direction"], self._objective.network.layout)

    # divergence is reported once, by the trainer; warnings would come from every rank
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def iterate(self, record: IterationRecord) -> None:
        """Take steps on the next batches, then compute the objective and the gradient's norm for the record."""
        results: list[DirectionResult] = []
        self._direction_seconds = 0.0
        for _ in range(self._n_steps):
            gradient, result = self._step()
            # keep its numbers, without the vector
            results.append(replace(result, direction=np.empty(0)))
        notes = [result.note for result in results if result.note]
        record.note = f"{len(notes)} of {self._n_steps} batches: {notes[-1]}" if notes else ""
        grid = self._objective.network.grid
        (squared,) = grid.sum_of_variables(self._objective.network.backend.dot(gradient, gradient))
        record.gradient_norm = math.sqrt(squared) if squared >= 0 else None
        record.damping = self._options.damping
        whole = replace(
            results[-1],
            inner_iterations=sum(result.inner_iterations for result in results),
            residual=max(result.residual for result in results),
        )
        record.direction = gather_direction(grid.world, self._direction.title, whole, self._direction_seconds)
        record.step_size, record.steps = self._options.rate(self._t - 1), self._n_steps
        self._evaluate(self._current())

    def _step(self) -> tuple[Array, DirectionResult]:
        """Compute the gradient and the direction of one mini-batch."""
        options = self._options
        with self._ledger.phase("gradient"):
            gradient, sample = self._evaluate_batch()
        if self._direction.curvature in {"jacobian", "roots"}:
            with self._ledger.phase("jacobian"):
                sample.linearize(options.sketch, rooted=self._direction.curvature == "roots")
        with self._ledger.phase("direction"):
            grid = self._objective.network.grid
            steered = gradient
            if self._direction.averages_gradient and options.momentum:
                self._velocity *= options.momentum
                self._velocity += gradient
                steered = self._velocity
            problem = Linearization(
                steered, sample, self._objective.regularization, options.damping, grid, self._direction.damping_form,
                penalised=self._objective.penalised,
            )  # fmt: skip
            start = time.perf_counter()
            result = self._direction.solve(problem, NEVER)
            self._direction_seconds += time.perf_counter() - start
            self._move(steered, result.direction)
        self._t += 1
        return gradient, result

    def _evaluate_batch(self) -> tuple[Array, CurvatureSample]:
        """Compute the gradient of the batch and its curvature sample, which share the backward pass."""
        objective, network = self._objective, self._objective.network
        rows, share = objective.share.choose(self._batches.rows(self._t))
        targets = take_rows(objective.targets, rows)
        activations = network.forward(self._params, take_rows(objective.X, rows))
        cotangent = objective.loss.gradient(activations.output, targets)
        deltas = network.backpropagate(self._params, activations, cotangent)
        gradient = network.backend.zeros(network.layout.n_params)
        network.add_products(activations, deltas, gradient)
        network.grid.sum_over_replicas(gradient)
        gradient /= share.n_samples
        gradient += objective.penalty_gradient(self._params)
        generator = draws(self._options.seed, self._options.stage, self._t)
        point = Point(network, self._params, activations, objective.loss, targets)
        sample = CurvatureSample(point, generator, deltas, share)
        return gradient, sample

    def _move(self, steered: Array, direction: Array) -> None:
        """Step along the direction of a gradient, with clipping and momentum; update the average of the iterates."""
        options = self._options
        rate = options.rate(self._t)
        nu = self._clip(steered, direction, rate)
        has_velocity = options.momentum and not self._direction.averages_gradient
        step_size = rate if has_velocity else rate * nu
        weight = max(1.0 - options.average, 1.0 / (self._t + 1))
        n, step = len(direction), self._objective.network.backend.at_once(_IN_CACHE)
        # a few elements at a time, so that each line finds them in the cache
        for part in (slice(start, start + step) for start in range(0, n, step)):
            change = direction[part]
            if has_velocity:
                velocity = self._velocity[part]
                scale_and_add(velocity, options.momentum, change if nu == 1.0 else nu * change)
                change = velocity
            add_scaled(self._params[part], step_size, change)
            if self._mean is not None:
                mean = self._mean[part]
                scale_and_add(mean, 1.0 - weight, weight * self._params[part])
        self._direction.step_taken(self._velocity if has_velocity else direction, step_size)

    def _clip(self, steered: Array, direction: Array, rate: float) -> float:
        """Return the factor, at most 1, that keeps the change of the outputs within the limit, if there is one."""
        options = self._options
        if not math.isfinite(options.kl_clip) or not rate > 0.0:
            return 1.0
        grid, dot = self._objective.network.grid, self._objective.network.backend.dot
        (slope,) = grid.sum_of_variables(dot(steered, direction))
        # clip by the rate before its decay: otherwise the clip would undo the decay, and the noise would stay
        return min(1.0, math.sqrt(options.kl_clip / max(abs(slope), 1e-300)) / options.learning_rate)

    def _current(self) -> Array:
        """Return the point that counts, as a copy, since the iterates move in place."""
        return (self._params if self._mean is None else self._mean).copy()
