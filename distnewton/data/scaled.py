"""Features of a data set as a rank holds them: its own columns, scaled in float64 and rounded only afterwards.

Files are read in the dtype of the run. Some columns (or rows, if rows are scaled) would lose what scaling brings out,
such as times in seconds since 1970, or would overflow. These are read again in float64, one block at a time, and
rounded after scaling.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.data.description import DataSource
from distnewton.data.row_selection import Chosen, chosen_values
from distnewton.data.scaling import (
    SCALINGS,
    ColumnScaling,
    ColumnStatistics,
    Scaling,
    column_statistics,
    fit_scaling,
    log_features,
    row_factors,
    row_square_sums,
    scale_rows,
)
from distnewton.errors import DataError, MissingInputError, NumericalError
from distnewton.parallel.grid import ProcessGrid

_CHECKED_AT_ONCE = 1 << 18
_VALUES_AT_ONCE = 1 << 23
"""Numbers held in float64 at a time, unless a single column or row has more: 64 MB."""
_LARGE = 64
"""A value this many times its spread leaves 18 of the 24 bits of float32 for the differences."""
_FLOAT32_RANGE = 1e-35, 1e35
"""Numbers between these limits keep all their digits in float32."""
_PIXELS, _PIXELS_LOW, _PIXELS_WIDE, _PIXELS_RANGE = 64, 0.5, 0.25, 0.5
"""What marks pictures: least number of columns, fraction of columns that reach the darkest value, fraction of columns
with a wide range, and the fraction of the whole range that counts as wide."""
_LARGE_SPARSE = 10.0
"""Sparse values above this limit have not been scaled yet."""
_SQUARES = 1e-280, 1e300
"""Sums of squares between these limits keep their digits in float64."""
_HALF_EXPONENT = 2.0**600


class FeatureReader:
    """Reader of this rank's columns of a data set; reads none on ranks without a block in layer 1.

    Parameters
    ----------
    grid : ProcessGrid
        Grid that says which rank owns which features.
    source : DataSource
        The data.
    n_samples : int
        Number of samples in the description.
    dtype : dtype
        float32 or float64.
    rows : Array of int or None
        Ascending numbers of the samples to read; all by default.
    dense : bool
        Whether sparse formats become dense arrays.
    packed : bool
        Whether the source packs its columns; their few values are held in float64.

    Notes
    -----
    All methods are collective.
    """

    def __init__(
        self, grid: ProcessGrid, source: DataSource, n_samples: int, dtype: DTypeLike, rows: Chosen | None = None, *,
        dense: bool, packed: bool = False,
    ) -> None:  # fmt: skip
        self._grid, self._source, self._dense, self._rows = grid, source, dense, rows
        self._n_samples, self._dtype = n_samples, np.dtype(dtype)
        self.packed = packed
        self._exact = packed or self._dtype == np.float64
        self._underflowed = False
        self._kept: tuple[tuple[int, int], Any] = (0, 0), None

    @property
    def sparse(self) -> bool:
        """Whether columns are read as a csr_array, the same on all ranks."""
        return not (self._dense or self.packed)

    def read(self) -> Any:
        """Read all columns of this rank.

        Returns
        -------
        Array or csr_array of shape (n_samples, n_features_local), or (len(rows), n_features_local)
        """
        start, stop = self._grid.feature_range()
        return self._read(0, stop - start, self._dtype, self._rows)

    def loses(self, statistics: ColumnStatistics | None, rule: Scaling) -> NDArray[np.bool_]:
        """Find the columns that the dtype cannot hold well enough for a scaling, from statistics of the data read."""
        if self._exact:
            return np.zeros(0, bool)
        underflowed = self._grid.world.any(self._underflowed)
        if statistics is None:
            return np.zeros(0, bool)
        largest = np.maximum(np.abs(statistics.low), np.abs(statistics.high))
        spread = statistics.half_range.max() if rule.uses_joint_range else statistics.half_range
        fine = np.isfinite(largest) & (largest <= _LARGE * spread)
        lost: NDArray[np.bool_] = ~fine & (largest > 0) | (underflowed & (largest < _FLOAT32_RANGE[0]))
        return lost

    def loses_by(self, scaling: ColumnScaling) -> NDArray[np.bool_]:
        """Find such columns from a scaling that is already known."""
        if self._exact or not scaling.rule.shifts_columns:
            return np.zeros(0, bool)
        low, high = _FLOAT32_RANGE
        offset, factor = np.abs(scaling.offset), scaling.factor
        in_range = (offset < high) & ((factor == 0) | ((factor > 1 / high) & (factor < 1 / low)))
        fine: NDArray[np.bool_] = in_range & (offset * np.minimum(factor, 1 / low) <= _LARGE)
        return ~fine

    def exact_columns(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """Yield some of this rank's columns in float64, by blocks: column numbers and arrays (n, n_columns)."""
        if self._exact:
            return
        width = max(1, _VALUES_AT_ONCE // self._n_samples)
        ranges: list[tuple[int, int]] = []
        for k in np.flatnonzero(wanted).tolist():
            first = ranges.pop()[0] if ranges and k < ranges[-1][0] + width else k
            ranges.append((first, k + 1))
        n_ranges = int(self._grid.world.allgather(np.array([float(len(ranges))])).max())
        for first, last in ranges + [(0, 0)] * (n_ranges - len(ranges)):
            kept = self._kept[1] if self._kept[0] == (first, last) else None
            X = self._read(first, last, np.dtype(np.float64), self._rows, kept)
            self._kept = (first, last), X
            columns = first + np.flatnonzero(wanted[first:last])
            if columns.size:
                yield columns, X[:, columns - first]

    def inaccurate(self, squares: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Find rows whose sum of squares, over all ranks, has overflowed or lost digits."""
        low, high = _SQUARES
        if self._dtype != np.float64:
            low = _FLOAT32_RANGE[0] ** 2 if self._grid.world.any(self._underflowed) else 0.0
        return ~((squares >= low) & (squares <= high))

    def exact_rows(self, wanted: NDArray[np.bool_], X: Any) -> Iterator[tuple[Chosen, Any]]:
        """Yield some rows in float64, by blocks: row numbers and features, read again from the file if X is rounded."""
        rows = np.flatnonzero(wanted)
        at_once = max(1, _VALUES_AT_ONCE // self._grid.partition.n_features)
        n_blocks = int(self._grid.world.allgather(np.array([-(-len(rows) // at_once)], np.float64)).max())
        for i in range(0, n_blocks * at_once, at_once):
            block = rows[i : i + at_once]
            if self._dtype == np.float64:
                yield block, X[block]
            else:
                chosen = block if self._rows is None else self._rows[block]
                yield block, self._read(0, X.shape[1], np.dtype(np.float64), chosen)

    def _read(self, first: int, last: int, dtype: np.dtype[Any], rows: Chosen | None, kept: Any = None) -> Any:
        """Read some of this rank's columns, counted from its first; reuses columns kept from the last read."""
        source, grid = self._source, self._grid
        start = grid.feature_range()[0]
        n = self._n_samples if rows is None else len(rows)
        X: Any = self._no_columns(n, dtype) if kept is None else kept
        with grid.world.collective_errors():
            try:
                # check_range finds values that overflow here
                with grid.ledger.phase("data"), np.errstate(over="ignore", under="call", call=self._note_underflow):
                    if last > first and kept is None:
                        # pass no rows if all are wanted: a user's own source may not support a selection
                        wanted = () if rows is None else (rows,)
                        X = source.read(start + first, start + last, dtype, *wanted)
                    X = X if isinstance(X, np.ndarray) or not self._dense else X.toarray()
            except OSError as error:
                where = f" on {platform.node()}" if grid.world.size > 1 else ""
                raise MissingInputError(f"{source.name}: cannot be read{where} ({error.strerror or error})") from None
            if X.shape[0] != n:
                raise DataError(f"{source.name} changed while it was read: {X.shape[0]} samples, then {n}")
        return X

    def _no_columns(self, n: int, dtype: np.dtype[Any]) -> Any:
        """Array of a rank without features, of the same kind as the others' since the kind decides what they send."""
        if not self.sparse:
            return np.zeros((n, 0), dtype)
        from scipy.sparse import csr_array

        return csr_array((n, 0), dtype=dtype)

    def _note_underflow(self, kind: str, flag: int) -> None:
        """Handle numpy's notice that a number was rounded to 0 or lost digits."""
        self._underflowed = True


def suitable_scaling(grid: ProcessGrid, X: Any, reader: FeatureReader) -> str:
    """Choose the kind of scaling that suits features (``data.scale = auto``).

    Parameters
    ----------
    grid : ProcessGrid
        Grid that says which rank owns which features.
    X : Array or csr_array of shape (n_samples, n_features_local)
        This rank's columns, as they were read.
    reader : FeatureReader
        Reader of these columns.

    Returns
    -------
    str
        For dense features ``center`` if many columns share one range, as pixels do, else ``standard``. For sparse
        features ``log1p_unit_rows`` for counts, ``unit_rows`` if values are large, else ``none``. For genotypes
        ``standard``. The same on all ranks.

    Notes
    -----
    Collective.
    """
    if reader.packed:
        return "standard"
    if reader.sparse:
        return _of_sparse(grid, X)
    own = ColumnStatistics(X, 0, grid.stack_replicas) if min(X.shape) > 0 else None
    extremes = (np.inf, -np.inf) if own is None else (own.low.min(), own.high.max())
    ranges = grid.world.allgather(np.array(extremes, np.float64))
    low, high = float(ranges[:, 0].min()), float(ranges[:, 1].max())
    counts = np.zeros(3)
    if own is not None and grid.first_of_feature_group():
        share = (own.low == low) & (own.half_range >= _PIXELS_RANGE * (high / 2 - low / 2))
        counts[:] = own.low.size, np.count_nonzero(own.low == low), np.count_nonzero(share)
    n_columns, n_low, n_wide = grid.world.allgather(counts).sum(axis=0) / grid.n_replicas
    alike = n_low >= _PIXELS_LOW * n_columns and n_wide >= _PIXELS_WIDE * n_columns
    return "center" if n_columns >= _PIXELS and alike else "standard"


def _of_sparse(grid: ProcessGrid, X: Any) -> str:
    """The kind of scaling of sparse features (collective)."""
    values = X.data
    whole = bool((values >= 0).all() and (values == np.rint(values)).all())
    views = grid.world.allgather(np.array([float(whole), np.abs(values).max(initial=0.0)], np.float64))
    largest = views[:, 1].max()
    if largest <= 1.0:
        return "none"
    if views[:, 0].all():
        return "log1p_unit_rows"
    return "unit_rows" if largest > _LARGE_SPARSE else "none"


def apply_scaling(grid: ProcessGrid, scaling: ColumnScaling, X: Any, reader: FeatureReader) -> None:
    """Scale this rank's columns in place.

    Parameters
    ----------
    grid : ProcessGrid
        Grid that says which rank owns which features.
    scaling : ColumnScaling
        Scaling of this rank's columns.
    X : Array or csr_array of shape (n_samples, n_features_local)
        Overwritten.
    reader : FeatureReader
        Reader of these columns.

    Notes
    -----
    Collective: if rows are scaled, one sum of one number per sample.
    """
    with grid.world.collective_errors(), np.errstate(over="ignore", invalid="ignore"):
        scaling.apply(X)
    for columns, block in reader.exact_columns(reader.loses_by(scaling)):
        with np.errstate(over="ignore"):
            ColumnScaling(scaling.kind, scaling.offset[columns], scaling.factor[columns]).apply(block)
            X[:, columns] = block
    if scaling.rule.scales_rows:
        _scale_rows(grid, scaling, X, reader)


def _scale_rows(grid: ProcessGrid, scaling: ColumnScaling, X: Any, reader: FeatureReader) -> None:
    """Give rows norm 1 (collective)."""

    def squares_of(part: Any) -> NDArray[np.float64]:
        # count each feature group once, however many ranks hold it
        with np.errstate(over="ignore"):
            own = row_square_sums(part) if grid.first_of_feature_group() else np.zeros(part.shape[0])
        total: NDArray[np.float64] = grid.sum_all(own)
        return total

    squares = squares_of(X)
    inaccurate = reader.inaccurate(squares)
    scale_rows(X, row_factors(np.where(inaccurate, 1.0, squares)))
    for rows, block in reader.exact_rows(inaccurate, X):
        if scaling.rule.takes_logs and X.dtype != np.float64:
            log_features(scaling.kind, block)
        # a power of 2 moves the squares to the middle of the floating-point range
        exact, (low, high) = squares_of(block), _SQUARES
        power = np.where(exact < low, _HALF_EXPONENT, np.where(exact > high, 1 / _HALF_EXPONENT, 1.0))
        scale_rows(block, power)
        scale_rows(block, row_factors(squares_of(block)))
        if isinstance(X, np.ndarray):
            X[rows] = block
        else:
            X.data[chosen_values(np.diff(X.indptr), rows)] = block.data


def fit_and_apply(grid: ProcessGrid, kind: str, X: Any, reader: FeatureReader) -> ColumnScaling:
    """Fit a scaling to this rank's columns and apply it in place; arguments as of :func:`apply_scaling`.

    Parameters
    ----------
    kind : str
        Name of the scaling.

    Returns
    -------
    ColumnScaling
        Scaling of this rank's columns.

    Raises
    ------
    ConfigError, DataError
        If the scaling does not suit the features or their values.
    NumericalError
        If a scaled feature overflows.
    """
    scaling = fit_scaling("none", X)
    rule = SCALINGS.find(kind)
    statistics = column_statistics(X, rule.n_moments, grid.stack_replicas) if rule.fits(X) else None
    if rule.shifts_columns:
        for columns, block in reader.exact_columns(reader.loses(statistics, rule)):
            if statistics is not None:
                statistics.replace(columns, ColumnStatistics(block, rule.n_moments, grid.stack_replicas))
    # extremes by stacking, since MPI's MIN and MAX would drop a NaN
    own = (np.inf, -np.inf) if statistics is None else (statistics.low.min(), statistics.high.max())
    ranges = grid.world.allgather(np.array(own, np.float64))
    joint = float(ranges[:, 0].min()), float(ranges[:, 1].max())
    with grid.world.collective_errors():
        scaling = fit_scaling(kind, X, joint, statistics)
    apply_scaling(grid, scaling, X, reader)
    check_range(grid, X)
    return scaling


def check_range(grid: ProcessGrid, X: Any) -> None:
    """Refuse features that are not finite or whose squares overflow their dtype (collective).

    Parameters
    ----------
    grid : ProcessGrid
        Grid that says which rank owns which features.
    X : Array or csr_array of shape (n_samples, n_features_local)
        This rank's columns, scaled.

    Raises
    ------
    NumericalError
        On every rank alike, with the first such feature, its value and rank, and the range of the others.
    """
    wrong, low, high = _first_beyond(X, float(np.sqrt(np.finfo(X.dtype).max)))
    place = None if wrong is None else (grid.feature_range()[0] + wrong[0], wrong[1])
    if not grid.world.any(place is not None):
        return
    views = grid.world.allgather_json([place, min(low, 1e308), max(high, -1e308)])
    (feature, value), rank = min((view[0], rank) for rank, view in enumerate(views) if view[0] is not None)
    _, low, high = views[rank]
    others = f"; its other values are from {low:.3g} to {high:.3g}" if low <= high else ""
    raise NumericalError(
        f"feature {feature} (counted from 0, on rank {rank}) is {value:.3g}, which overflows in layer 1{others}: scale "
        "the data ([data] scale = standard), repair it, or use float64 ([run] dtype)",
        collective=True,
    )


def _first_beyond(X: Any, limit: float) -> tuple[tuple[int, float] | None, float, float]:
    """Column and value of the first number that is beyond a limit or not finite, and the range of all others."""
    beyond: tuple[int, float] | None = None
    low, high = np.inf, -np.inf
    numbers = X if isinstance(X, np.ndarray) else X.data
    step = max(1, _CHECKED_AT_ONCE // max(1, numbers[:1].size))
    for start in range(0, len(numbers) if numbers.size else 0, step):
        part = numbers[start : start + step]
        fine = np.abs(part) <= limit  # false for NaN
        if not fine.all():
            i = int(np.argmin(fine))
            column = i % part.shape[1] if part.ndim == 2 else int(X.indices[start + i])
            beyond = beyond or (column, float(part.flat[i]))
            part = part[fine]
        low, high = min(low, float(part.min(initial=np.inf))), max(high, float(part.max(initial=-np.inf)))
    return beyond, low, high


def gather_scaling(grid: ProcessGrid, scaling: ColumnScaling) -> ColumnScaling:
    """The scaling of all features, on every rank (collective: one sum of 2 n_features numbers)."""
    whole = np.zeros((2, grid.partition.n_features))
    if grid.first_of_feature_group():
        whole[:, slice(*grid.feature_range())] = scaling.offset, scaling.factor
    grid.sum_all(whole)
    return ColumnScaling(scaling.kind, *whole)
