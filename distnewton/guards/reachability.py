"""Test without MPI whether the other hosts of a job still answer; a refused TCP connection is an answer too.

No process listens for the connection. A host that never answered, for example behind a firewall that drops packets, is
not judged.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Mapping, Sequence

from distnewton.guards.hangs import ranges

_PORTS = (1, 22)
"""Ports to try: one that is hardly ever open, so the system refuses at once, and one that firewalls let through."""
_SECONDS = 1.0
_SIOCGIFADDR = 0x8915


def own_addresses() -> list[str]:
    """List the IPv4 addresses of this host's interfaces except the loopback; the host's name if they are unknown."""
    addresses = []
    if sys.platform == "linux":
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                try:
                    answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                except OSError:
                    # an interface without an IPv4 address
                    continue
                addresses.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in addresses if not address.startswith("127.")] or [socket.gethostname()]


def answers(addresses: Sequence[str]) -> bool:
    """Test whether a host answers at one of its addresses within seconds."""
    return any(_answers(address, port) for port in _PORTS for address in addresses)


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


class Hosts:
    """The hosts of a job's ranks, and which of them answered when the job began.

    Parameters
    ----------
    names : sequence of str
        Host of each rank.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._answering: dict[str, Sequence[str]] = {}

    def ask(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Ask all hosts at once whether they answer; :meth:`silent` later asks those that did again.

        Parameters
        ----------
        addresses : mapping of str to sequence of str
            Addresses by host name.
        """
        self._answering = {host: addresses[host] for host in _ask(addresses, wanted=True)}

    def silent(self) -> list[str]:
        """List the hosts that answered at the beginning and no longer do."""
        return _ask(self._answering, wanted=False)

    def describe_silent(self, rank: int) -> str:
        """Say which hosts are cut off; empty if none is.

        Parameters
        ----------
        rank : int
            The rank that asks: rank 0 asks all hosts, the others only rank 0's.

        Returns
        -------
        str
        """
        silent = self.silent()
        if not silent:
            return ""
        own = self.names[rank]
        if rank == 0 and len(silent) > 1 and len(silent) == len({*self.names} - {own}):
            return f"No other host answers: {own} is cut off, or all others are. Look at its network"
        ranks = {host: ranges([r for r, name in enumerate(self.names) if name == host]) for host in silent}
        hosts = ", ".join(f"{host} (rank {ranks[host]})" for host in silent)
        return f"The host {hosts} answered when the run began and no longer does: look at it and at its network"


def _ask(addresses: Mapping[str, Sequence[str]], *, wanted: bool) -> list[str]:
    if not addresses:
        return []
    # most ranks share their host with all others
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(32, len(addresses))) as pool:
        replies = list(pool.map(answers, addresses.values()))
    return [host for host, reply in zip(addresses, replies, strict=True) if reply == wanted]
