"""Rows of several tables joined by an identifier column, of which only hashes need leave the table.

An identifier is a text as it stands in the file, without the blanks around it. Its hash has two words of 64 bits
(BLAKE2b): rows are joined by the first one, and the second tells two identifiers with one first word apart.
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
    """Hashes of identifiers.

    Parameters
    ----------
    blocks : iterable of list of str
        Texts of a block of rows after the other; empty where the identifier is missing.

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
    """What keeps the identifiers of a table from naming its rows.

    Parameters
    ----------
    hashes : ndarray of uint64 of shape (n_rows, 2)
        Of one table.

    Returns
    -------
    tuple of str and int, or None
        Rows without an identifier, or identifiers of several rows, with their count; and the number of such a row.
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
        return f"{n_distinct} identifier(s) stand in several rows", int(order[1:][twice][0])
    if alike.any():
        return "two identifiers have one hash: rename one of them", int(order[1:][alike][0])
    return None


def matching_rows(wanted: Hashes, own: Hashes) -> NDArray[np.intp]:
    """Rows of a table with the identifiers of another one.

    Parameters
    ----------
    wanted, own : ndarray of uint64 of shape (n, 2)
        Of both tables, in which no identifier is missing or stands twice.

    Returns
    -------
    ndarray of intp of shape (len(wanted),)
        Number of the own row for each wanted identifier; -1 where there is none.
    """
    order = np.argsort(own[:, 0], kind="stable")
    places = np.minimum(np.searchsorted(own[order, 0], wanted[:, 0]), len(own) - 1)
    rows: NDArray[np.intp] = order[places]
    return np.where((own[rows] == wanted).all(axis=1), rows, -1)
