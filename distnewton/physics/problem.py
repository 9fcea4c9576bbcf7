"""What a residual problem is: terms that are to vanish at points, and a solution to compare with where one is known."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.errors import ConfigError, DistNewtonError
from distnewton.network.jets import Jet
from distnewton.physics.points import Given, Points, read_points

CHANNELS = ("u", "du", "d2u", "laplacian")
"""Arguments of a residual that come from the network."""
OTHERS = ("x", "data", "round")


@dataclass(frozen=True)
class Term:
    """A residual at points.

    Attributes
    ----------
    name : str
        In messages and records: letters, digits, underscores.
    points : Points, or array-like of shape (n, dimension), or path
        Where it is taken; a file as of :func:`~distnewton.physics.points.read_points`, whose label column are the data
        where the residual takes data and there are no others.
    residual : callable
        What is to vanish, a numpy function of arguments by these names, in any order:

        ``x``, of shape (dimension, n)
            The points.
        ``u``, of shape (n_outputs, n)
            Outputs of the network.
        ``du``, ``d2u``, of shape (n_outputs, dimension, n)
            First and second derivatives along the axes.
        ``laplacian``, of shape (n_outputs, n)
            Sums of the second derivatives, at less cost than each of them.
        ``data``, of shape (n,) or (n_data, n)
            Observations at the points.
        ``round``, a whole number
            How many times the points were drawn anew, from 0 on: for a curriculum, such as a viscosity that falls to
            its value (Krishnapriyan et al., NeurIPS 2021, arXiv 2109.01050).
        An unknown constant of the problem by its name
            Of shape (n,).

        It returns an array of shape (n,), or several of them for several equations. It is called with complex numbers,
        which give its exact derivatives (complex step): ``abs``, ``.real`` and the like are no analytic functions.
    weight : float
        Factor of its mean square in the objective.
    data : array-like of shape (n,) or (n_data, n), or None
        Observations, for given points that are no file.
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
        if isinstance(self.points, str | PathLike):
            self._read()
        elif not isinstance(self.points, Points):
            object.__setattr__(self, "points", Given(self.points))
        if not 0.0 < self.weight < math.inf:
            raise ConfigError(f"term {self.name}: the weight must be positive, got {self.weight}", collective=True)
        if ("data" in self.arguments) != (self.data is not None):
            missing = "takes data, but the term has none" if self.data is None else "takes no data, but the term has"
            raise ConfigError(f"term {self.name}: the residual {missing}", collective=True)
        if self.data is not None:
            self._check_data()

    def _read(self) -> None:
        """Read points, and observations if they are wanted, from a file."""
        observed = self.data is None and "data" in self.arguments
        try:
            points, data = read_points(self.points, observed=observed)
        except DistNewtonError as error:
            raise type(error)(f"term {self.name}: {error}") from None
        object.__setattr__(self, "points", Given(points))
        if observed:
            object.__setattr__(self, "data", data)

    def _check_data(self) -> None:
        data = np.array(self.data, dtype=np.float64)
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
        return tuple(inspect.signature(self.residual).parameters)


@dataclass(frozen=True)
class Problem:
    r"""Residuals that a network is to make vanish.

    .. math:: f(\theta) = \frac{\theta^T\theta}{2C} + \sum_t w_t \frac1{n_t} \sum_{i=1}^{n_t} \|r_t(x_{ti})\|^2

    Attributes
    ----------
    terms : sequence of Term
        One at least.
    n_outputs : int
        Outputs of the network: components of u.
    unknowns : mapping of str to float
        Constants of the equations that are found, too, and where they start.
    solution : callable or None
        u of x (dimension, n), where it is known: (n,) or (n_outputs, n). Records then have the error.
    test : Points or array-like or None
        Where the error is taken; by default at the points of the first term, drawn anew.
    resample : int
        Points are drawn anew every so many iterations; 0: never.
    """

    terms: Sequence[Term]
    n_outputs: int = 1
    unknowns: Mapping[str, float] = field(default_factory=dict)
    solution: Callable[[Array], Any] | None = None
    test: Any = None
    resample: int = 0

    def __post_init__(self) -> None:
        if not self.terms or not all(isinstance(term, Term) for term in self.terms):
            raise ConfigError("a problem has a list of terms, one at least", collective=True)
        if self.n_outputs < 1 or self.resample < 0:
            raise ConfigError("n_outputs is at least 1, and resample at least 0", collective=True)
        dimensions = {term.points.dimension for term in self.terms}
        if len(dimensions) > 1:
            sizes = ", ".join(f"{term.name}: {term.points.dimension}" for term in self.terms)
            raise ConfigError(f"the points of all terms have one dimension, got {sizes}", collective=True)
        if len({term.name for term in self.terms}) < len(self.terms):
            raise ConfigError("the terms of a problem have different names", collective=True)
        known = {*CHANNELS, *OTHERS, *self.unknowns}
        for term in self.terms:
            if unknown := [name for name in term.arguments if name not in known]:
                raise ConfigError(
                    f"term {term.name}: the residual has no argument {unknown[0]!r}; there are {', '.join(known)}",
                    collective=True,
                )
        if self.test is not None and not isinstance(self.test, Points):
            object.__setattr__(self, "test", Given(self.test))

    @property
    def dimension(self) -> int:
        """Dimensions of the points: features of the network."""
        return int(self.terms[0].points.dimension)

    @property
    def n_all_outputs(self) -> int:
        """Outputs with the unknown constants, which come last."""
        return self.n_outputs + len(self.unknowns)

    @property
    def n_points(self) -> int:
        """Points of all terms."""
        return sum(term.points.n for term in self.terms)

    def jet(self) -> Jet:
        """The derivatives that any of the terms needs."""
        needs = {name for term in self.terms for name in term.arguments}
        axes = tuple(tuple(float(a == b) for b in range(self.dimension)) for a in range(self.dimension))
        if "d2u" in needs:
            return Jet(axes, axes, len(self.unknowns))
        if "laplacian" in needs:
            return Jet(axes, ((1.0,) * self.dimension,), len(self.unknowns))
        return Jet(axes if "du" in needs else (), (), len(self.unknowns))

    def points(self, seed: int, round_number: int = 0) -> Array:
        """Points of all terms, one term after the other, of shape (n_points, dimension)."""
        drawn = [term.points.draw(_generator(seed, t, round_number)) for t, term in enumerate(self.terms)]
        return np.concatenate(drawn)

    def test_points(self, seed: int) -> Array:
        """Points at which the solution is compared, of shape (n, dimension)."""
        points: Array = (self.test or self.terms[0].points).draw(_generator(seed, len(self.terms), 0))
        return points

    def solved(self, X: Array) -> Array:
        """The known solution at points, with zeros for unknown constants; shape (n, n_all_outputs)."""
        if self.solution is None:
            raise ConfigError("the problem has no known solution", collective=True)
        values = np.atleast_2d(np.asarray(self.solution(X.T), dtype=np.float64))
        if values.shape != (self.n_outputs, len(X)) or not np.isfinite(values).all():
            raise ConfigError(
                f"solution: expected {self.n_outputs} x {len(X)} finite numbers, got shape {values.shape}",
                collective=True,
            )
        return np.concatenate([values.T, np.zeros((len(X), len(self.unknowns)))], axis=1)


def _generator(seed: int, number: int, round_number: int) -> np.random.Generator:
    """Random numbers of a term's points, the same on all ranks."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0x9017, number, round_number]))
