"""Tables whose rows are joined by an identifier column; only hashes of the identifiers need leave a table.

An identifier is a text as it appears in the file, without surrounding blanks. Its hash (BLAKE2b) has two 64-bit words:
rows are joined by the first, and the second detects different identifiers with the same first word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint64]
"""Of shape (n_rows, 2)."""
_MISSING = hashlib.blake2b(b"", digest_size=16).digest()


def hash_identifiers(blocks: Iterable[list[str]]) -> Hashes:
    """Hash identifiers.

    Parameters
    ----------
    blocks : iterable of list of str
        Texts of consecutive blocks of rows; empty if the identifier is missing.

    Returns
    -------
    ndarray of uint64 of shape (n_rows, 2)
    """
    digests = (
        b"".join(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest() for text in block)
        for block in blocks
    )
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64).reshape(-1, 2)


def identifier_problem(hashes: Hashes) -> tuple[str, int] | None:
    """Find out why the identifiers of a table do not name its rows uniquely.

    Parameters
    ----------
    hashes : ndarray of uint64 of shape (n_rows, 2)
        Hashes of one table.

    Returns
    -------
    tuple of str and int, or None
        The kind of problem (missing or repeated identifiers, with their count) and the number of such a row.
    """
    missing = np.flatnonzero((hashes == np.frombuffer(_MISSING, "<u8")).all(axis=1))
    if missing.size:
        return f"{missing.size} of {len(hashes)} rows have no identifier", int(missing[0])
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    first, second = hashes[order].T
    alike = first[1:] == first[:-1]
    twice = alike & (second[1:] == second[:-1])
    if twice.any():
        n_distinct = np.count_nonzero(twice & ~np.concatenate([[False], twice[:-1]]))
        return f"{n_distinct} identifier(s) appear in several rows", int(order[1:][twice][0])
    if alike.any():
        return "two identifiers have the same hash: rename one of them", int(order[1:][alike][0])
    return None


def matching_rows(wanted: Hashes, own: Hashes) -> NDArray[np.intp]:
    """Find the rows of a table that have the identifiers of another table.

    Parameters
    ----------
    wanted, own : ndarray of uint64 of shape (n, 2)
        Hashes of both tables, with no identifier missing or repeated.

    Returns
    -------
    ndarray of intp of shape (len(wanted),)
        Row of the own table for each wanted identifier; -1 if there is none.
    """
    order = np.argsort(own[:, 0], kind="stable")
    places = np.minimum(np.searchsorted(own[order, 0], wanted[:, 0]), len(own) - 1)
    rows: NDArray[np.intp] = order[places]
    return np.where((own[rows] == wanted).all(axis=1), rows, -1)
