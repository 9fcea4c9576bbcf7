"""Whether the other hosts of a job still answer, asked without MPI: a TCP connection that is refused is an answer, too.

Nothing listens for it. A host that never answered, say behind a firewall that drops packets, is not judged.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

_PORTS = (1, 22)
"""Hardly ever open, so that the system itself refuses at once; and the one that firewalls let through."""
_SECONDS = 1.0
_SIOCGIFADDR = 0x8915


def own_addresses() -> list[str]:
    """IPv4 addresses of this host's network interfaces other than the loopback; the host's name where unknown."""
    found = []
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
                found.append(socket.inet_ntoa(answer[20:24]))
    found = [address for address in found if not address.startswith("127.")]
    return found or [socket.gethostname()]


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
    """Hosts of a job that answered when it began.

    Parameters
    ----------
    addresses : dict of str to list of str
        Addresses by host name; asked at construction, all at once.
    """

    def __init__(self, addresses: dict[str, list[str]]) -> None:
        self._known = {host: addresses[host] for host in _ask(addresses, wanted=True)}

    def silent(self) -> list[str]:
        """Hosts that answered then and do not now."""
        return _ask(self._known, wanted=False)


def _ask(addresses: dict[str, list[str]], *, wanted: bool) -> list[str]:
    if not addresses:
        return []
    with ThreadPoolExecutor(min(32, len(addresses))) as pool:
        replies = list(pool.map(answers, addresses.values()))
    return [host for host, reply in zip(addresses, replies, strict=True) if reply == wanted]
