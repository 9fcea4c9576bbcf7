"""Tables split by columns as one data set: only its owners open a table, and rows are joined by identifiers.

Ranks exchange the names and encoding of a table's columns, its labels, and hashes of its row identifiers, but never
features.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import LABEL_NAMES, ColumnNames, LabelsWanted, listed
from distnewton.data.description import DataSource, Description
from distnewton.data.encoding import ColumnEncoding, TableEncoding
from distnewton.data.formats.tables import TableSource
from distnewton.data.identifiers import Hashes, hash_identifiers, identifier_problem, matching_rows
from distnewton.data.rows import permute_rows
from distnewton.errors import ConfigError, DataError, MissingInputError
from distnewton.frozen import frozen
from distnewton.launch.startup import launched_size
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.cuts import FileOwners, Range

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from distnewton.data.description import Features
    from distnewton.data.row_selection import Chosen


@frozen
class FilesByColumns:
    """Files that hold different columns of the same rows, not yet opened.

    Attributes
    ----------
    files : tuple of str
        Names of the files, in the order of the features.
    open_file : callable
        Opens a file as :func:`~distnewton.data.sources.open_data` does, with the settings common to all files.
    owned : callable
        Maps the number of all ranks to the half-open range of files that each rank of a grid owns; replicas of the
        grid own the same files.
    id_column : str
        Column with the row identifiers, in each file.
    label_column : str or None
        Column of the labels, in one of the files.
    ignored : tuple of str
        Columns that are neither features nor labels, each in at least one file.
    labels : {"required", "if_there", "none"}
        Whether labels are required, optional, or never read.
    known : ColumnNames or None
        Names of the training data, by which columns are taken.
    """

    files: tuple[str, ...]
    open_file: Callable[..., DataSource]
    owned: Callable[[int], Sequence[Range]]
    id_column: str
    label_column: str | None = None
    ignored: tuple[str, ...] = ()
    labels: LabelsWanted = "required"
    known: ColumnNames | None = None

    @property
    def name(self) -> str:
        """Names of all files, for messages."""
        return ", ".join(self.files)

    def __call__(self) -> JoinedSource:
        """Open all files in this process, which must be the only rank: others would own some of them."""
        if launched_size() > 1:
            raise ConfigError(
                f"one rank cannot read the size of {self.name}, since each file belongs to some ranks: start the "
                "command without mpirun where all files can be read, or give plan --sizes",
                collective=True,
            )
        return self.join(Communicator())

    def join(self, comm: Communicator) -> JoinedSource:
        """Open the files, check each on one of its ranks, and match their rows.

        Parameters
        ----------
        comm : Communicator
            All ranks.

        Returns
        -------
        JoinedSource
            The joined files with their description.

        Raises
        ------
        DistNewtonError
            If a rank does not find a file that it owns; if a file is not a table with names, or is invalid; if
            identifiers are missing, repeated within a file, or not the same in all files.

        Notes
        -----
        Collective.
        """
        joining = _Joining(self, comm)
        joining.open()
        names = joining.describe()
        orders = joining.join_rows()
        return joining.source(names, orders)

    def with_label(self, columns: Sequence[Sequence[str]]) -> tuple[int, str] | None:
        """Find the file and the column of labels; None if there are none, `known` is given and none are required.

        Parameters
        ----------
        columns : sequence of sequence of str
            Names of the columns of each file.

        Returns
        -------
        tuple of int and str, or None

        Raises
        ------
        DataError
            If the label column is in no file, or in several.
        """
        name = self._label_name
        found = [(i, column) for i, own in enumerate(columns) for column in self._label_columns(own)]
        if len(found) == 1:
            return found[0]
        if not found and self.known is not None and self.labels != "required":
            return None
        wanted = f"a column {name}" if name else f"a column named {', '.join(LABEL_NAMES)}"
        where = ", ".join(f"{column} of {self.files[i]}" for i, column in found) or "none"
        raise DataError(
            f"{self.name}: exactly one file must have {wanted} for the labels, found {where}; set data.label_column, "
            "and keep that column in one file",
            collective=True,
        )

    @property
    def _label_name(self) -> str | None:
        """Name of the label column, if known."""
        return self.label_column if self.known is None else self.known.label

    def _label_columns(self, columns: Sequence[str]) -> list[str]:
        """Columns of a file that may hold the labels."""
        if self._label_name is not None:
            return [self._label_name] if self._label_name in columns else []
        left_out = {*self.ignored, self.id_column}
        return [column for column in columns if column.lower() in LABEL_NAMES and column not in left_out]


class JoinedSource:
    """Joined files; each rank reads the features of the files that it owns.

    Parameters
    ----------
    files : FilesByColumns
        The files that were opened.
    tables : mapping of int to TableSource
        Tables that this rank owns, by file number.
    owners : FileOwners
        Features and ranks of all files.
    orders : mapping of int to (ndarray of intp or None)
        Row of each sample in each table of this rank; None if rows are already in the order of the samples.
    order_file : int
        Number of the file that determines the order of the samples.
    description : Description
        Description of all files together.
    """

    def __init__(
        self, files: FilesByColumns, tables: Mapping[int, TableSource], owners: FileOwners,
        orders: Mapping[int, NDArray[np.intp] | None], order_file: int, description: Description,
    ) -> None:  # fmt: skip
        self.name, self.owners, self.unknown_notes = files.name, owners, list[str]()
        self._files, self._tables, self._orders = files, tables, orders
        self._order_file, self._description = order_file, description
        self._starts = list(accumulate(owners.columns, initial=0))

    @property
    def reading_bytes(self) -> float:
        """Approximate memory for reading, in addition to the features; tables are read one after the other."""
        return max((table.reading_bytes for table in self._tables.values()), default=0.0)

    def describe(self) -> Description:
        """Description of all files together, from when they were joined."""
        return self._description

    def read(self, start: int, stop: int, dtype: DTypeLike = "float64", rows: Chosen | None = None) -> Features:
        """Read a range of features of this rank's files; see :meth:`~distnewton.data.source.Source.read`."""
        parts = []
        for i, (first, last) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            if (own := (max(start, first) - first, min(stop, last) - first))[0] < own[1]:
                parts.append(self._read_file(i, *own, dtype, rows))
        n_samples = self._description.n_samples if rows is None else len(rows)
        X: Features = parts[0] if len(parts) == 1 else np.concatenate([np.zeros((n_samples, 0), dtype), *parts], axis=1)
        return X

    def _read_file(self, i: int, start: int, stop: int, dtype: DTypeLike, rows: Chosen | None) -> Any:
        """Read features of a file, in the order of the samples."""
        if i not in self._tables:
            raise RuntimeError(f"features of {self._files.files[i]} were requested from a rank that does not own it")
        table, order = self._tables[i], self._orders[i]
        if order is None:
            return table.read(start, stop, dtype, rows)
        if rows is None:
            return permute_rows(table.read(start, stop, dtype), order)
        # read takes ascending rows only
        own = np.sort(order[rows])
        return permute_rows(table.read(start, stop, dtype, own), np.searchsorted(own, order[rows]))

    def locate(self, i_sample: int) -> str:
        """Describe the position of a sample in the file that determines the order of samples."""
        table = self._tables.get(self._order_file)
        if table is None:
            return f"{self._files.files[self._order_file]}: sample {i_sample + 1}"
        return table.locate(i_sample)

    def texts(self, column: int | str, setting: str) -> tuple[str, list[str]]:
        """Identifiers of all samples, available on each rank that owns a file.

        Parameters
        ----------
        column : int or str
            Must be the column of the identifiers.
        setting : str
            Setting that names it, for messages.

        Returns
        -------
        str and list of str
            Name of the column, and one text for each sample.
        """
        if column != self._files.id_column:
            raise ConfigError(f"{setting} = {column}: files by columns share only the column {self._files.id_column}")
        i, table = next(iter(self._tables.items()))
        texts, order = table.texts(column, setting)[1], self._orders[i]
        return self._files.id_column, texts if order is None else [texts[row] for row in order]


@dataclass
class _Joining:
    """Files being joined; each step is collective."""

    files: FilesByColumns
    comm: Communicator
    tables: dict[int, TableSource] = field(default_factory=dict)  # those of this rank
    described: dict[int, Description] = field(default_factory=dict)  # of files that this rank speaks for
    hashes: dict[int, Hashes] = field(default_factory=dict)  # of the identifiers of own files
    label: tuple[int, str] | None = None  # file and column with the labels
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owned = tuple(self.files.owned(self.comm.size))
        self.own = range(*self.owned[self.comm.rank % len(self.owned)])

    def _speaker(self, i: int) -> int:
        """First of the ranks that own a file."""
        return next(rank for rank, (first, last) in enumerate(self.owned) if first <= i < last)

    @property
    def _spoken(self) -> list[int]:
        """Files of this rank for which it is the speaker."""
        return [i for i in self.own if self._speaker(i) == self.comm.rank]

    def _by_file(self, values: Mapping[int, Any]) -> list[Any]:
        """Collect one value for each file from its speaker (collective)."""
        known: dict[str, Any] = {}
        for part in self.comm.allgather_json({str(i): values[i] for i in self._spoken}):
            known |= part
        return [known[str(i)] for i in range(len(self.files.files))]

    def open(self) -> None:
        """Open this rank's files, and find the labels among the columns of all files."""
        files, known = self.files, self.files.known
        if known is not None and len(known.files) != len(files.files):
            raise DataError(
                f"{files.name}: {len(files.files)} files by columns, but the training data were "
                f"{len(known.files) or 1} file(s); name as many, in the same order",
                collective=True,
            )
        with self.comm.collective_errors():
            self.tables = {i: self._table(i) for i in self.own}
        columns = self._by_file({i: list(table.columns) for i, table in self.tables.items()})
        if known is None:
            self._refuse_twice(columns)
            self._refuse_unknown(columns)
        self.label = files.with_label(columns)
        with self.comm.collective_errors():
            self.tables = {i: self._features_of(i, table) for i, table in self.tables.items()}

    def _table(self, i: int) -> TableSource:
        """Open a file of this rank without selecting features."""
        try:
            table = self._open_table(i, names=ColumnNames((), ""), labels="none")
        except MissingInputError as error:
            raise MissingInputError(
                f"{error}; this rank on {platform.node()} owns the file (partition.files says which ranks do)"
            ) from None
        if self.files.id_column not in table.columns:
            raise DataError(
                f"{table.name}: has no column {self.files.id_column} (data.id_column); its columns are "
                f"{listed(table.columns)}"
            )
        return table

    def _open_table(self, i: int, **settings: Any) -> TableSource:
        """Open a file of this rank, which must be a table with names."""
        name = self.files.files[i]
        table = self.files.open_file(name, **settings)
        if not isinstance(table, TableSource) or not table.columns:
            raise DataError(
                f"{name}: files by columns must be CSV with a header, Parquet or Arrow, since a named column joins "
                "their rows"
            )
        return table

    def _refuse_twice(self, columns: Sequence[Sequence[str]]) -> None:
        """Refuse repeated names, except for columns that are not features."""
        files = self.files
        counts = Counter(name for own in columns for name in own if name not in (files.id_column, *files.ignored))
        twice = [name for name, n in counts.items() if n > 1]
        if twice and twice != [files.label_column]:
            places = [files.files[i] for i, own in enumerate(columns) if twice[0] in own]
            raise DataError(
                f"{' and '.join(places)}: two columns are named {twice[0]}; columns are taken by name: rename one",
                collective=True,
            )

    def _refuse_unknown(self, columns: Sequence[Sequence[str]]) -> None:
        """Refuse ignored names that no file has."""
        unknown = [name for name in self.files.ignored if not any(name in own for own in columns)]
        if unknown:
            raise ConfigError(
                f"ignore_columns = {unknown[0]!r}: {self.files.name} have no such column", collective=True
            )

    def _features_of(self, i: int, table: TableSource) -> TableSource:
        """Open a file with its features, and with the labels if it holds them."""
        files, label = self.files, self._label_of(i)
        if files.known is not None:
            names = files.known.of_file(i)
            if not names.features and label is None:
                return table
            return self._open_table(i, names=names, labels="none" if label is None else "required")
        if {*table.columns} - {*files.ignored, files.id_column, label}:
            own = [name for name in files.ignored if name in table.columns]
            return self._open_table(
                i, ignore_columns=[files.id_column, *own], label_column=label,
                labels="apart" if label is None else "required",
            )  # fmt: skip
        if label is None:
            raise DataError(f"{files.files[i]}: has no column left besides the identifiers")
        return self._open_table(i, names=ColumnNames((), label), labels="required")

    def describe(self) -> ColumnNames:
        """Check each file on one rank; return the names of all columns, with which own tables are then encoded."""
        with self.comm.collective_errors():
            for i in self._spoken:
                if self._columns(i) or self._label_of(i) is not None:
                    self.described[i] = self.tables[i].describe()
        if self.files.known is not None:
            return self.files.known
        self._encode_alike()
        names = self._names()
        for i, table in self.tables.items():
            if (own := names.of_file(i)).features:
                table.adopt(own)
        return names

    def _encode_alike(self) -> None:
        """Encode all files if one is encoded, since the model stores fill values for columns without gaps, too."""
        encoded = {i: self.tables[i].encoding for i in self._spoken}
        if self.comm.any(any(encoding is not None for encoding in encoded.values())):
            with self.comm.collective_errors():
                for i in self._spoken:
                    if self._columns(i) and encoded[i] is None:
                        self.tables[i].encode(always=True)

    def _names(self) -> ColumnNames:
        """Collect names and encoding of all columns from the files' speakers."""
        views = self._by_file({
            i: [self._columns(i), None if (e := self.tables[i].encoding) is None else e.to_json()] for i in self._spoken
        })
        columns = [tuple(view[0]) for view in views]
        encodings = [TableEncoding.from_json(view[1]) for view in views]
        whole: tuple[ColumnEncoding, ...] = sum((e.columns for e in encodings if e is not None), ())
        label = self.label[1] if self.label is not None else ""
        features: tuple[str, ...] = sum(columns, ())
        return ColumnNames(features, label, TableEncoding(whole) if whole else None, tuple(map(len, columns)))

    def _columns(self, i: int) -> list[str]:
        return list(self.tables[i].feature_columns())

    def _label_of(self, i: int) -> str | None:
        """Column of a file that is read as labels; None if there is none."""
        if self.label is None or self.label[0] != i or self.files.labels == "none":
            return None
        return self.label[1]

    @property
    def order_file(self) -> int:
        """File that determines the order of the samples: the one with the labels, else the first."""
        return 0 if self.label is None else self.label[0]

    def join_rows(self) -> dict[int, NDArray[np.intp] | None]:
        """Find the row of each sample in own tables; None if rows are already in order."""
        with self.comm.collective_errors():
            for i, table in self.tables.items():
                self.hashes[i] = hash_identifiers(table.text_blocks(list(table.columns).index(self.files.id_column)))
                self._check_identifiers(i)
        first, speaker = self.order_file, self._speaker(self.order_file)
        self.hashes[first] = wanted = self.comm.broadcast_array(self.hashes.get(first), speaker)
        rows = {i: matching_rows(wanted, self.hashes[i]) for i in self.tables}
        lacking = self._by_file({i: [int((r < 0).sum()), int(np.argmin(r))] for i, r in rows.items()})
        with self.comm.collective_errors():
            self._refuse_others(rows, lacking if self.comm.rank == speaker else [])
        return {i: None if np.array_equal(r, np.arange(len(r))) else r for i, r in rows.items()}

    def _check_identifiers(self, i: int) -> None:
        """Refuse an own table whose identifiers do not name its rows uniquely."""
        if not len(self.hashes[i]):
            raise DataError(f"{self.files.files[i]}: no samples (it is empty, or holds only a header)")
        if (problem := identifier_problem(self.hashes[i])) is not None:
            text, row = problem
            raise DataError(
                f"{self.files.files[i]}: {text} of the column {self.files.id_column}, such as {self._example(i, row)}"
            )

    def _example(self, i: int, row: int) -> str:
        """Show the identifier of a row of an own table, and its position."""
        table = self.tables[i]
        return f"{table.texts(self.files.id_column, 'data.id_column')[1][row]!r} ({table.locate(row)})"

    def _refuse_others(self, rows: Mapping[int, NDArray[np.intp]], lacking: Sequence[tuple[int, int]]) -> None:
        """Refuse tables whose identifiers differ; the rank that has an identifier reports where it is missing."""
        names, first = self.files.files, self.order_file
        lines = [
            f"{names[i]}: lacks {n} of the {len(self.hashes[first])} identifiers of {names[first]}, such as "
            f"{self._example(first, row)}"
            for i, (n, row) in enumerate(lacking) if n
        ]
        for i in self._spoken:
            known = np.zeros(len(self.hashes[i]), bool)
            known[rows[i][rows[i] >= 0]] = True
            if not known.all():
                lines.append(
                    f"{names[i]}: {int((~known).sum())} of its {len(known)} identifiers are not in {names[first]}, "
                    f"such as {self._example(i, int(np.argmin(known)))}"
                )
        if lines:
            raise DataError("\n".join(lines))

    def source(self, names: ColumnNames, orders: Mapping[int, NDArray[np.intp] | None]) -> JoinedSource:
        """Build the joined source with its description."""
        facts = self._by_file({i: self._facts(i) for i in self._spoken})
        first, n_samples = self.order_file, len(self.hashes[self.order_file])
        labelled = self.label is not None and self.files.labels != "none"
        labels = np.full(n_samples, np.nan)
        if labelled:
            own = self.described[first].labels if self._speaker(first) == self.comm.rank else None
            labels = self.comm.broadcast_array(own, self._speaker(first))
        notes = [note for _, own, _ in facts for note in own]
        joined = f"{self.files.name}: rows are joined by {self.files.id_column}, in the order of "
        owners = FileOwners(names.inputs_of_files, self.owned)
        description = Description(
            self.files.name, "tables", n_samples, sum(owners.columns), sum(n for n, _, _ in facts), False, labels,
            notes=[*notes, joined + self.files.files[first]], labelled=labelled, names=names,
        )  # fmt: skip
        source = JoinedSource(self.files, self.tables, owners, orders, first, description)
        source.unknown_notes = [note for _, _, own in facts for note in own]
        return source

    def _facts(self, i: int) -> tuple[int, list[str], list[str]]:
        """Non-zeros of a file, its notes, and notes about texts that the training data lack."""
        if i not in self.described:
            return 0, [], []
        return self.described[i].n_nonzeros, self.described[i].notes, self.tables[i].unknown_notes
