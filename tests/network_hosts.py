"""Hosts of their own address and name on one machine: network namespaces on a bridge (needs root and iproute2)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

AGENT = """#!/bin/bash
# Starts a command on a host as ssh would: agent [-x] HOST COMMAND...; the last number of an address is the host's.
while [[ $1 == -* ]]; do shift; done
host=$1; shift
k=$(( ${host##*.} - 1 ))
exec ip netns exec PREFIX$k unshare --uts bash -c "hostname PREFIX$k; HOME; $*"
"""


def why_not() -> str:
    """What keeps this machine from having such hosts; empty if nothing does."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "network namespaces need the command ip (Debian package iproute2)"
    name = f"dnx{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=20, check=False)
    if made.returncode:
        return f"this machine allows no network namespaces: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


class NetworkHosts:
    """A bridge and hosts h0, h1, ... with addresses 10.77.0.1, ...; a context.

    Parameters
    ----------
    n : int
        How many.
    folder : Path
        Where the agent is written.
    own : str
        Name of a folder in it whose content is each host's own: on host k that of ``own.hk``, which is made, too.
    prefix : str
        Begins the names of the hosts; those of other names are left alone.
    """

    def __init__(self, n: int, folder: Path, own: str = "", prefix: str = "h") -> None:
        self.n, self.prefix, self.bridge = n, prefix, f"dn{prefix}br0"
        self.addresses = [f"10.77.0.{k + 1}" for k in range(n)]
        self.agent, self.home = folder / "agent", folder / own if own else None
        for place in [self.home, *(self.home_of(k) for k in range(n))] if self.home else []:
            place.mkdir()
        self.agent.write_text(AGENT.replace("PREFIX", self.prefix).replace("HOME", self._mount(f"{self.prefix}$k")))
        self.agent.chmod(0o755)

    def home_of(self, k: int) -> Path:
        """Where the content of a host's own folder lies."""
        return Path(f"{self.home}.{self.prefix}{k}")

    def _mount(self, name: str) -> str:
        """What gives a host its own folder: ip netns exec has given it mounts of its own."""
        return f"mount --bind {self.home}.{name} {self.home} || exit 1" if self.home else ":"

    def __enter__(self) -> NetworkHosts:
        self._remove()
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("link", "set", self.bridge, "up")
        for k in range(self.n):
            host, outer = f"{self.prefix}{k}", f"dn{self.prefix}v{k}"
            _ip("netns", "add", host)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "e0", "netns", host)
            _ip("link", "set", outer, "master", self.bridge, "up")
            _ip("-n", host, "addr", "add", f"{self.addresses[k]}/24", "dev", "e0")
            _ip("-n", host, "link", "set", "e0", "up")
            _ip("-n", host, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def cut(self, k: int) -> None:
        """Cut a host off the others."""
        _ip("link", "set", f"dn{self.prefix}v{k}", "down")

    def sent_bytes(self) -> int:
        """Bytes that the interfaces of all hosts have sent so far."""
        total = 0
        for k in range(self.n):
            read = ["ip", "netns", "exec", f"{self.prefix}{k}", "cat", "/sys/class/net/e0/statistics/tx_bytes"]
            # a fresh view of /sys belongs to the host's network, which ip netns exec mounts
            total += int(subprocess.run(read, capture_output=True, text=True, timeout=20, check=True).stdout)
        return total

    def command(self, k: int, command: list[str]) -> list[str]:
        """A command as it is started on a host."""
        quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
        name = f"{self.prefix}{k}"
        return ["ip", "netns", "exec", name, "unshare", "--uts", "bash", "-c",
                f"hostname {name}; {self._mount(name)}; exec {quoted}"]  # fmt: skip

    def kill(self) -> None:
        """End what still runs on the hosts."""
        for k in range(self.n):
            listed = subprocess.run(
                ["ip", "netns", "pids", f"{self.prefix}{k}"], capture_output=True, text=True, timeout=20, check=False
            )
            for pid in listed.stdout.split():
                subprocess.run(["kill", "-9", pid], capture_output=True, timeout=20, check=False)

    def _remove(self) -> None:
        """Remove hosts and bridge, also those that a test that was ended has left."""
        self.kill()
        for k in range(self.n):
            _ip("netns", "del", f"{self.prefix}{k}", check=False)
            _ip("link", "del", f"dn{self.prefix}v{k}", check=False)
        _ip("link", "del", self.bridge, check=False)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], capture_output=True, timeout=20, check=check)
