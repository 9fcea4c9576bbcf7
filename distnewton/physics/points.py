"""Points at which residuals are evaluated: in boxes, on faces and spheres, or given ones.

Points fill their region evenly, by the additive recurrence of the generalised golden ratio (Roberts, "The unreasonable
effectiveness of quasirandom sequences", 2018) with a random shift: a point depends only on the seed and its number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np

from distnewton.backend import Array, is_sparse
from distnewton.data.columns import LabelsWanted
from distnewton.data.description import DataSource
from distnewton.data.sources import open_data
from distnewton.errors import ConfigError
from distnewton.frozen import frozen


class Points(ABC):
    """A number of points in d dimensions.

    Attributes
    ----------
    n, dimension : int
        Number of points, and d.
    """

    n: int
    dimension: int

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> Array:
        """Draw the points, of shape (n, dimension), in float64.

        Parameters
        ----------
        generator : numpy.random.Generator
            Generator in the same state on all ranks; resampling passes another one.
        """


@frozen
class Given(Points):
    """Given points, which stay where they are.

    Parameters
    ----------
    array : array-like of shape (n, dimension), or (n,) for one dimension, or path
        Finite numbers, or a file of them, as :func:`read_points` reads it.
    """

    array: Any

    def __post_init__(self) -> None:
        given = read_points(self.array)[0] if isinstance(self.array, str | PathLike) else self.array
        points = real_numbers(given)
        if points.ndim not in (1, 2) or not points.size or not np.isfinite(points).all():
            raise ConfigError(
                f"expected points as finite numbers of shape (n, dimension), got shape {points.shape}", collective=True
            )
        object.__setattr__(self, "array", points[:, None] if points.ndim == 1 else points)

    @property
    def n(self) -> int:  # type: ignore[override]
        """Number of points."""
        return len(self.array)

    @property
    def dimension(self) -> int:  # type: ignore[override]
        """Numbers of a point."""
        return int(self.array.shape[1])

    def draw(self, generator: np.random.Generator) -> Array:
        """Return the points."""
        points: Array = self.array.copy()
        return points


@frozen
class _InBox(Points):
    """Points of a box, or of some of its faces: (axis, 0 for the lower end, 1 for the upper)."""

    n: int
    low: Array
    high: Array
    faces: tuple[tuple[int, int], ...] = ()

    @property
    def dimension(self) -> int:  # type: ignore[override]
        """Numbers of a point."""
        return len(self.low)

    def draw(self, generator: np.random.Generator) -> Array:
        """Draw points evenly in the box, or on the faces in turn."""
        d = self.dimension
        unit = np.empty((self.n, d))
        if not self.faces:
            unit[:] = evenly(self.n, d, generator)
        for number, (axis, end) in enumerate(self.faces):
            rows = slice(number, None, len(self.faces))
            others = [a for a in range(d) if a != axis]
            unit[rows, axis] = end
            unit[rows, others] = evenly(len(unit[rows]), d - 1, generator)
        points: Array = self.low + unit * (self.high - self.low)
        return points


class Box:
    """A box, the region of most problems; time is a dimension like any other.

    Parameters
    ----------
    low, high : sequence of float
        Two opposite corners.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        self.low, self.high = real_numbers(low), real_numbers(high)
        fits = self.low.ndim == 1 and self.low.shape == self.high.shape and self.low.size
        with np.errstate(over="ignore", invalid="ignore"):
            if not fits or not np.isfinite(self.high - self.low).all() or not (self.low < self.high).all():
                raise ConfigError(
                    f"a box needs two finite corners with low < high, got {low} and {high}", collective=True
                )

    def interior(self, n: int) -> Points:
        """Make n points in the box."""
        return _InBox(_counted(n), self.low, self.high)

    def boundary(self, n: int) -> Points:
        """Make n points on all faces, equally many on each."""
        return _InBox(
            _counted(n), self.low, self.high, tuple((a, end) for a in range(len(self.low)) for end in (0, 1))
        )

    def face(self, n: int, *faces: tuple[int, int]) -> Points:
        """Make n points on some faces, each given as (axis, 0 for the lower end or 1 for the upper one)."""
        all_faces = [(axis, end) for axis in range(len(self.low)) for end in (0, 1)]
        if not faces or any(face not in all_faces for face in faces):
            raise ConfigError(
                f"faces are (axis, 0 or 1) with axes below {len(self.low)}, got {faces}", collective=True
            )
        return _InBox(_counted(n), self.low, self.high, faces)


@frozen
class _OnSphere(Points):
    n: int
    center: Array
    radius: float

    @property
    def dimension(self) -> int:  # type: ignore[override]
        """Numbers of a point."""
        return len(self.center)

    def draw(self, generator: np.random.Generator) -> Array:
        """Draw the points independently of one another."""
        directions = generator.standard_normal((self.n, self.dimension))
        directions *= self.radius / np.linalg.norm(directions, axis=1, keepdims=True)
        return self.center + directions


class Sphere:
    """A sphere.

    Parameters
    ----------
    center : sequence of float
        Centre of the sphere.
    radius : float
        Radius, which is positive.
    """

    def __init__(self, center: Sequence[float], radius: float) -> None:
        self.center, size = real_numbers(center), real_numbers(radius)
        with np.errstate(over="ignore"):
            reach = np.abs(self.center) + size
        if not (self.center.ndim == 1 and size.ndim == 0 and np.isfinite(reach).all() and size > 0.0):
            raise ConfigError(f"a sphere needs a centre and a positive radius, got {center}, {radius}", collective=True)
        self.radius = float(size)

    def surface(self, n: int) -> Points:
        """Make n points on the surface."""
        return _OnSphere(_counted(n), self.center, self.radius)


def read_points(
    path: str | PathLike[str], *, observed: bool = False, open_file: Callable[..., DataSource] = open_data
) -> tuple[Array, Array | None]:
    """Read the points of a file, and observations at them.

    Parameters
    ----------
    path : str or path
        A file of numbers, as :func:`~distnewton.data.sources.open_data` takes it: csv, npy, npz and others. A relative
        path is in the working folder.
    observed : bool
        Whether the label column (by default the last one), or the labels of an array, are observations; otherwise all
        columns are coordinates.
    open_file : callable
        Opens the file; takes the arguments of :func:`~distnewton.data.sources.open_data`.

    Returns
    -------
    Array of shape (n, dimension)
        The points.
    Array of shape (n,) or (n_data, n), or None
        The observations.

    Raises
    ------
    DistNewtonError
        If the file cannot be read, or holds anything but finite numbers.
    """
    labels: LabelsWanted = "required" if observed else "apart"
    source = open_file(str(path), labels=labels, missing="refuse", categories="refuse")
    found = source.describe()
    points: Any = source.read(0, found.n_features)
    if found.labels.dtype.kind not in "biuf":
        raise ConfigError(f"{path}: the observations are not numbers")
    observations = np.asarray(found.labels, np.float64).T if observed else None
    return points.toarray() if is_sparse(points) else points, observations


def real_numbers(values: Any) -> Array:
    """Convert to an array of real numbers in float64; return a single NaN for anything else."""
    try:
        array = np.asarray(values)
    except ValueError:
        # rows of different lengths
        return np.array(np.nan)
    return array.astype(np.float64) if array.dtype.kind in "biuf" else np.array(np.nan)


def evenly(n: int, dimension: int, generator: np.random.Generator) -> Array:
    """Make points that fill the unit cube evenly after a random shift, of shape (n, dimension)."""
    # the root above 1 of x^(d+1) = x + 1
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (dimension + 1))
    steps = root ** -np.arange(1.0, dimension + 1)
    points: Array = (generator.random(dimension) + np.arange(1, n + 1)[:, None] * steps) % 1.0
    return points


def _counted(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ConfigError(f"expected a number of points, at least 1, got {n!r}", collective=True)
    return int(n)
