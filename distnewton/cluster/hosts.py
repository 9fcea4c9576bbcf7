"""Hosts of an mpirun, with one notation for the host files of all MPI libraries."""

from __future__ import annotations

import re
from pathlib import Path

from distnewton.errors import ConfigError, MissingInputError

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)(?:\s*:\s*(\d+)|(?:\s+(?:slots|max_slots|max-slots)\s*=\s*\d+)*)\s*")
_SLOTS = re.compile(r"\bslots\s*=\s*(\d+)")


def read_hostfile(path: Path, ranks_per_node: int) -> dict[str, int]:
    """Read the number of ranks on each host from a host file.

    Parameters
    ----------
    path : Path
        File with a host on each line: ``h0``, ``h0 slots=4`` (Open MPI) or ``h0:4`` (MPICH); # begins a comment.
    ranks_per_node : int
        Number of ranks for hosts without a number.

    Returns
    -------
    dict of str to int
        Ranks by host, in the order of the file.

    Raises
    ------
    MissingInputError
        If it cannot be read.
    ConfigError
        If a line is not a host, with file and line, or if there is no host.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        message = f"cannot read the host file {path}: {error.strerror or error}"
        raise MissingInputError(message, collective=True) from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if not match:
            wanted = '"host", "host slots=4" or "host:4"'
            raise ConfigError(f"{path}:{number}: expected {wanted}, got {text!r}", collective=True)
        slots = _SLOTS.search(text)
        count = int(slots[1]) if slots else int(match[2] or ranks_per_node)
        hosts[match[1]] = hosts.get(match[1], 0) + count
    if not hosts:
        raise ConfigError(f"{path} names no host", collective=True)
    return hosts


def share_ranks(hosts: dict[str, int], n_ranks: int | None) -> dict[str, int]:
    """Divide a number of ranks over the hosts, which are filled in order; without a number, use all slots.

    Parameters
    ----------
    hosts : dict of str to int
        Largest number of ranks on each host.
    n_ranks : int or None
        Ranks to start.

    Returns
    -------
    dict of str to int
        Hosts in use, with their ranks.

    Raises
    ------
    ConfigError
        If the hosts have no room for them.
    """
    room = sum(hosts.values())
    left = room if n_ranks is None else n_ranks
    if left > room:
        raise ConfigError(
            f"{left} ranks for {room} places on {len(hosts)} hosts: name more hosts, or raise launch.ranks_per_node",
            collective=True,
        )
    used: dict[str, int] = {}
    for host, places in hosts.items():
        if left:
            used[host] = min(places, left)
            left -= used[host]
    return used
