"""Free memory of this host, or of the job's share of it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def free_memory(root: Path = _ROOT) -> float:
    """Return the bytes that processes here can still take, on the host and within their control groups' limits.

    Parameters
    ----------
    root : Path
        Root of the file system; tests use another one.

    Returns
    -------
    float
        Infinity on systems that do not say.
    """
    return min([_available(root), *_left_in_groups(root)])


def release_freed_memory() -> None:
    """Return freed memory to the host: glibc keeps many small pieces, other C libraries do not."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _available(root: Path) -> float:
    """Read what Linux calls MemAvailable: memory that is free or used by caches that can be dropped."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    sizes = [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return sizes[0] if sizes else math.inf


def _left_in_groups(root: Path) -> Iterator[float]:
    """Yield the bytes left in each limited control group of this process and in its parent groups."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, cache = root / "sys/fs/cgroup/memory", "total_inactive_file"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        while True:
            yield _left(group, limit, used, cache)
            if group == base or base not in group.parents:
                break
            group = group.parent


def _left(group: Path, limit: str, used: str, cache: str) -> float:
    """Return a group's limit minus its use, without file caches that can be dropped; inf without a limit."""
    try:
        most, now = (group / limit).read_text().strip(), float((group / used).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        # inside a container the group may have another path
        return math.inf
    return math.inf if most == "max" else float(most) - now + float(stat.get(cache, 0))
