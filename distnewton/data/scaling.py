r"""Scaling of features, fitted and applied by each rank to its own columns.

Per column, :math:`x' = (x - \mathrm{offset}) \cdot \mathrm{factor}`:

- ``minmax``: offset is the middle of the column's range, factor the inverse of half the range: x' in [-1, 1];
- ``minmax_joint``: the same with the joint range of all columns, for example for pixels of images, where a column
  that hardly varies should not be blown up;
- ``center``: offset is the mean, factor the inverse of half the joint range of all columns, as simpleNN scales
  images: the mean image is subtracted, and all pixels keep their proportions;
- ``standard``: offset is the mean, factor the inverse of the standard deviation (divisor n_samples);
- ``hardy_weinberg``: for genotypes, which count alleles, offset is the mean 2p and factor the inverse of
  :math:`\sqrt{2p(1-p)}`, the deviation in Hardy-Weinberg equilibrium, as in GCTA (Yang et al., Am. J. Hum. Genet.
  88, 76 (2011)); other columns as in ``standard``.

Missing genotypes become the mean of the called genotypes of their column, which is 0 after centring. The deviation of
``standard`` is that of the completed column, as in regenie (Mbatchou et al., Nat. Genet. 53, 1097 (2021)).

Per row, x' = x / ||x||: ``unit_rows``, and ``log1p_unit_rows`` on log(1 + x). Between :func:`row_square_sums` and
:func:`scale_rows` the caller sums the squares of a row over the ranks that share it.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from distnewton.data.packed import PackedColumns
from distnewton.errors import ConfigError, DataError
from distnewton.frozen import frozen
from distnewton.registry import Registry

if TYPE_CHECKING:
    from distnewton.data.description import Features

_BLOCK_VALUES = 1 << 16
_ROUNDINGS = 1
"""Largest half range at which a column counts as constant, in units of its rounding."""
Stack = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Scaling(ABC):
    """A kind of scaling: take logarithms, shift and multiply columns, normalise rows, each step optional.

    A package adds one through an entry point of the group ``distnewton.scalings``. Fitting yields a
    :class:`ColumnScaling`, which models store with the name of its kind.

    Attributes
    ----------
    name : str
        Value of ``data.scale``.
    help : str
        One line on how features are scaled.
    takes_logs : bool
        Whether x is first replaced by log(1 + x).
    shifts_columns : bool
        Whether columns are shifted and multiplied as :meth:`fit` says; impossible for sparse data.
    scales_rows : bool
        Whether each row is finally divided by its norm.
    centres : bool
        Whether the offset is the column mean, which may then replace missing values.
    uses_joint_range : bool
        Whether the range in :meth:`fit` is the joint range of all columns.
    n_moments : int
        Number of moments that :meth:`fit` needs: none, the mean, or the mean and the deviation.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    takes_logs: ClassVar[bool] = False
    shifts_columns: ClassVar[bool] = False
    scales_rows: ClassVar[bool] = False
    centres: ClassVar[bool] = False
    uses_joint_range: ClassVar[bool] = False
    n_moments: ClassVar[int] = 0

    def fit(self, statistics: ColumnStatistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute offset and size of columns, which become (x - offset) / size.

        Parameters
        ----------
        statistics : ColumnStatistics
            Statistics of the training data.

        Returns
        -------
        offset, size : ndarray of float64 of shape (n_columns,)
            A size of 0 marks a constant column, which becomes 0.
        """
        return np.zeros_like(statistics.low), np.ones_like(statistics.low)

    def fits(self, X_local: Features) -> bool:
        """Whether statistics of these columns are needed, and can be computed."""
        return self.shifts_columns and isinstance(X_local, np.ndarray | PackedColumns) and min(X_local.shape) > 0


class NoScaling(Scaling):
    """Features are not scaled."""

    name, help = "none", "features as they are"


class MinMax(Scaling):
    """Each column's own range becomes [-1, 1]."""

    name, help = "minmax", "each column to [-1, 1]"
    shifts_columns = True

    def fit(self, statistics: ColumnStatistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Middle of the range, and half the range."""
        return statistics.low + statistics.half_range, statistics.half_range


class MinMaxJoint(MinMax):
    """The joint range of all columns becomes [-1, 1]."""

    name, help = "minmax_joint", "all columns together to [-1, 1], for example pixels"
    uses_joint_range = True


class Center(Scaling):
    """The mean of each column is subtracted; all keep their proportions."""

    name, help = "center", "mean 0, and one factor for all columns, as simpleNN scales images"
    shifts_columns = uses_joint_range = centres = True
    n_moments = 1

    def fit(self, statistics: ColumnStatistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean, and half the joint range of all columns."""
        return statistics.mean, statistics.half_range


class Standard(Scaling):
    """Each column gets mean 0 and standard deviation 1."""

    name, help = "standard", "mean 0 and standard deviation 1"
    shifts_columns = centres = True
    n_moments = 2

    def fit(self, statistics: ColumnStatistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation."""
        return statistics.mean, statistics.deviation


class HardyWeinberg(Standard):
    """Genotypes get mean 0, and deviation 1 if they are in Hardy-Weinberg equilibrium."""

    name, help = "hardy_weinberg", "genotypes by 2p and sqrt(2p(1-p)), as GCTA; other columns as standard"

    def fit(self, statistics: ColumnStatistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean, and the deviation of two draws."""
        size = statistics.deviation.copy()
        mean = statistics.mean[: statistics.n_packed]
        size[: statistics.n_packed] = np.sqrt(mean * (1 - mean / 2))
        return statistics.mean, size


class UnitRows(Scaling):
    """Each row gets norm 1."""

    name, help = "unit_rows", "each row to norm 1"
    scales_rows = True


class Log1pUnitRows(UnitRows):
    """Each row of logarithms gets norm 1."""

    name, help = "log1p_unit_rows", "log(1 + x) of counts, then each row to norm 1"
    takes_logs = True


SCALINGS: Registry[Scaling] = Registry(
    "scaling",
    Scaling,
    [NoScaling(), MinMax(), MinMaxJoint(), Center(), Standard(), HardyWeinberg(), UnitRows(), Log1pUnitRows()],
    group="distnewton.scalings",
    objects=True,
)


@frozen
class ColumnScaling:
    """Fitted scaling of a range of columns.

    Attributes
    ----------
    kind : str
        Name in :data:`SCALINGS`.
    offset, factor : ndarray of float64 of shape (n_columns,)
        0 and 1 for the kinds that shift no columns. The factor of a constant column is 0.
    """

    kind: str
    offset: NDArray[np.float64]
    factor: NDArray[np.float64]

    @property
    def rule(self) -> Scaling:
        """The kind of scaling."""
        return SCALINGS.find(self.kind)

    @property
    def n_constant(self) -> int:
        """Number of constant columns, which become 0."""
        return int(np.count_nonzero(self.factor == 0))

    def apply(self, X_local: Features | PackedColumns) -> None:
        """Scale columns in place, in blocks of rows.

        Parameters
        ----------
        X_local : ndarray, csr_array or PackedColumns of shape (n_samples, n_columns)
            Columns of a float dtype. Arithmetic is in float64; results are rounded to the dtype.

        Raises
        ------
        ConfigError
            If a sparse matrix would become dense.
        DataError
            If the kind takes logarithms and a value is negative.
        """
        if isinstance(X_local, PackedColumns):
            if self.rule.takes_logs or self.rule.scales_rows:
                raise ConfigError(
                    f"scale = {self.kind} would unpack genotypes; take standard, hardy_weinberg, center, minmax or none"
                )
            X_local.shift_columns(self.offset, self.factor, centred=self.rule.centres)
            return
        values = _values(X_local)
        if values.dtype.kind != "f":
            raise ValueError(f"X_local must have a float dtype to be scaled in place, got {values.dtype}")
        if X_local.shape[1] != len(self.factor):
            raise ValueError(f"X_local has {X_local.shape[1]} columns, this scaling has {len(self.factor)}")
        if self.rule.takes_logs:
            log_features(self.kind, X_local)
        if self.rule.shifts_columns:
            _refuse_sparse(self.kind, X_local)
            for block in _row_blocks(values):
                np.subtract(block, self.offset, out=block, casting="same_kind")
                np.multiply(block, self.factor, out=block, casting="same_kind")

    def columns(self, start: int, stop: int) -> ColumnScaling:
        """Restrict the scaling to a range of these columns.

        Parameters
        ----------
        start, stop : int
            Half-open range.

        Returns
        -------
        ColumnScaling
        """
        return ColumnScaling(self.kind, self.offset[start:stop], self.factor[start:stop])

    def to_dict(self) -> dict[str, Any]:
        """Return scaling as plain values for JSON; floats survive the round trip exactly."""
        values: dict[str, Any] = {"kind": self.kind, "n_columns": len(self.factor)}
        if self.rule.shifts_columns:
            values |= {"offset": self.offset.tolist(), "factor": self.factor.tolist()}
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ColumnScaling:
        """Undo :meth:`to_dict`."""
        identity = _identity(values["kind"], values["n_columns"])
        if not identity.rule.shifts_columns:
            return identity
        return cls(identity.kind, np.array(values["offset"], np.float64), np.array(values["factor"], np.float64))


class ColumnStatistics:
    """Extremes, mean and deviation of this rank's columns over the samples of all replicas of the grid.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_columns)
        This rank's columns and samples, at least one.
    n_moments : int
        Number of moments to compute: none, the mean, or the mean and the deviation.
    stack : callable or None
        Stacks a float64 array of each replica along a new first axis (collective over the replicas); by default there
                is one replica.

    Attributes
    ----------
    low, high, half_range, mean, deviation : ndarray of float64 of shape (n_columns,)
        Moments that are not computed are 0. The range of a column that varies only by rounding is 0.
    n_packed : int
        Number of packed genotype columns, which come first.
    """

    n_packed = 0

    def __init__(self, X: NDArray[Any], n_moments: int, stack: Stack | None = None) -> None:
        stack = stack or (lambda array: array[None])
        # columns that overflow are refused below, with a message
        with np.errstate(all="ignore"):
            extremes = stack(np.array([X.min(axis=0), X.max(axis=0)], np.float64))
            self.low, self.high = extremes[:, 0].min(axis=0), extremes[:, 1].max(axis=0)
            # halve both ends first, since the whole range can overflow
            self.half_range = self.high / 2 - self.low / 2
            self._level_rounding(X, stack)
            self.mean = self.deviation = np.zeros(X.shape[1])
            if n_moments > 0:
                counts = stack(np.array([float(len(X))]))
                means = stack(X.mean(axis=0, dtype=np.float64))
                self.mean = means[0] if len(means) == 1 else (counts * means).sum(axis=0) / counts.sum()
            if n_moments > 1:
                squares = stack(_square_sums(X, self.mean, self.half_range)).sum(axis=0)
                self.deviation = self.half_range * np.sqrt(squares / counts.sum())

    def _level_rounding(self, X: NDArray[Any], stack: Stack) -> None:
        """Treat columns that vary only by rounding, as 0.3 and 3 * 0.1 do, as constant."""
        unit = _ROUNDINGS * np.maximum(np.abs(self.low), np.abs(self.high))
        doubtful = (self.half_range > 0) & (self.half_range <= unit * np.finfo(np.float32).eps)
        if not doubtful.any():
            return
        # fractions that float32 represents exactly come from float32; whole numbers may be exact anyway
        found = np.zeros((2, np.count_nonzero(doubtful)), bool)
        for block in _row_blocks(X):
            part = block[:, doubtful]
            found |= np.array([(part != part.astype(np.float32)).any(axis=0), (part != np.rint(part)).any(axis=0)])
        views = stack(found.astype(np.float64)) > 0
        # some values have fractions, and none needs float64
        single = views[:, 1].any(axis=0) & ~views[:, 0].any(axis=0)
        eps = np.where(single, np.finfo(np.float32).eps, np.finfo(np.float64).eps)
        self.half_range[doubtful] *= self.half_range[doubtful] > unit[doubtful] * eps

    def replace(self, columns: NDArray[np.intp], other: ColumnStatistics) -> None:
        """Replace the statistics of some columns by those of `other`."""
        for name in ("low", "high", "half_range", "mean", "deviation"):
            getattr(self, name)[columns] = getattr(other, name)

    def use_joint_range(self, lowest: float, highest: float) -> None:
        """Replace each column's range by the joint range of all columns."""
        self.low = np.full_like(self.low, lowest)
        self.half_range = np.full_like(self.low, highest) / 2 - self.low / 2


class PackedStatistics(ColumnStatistics):
    """Statistics of packed columns, from counts of their values, and of the number columns after them.

    Parameters
    ----------
    X : PackedColumns of shape (n_samples, n_columns)
        This rank's columns and samples, at least one; missing values are NaN.
    n_moments, stack
        As for :class:`ColumnStatistics`.
    """

    def __init__(self, X: PackedColumns, n_moments: int, stack: Stack | None = None) -> None:
        stack = stack or (lambda array: array[None])
        behind = ColumnStatistics(X.numbers, n_moments, stack) if X.numbers.shape[1] else None
        counts = stack(X.counts()).sum(axis=0)
        values, missing = np.nan_to_num(X.values), np.isnan(X.values)
        called = np.where(missing, 0.0, counts)
        mean = (called * values).sum(axis=0) / np.maximum(called.sum(axis=0), 1.0)
        squares = (called * np.square(values - mean)).sum(axis=0)
        low, high = (
            limit(np.where(called > 0, values, mean), axis=0) for limit in (np.min, np.max)
        )
        self.n_packed = X.n_packed
        self.low, self.high, self.half_range = low, high, (high - low) / 2
        self.mean, self.deviation = mean, np.sqrt(squares / np.maximum(counts.sum(axis=0), 1.0))
        if behind is not None:
            for name in ("low", "high", "half_range", "mean", "deviation"):
                setattr(self, name, np.concatenate([getattr(self, name), getattr(behind, name)]))


def column_statistics(X: NDArray[Any] | PackedColumns, n_moments: int, stack: Stack | None = None) -> ColumnStatistics:
    """Compute statistics of dense or packed columns; arguments as for :class:`ColumnStatistics`."""
    if isinstance(X, PackedColumns):
        return PackedStatistics(X, n_moments, stack)
    return ColumnStatistics(X, n_moments, stack)


def fit_scaling(
    kind: str,
    X_local: Features,
    joint_range: tuple[float, float] | None = None,
    statistics: ColumnStatistics | None = None,
) -> ColumnScaling:
    """Fit a scaling to the columns of training data.

    Parameters
    ----------
    kind : str
        Name in :data:`SCALINGS`.
    X_local : ndarray or csr_array of shape (n_samples, n_columns)
        This rank's columns, all samples.
    joint_range : tuple of float or None
        Smallest and largest value in all columns of all ranks; by default in these columns.
    statistics : ColumnStatistics or None
        Statistics of these columns; by default computed from these samples only. Its range may be changed.

    Returns
    -------
    ColumnScaling

    Raises
    ------
    ConfigError
        If the kind is unknown, or would make a sparse matrix dense.
    DataError
        If the values are too large to scale.
    """
    rule = SCALINGS.find(kind)
    if not rule.shifts_columns or not X_local.shape[1]:
        return _identity(kind, X_local.shape[1])
    X = _refuse_sparse(kind, X_local)
    if not X.shape[0]:
        raise DataError(f"scale = {kind} cannot be fitted: there are no samples")
    statistics = statistics or column_statistics(X, rule.n_moments)
    with np.errstate(all="ignore"):
        if rule.uses_joint_range:
            statistics.use_joint_range(*(joint_range or (statistics.low.min(), statistics.high.max())))
        offset, size = rule.fit(statistics)
        factor = 1 / size
    # a column whose range is so small that its inverse overflows is treated as constant
    factor[(statistics.half_range == 0) | np.isinf(factor)] = 0
    if not (np.isfinite(offset).all() and np.isfinite(factor).all()):
        raise DataError(f"scale = {kind} cannot be fitted: values are too large or not finite; check the data")
    return ColumnScaling(kind, offset, factor)


def _square_sums(X: NDArray[Any], mean: NDArray[np.float64], half_range: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums of squared deviations, in units of the range to avoid overflow."""
    total = np.zeros(X.shape[1])
    for block in _row_blocks(X):
        part = (block - mean) / half_range
        total += np.square(part, out=part).sum(axis=0)
    return total


def _identity(kind: str, n_columns: int) -> ColumnScaling:
    """Return the scaling that leaves columns unchanged."""
    return ColumnScaling(kind, np.zeros(n_columns), np.ones(n_columns))


def row_square_sums(X_local: Features) -> NDArray[np.float64]:
    """Return sums of squares over this rank's part of each row.

    Parameters
    ----------
    X_local : ndarray or csr_array of shape (n_samples, n_columns)
        This rank's columns.

    Returns
    -------
    ndarray of float64 of shape (n_samples,)
        Sums that the caller adds up over the ranks that hold the other columns.
    """
    if isinstance(X_local, np.ndarray):
        parts = [np.einsum("ij,ij->i", block, block, dtype=np.float64) for block in _row_blocks(X_local)]
        return np.concatenate(parts) if parts else np.zeros(0)
    sums = np.zeros(X_local.shape[0])
    filled = np.flatnonzero(np.diff(X_local.indptr))
    if filled.size:
        squares = np.square(X_local.data, dtype=np.float64)
        sums[filled] = np.add.reduceat(squares, X_local.indptr[filled])
    return sums


def row_factors(square_sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute inverse norms of rows; 1 for rows of zeros.

    Parameters
    ----------
    square_sums : ndarray of float64 of shape (n_samples,)
        Sums of squares over all columns.

    Returns
    -------
    ndarray of float64 of shape (n_samples,)
    """
    return 1 / np.sqrt(np.where(square_sums > 0, square_sums, 1.0))


def scale_rows(X_local: Features, factors: NDArray[np.float64]) -> None:
    """Multiply each row by its factor, in place.

    Parameters
    ----------
    X_local : ndarray or csr_array of shape (n_samples, n_columns)
        Columns of a float dtype.
    factors : ndarray of float64 of shape (n_samples,)
        From :func:`row_factors`.
    """
    if isinstance(X_local, np.ndarray):
        np.multiply(X_local, factors[:, None], out=X_local, casting="same_kind")
    else:
        per_value = np.repeat(factors, np.diff(X_local.indptr))
        np.multiply(X_local.data, per_value, out=X_local.data, casting="same_kind")


def log_features(kind: str, X_local: Features) -> None:
    """Replace each x by log(1 + x), in place.

    Parameters
    ----------
    kind : str
        Name of the scaling, for messages.
    X_local : ndarray or csr_array of shape (n_samples, n_columns)
        Of a float dtype.

    Raises
    ------
    DataError
        If a value is negative.
    """
    values = _values(X_local)
    lowest = values.min(initial=0)
    if lowest < 0:
        raise DataError(
            f"scale = {kind} is for counts, but a value is {lowest:g}; use scale = unit_rows, or minmax or standard "
            "for dense data"
        )
    np.log1p(values, out=values)


def _values(X_local: Features) -> NDArray[Any]:
    """Return stored values, dense or sparse."""
    return X_local if isinstance(X_local, np.ndarray) else X_local.data


def _row_blocks(X: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield views of consecutive rows, small compared to the matrix."""
    n_rows = max(1, _BLOCK_VALUES // max(1, int(X.shape[1])))
    return (X[i : i + n_rows] for i in range(0, len(X), n_rows))


def _refuse_sparse(kind: str, X_local: Features) -> NDArray[Any] | PackedColumns:
    """Return the matrix if it is dense or packed; else raise ConfigError."""
    if isinstance(X_local, np.ndarray | PackedColumns):
        return X_local
    raise ConfigError(
        f"scale = {kind} shifts columns, which would fill a sparse matrix with nonzeros; "
        "use scale = unit_rows, log1p_unit_rows for counts, or none"
    )
