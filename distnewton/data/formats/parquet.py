"""Parquet files: a column a feature, one column with the labels; a rank reads only its own columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import Wanted, names_of, select_columns
from distnewton.data.description import Description
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.streams import is_compressed
from distnewton.data.labels import join_labels
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.errors import DataError, MissingExtraError, MissingInputError

if TYPE_CHECKING:
    from distnewton.data.description import Labels

_BATCH_VALUES = 1 << 20


class Parquet(Format):
    """Parquet files."""

    name = "parquet"
    help = "Parquet"
    settings = ("label_column", "ignore_columns", "names")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the content begins with the signature of Parquet."""
        return head.startswith(b"PAR1")

    def open(self, location: Location, wanted: Wanted) -> ParquetSource:
        """Open a file; reads its metadata."""
        return ParquetSource(location.path, wanted)


class ParquetSource(Source):
    """A Parquet file with numbers in all columns but that of the labels.

    Parameters
    ----------
    path : Path
        An existing file.
    wanted : Wanted
        Which columns are asked for.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path, self.name = path, str(path)
        if is_compressed(path):
            raise DataError(f"{path}: is a compressed Parquet file; decompress it first")
        file = self._open()
        schema = file.schema_arrow
        self._n_samples = file.metadata.num_rows
        self._all = list(schema.names)
        if len(set(self._all)) < len(self._all):
            raise DataError(f"{path}: expected columns of different names, got {self._all[:20]}")
        self._selection = select_columns(path, self._all, True, wanted)
        self._features = [self._all[i] for i in self._selection.features]
        for name in self._features:
            kind = schema.field(name).type
            if not _is_number(kind):
                raise DataError(
                    f"{path}: column {name} is of type {kind}, no numbers; write categories as numbers, leave the "
                    "column out (data.ignore_columns), or choose another label column (data.label_column)"
                )
        if not self._n_samples:
            raise DataError(f"{path}: no samples (the table has no row)")

    def describe(self) -> Description:
        """Check all values in one streaming pass; an error names the column and the row."""
        label = None if self._selection.label is None else self._all[self._selection.label]
        labels: list[Labels] = []
        n_nonzeros = 0
        for row, columns in self._batches([*self._features, *([] if label is None else [label])]):
            for name in self._features:
                values = self._numbers(columns[name], f"column {name}: value", row)
                n_nonzeros += int(np.count_nonzero(values))
            if label is not None:
                labels.append(self._read_labels(columns[label], label, row))
        return Description(
            self.name, "parquet", self._n_samples, len(self._features), n_nonzeros, False,
            np.full(self._n_samples, np.nan) if label is None else join_labels(labels),
            self._selection.n_extra * self._n_samples, list(self._selection.notes),
            labelled=label is not None, names=names_of(self._all, self._selection),
        )  # fmt: skip

    def locate(self, i_sample: int) -> str:
        """``file: row i``, counted from 1."""
        return f"{self.name}: row {i_sample + 1}"

    def _n_readable(self) -> int:
        return len(self._features)

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> NDArray[Any]:
        """Whole numbers and booleans become floats; other columns stay on the disk."""
        names = self._features[start:stop]
        result = np.empty((wanted.count(self._n_samples), len(names)), dtype=dtype)
        if names:
            for row, columns in self._batches(names):
                for i, name in enumerate(names):
                    values = self._numbers(columns[name], f"column {name}: value", row)
                    place, chosen = wanted.of(row, len(values))
                    result[place, i] = values[chosen]
        return result

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

    def _refuse_missing(self, column: Any, what: str, row: int) -> None:
        """Raise for the first value of a batch that is missing."""
        if column.null_count:
            first = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{self.locate(row + first)}: {what} is missing; fill it in or remove this sample")

    def _numbers(self, column: Any, what: str, row: int) -> NDArray[Any]:
        """Finite numbers of a column."""
        self._refuse_missing(column, what, row)
        values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        # float32 stays, since a copy in float64 would double the memory of a batch
        if values.dtype.kind != "f" or values.dtype.itemsize < 4:
            values = values.astype(np.float64)
        if not (finite := np.isfinite(values)).all():
            i = int(np.argmin(finite))
            raise DataError(
                f"{self.locate(row + i)}: {what} {values[i]} is not a finite number; repair it or remove the sample"
            )
        return values

    def _read_labels(self, column: Any, name: str, row: int) -> Labels:
        """Labels of a batch as float64 or text."""
        import pyarrow as pa

        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if _is_number(column.type):
            return self._numbers(column, "label", row).astype(np.float64)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise DataError(f"{self.path}: labels (column {name}) must be numbers or text, got {column.type}")
        self._refuse_missing(column, "label", row)
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
