"""Tables of phenotypes or covariates, joined to genotypes by family and individual identifiers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import listed
from distnewton.data.formats.streams import line_blocks
from distnewton.errors import ConfigError, DataError
from distnewton.frozen import frozen

MISSING = -9.0
"""PLINK's code for a missing phenotype."""
Identifier = tuple[str, str]
"""Family and individual identifier of a sample."""
_Line = tuple[int, list[str]]
"""Line number and fields of a line."""


class Samples(NamedTuple):
    """Contents of a .fam file: identifiers, and the phenotype as text."""

    identifiers: list[Identifier]
    phenotype: list[str]


def read_fam(path: Path) -> Samples:
    """Read the samples of a .fam file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Samples

    Raises
    ------
    DataError
        If a line does not have six fields, or a sample is repeated.
    """
    identifiers, phenotype = [], []
    for number, fields in _lines(path):
        if len(fields) != 6:
            raise DataError(f"{path}:{number}: expected six fields as PLINK writes them, got {len(fields)}")
        identifiers.append((fields[0], fields[1]))
        phenotype.append(fields[5])
    if not identifiers:
        raise DataError(f"{path}: no samples")
    refuse_twice(str(path), "samples", [" ".join(names) for names in identifiers])
    return Samples(identifiers, phenotype)


def refuse_twice(name: str, what: str, texts: Sequence[str]) -> None:
    """Refuse repeated identifiers; the error gives their number and the first of them."""
    if len(set(texts)) == len(texts):
        return
    twice = [text for text, count in Counter(texts).items() if count > 1]
    raise DataError(f"{name}: {len(twice):,} {what} appear more than once, such as {listed(twice)}")


@frozen
class SampleTable:
    """Columns of numbers, one row for each sample of the genotypes.

    Attributes
    ----------
    name : str
        File, for messages.
    columns : tuple of str
        Names of the columns.
    values : ndarray of float64 of shape (n_samples, n_columns)
        Values; NaN if missing.
    notes : list of str
        Notices for the user.
    """

    name: str
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    notes: list[str]

    @classmethod
    def read(cls, path: Path, samples: Samples, missing: Sequence[str]) -> SampleTable:
        """Read a text table whose first columns are FID and IID, or only IID if the header says so.

        Parameters
        ----------
        path : Path
            The file, plain or compressed.
        samples : Samples
            Samples of the genotypes, which determine the order of the rows.
        missing : sequence of str
            Texts that mark a missing value (case-insensitive).

        Returns
        -------
        SampleTable

        Raises
        ------
        DataError
            If lines differ in length, a value is not a number, or an identifier is repeated.
        """
        n_keys, columns, lines = _header(path, _lines(path))
        keys = [" ".join(fields[:n_keys]) for _, fields in lines]
        refuse_twice(str(path), "samples", keys)
        wanted = [" ".join(names[2 - n_keys :]) for names in samples.identifiers]
        if n_keys == 1:
            refuse_twice(str(path), "individual identifiers of the genotypes", wanted)
        rows = dict(zip(keys, lines, strict=True))
        gone, empty = {text.upper() for text in missing}, [np.nan] * len(columns)
        values = np.array([
            _numbers(path, rows[key], n_keys, len(columns), gone) if key in rows else empty for key in wanted
        ])  # fmt: skip
        n_others = len(rows.keys() - set(wanted))
        notes = [f"{path}: {n_others:,} samples without genotypes are left out"] if n_others else []
        return cls(str(path), tuple(columns), values.reshape(len(wanted), len(columns)), notes)

    @classmethod
    def of_fam(cls, path: Path, samples: Samples, missing: Sequence[str]) -> SampleTable:
        """Read the phenotype of a .fam file."""
        gone = {text.upper() for text in missing}
        lines = enumerate(samples.phenotype, start=1)
        values = [_numbers(path, (number, [text]), 0, 1, gone) for number, text in lines]
        return cls(str(path), ("PHENOTYPE",), np.array(values), [])

    def choose(self, wanted: Sequence[str], setting: str) -> SampleTable:
        """Select columns by name, or by number from 0 if no column has that name."""
        places = []
        for column in wanted:
            if column in self.columns:
                places.append(self.columns.index(column))
            elif column.lstrip("-").isdigit() and -len(self.columns) <= int(column) < len(self.columns):
                places.append(int(column) % len(self.columns))
            else:
                raise ConfigError(
                    f"{setting} = {column}: {self.name} has no such column; its columns are {listed(self.columns)}"
                )
        return SampleTable(self.name, tuple(self.columns[i] for i in places), self.values[:, places], self.notes)

    def as_phenotypes(self) -> SampleTable:
        """Apply PLINK's codes for missing phenotypes: -9, and 0 in a case/control column of 1 and 2."""
        values = self.values.copy()
        values[values == MISSING] = np.nan
        for column in values.T:
            present = set(np.unique(column[~np.isnan(column)]).tolist())
            if present <= {0.0, 1.0, 2.0} and 2.0 in present:
                column[column == 0.0] = np.nan
        return SampleTable(self.name, self.columns, values, self.notes)


def _header(path: Path, lines: list[_Line]) -> tuple[int, list[str], list[_Line]]:
    """Number of leading identifier columns, names of the other columns, and the lines below the header."""
    if not lines:
        raise DataError(f"{path}: no samples")
    _, fields = lines[0]
    first = fields[0].lstrip("#").upper() if fields else ""
    n_keys = 1 if first == "IID" else 2
    columns = [f"column{i + 1}" for i in range(len(fields) - n_keys)]
    if first in ("FID", "IID"):
        columns, lines = fields[n_keys:], lines[1:]
    if not columns:
        raise DataError(f"{path}:1: expected FID, IID and at least one column")
    refuse_twice(str(path), "columns", columns)
    return n_keys, columns, lines


def _numbers(path: Path, line: _Line, n_keys: int, n_columns: int, missing: set[str]) -> list[float]:
    """Values of a line."""
    number, fields = line
    if len(fields) != n_keys + n_columns:
        raise DataError(f"{path}:{number}: expected {n_keys + n_columns} fields, got {len(fields)}")
    values = []
    for text in fields[n_keys:]:
        try:
            value = np.nan if text.upper() in missing else float(text)
        except ValueError:
            advice = "if it marks a missing value, add it to data.missing_values"
            raise DataError(f"{path}:{number}: {text!r} is not a number; {advice}") from None
        if np.isinf(value):
            raise DataError(f"{path}:{number}: {text!r} is not a finite number")
        values.append(value)
    return values


def _lines(path: Path) -> list[_Line]:
    """Line numbers and fields of non-empty lines; blanks or commas separate fields."""
    try:
        text = b"".join(line_blocks(path)).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text") from None
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line.replace(",", " ").split()) for number, line in lines if line.strip()]
