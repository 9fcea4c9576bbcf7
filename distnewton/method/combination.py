r"""Combine this iteration's direction with the last one.

.. math:: \min_\beta\; q(\beta_1 \bar d + \beta_2 d_{prev}), \qquad q(d) = g^T d + \tfrac12 d^T (G_S + \lambda I) d

The 2 x 2 system uses the full matrix, not the block-diagonal one: block directions overshoot, and beta_1 corrects
their length (on random networks q after beta_1 recovered 73 to 96 % of the exact decrease). It costs one sum of
2 |S| n_L numbers and a few dot products over all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distnewton.backend import Array, scalar
from distnewton.curvature.linearization import Linearization
from distnewton.frozen import frozen
from distnewton.parallel.grid import ProcessGrid

_NEARLY_PARALLEL = 1e-10
"""Relative determinant below which the two directions count as one."""


@frozen
class Combination:
    """A direction and the scalars of the model along it.

    Attributes
    ----------
    direction : Array of shape (n_params_local,)
        This rank's block of beta_1 dbar + beta_2 d_prev.
    betas : tuple of float
        beta_1 and beta_2.
    slope : float
        g^T d.
    curvature : float
        d^T G_S d, undamped, 1/C included.
    squared_norm : float
        d^T d.
    penalised_norm, params_dot : float
        d^T P d and theta^T P d, over the variables that are penalised.
    curve : Array of shape (n_params_local,) or None
        c where trial points are theta + alpha d + alpha^2 c, on a parabola.
    """

    direction: Array
    betas: tuple[float, ...]
    slope: float
    curvature: float
    squared_norm: float
    penalised_norm: float
    params_dot: float
    curve: Array | None = None


def combine(problem: Linearization, params: Array, directions: list[Array], *, scale: bool = True) -> Combination:
    """Minimise the damped quadratic model over the span of one or two directions.

    Parameters
    ----------
    problem : Linearization
        The model.
    params : Array of shape (n_params_local,)
        The point.
    directions : list of Array of shape (n_params_local,)
        This iteration's direction, then the last one if there is one.
    scale : bool
        Whether to scale; with False the first direction is returned as it is.

    Returns
    -------
    Combination

    Notes
    -----
    Collective: :meth:`CurvatureSample.products`, and a sum over all ranks of 2 k + 2 k^2 numbers in float64. Diagonal
    damping adds k^2 numbers, and so do variables that are not penalised.
    """
    k = len(directions)
    D = problem.damping_matrix
    scaled = [] if D is None else [D * d for d in directions]
    penalised = [] if problem.penalised is None else [problem.penalised_part(d) for d in directions]
    # rows: g, P theta, each direction d, and P d and D d if P or D is not the identity; columns: the directions
    vectors = problem.gradient, problem.penalised_part(params), *directions, *penalised, *scaled
    products, (slopes, params_dots, *gram_rows) = _products(problem, directions, vectors)
    gram = np.array(gram_rows[:k])
    penalised_gram = np.array(gram_rows[k : 2 * k]) if penalised else gram
    damping_gram = np.array(gram_rows[-k:]) if scaled else gram
    G = products + problem.regularization * penalised_gram
    betas = minimise(G + problem.damping * damping_gram, slopes) if scale else np.eye(k)[0]
    direction = float(betas[0]) * directions[0]
    if k == 2:
        direction += float(betas[1]) * directions[1]
    return Combination(
        direction,
        tuple(float(beta) for beta in betas),
        slope=float(betas @ slopes),
        curvature=float(betas @ G @ betas),
        squared_norm=float(betas @ gram @ betas),
        penalised_norm=float(betas @ penalised_gram @ betas),
        params_dot=float(betas @ params_dots),
    )


def _products(
    problem: Linearization, directions: list[Array], vectors: Sequence[Array]
) -> tuple[Array, Array]:
    """Return d^T J^T B J d / |S| for all pairs of directions, and a row of inner products with them for each vector."""
    dot, vdot = problem.backend.dot, problem.backend.xp.vdot
    local_dots = [dot(u, d) for u in vectors for d in directions]
    Jd, hessian = problem.sample.products(directions)
    BJd = [hessian.matvec(q) for q in Jd]
    products = np.array([[scalar(vdot(p, q)) for q in BJd] for p in Jd]) / problem.n_samples
    products, scalars = _summed(problem.grid, products, local_dots)
    return products, scalars.reshape(-1, len(directions))


def _summed(grid: ProcessGrid, products: Array, dots: list[float]) -> tuple[Array, Array]:
    """Sum products over the replicas, and dot products over the ranks of one replica, in one message.

    Every rank must compute the same step from these numbers. Different processors round differently, so of each
    replica only one rank's products count.

    Parameters
    ----------
    grid : ProcessGrid
        The ranks.
    products : Array of shape (k, k)
        Products over this replica's samples, the same on all its ranks up to rounding.
    dots : list of float
        Dot products over this rank's variables.

    Returns
    -------
    tuple of Array
        The same on all ranks.
    """
    message = np.zeros(products.size + len(dots))
    if grid.rank == 0:
        message[: products.size] = products.ravel()
    if grid.replica == 0:
        message[products.size :] = dots
    grid.world.sum_inplace(message)
    return message[: products.size].reshape(products.shape), message[products.size :]


def minimise(A: Array, slopes: Array) -> Array:
    """Minimise slopes^T beta + beta^T A beta / 2 over one or two coefficients.

    Parameters
    ----------
    A : Array of shape (k, k)
        Symmetric, positive semi-definite; k is 1 or 2.
    slopes : Array of shape (k,)
        g^T d of each direction.

    Returns
    -------
    Array of shape (k,)
        The second coefficient is 0 if the directions are nearly parallel; both are 0 if the first direction is zero.
    """
    betas = np.zeros(len(slopes))
    if not A[0, 0] > 0:
        return betas
    if len(slopes) == 2:
        # Cramer's rule: the rounding of a library's solver would differ between machines
        determinant = A[0, 0] * A[1, 1] - A[0, 1] * A[1, 0]
        if determinant > _NEARLY_PARALLEL * A[0, 0] * A[1, 1]:
            betas[0] = A[0, 1] * slopes[1] - A[1, 1] * slopes[0]
            betas[1] = A[1, 0] * slopes[0] - A[0, 0] * slopes[1]
            betas /= determinant
            return betas
    betas[0] = -slopes[0] / A[0, 0]
    return betas
