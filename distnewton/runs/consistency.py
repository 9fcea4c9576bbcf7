"""Check that configurations and data files are the same on all ranks; differences would silently change the results."""

from __future__ import annotations

import json
import platform
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.config import Config
from distnewton.config.opening import Owned
from distnewton.config.sections import DataName
from distnewton.data.formats.bundled import split_name
from distnewton.data.formats.spool import spool_for_all
from distnewton.data.store import MANIFEST_FILE
from distnewton.errors import ConfigError, DataError
from distnewton.files import user_path
from distnewton.guards.hangs import ranges
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.cuts import Range, files_of_ranks
from distnewton.physics.residuals import ResidualLoss

_NO_KEY = "not set"
# bytes compared at the beginning, in the middle and at the end; comparing whole files would read them twice
_SAMPLE = 65536


def check_same_config(comm: Communicator, config: Config) -> None:
    """Refuse configurations that differ between ranks (collective).

    Parameters
    ----------
    comm : Communicator
        All ranks.
    config : Config
        This rank's configuration.

    Raises
    ------
    ConfigError
        On every rank alike, with the keys that differ, their values and ranks.
    """
    if comm.size == 1:
        return
    tree = config.model_dump()
    sums = comm.allgather_json(zlib.crc32(repr(tree).encode()))
    if len(set(sums)) == 1:
        return
    flat = [_flat(view) for view in comm.allgather_json(tree)]
    lines = []
    for key in sorted({key for view in flat for key in view}):
        ranks: dict[str, list[int]] = defaultdict(list)
        for rank, view in enumerate(flat):
            ranks[json.dumps(view.get(key, _NO_KEY))].append(rank)
        if len(ranks) > 1:
            views = "; ".join(f"{value} on rank {ranges(found)}" for value, found in ranks.items())
            lines.append(f"  {key}: {views}")
    raise ConfigError("the ranks have different configurations:\n" + "\n".join(lines), collective=True)


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Flatten settings to ``section.key``."""
    return {f"{section}.{key}": value for section, table in tree.items() for key, value in table.items()}


def check_same_file(
    comm: Communicator, name: DataName, data_dir: str | None, owned: Owned = files_of_ranks
) -> None:
    """Compare the size and parts of a data file between ranks; copy standard input, or a pipe, to a file first.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    name : str or list of str
        A data set as :func:`~distnewton.data.sources.open_data` takes it; sets bundled with a package are not compared.
        Each file by columns is compared between the ranks that own it.
    data_dir : str or None
        Folder of relative paths.
    owned : callable
        Assigns files by columns to ranks.

    Raises
    ------
    DataError
        On every rank alike, with the hosts whose file differs from rank 0's.

    Notes
    -----
    Collective.
    """
    if comm.size == 1:
        return
    if isinstance(name, str):
        if not split_name(name) and not spool_for_all(comm, name, data_dir):
            _compare(name, comm.allgather_json([*_fingerprint(_path(name, data_dir)), platform.node(), comm.rank]))
        return
    _compare_parts(comm, name, data_dir, owned(len(name), comm.size))


def _compare_parts(comm: Communicator, name: Sequence[str], data_dir: str | None, files: Sequence[Range]) -> None:
    """Compare each file by columns between the ranks that own it (collective)."""
    first, last = files[comm.rank % len(files)]
    own = {i: _fingerprint(_path(name[i], data_dir)) for i in range(first, last)}
    views = comm.allgather_json([[i, *view, platform.node(), comm.rank] for i, view in own.items()])
    for i, part in enumerate(name):
        _compare(part, [view[1:] for rank in views for view in rank if view[0] == i])


def _compare(name: str, views: Sequence[tuple[int, int, str, int]]) -> None:
    """Refuse a file whose size or checksum on another host differs from that on the first rank's host."""
    if any(size < 0 for size, *_ in views):
        # the code that opens the data reports which rank cannot read it
        return
    size, crc, host, rank = views[0]
    others = sorted({f"{at} ({n:,} bytes)" for n, sample, at, _ in views if [n, sample] != [size, crc]})
    if others:
        raise DataError(
            f"{name} is another file on {', '.join(others)} than on rank {rank}'s host {host} ({size:,} "
            "bytes): put the data where all hosts see the same file, or copy it again",
            collective=True,
        )


def check_same_points(comm: Communicator, residuals: ResidualLoss) -> None:
    """Refuse a residual problem whose points or observations differ between ranks (collective).

    Parameters
    ----------
    comm : Communicator
        All ranks.
    residuals : ResidualLoss
        This rank's terms, with their points drawn.

    Raises
    ------
    ConfigError
        On every rank alike, with the names of the terms.
    """
    sums = {
        term.name: [term.term.points.n, zlib.crc32(residuals.points[term.rows].tobytes()), _sum_of(term.term.data)]
        for term in residuals.terms
    }
    views = comm.allgather_json(sums)
    names = sorted(set().union(*views))
    others = [name for name in names if any(view.get(name) != views[0].get(name) for view in views)]
    if others:
        raise ConfigError(
            f"term {', '.join(others)}: the ranks have different points or data; draw random numbers with a "
            "fixed seed, and read files that are the same on all hosts",
            collective=True,
        )


def _sum_of(data: Any) -> int:
    return 0 if data is None else zlib.crc32(np.ascontiguousarray(data).tobytes())


def _path(name: str, data_dir: str | None) -> Path:
    """Find the file or folder of a name: ``features,labels`` names two files, ``folder:part`` a part of a folder."""
    folder = user_path(data_dir or ".")
    names = name, name.rpartition(":")[0], name.partition(",")[0].strip()
    paths = [folder / user_path(part) for part in names if part]
    path_here = next((path for path in paths if path.exists()), paths[0])
    # a store's manifest holds the checksums of all its files
    return path_here / MANIFEST_FILE if (path_here / MANIFEST_FILE).is_file() else path_here


def _fingerprint(path: Path) -> tuple[int, int]:
    """Return size and checksum of parts of a file, or of a folder's list of names; size -1 if unreadable."""
    try:
        if path.is_dir():
            names = sorted(entry.name for entry in path.iterdir())
            return len(names), zlib.crc32("\n".join(names).encode(errors="surrogateescape"))
        size, checksum = path.stat().st_size, 0
        with path.open("rb") as file:
            for start in (0, max(0, size // 2 - _SAMPLE // 2), max(0, size - _SAMPLE)):
                file.seek(start)
                checksum = zlib.crc32(file.read(_SAMPLE), checksum)
    except OSError:
        return -1, 0
    return size, checksum
