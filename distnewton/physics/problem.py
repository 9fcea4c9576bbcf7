"""A residual problem: terms that shall vanish at points, and a solution for comparison if one is known."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from os import PathLike
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.data.description import DataSource
from distnewton.errors import ConfigError, DistNewtonError
from distnewton.frozen import frozen
from distnewton.network.jets import Jet
from distnewton.physics.points import Given, Points, read_points, real_numbers

CHANNELS = ("u", "du", "d2u", "laplacian")
"""Arguments of a residual that come from the network."""
OTHERS = ("x", "data", "round")
RECORDED = ("rmse", "relative_l2")
"""Names of numbers in records, besides those of the terms and the unknown constants."""


@frozen
class Term:
    """A residual that shall vanish at points.

    Attributes
    ----------
    name : str
        Name in messages and records, of letters, digits and underscores.
    points : Points, or array-like of shape (n, dimension), or path
        Points at which it is evaluated, or a file that :func:`~distnewton.physics.points.read_points` reads. The
        label column of a file gives the data if the residual takes data and no other data are given.
    residual : callable
        The residual, a numpy function whose arguments have these names, in any order:

        ``x``, of shape (dimension, n)
            The points.
        ``u``, of shape (n_outputs, n)
            Outputs of the network.
        ``du``, ``d2u``, of shape (n_outputs, dimension, n)
            First and second derivatives along the axes.
        ``laplacian``, of shape (n_outputs, n)
            Sums of the second derivatives, which cost less than all second derivatives.
        ``data``, of shape (n,) or (n_data, n)
            Observations at the points.
        ``round``, a whole number
            Number of times that the points have been redrawn, from 0, for a curriculum such as a viscosity that falls
            to its final value (Krishnapriyan et al., NeurIPS 2021, arXiv 2109.01050).
        An unknown constant of the problem by its name
            Of shape (n,).

        It returns an array of shape (n,), or several for several equations. It is called with complex numbers, which
        give exact derivatives (complex step), so it must be analytic: without ``abs``, ``.real`` and the like.
    weight : float
        Factor of the mean square in the objective.
    data : array-like of shape (n,) or (n_data, n), or None
        Observations at given points that do not come from a file.
    """

    name: str
    points: Any
    residual: Callable[..., Any]
    weight: float = 1.0
    data: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z_]\w*", self.name):
            raise ConfigError(f"a term's name is an identifier, got {self.name!r}", collective=True)
        if not callable(self.residual):
            raise ConfigError(f"term {self.name}: the residual must be a function", collective=True)
        if not isinstance(self.points, Points):
            self._take_points()
        weight = real_numbers(self.weight)
        if weight.ndim or not 0.0 < weight < math.inf:
            raise ConfigError(f"term {self.name}: the weight must be positive, got {self.weight}", collective=True)
        if ("data" in self.arguments) != (self.data is not None):
            missing = "takes data, but the term has none" if self.data is None else "takes no data, but the term has"
            raise ConfigError(f"term {self.name}: the residual {missing}", collective=True)
        if self.data is not None:
            self._check_data()

    def _take_points(self) -> None:
        """Take points from an array or a file, with observations if the residual takes data."""
        points, data = self.points, self.data
        with _told_of(self.name):
            if isinstance(points, str | PathLike) and data is None and "data" in self.arguments:
                points, data = read_points(points, observed=True)
            given = Given(points)
        object.__setattr__(self, "points", given)
        object.__setattr__(self, "data", data)

    def in_file(self, path: str, open_file: Callable[..., DataSource]) -> Term:
        """Return the same residual at the points of a file, whose label column gives the data if it takes data.

        Parameters
        ----------
        path : str
            The file.
        open_file : callable
            Opens the file, as in :func:`~distnewton.physics.points.read_points`.

        Returns
        -------
        Term

        Raises
        ------
        DistNewtonError
            With the name of the term, if the file cannot be read or holds anything but finite numbers.
        """
        with _told_of(self.name):
            points, data = read_points(path, observed="data" in self.arguments, open_file=open_file)
        return replace(self, points=points, data=data)

    def _check_data(self) -> None:
        data = real_numbers(self.data)
        if not isinstance(self.points, Given) or data.ndim not in (1, 2) or data.shape[-1] != self.points.n:
            raise ConfigError(
                f"term {self.name}: data belong to given points and have shape (n,) or (n_data, n), got {data.shape}",
                collective=True,
            )
        if not np.isfinite(data).all():
            raise ConfigError(f"term {self.name}: the data hold NaN or infinite values", collective=True)
        object.__setattr__(self, "data", data)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the residual's arguments."""
        try:
            return tuple(inspect.signature(self.residual).parameters)
        except ValueError:
            raise ConfigError(
                f"term {self.name}: the arguments of the residual cannot be read: wrap it in a function of your own",
                collective=True,
            ) from None


@frozen
class Problem:
    r"""Residuals that a network shall make vanish.

    .. math:: f(\theta) = \frac{\theta^T\theta}{2C} + \sum_t w_t \frac1{n_t} \sum_{i=1}^{n_t} \|r_t(x_{ti})\|^2

    Attributes
    ----------
    terms : sequence of Term
        The terms, at least one.
    n_outputs : int
        Number of outputs of the network, the components of u.
    unknowns : mapping of str to float
        Unknown constants of the equations, which training also finds, with their first values.
    solution : callable or None
        The known solution u as a function of x (dimension, n), which returns (n,) or (n_outputs, n). Records then
        contain the error.
    test : Points or array-like or None
        Points at which the error is computed; by default redrawn points of the first term.
    resample : int
        Number of iterations after which points are redrawn; 0: never.
    """

    terms: Sequence[Term]
    n_outputs: int = 1
    unknowns: Mapping[str, float] = field(default_factory=dict)
    solution: Callable[[Array], Any] | None = None
    test: Any = None
    resample: int = 0

    def __post_init__(self) -> None:
        listed = isinstance(self.terms, Sequence) and len(self.terms) > 0
        if not listed or not all(isinstance(term, Term) for term in self.terms):
            raise ConfigError("a problem needs a list of terms, at least one", collective=True)
        self._check_settings()
        self._check_unknowns()
        self._check_terms()
        if self.test is not None and not isinstance(self.test, Points):
            object.__setattr__(self, "test", Given(self.test))
        if self.test is not None and self.test.dimension != self.dimension:
            raise ConfigError(
                f"test has points of {self.test.dimension} dimensions, the terms of {self.dimension}", collective=True
            )

    def _check_settings(self) -> None:
        """Refuse invalid numbers and an invalid solution."""
        for name, least in (("n_outputs", 1), ("resample", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise ConfigError(f"{name} is a whole number, at least {least}, got {value!r}", collective=True)
        if self.solution is not None and not callable(self.solution):
            raise ConfigError("the solution must be a function", collective=True)

    def _check_unknowns(self) -> None:
        """Refuse unknown constants whose name or value is invalid, and those that no term takes."""
        if not isinstance(self.unknowns, Mapping):
            raise ConfigError("unknowns must map names to first values, such as {'diffusion': 1.0}", collective=True)
        taken = {name for term in self.terms for name in term.arguments}
        for name, value in self.unknowns.items():
            if not re.fullmatch(r"[A-Za-z_]\w*", str(name)) or name in (*CHANNELS, *OTHERS, *RECORDED):
                raise ConfigError(f"unknown {name!r}: choose another name, of letters and digits", collective=True)
            if real_numbers(value).ndim or not np.isfinite(real_numbers(value)):
                raise ConfigError(f"unknown {name}: the first value must be a finite number", collective=True)
            if name not in taken:
                raise ConfigError(f"unknown {name}: no term has it as an argument", collective=True)

    def _check_terms(self) -> None:
        """Refuse terms that do not fit together."""
        dimensions = {term.points.dimension for term in self.terms}
        if len(dimensions) > 1:
            sizes = ", ".join(f"{term.name}: {term.points.dimension}" for term in self.terms)
            raise ConfigError(f"the points of all terms must have the same dimension, got {sizes}", collective=True)
        if len({term.name for term in self.terms}) < len(self.terms):
            raise ConfigError("the terms of a problem must have different names", collective=True)
        known = {*CHANNELS, *OTHERS, *self.unknowns}
        for term in self.terms:
            if term.name in RECORDED:
                raise ConfigError(f"term {term.name}: records use this name: choose another", collective=True)
            if unknown := [name for name in term.arguments if name not in known]:
                raise ConfigError(
                    f"term {term.name}: the residual has no argument {unknown[0]!r}; there are "
                    f"{', '.join((*CHANNELS, *OTHERS, *self.unknowns))}",
                    collective=True,
                )

    @property
    def dimension(self) -> int:
        """Dimension of the points, which is the number of features of the network."""
        return int(self.terms[0].points.dimension)

    @property
    def n_all_outputs(self) -> int:
        """Number of outputs, including the unknown constants, which come last."""
        return self.n_outputs + len(self.unknowns)

    @property
    def n_points(self) -> int:
        """Number of points of all terms."""
        return sum(term.points.n for term in self.terms)

    def jet(self) -> Jet:
        """Return the derivatives that any of the terms needs."""
        needs = {name for term in self.terms for name in term.arguments}
        axes = tuple(tuple(float(a == b) for b in range(self.dimension)) for a in range(self.dimension))
        if "d2u" in needs:
            return Jet(axes, axes, len(self.unknowns))
        if "laplacian" in needs:
            return Jet(axes, ((1.0,) * self.dimension,), len(self.unknowns))
        return Jet(axes if "du" in needs else (), (), len(self.unknowns))

    def points(self, seed: int, round_number: int = 0) -> Array:
        """Draw the points of all terms, one term after the other; shape (n_points, dimension)."""
        drawn = [term.points.draw(_generator(seed, t, round_number)) for t, term in enumerate(self.terms)]
        return np.concatenate(drawn)

    def test_points(self, seed: int) -> Array:
        """Return the points at which the solution is compared; shape (n, dimension)."""
        points: Array = (self.test or self.terms[0].points).draw(_generator(seed, len(self.terms), 0))
        return points

    def solved(self, X: Array) -> Array:
        """Evaluate the known solution at points, with zeros for unknown constants; shape (n, n_all_outputs)."""
        if self.solution is None:
            raise ConfigError("the problem has no known solution", collective=True)
        try:
            values = np.atleast_2d(real_numbers(self.solution(X.T)))
        except Exception as error:
            message = f"solution: the function fails with {type(error).__name__}: {error}"
            raise ConfigError(message, collective=True) from error
        if values.shape != (self.n_outputs, len(X)) or not np.isfinite(values).all():
            raise ConfigError(
                f"solution: expected {self.n_outputs} x {len(X)} finite numbers, got shape {values.shape}",
                collective=True,
            )
        return np.concatenate([values.T, np.zeros((len(X), len(self.unknowns)))], axis=1)


@contextmanager
def _told_of(term: str) -> Iterator[None]:
    """Put the name of a term at the beginning of errors."""
    try:
        yield
    except DistNewtonError as error:
        raise type(error)(f"term {term}: {error}", collective=error.collective) from None


def _generator(seed: int, number: int, round_number: int) -> np.random.Generator:
    """Return the generator of a term's points, the same on all ranks."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0x9017, number, round_number]))
