"""Parquet files: a column a feature, one column with the labels; a rank reads only its own columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnewton.data.columns import Wanted, names_of, select_columns
from distnewton.data.description import Description
from distnewton.data.formats.streams import is_compressed
from distnewton.data.labels import join_labels
from distnewton.data.row_selection import Chosen, RowSelection
from distnewton.errors import DataError, MissingExtraError, MissingInputError

if TYPE_CHECKING:
    from distnewton.data.description import Labels

_BATCH_VALUES = 1 << 20


@dataclass
class ParquetSource:
    """A Parquet file with numbers in all columns but that of the labels.

    Attributes
    ----------
    path : Path
        An existing file.
    wanted : Wanted
        Which columns are asked for.
    """

    path: Path
    wanted: Wanted = field(default_factory=Wanted)
    _names: list[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if is_compressed(self.path):
            raise DataError(f"{self.path}: is a compressed Parquet file; decompress it first")
        file = self._open()
        schema = file.schema_arrow
        self._n_samples = file.metadata.num_rows
        names = list(schema.names)
        if len(set(names)) < len(names):
            raise DataError(f"{self.path}: expected columns of different names, got {names[:20]}")
        self._selection = select_columns(self.path, names, True, self.wanted)
        self._all, label = names, self._selection.label
        self._label = None if label is None else names[label]
        self._names = [names[i] for i in self._selection.features]
        for name in self._names:
            kind = schema.field(name).type
            if not _is_number(kind):
                raise DataError(
                    f"{self.path}: column {name} is of type {kind}, no numbers; write categories as numbers, leave the "
                    "column out (data.ignore_columns), or choose another label column (data.label_column)"
                )
        if not self._n_samples:
            raise DataError(f"{self.path}: no samples (the table has no row)")

    @property
    def name(self) -> str:
        """Path as given."""
        return str(self.path)

    def describe(self) -> Description:
        """Check all values in one streaming pass.

        Returns
        -------
        Description

        Raises
        ------
        DataError
            With the column and the row of a value that is missing or not finite.
        """
        labels: list[Labels] = []
        n_nonzeros = 0
        for row, columns in self._batches([*self._names, *([] if self._label is None else [self._label])]):
            for name in self._names:
                values = self._numbers(columns[name], name, row)
                wrong = np.flatnonzero(~np.isfinite(values))
                if wrong.size:
                    raise DataError(
                        f"{self.locate(row + int(wrong[0]))}: column {name}: {values[wrong[0]]} is not a finite "
                        "number; repair the value or remove the sample"
                    )
                n_nonzeros += int(np.count_nonzero(values))
            if self._label is not None:
                labels.append(self._labels(columns[self._label], self._label, row))
        return Description(
            self.name, "parquet", self._n_samples, len(self._names), n_nonzeros, False,
            np.full(self._n_samples, np.nan) if self._label is None else join_labels(labels),
            self._selection.n_extra * self._n_samples, list(self._selection.notes),
            labelled=self._label is not None, names=names_of(self._all, self._selection),
        )  # fmt: skip

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> NDArray[Any]:
        """Read a range of features; other columns stay on the disk.

        Parameters
        ----------
        start, stop : int
            Half-open range of features, counted from 0 without the label column.
        dtype : dtype
            Of the result; whole numbers and booleans become floats.
        rows : Array of int or None
            Samples wanted, ascending; all by default.

        Returns
        -------
        ndarray of shape (n_samples, stop - start)
        """
        if not 0 <= start <= stop <= len(self._names):
            raise ValueError(f"features {start} to {stop} asked for, {self.name} has {len(self._names)}")
        names = self._names[start:stop]
        wanted = RowSelection(rows)
        result = np.empty((wanted.count(self._n_samples), len(names)), dtype=dtype)
        if names:
            for row, columns in self._batches(names):
                for i, name in enumerate(names):
                    values = self._numbers(columns[name], name, row)
                    place, chosen = wanted.of(row, len(values))
                    result[place, i] = values[chosen]
        return result

    def locate(self, i_sample: int) -> str:
        """``file: row i``, counted from 1.

        Parameters
        ----------
        i_sample : int
            Number of the sample from 0.

        Returns
        -------
        str
        """
        return f"{self.name}: row {i_sample + 1}"

    def _open(self) -> Any:
        """The file, with its metadata read."""
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise MissingExtraError(f"reading {self.path} (Parquet)", "parquet") from None
        try:
            return parquet.ParquetFile(self.path, memory_map=False)
        except pa.ArrowException as error:
            raise DataError(f"{self.path}: Parquet file is cut short or damaged ({error}); copy it again") from None
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def _batches(self, names: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield first row and columns by name, of bounded size."""
        import pyarrow as pa

        row = 0
        try:
            size = max(1, _BATCH_VALUES // len(names))
            for batch in self._open().iter_batches(batch_size=size, columns=names, use_threads=False):
                yield row, {name: batch.column(name) for name in names}
                row += batch.num_rows
        except pa.ArrowException as error:
            raise DataError(f"{self.path}: Parquet file is damaged ({error}); copy or download it again") from None
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def _numbers(self, column: Any, name: str, row: int) -> NDArray[Any]:
        """Numbers of a column; a missing one is an error."""
        if column.null_count:
            first = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(
                f"{self.locate(row + first)}: column {name}: value is missing; fill it in or remove this sample"
            )
        values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return values.astype(np.float64) if values.dtype.kind != "f" or values.dtype.itemsize < 4 else values

    def _labels(self, column: Any, name: str, row: int) -> Labels:
        """Labels of a batch as float64 or text."""
        import pyarrow as pa

        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if _is_number(column.type):
            labels: Labels = self._numbers(column, name, row).astype(np.float64)
            wrong = np.flatnonzero(~np.isfinite(labels))
            if wrong.size:
                raise DataError(f"{self.locate(row + int(wrong[0]))}: label is not a finite number")
            return labels
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise DataError(f"{self.path}: labels (column {name}) must be numbers or text, got {column.type}")
        if column.null_count:
            first = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{self.locate(row + first)}: label is missing; remove this sample or give it a label")
        return np.array(column.to_pylist(), dtype=np.str_)


def _unreadable(path: Path, error: OSError) -> DataError | MissingInputError:
    """What an operating system's error means; pyarrow uses the same class for damaged content."""
    if error.errno:
        return MissingInputError(f"{path}: cannot be read ({error.strerror})")
    return DataError(f"{path}: Parquet file is damaged ({error}); copy or download it again")


def _is_number(kind: Any) -> bool:
    """Whether a column's type is one of numbers or booleans."""
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
