"""Programs in which the ranks make their configuration by themselves must all make the same."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from typing import Any

from distnewton.config import Config
from distnewton.errors import ConfigError
from distnewton.guards.hangs import ranges
from distnewton.parallel.collectives import Communicator

_NO_KEY = "not set"


def check_same_config(comm: Communicator, config: Config) -> None:
    """Refuse configurations that differ over the ranks (collective).

    Parameters
    ----------
    comm : Communicator
        All ranks.
    config : Config
        This rank's.

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
    """Settings by section.key."""
    return {f"{section}.{key}": value for section, table in tree.items() for key, value in table.items()}
