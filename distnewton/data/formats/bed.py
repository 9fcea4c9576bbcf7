"""PLINK 1 genotypes: a rank reads only its variants, and keeps each call in two bits as in the file.

A variant's calls count its allele A1, the first in the .bim file: bits 00 mean 2, 10 mean 1, 11 mean 0, and 01 mean
missing (https://www.cog-genomics.org/plink/1.9/formats#bed). The feature's name is PLINK's name for a column of allele
counts, ``ID_A1(/A2)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from distnewton.data.columns import ColumnNames, Wanted, listed
from distnewton.data.description import Description
from distnewton.data.formats.base import Format, Location
from distnewton.data.formats.sample_tables import SampleTable, read_fam, refuse_twice
from distnewton.data.formats.streams import is_compressed
from distnewton.data.packed import PackedColumns, pack, unpack
from distnewton.data.row_selection import RowSelection
from distnewton.data.source import Source
from distnewton.errors import ConfigError, DataError, MissingInputError

_MAGIC, _BY_VARIANT = b"\x6c\x1b", 1
_VALUES = np.array([2.0, np.nan, 1.0, 0.0])
"""Copies of A1 for each two-bit call."""
_ALL_MISSING = 0x55
_VARIANT = re.compile(r"(.*)_([^_/()]*)\(/([^()]*)\)", re.DOTALL)
_AT_ONCE = 1 << 22
"""Bytes of the file checked at a time."""


class Bed(Format):
    """PLINK 1 binary genotypes."""

    name = "bed"
    help = "PLINK 1 genotypes (.bed with .bim and .fam)"
    settings = ("label_column", "ignore_columns", "names", "missing_values")
    has_covariates = True

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a file has the signature, or the suffix and a .bim file; `open` then reports what is wrong."""
        return head.startswith(_MAGIC) or (path.suffix == ".bed" and path.with_suffix(".bim").is_file())

    def open(self, location: Location, wanted: Wanted) -> BedSource:
        """Open genotypes; reads the whole .fam file and tables of samples, and counts the variants."""
        return BedSource(location, wanted)


class BedSource(Source):
    """Genotypes with phenotypes and covariates.

    It holds the contents of three files and two tables of samples, which together describe one data set.

    Parameters
    ----------
    location : Location
        The .bed file, and the tables of phenotypes and covariates if given.
    wanted : Wanted
        Requests of the caller.

    Raises
    ------
    DataError
        If the files do not match, or one of them is damaged.
    """

    def __init__(self, location: Location, wanted: Wanted) -> None:
        self.path, self.name, self._wanted = location.path, str(location.path), wanted
        self._bim, fam = (_beside(self.path, suffix) for suffix in (".bim", ".fam"))
        samples = read_fam(fam)
        self._n_all, self._n_variants = len(samples.identifiers), _count_lines(self._bim)
        self._check_file()
        gone = wanted.missing_values
        if wanted.labels == "none":
            labels = SampleTable(str(fam), (), np.zeros((self._n_all, 0)), [])
        elif location.labels_path is None:
            labels = SampleTable.of_fam(fam, samples, gone)
        else:
            labels = SampleTable.read(location.labels_path, samples, gone)
        if wanted.label_column is not None and labels.columns:
            labels = labels.choose([part.strip() for part in str(wanted.label_column).split(",")], "label_column")
        self._labels = labels.as_phenotypes()
        if location.covariates_path is None:
            covariates = SampleTable(self.name, (), np.zeros((self._n_all, 0)), [])
        else:
            covariates = SampleTable.read(location.covariates_path, samples, gone)
        self._covariates = covariates.choose(self._used_covariates(covariates), "ignore_columns")
        self._notes = [*labels.notes, *covariates.notes]
        self._rows = self._kept_samples()
        if wanted.names is None:
            n_there = self._n_variants + len(self._covariates.columns)
            self._n_features = wanted.n_kept(self.name, n_there, "variants and covariates")
        else:
            self._n_features = len(wanted.names.features)

    def _check_file(self) -> None:
        """Refuse a file that is not a .bed file, is truncated, or has other samples or variants."""
        if is_compressed(self.path):
            raise DataError(f"{self.path}: is compressed; decompress it, so that each rank can read its own variants")
        with self.path.open("rb") as file:
            head = file.read(3)
        if head[:2] != _MAGIC:
            raise DataError(f"{self.path}: is not a PLINK 1 .bed file: it begins with {head.hex(' ')}, not 6c 1b 01")
        if head[2:] != bytes([_BY_VARIANT]):
            raise DataError(
                f"{self.path}: is stored by samples, or its third byte is damaged; plink --make-bed sorts by variants"
            )
        size, expected = self.path.stat().st_size, 3 + self._n_variants * self._n_bytes
        if size != expected:
            raise DataError(
                f"{self.path}: has {size:,} bytes, but {self._n_all:,} samples of its .fam file and "
                f"{self._n_variants:,} variants of its .bim file take {expected:,}: it is cut short, or the files do "
                "not belong together"
            )

    @property
    def _n_used(self) -> int:
        """Number of variants that are features."""
        names = self._wanted.names
        return self._n_variants if names is None else len(names.features) - len(self._covariates.columns)

    @property
    def _n_bytes(self) -> int:
        """Number of bytes of a variant."""
        return -(-self._n_all // 4)

    def _used_covariates(self, table: SampleTable) -> list[str]:
        """Names of the covariates that are features: those of the training data, or all that are not ignored."""
        if self._wanted.names is not None:
            return self._covariates_of_model(self._wanted.names, table)
        ignored = {str(column) for column in self._wanted.ignored}
        if unknown := ignored.difference(table.columns):
            raise ConfigError(f"ignore_columns = {listed(sorted(unknown))}: {self.name} has no such covariate")
        return [name for name in table.columns if name not in ignored]

    def _covariates_of_model(self, names: ColumnNames, table: SampleTable) -> list[str]:
        """Names of the training data's covariates, which must be in the table."""
        wanted = [name for name in names.features if not _VARIANT.fullmatch(name)]
        if wanted and not table.columns:
            raise DataError(
                f"{self.name}: the model was trained with the covariates {listed(wanted)}; give their file as "
                f"{self.path.name},,COVARIATES"
            )
        if absent := [name for name in wanted if name not in table.columns]:
            raise DataError(f"{table.name}: has no column {listed(absent)}, which the model was trained on")
        return wanted

    def _kept_samples(self) -> NDArray[np.intp] | None:
        """Numbers of the samples that are used; None for all."""
        without = np.isnan(self._covariates.values).any(axis=1)
        if self._wanted.labels != "required":
            if without.any():
                raise DataError(f"{self.name}: {without.sum():,} samples lack a covariate of the model; fill them in")
            return None
        unlabelled = np.isnan(self._labels.values).any(axis=1)
        for rows, what in ((unlabelled, "a phenotype"), (without & ~unlabelled, "a covariate")):
            if rows.any():
                self._notes.append(f"{rows.sum():,} of {self._n_all:,} samples lack {what}, and are left out")
        kept = np.flatnonzero(~(unlabelled | without))
        if not kept.size:
            raise DataError(
                f"{self._labels.name}: no sample has {listed(self._labels.columns)} and all covariates; samples are "
                "joined by FID and IID"
            )
        return None if len(kept) == self._n_all else kept

    def describe(self) -> Description:
        """Size, names and phenotypes; calls are checked when they are read."""
        values = self._labels.values if self._rows is None else self._labels.values[self._rows]
        notes, labelled = list(self._notes), self._wanted.labels != "none" and not np.isnan(values).any()
        if not labelled:
            if not np.isnan(values).all():
                notes.append("some samples lack a phenotype, so predictions are compared with none")
            values = np.full((len(values), 1), np.nan)
        n_samples, n_features = len(values), self._n_features
        return Description(
            self.name, "bed", n_samples, n_features, n_samples * n_features, False,
            values[:, 0] if values.shape[1] == 1 else values, notes=notes, labelled=labelled, names=self._names(),
            packed=True,
        )  # fmt: skip

    def _names(self) -> ColumnNames:
        """Names of variants and covariates."""
        if self._wanted.names is not None:
            return self._wanted.names
        variants = [f"{name}_{a1}(/{a2})" for name, a1, a2 in self._variants()]
        refuse_twice(str(self._bim), "variants", [name for name, _, _ in self._variants()])
        features = (*variants, *self._covariates.columns)
        refuse_twice(self.name, "names of variants and covariates", features)
        return ColumnNames(features[: self._n_features], ",".join(self._labels.columns))

    def _variants(self) -> Iterator[tuple[str, str, str]]:
        """Identifier and both alleles of each variant."""
        with self._bim.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                fields = line.split()
                if len(fields) != 6:
                    raise DataError(f"{self._bim}:{number}: expected six fields, as PLINK writes, got {len(fields)}")
                yield fields[1], fields[4], fields[5]

    @cached_property
    def _places(self) -> tuple[NDArray[np.intp], NDArray[np.bool_]] | None:
        """Find each variant of the training data in the file, and whether its alleles are swapped."""
        if self._wanted.names is None:
            return None
        wanted = [match.groups() for name in self._wanted.names.features if (match := _VARIANT.fullmatch(name))]
        places, own = self._variants_named([name for name, _, _ in wanted])
        alleles = [(a1, a2) for _, a1, a2 in wanted]
        others = [wanted[k][0] for k, pair in enumerate(alleles) if sorted(pair) != sorted(own[k])]
        if others:
            raise DataError(
                f"{self.name}: {len(others):,} variants have other alleles than in the model, such as {listed(others)}"
            )
        return places, np.array([pair != there for pair, there in zip(alleles, own, strict=True)], bool)

    def _variants_named(self, names: Sequence[str]) -> tuple[NDArray[np.intp], list[tuple[str, str]]]:
        """Numbers and alleles of the named variants, which must be in the file."""
        there = {name: (i, (a1, a2)) for i, (name, a1, a2) in enumerate(self._variants())}
        if len(there) < self._n_variants:
            refuse_twice(str(self._bim), "variants", [name for name, _, _ in self._variants()])
        if absent := [name for name in names if name not in there]:
            raise DataError(
                f"{self.name}: {len(absent):,} of the model's {len(names):,} variants are missing, such as "
                f"{listed(absent)}"
            )
        return np.array([there[name][0] for name in names], np.intp), [there[name][1] for name in names]

    def locate(self, i_sample: int) -> str:
        """Name a sample in a message, by its number in the .fam file."""
        return super().locate(i_sample if self._rows is None else int(self._rows[i_sample]))

    def _n_readable(self) -> int:
        return self._n_features

    def _read(self, start: int, stop: int, dtype: np.dtype[Any], wanted: RowSelection) -> PackedColumns:
        """Read the packed calls of a range, and the covariates in it."""
        rows = wanted.rows if self._rows is None else wanted.apply(self._rows)
        n_used = self._n_used
        first, last = min(start, n_used), min(stop, n_used)
        values = np.repeat(_VALUES[:, None], last - first, axis=1)
        places: NDArray[np.intp] = np.arange(first, last)
        if self._places is not None:
            places, swapped = self._places[0][first:last], self._places[1][first:last]
            values[:, swapped] = 2.0 - values[:, swapped]
        n = self._n_all if rows is None else len(rows)
        codes = np.empty((last - first, -(-n // 4)), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            for part, i in _runs(places, max(1, _AT_ONCE // self._n_bytes)):
                calls = self._calls(file, i, part.stop - part.start)
                codes[part] = calls if rows is None else pack(unpack(calls, 0, self._n_all)[:, rows])
        behind = self._covariates.values[:, max(0, start - n_used) : max(0, stop - n_used)]
        return PackedColumns(codes, n, values, behind if rows is None else behind[rows], dtype)

    def _calls(self, file: BinaryIO, i: int, n: int) -> NDArray[np.uint8]:
        """Read the bytes of consecutive variants."""
        file.seek(3 + i * self._n_bytes)
        calls = np.fromfile(file, np.uint8, n * self._n_bytes).reshape(-1, self._n_bytes)
        if len(calls) < n:
            raise DataError(f"{self.path}: was cut short while it was read")
        n_whole = self._n_all // 4
        if self._wanted.names is None:
            missing = (calls[:, :n_whole] == _ALL_MISSING).all(axis=1)
            missing &= (unpack(calls[:, n_whole:], 0, self._n_all % 4) == 1).all(axis=1)
            if missing.any():
                k = i + int(np.argmax(missing))
                name = next(name for number, (name, _, _) in enumerate(self._variants()) if number == k)
                raise DataError(
                    f"{self.path}: variant {k + 1}, {name}, is missing in all samples; plink --geno removes it"
                )
        return calls


def _runs(places: NDArray[np.intp], most: int) -> Iterator[tuple[slice, int]]:
    """Yield slices of limited length in which numbers increase by one, each with its first number."""
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(places)], strict=True):
        for first in range(start, stop, most):
            yield slice(first, min(first + most, stop)), int(places[first])


def _beside(path: Path, suffix: str) -> Path:
    """The file of the same name with another suffix."""
    other = path.with_suffix(suffix) if path.suffix == ".bed" else path.with_name(path.name + suffix)
    if not other.is_file():
        raise MissingInputError(f"{path}: needs {other.name} beside it, which does not exist")
    return other


def _count_lines(path: Path) -> int:
    """Count lines, including a last line without a newline."""
    n, end = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_AT_ONCE):
            n, end = n + block.count(b"\n"), block[-1:]
    return n + (end != b"\n")
