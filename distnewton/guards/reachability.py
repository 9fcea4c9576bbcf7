"""Whether the other hosts of a job still answer, asked without MPI: a TCP connection that is refused is an answer, too.

Nothing listens for it. A host that never answered, say behind a firewall that drops packets, is not judged.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Mapping, Sequence

from distnewton.guards.hangs import ranges

_PORTS = (1, 22)
"""Hardly ever open, so that the system itself refuses at once; and the one that firewalls let through."""
_SECONDS = 1.0
_SIOCGIFADDR = 0x8915


def own_addresses() -> list[str]:
    """IPv4 addresses of this host's network interfaces other than the loopback; the host's name where unknown."""
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
    """Whether a host answers at one of its addresses, within seconds."""
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
    """Hosts of the ranks of a job, and which of them answered when it began.

    Parameters
    ----------
    names : sequence of str
        Host of each rank.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._answering: dict[str, Sequence[str]] = {}

    def ask(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Ask hosts, all at once, whether they answer now; those that do are asked again by :meth:`silent`.

        Parameters
        ----------
        addresses : mapping of str to sequence of str
            Addresses by host name.
        """
        self._answering = {host: addresses[host] for host in _ask(addresses, wanted=True)}

    def silent(self) -> list[str]:
        """Hosts that answered then and do not now."""
        return _ask(self._answering, wanted=False)

    def describe_silent(self, rank: int) -> str:
        """Which hosts are cut off, in words; empty if none is.

        Parameters
        ----------
        rank : int
            Who asks: rank 0 has asked all hosts, the others only rank 0's.

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
        return f"The host {hosts} answered when the run began and does not now: look at it and at its network"


def _ask(addresses: Mapping[str, Sequence[str]], *, wanted: bool) -> list[str]:
    if not addresses:
        return []
    # most ranks share their host with all others
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(32, len(addresses))) as pool:
        replies = list(pool.map(answers, addresses.values()))
    return [host for host, reply in zip(addresses, replies, strict=True) if reply == wanted]
