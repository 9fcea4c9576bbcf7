"""Who is the odd one among ranks that wait for each other for ever, from the places that they have written down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distnewton.files import parse_json

Report = Mapping[str, Any]
HANG_FILES = "hang-rank-*.json"


def read_hangs(errors: Path, launch: str | None = None) -> dict[int, Report]:
    """Places of ranks that waited too long.

    Parameters
    ----------
    errors : Path
        Where they were written.
    launch : str or None
        Reports of other launches are left out; None takes all.

    Returns
    -------
    dict of int to report
        By rank.
    """
    reports = [parse_json(file.read_text(encoding="utf-8")) for file in sorted(errors.glob(HANG_FILES))]
    return {report["rank"]: report for report in reports if launch is None or report.get("launch") == launch}


def describe_hang(reports: Mapping[int, Report], hosts: Sequence[str]) -> str:
    """Who is missing, or elsewhere.

    Parameters
    ----------
    reports : mapping of int to report
        Of the ranks that wait, with ``collective``: ``group``, ``members``, ``call``, ``name``, ``place``.
    hosts : sequence of str
        Host of each rank.

    Returns
    -------
    str
    """
    missing = [rank for rank in range(len(hosts)) if rank not in reports]
    if missing:
        named = ", ".join(f"{rank} on {hosts[rank]}" for rank in missing)
        return f"Not in any collective is rank {named}: it computes, reads, is stopped, or has died"
    odd = odd_ranks(reports)
    places = _places(reports)
    shown = "\n".join(f"  rank {ranges(ranks)}: {text}" for text, ranks in places.items())
    if len(places) == 1:
        return f"All ranks wait in the same collective, so that the network may be broken:\n{shown}"
    who = f"Elsewhere than the others is rank {ranges(odd)}" if odd else "The ranks wait in different collectives"
    return f"{who}; it may have left out a collective, or made one too many (DISTNEWTON_CHECK=1 finds where):\n{shown}"


def odd_ranks(reports: Mapping[int, Report]) -> list[int]:
    """The ranks that are elsewhere than most.

    Parameters
    ----------
    reports : mapping of int to report
        Of all ranks.

    Returns
    -------
    list of int
        Of a group whose members are in different calls the fewer, and where both sides are as many those that have
        gone further: they left something out. Of several groups the smallest; empty where none is.
    """
    calls: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rank, report in reports.items():
        calls[report["collective"]["group"]][report["collective"]["call"]].append(rank)
    if len(calls) > 1:
        # those whose group waits for nobody who is elsewhere are only slow; the others wait for ranks outside
        together = sorted((ranks for by_call in calls.values() for ranks in by_call.values()), key=len)
        return sorted(together[0]) if len(together[0]) < len(together[-1]) else []
    (by_call,) = calls.values()
    if len(by_call) == 1:
        return []
    sides = sorted(by_call.items(), key=lambda item: (len(item[1]), -item[0]))
    return sorted(sides[0][1])


def _places(reports: Mapping[int, Report]) -> dict[str, list[int]]:
    """Ranks by the text of where they wait."""
    places: dict[str, list[int]] = defaultdict(list)
    for rank in sorted(reports):
        places[where(reports[rank])].append(rank)
    return places


def where(report: Report) -> str:
    """A place in words: which call of which group, in which phase and line of the program."""
    call = report["collective"]
    phase = f", phase {report['phase']}" if report.get("phase") else ""
    place = f", {call['place']}" if call.get("place") else ""
    return f"{call['name']} (call {call['call']} of {call['members']}{phase}{place})"


def ranges(ranks: Sequence[int]) -> str:
    """Ranks as short text: ``0-3, 7``."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
