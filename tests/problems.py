"""Small partitioned problems for tests, and the way between a rank's blocks and whole vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from convolutional import ConvolutionalProblem
from dense import DenseProblem

from distnewton.backend import Backend
from distnewton.config import StageOptions
from distnewton.curvature.linearization import Linearization
from distnewton.curvature.point import Point
from distnewton.curvature.sample import CurvatureSample
from distnewton.directions.composition import Composition, make_direction
from distnewton.method.batches import Batches
from distnewton.method.newton import NewtonStep, StepOptions
from distnewton.method.objective import Objective
from distnewton.method.stages import BatchNewton, FullBatch, RateOptions, RateSteps
from distnewton.method.trainer import Trainer
from distnewton.network.layer_tables import convolutional_shape
from distnewton.network.losses import LOSSES
from distnewton.network.network import PartitionedNetwork
from distnewton.network.weighted import normalised, weighted, with_weights
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition
from distnewton.parallel.replicas import SampleShare
from distnewton.parallel.termination import NEVER
from distnewton.solvers.damping import LevenbergMarquardt


def alternating(n_ranks, n_layers):
    """All alternating factorisations of a rank count, and the unequal splits 1-..-1-n-1 that leave ranks idle."""
    splits = [
        tuple((a, n_ranks // a)[m % 2] for m in range(n_layers + 1)) for a in range(1, n_ranks + 1) if n_ranks % a == 0
    ]
    uneven = tuple(n_ranks if m == n_layers - 1 else 1 for m in range(n_layers + 1))
    return list(dict.fromkeys([*splits, uneven]))


@dataclass
class Case:
    """A problem twice: on the grid, and dense."""

    grid: ProcessGrid
    network: PartitionedNetwork
    objective: Objective
    dense: DenseProblem
    theta: np.ndarray

    @property
    def params(self):
        return self.theta[self.own_index]

    @property
    def own_index(self):
        return self.index_of(self.grid.rank)

    def index_of(self, rank, by_layer=False):
        parts = [self.dense.index(b.layer, b.rows, b.outputs, b.owns_bias) for b in self.grid.partition.blocks(rank)]
        return parts if by_layer else np.concatenate([np.zeros(0, int), *parts])

    def whole(self, local):
        """A vector over all variables from the blocks of the ranks."""
        full = np.zeros(self.dense.n_params)
        full[self.own_index] = local
        return self.grid.sum_over_replicas(self.grid.comm.sum_inplace(full)) / self.grid.n_replicas

    def agree(self, condition):
        """Collective verdict: true when it holds on every rank."""
        return not self.grid.world.any(not condition)


def make_targets(rng, loss, n, n_out):
    if loss == "cross_entropy":
        return rng.integers(n_out, size=n)
    if loss == "logistic":
        return rng.integers(2, size=n if n_out == 1 else (n, n_out)).astype(float)
    return rng.standard_normal((n, n_out))


def make_case(
    comm, widths, splits, *, activation="tanh", loss="squared", n=9, C=5.0, seed=0, memory=1e9, sparse=False,
    n_replicas=1, n_pieces=1, blocks=(),
):  # fmt: skip
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, widths[0]))
    if sparse:
        X *= rng.random(X.shape) < 0.4
    y = make_targets(rng, loss, n, widths[-1])
    dense = DenseProblem(widths, activation, loss, X, y, C)
    theta = 0.7 * rng.standard_normal(dense.n_params)
    grid = ProcessGrid(comm, Partition(tuple(widths), tuple(splits), block_splits=tuple(blocks)), n_replicas)
    network = PartitionedNetwork(grid, activation, Backend.of("float64"), n_pieces=n_pieces)
    share = SampleShare(n, n_replicas, grid.replica)
    X_local = X[share.own, slice(*grid.feature_range())].copy()
    if sparse:
        from scipy.sparse import csr_array

        X_local = csr_array(X_local)
    objective = Objective(network, LOSSES[loss], X_local, y[share.own], 1 / C, memory, share)
    return Case(grid, network, objective, dense, theta)


def make_image_case(
    comm,
    image_shape,
    convs,
    hidden,
    n_out,
    splits,
    *,
    activation="tanh",
    loss="squared",
    n=7,
    C=5.0,
    seed=0,
    memory=1e9,
):
    """A convolutional problem on the grid, and dense."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, int(np.prod(image_shape))))
    y = make_targets(rng, loss, n, n_out)
    dense = ConvolutionalProblem(image_shape, convs, hidden, n_out, activation, loss, X, y, C)
    theta = 0.5 * rng.standard_normal(dense.n_params)
    shape = convolutional_shape(image_shape, dense.tables())
    grid = ProcessGrid(comm, Partition(shape.widths, tuple(splits), shape.rows_per_unit, shape.features_per_unit))
    network = PartitionedNetwork(grid, activation, Backend.of("float64"), shape)
    X_local = network.arrange(X[:, slice(*grid.feature_range())].copy())
    objective = Objective(network, LOSSES[loss], X_local, y, 1 / C, memory)
    return Case(grid, network, objective, dense, theta)


def weigh(case, weights):
    """Give the samples of a case weights; its dense problem stays unweighted."""
    objective = case.objective
    objective.targets, _ = normalised(with_weights(objective.targets, np.asarray(weights, float)))
    objective.loss = weighted(objective.loss, objective.targets)
    return case


def linearization(
    case, rows, *, damping=0.5, sketch=0, rooted=False, curvature=True, seed=0, form="identity", of_sample=False
):
    """The model at the case's point, with the curvature of a range of samples."""
    evaluation = case.objective.evaluate(case.params, rows)
    gradient = case.objective.gradient(evaluation)
    generator = np.random.default_rng(seed)
    activations, targets = case.objective.curvature_samples(evaluation)
    point = Point(case.network, case.params, activations, case.objective.loss, targets)
    sample = CurvatureSample(point, generator, share=evaluation.share)
    if curvature:
        sample.linearize(sketch, rooted=rooted)
    return Linearization(gradient, sample, 1 / case.dense.C, damping, case.grid, form, of_sample)


def newton_trainer(
    case, direction, *, subsample=0.5, seed=0, termination=NEVER, damping=1.0, nielsen=False, **options
):
    """Newton iterations on a case, without metrics."""
    damped = LevenbergMarquardt(damping, nielsen=nielsen)
    newton = NewtonStep(direction, damped, StepOptions(seed=seed, **options), termination)
    stage = FullBatch(case.objective, newton, subsample, 1, seed)
    return Trainer(case.objective, case.params.copy(), [(stage, 0)], lambda params, evaluation: {})


def dense_system(case, rows, damping, roots=None):
    """G + lambda I and -g of the same model, as a matrix and a vector; with roots they stand for B."""
    rows = list(range(*rows))
    if roots is None:
        G = case.dense.gauss_newton(case.theta, rows)
    else:
        R = np.einsum("sak,skp->sap", roots, case.dense.jacobian(case.theta, rows)).reshape(-1, case.dense.n_params)
        G = R.T @ R / len(rows) + np.eye(case.dense.n_params) / case.dense.C
    return G + damping * np.eye(len(G)), -case.dense.gradient(case.theta)


def stage_trainer(case, *stages):
    """Stages with their iterations, one after the other, without metrics."""
    return Trainer(case.objective, case.params.copy(), list(stages), lambda params, evaluation: {})


def rate_stage(case, direction, *, batch=4, steps=0, seed=0, **options):
    """Steps of a learning rate on mini-batches."""
    batches = Batches(case.objective.n_samples, batch, seed)
    return RateSteps(case.objective, direction, batches, steps, RateOptions(**options))


def batch_newton(case, direction, *, batch=4, steps=0, seed=0, damping=1.0, **options):
    """Newton steps on mini-batches."""
    newton = NewtonStep(direction, LevenbergMarquardt(damping), StepOptions(seed=seed, **options))
    return BatchNewton(case.objective, newton, Batches(case.objective.n_samples, batch, seed), steps)


def named_direction(name, **options):
    """A direction with some options, unchecked and without the presets of a stage; options of others are ignored."""
    model = Composition.of(name, options).model(StageOptions, presets=False)
    return make_direction(model.model_construct(**{k: v for k, v in options.items() if k in model.model_fields}))
