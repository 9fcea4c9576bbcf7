r"""The loss of a residual problem: weighted squares of its residuals, with derivatives by complex steps.

A sample is a point of a term. Its outputs are channels z (values and derivatives of the network there), and its loss

.. math:: \xi = s_t \|r_t(x, z)\|^2, \qquad s_t = w_t\, n / n_t

so that the mean over all n points is sum_t w_t times the mean square of term t. The Gauss-Newton matrix in the
channels is B = 2 s_t r'^T r' with r' = dr/dz. Its roots are the rows sqrt(2 s_t) r', one for each equation of the term,
whatever the number of channels. r' = Im r(z + i h) / h is exact up to rounding (Squire and Trapp, SIAM Review 40,
1998).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.errors import ConfigError
from distnewton.network.jets import Jet
from distnewton.network.losses import Loss, random_signs
from distnewton.parallel.replicas import Draws
from distnewton.physics.problem import Problem, Term

_STEP = 1e-100
_DIFFERENCE = 1e-6
_QUIET = np.errstate(all="ignore")
"""At the start, numbers that are not finite are reported with the term's name; later the line search refuses them."""
_SAME = 1e-4
"""Largest relative difference between complex-step and finite-difference derivatives of an analytic function."""


class TermResidual:
    """The residual of a term, as a function of channels.

    Parameters
    ----------
    term : Term
        The term.
    problem : Problem
        The problem, with all terms.
    jet : Jet
        Derivatives that pass through the network with the values, for all terms.
    rows : slice
        Numbers of the term's points.
    """

    def __init__(self, term: Term, problem: Problem, jet: Jet, rows: slice) -> None:
        self.term, self.rows = term, rows
        self.name, self.scale = term.name, term.weight * problem.n_points / term.points.n
        self._problem, self._jet, self._arguments = problem, jet, term.arguments
        self.n_equations = self.round = 0

    @property
    def used(self) -> list[int]:
        """Numbers of the channels that the residual can depend on, among size * n_all_outputs."""
        n, d, K = self._problem.n_outputs, self._problem.dimension, self._problem.n_all_outputs
        places = {"u": [0], "du": range(1, 1 + d), "d2u": range(1 + d, self._jet.size)}
        places["laplacian"] = places["d2u"]
        numbers = [c * K + a for name in places if name in self._arguments for c in places[name] for a in range(n)]
        unknowns = [n + j for j, name in enumerate(self._problem.unknowns) if name in self._arguments]
        return sorted({*numbers, *unknowns})

    @_QUIET
    def values(self, Z: Array, X: Array, numbers: Array) -> Array:
        """Compute the residuals, of shape (n_equations, n).

        Parameters
        ----------
        Z : Array of shape (n, size * n_all_outputs)
            Channels, real or complex.
        X : Array of shape (n, dimension)
            The points.
        numbers : Array of int of shape (n,)
            Numbers of the points within the term.

        Returns
        -------
        Array
        """
        problem, d = self._problem, self._problem.dimension
        channels = np.ascontiguousarray(Z.reshape(len(Z), self._jet.size, problem.n_all_outputs).transpose(2, 1, 0))
        u = channels[: problem.n_outputs]
        given: dict[str, Any] = {"u": u[:, 0], "du": u[:, 1 : 1 + d], "d2u": u[:, 1 + d :]}
        given |= {"x": X.T, "round": self.round}
        if "laplacian" in self._arguments:
            given["laplacian"] = given["d2u"].sum(axis=1)
        if self.term.data is not None:
            given["data"] = self.term.data[..., numbers]
        given |= {name: channels[problem.n_outputs + j, 0] for j, name in enumerate(problem.unknowns)}
        for array in given.values():
            if isinstance(array, np.ndarray):
                # copies, since other terms and later calls need the points and channels
                array.flags.writeable = False
        try:
            found = self.term.residual(**{name: given[name] for name in self._arguments})
            parts = [np.asarray(part) for part in (found if isinstance(found, list | tuple) else [found])]
        except Exception as error:
            raise ConfigError(f"term {self.name}: the residual fails with {type(error).__name__}: {error}") from error
        values = self._as_rows(parts, len(Z))
        if values.dtype.kind == "c" and Z.dtype.kind != "c":
            raise ConfigError(f"term {self.name}: the residual of real numbers is complex")
        return values

    def _as_rows(self, parts: Sequence[Array], n: int) -> Array:
        """Stack what a residual returned into an array of shape (n_equations, n)."""
        if parts and all(part.dtype.kind in "iufc" and part.shape[-1:] == (n,) and part.ndim <= 2 for part in parts):
            values = np.concatenate([part.reshape(-1, n) for part in parts])
            if self.n_equations in (0, len(values)) and len(values):
                return values
        shapes = ", ".join(f"{part.dtype} of shape {part.shape}" for part in parts) or "nothing"
        raise ConfigError(
            f"term {self.name}: expected residuals of shape (n,) = ({n},), or several of them, got {shapes}"
        )

    def derivatives(self, Z: Array, X: Array, numbers: Array) -> Array:
        """Differentiate in the channels; shape (n, n_equations, size * n_all_outputs), arguments as in ``values``."""
        moved = Z.astype(np.complex128)
        found: Array | None = None
        for c in self.used:
            moved[:, c] += 1j * _STEP
            slopes = self.values(moved, X, numbers).imag / _STEP
            moved[:, c] = Z[:, c]
            if found is None:
                found = np.zeros((len(Z), len(slopes), Z.shape[1]))
            found[:, :, c] = slopes.T
        return np.zeros((len(Z), self.n_equations, Z.shape[1])) if found is None else found

    def check(self, Z: Array, X: Array, numbers: Array) -> None:
        """Refuse, by the term's name, a residual that cannot be trained on; store its number of equations.

        Parameters
        ----------
        Z, X, numbers : Array
            Some points, as in :meth:`values`.

        Raises
        ------
        ConfigError
            If it is complex or not finite, independent of the network, or not analytic.
        """
        values = self.values(Z, X, numbers)
        self.n_equations = len(values)
        if not np.isfinite(values).all():
            i = int(np.flatnonzero(~np.isfinite(values).all(axis=0))[0])
            raise ConfigError(f"term {self.name}: the residual is not finite at x = {X[i].tolist()}")
        exact = self.derivatives(Z, X, numbers)
        if not np.isfinite(exact).all():
            raise ConfigError(f"term {self.name}: the derivatives of the residual are not finite")
        self._check_analytic(Z, X, numbers, exact)
        if not exact.any():
            raise ConfigError(f"term {self.name}: the residual does not depend on the network")

    def _check_analytic(self, Z: Array, X: Array, numbers: Array, exact: Array) -> None:
        """Compare derivatives by complex steps with finite differences."""
        for c in self.used:
            h = _DIFFERENCE * np.maximum(1.0, np.abs(Z[:, c]))
            up, down = Z.copy(), Z.copy()
            up[:, c] += h
            down[:, c] -= h
            high, low = self.values(up, X, numbers), self.values(down, X, numbers)
            error = np.abs((high - low) / (2 * h) - exact[:, :, c].T)
            # rounding of the values, and curvature
            allowed = _SAME * (1.0 + np.abs(exact[:, :, c].T)) + 1e-15 * (np.abs(high) + np.abs(low)) / h
            if (error > allowed).mean() > 0.5:
                raise ConfigError(
                    f"term {self.name}: derivatives by complex steps differ from differences, so the residual is no "
                    "analytic function: write sqrt(u**2) in place of abs(u), and leave out .real, conj and comparisons"
                )


class ResidualLoss(Loss):
    """The loss of all terms; targets are the numbers of the points.

    Parameters
    ----------
    problem : Problem
        The terms.
    seed : int
        Seed of the points.

    Attributes
    ----------
    jet : Jet
        Derivatives that the network must pass with the values.
    points : Array of shape (n_points, dimension)
        All points of the current round, on every rank.
    """

    name, help = "residuals", "weighted squares of the residuals of a problem"
    tasks = ("regression",)

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem, self.jet = problem, problem.jet()
        self.seed, self._round = seed, 0
        self.points = problem.points(seed)
        stops = np.cumsum([0, *(term.points.n for term in problem.terms)]).tolist()
        self.terms = [
            TermResidual(term, problem, self.jet, slice(start, stop))
            for term, start, stop in zip(problem.terms, stops[:-1], stops[1:], strict=True)
        ]

    def renew(self, iteration: int) -> bool:
        """Draw the points of an iteration, counted from 1; return whether they have changed."""
        period = self.problem.resample
        number = (max(iteration, 1) - 1) // period if period else 0
        if number == self._round:
            return False
        self._round = number
        for term in self.terms:
            term.round = number
        self.points[...] = self.problem.points(self.seed, number)
        return True

    @property
    def n_rows(self) -> int:
        """Largest number of equations of a term, which is the number of Jacobian rows of a point."""
        return max(term.n_equations for term in self.terms)

    def count_equations(self) -> int:
        """Find the largest number of equations of a term at a point of each, before :meth:`TermResidual.check`."""
        Z = np.full((1, self.jet.size * self.problem.n_all_outputs), 0.5)
        first = (term.values(Z, self.points[term.rows][:1], np.zeros(1, np.int64)) for term in self.terms)
        return max(len(values) for values in first)

    def _by_term(self, targets: Array) -> Iterator[tuple[TermResidual, Array, Array]]:
        """Yield each term with the positions of its points among the given ones, and their numbers in the term."""
        for term in self.terms:
            rows = np.flatnonzero((targets >= term.rows.start) & (targets < term.rows.stop))
            if len(rows):
                yield term, rows, targets[rows] - term.rows.start

    def _residuals(self, Z: Array, targets: Array) -> Iterator[tuple[TermResidual, Array, Array, Array]]:
        """Yield each term, the positions of its points, their residuals, and their numbers in the term."""
        for term, rows, numbers in self._by_term(targets):
            yield term, rows, term.values(Z[rows].astype(np.float64), self.points[targets[rows]], numbers), numbers

    def values(self, Z: Array, targets: Array) -> Array:
        """Compute the loss of each point, in float64."""
        losses = np.zeros(len(Z))
        for term, rows, r, _ in self._residuals(Z, targets):
            losses[rows] = term.scale * (r * r).sum(axis=0)
        return losses

    def mean_squares(self, Z: Array, targets: Array) -> Array:
        """Sum each term's squares over these points, and divide by the number of all points of the term."""
        sums = np.zeros(len(self.terms))
        for term, _, r, _ in self._residuals(Z, targets):
            sums[self.terms.index(term)] = (r * r).sum() / term.term.points.n
        return sums

    def gradient(self, Z: Array, targets: Array) -> Array:
        """Compute the gradient of each point's loss in its channels."""
        gradient = np.zeros_like(Z)
        for term, rows, r, numbers in self._residuals(Z, targets):
            slopes = term.derivatives(Z[rows].astype(np.float64), self.points[targets[rows]], numbers)
            gradient[rows] = 2.0 * term.scale * np.einsum("an,nac->nc", r, slopes)
        return gradient

    @_QUIET
    def not_finite(self, Z: Array, targets: Array) -> str:
        """Name the first term that is not finite at finite channels, or whose derivatives are not; else empty."""
        for term, rows, r, numbers in self._residuals(Z, targets):
            channels, X = Z[rows].astype(np.float64), self.points[targets[rows]]
            slopes = term.derivatives(channels, X, numbers)
            fine = np.isfinite(r).all(axis=0) & np.isfinite(slopes).all(axis=(1, 2))
            wrong = np.flatnonzero(~fine & np.isfinite(channels).all(axis=1))
            if wrong.size:
                return f"term {term.name}: the residual is not finite at x = {X[wrong[0]].tolist()}"
        return ""

    def check_range(self, dtype: str) -> None:
        """Refuse, by the name of the term, points whose squares exceed a dtype; the same on all ranks."""
        limit = float(np.sqrt(np.finfo(dtype).max))
        for term in self.terms:
            far = np.abs(self.points[term.rows]).max()
            if far > limit:
                raise ConfigError(
                    f"term {term.name}: the points reach {far:.3g}, too far for {dtype}: use a unit in which they "
                    "are near 1",
                    collective=True,
                )

    def residuals(self, Z: Array, targets: Array) -> Array:
        """Compute weighted residuals sqrt(2 s_t) r of each point, zero beyond the equations of its term."""
        residuals = np.zeros((len(Z), max(1, self.n_rows)), Z.dtype)
        for term, rows, r, _ in self._residuals(Z, targets):
            residuals[rows, : len(r)] = np.sqrt(2.0 * term.scale) * r.T
        return residuals

    def hessian(self, Z: Array, targets: Array) -> ResidualHessian:
        """Return the Gauss-Newton matrices of the points' losses in their channels."""
        roots = np.zeros((len(Z), max(1, self.n_rows), Z.shape[1]))
        for term, rows, numbers in self._by_term(targets):
            slopes = term.derivatives(Z[rows].astype(np.float64), self.points[targets[rows]], numbers)
            roots[rows, : slopes.shape[1]] = np.sqrt(2.0 * term.scale) * slopes
        return ResidualHessian(roots.astype(Z.dtype, copy=False))

    def third(self, Z: Array, targets: Array, V: Array) -> float:
        """Refuse: third derivatives of residuals are not computed."""
        message = "grouped_newton needs third derivatives, which residuals do not have; use another direction"
        raise ConfigError(message, collective=True)


class ResidualHessian:
    """B = R^T R of each point, from its rows R.

    Parameters
    ----------
    rows : Array of shape (n, n_rows, n_out)
        Rows sqrt(2 s) dr/dz.
    """

    def __init__(self, rows: Array) -> None:
        self._rows = rows

    def matvec(self, V: Array) -> Array:
        """Multiply B of each point onto a vector of channels."""
        product: Array = np.vecmat(np.matvec(self._rows, V), self._rows)
        return product

    def roots(self, n_roots: int, generator: Draws | None) -> Array:
        """Return the rows themselves, or `n_roots` sums of them with random signs, divided by sqrt(n_roots)."""
        if generator is None:
            return self._rows
        n, k, _ = self._rows.shape
        signs: Array = random_signs(generator, n, n_roots, k) / np.sqrt(n_roots)
        mixed: Array = signs.astype(self._rows.dtype) @ self._rows
        return mixed
