"""Find the odd rank among ranks that wait for each other for ever, from the places that they have recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distnewton.files import parse_json

Report = Mapping[str, Any]
HANG_FILES = "hang-rank-*.json"


def read_hangs(errors: Path, launch: str | None = None) -> dict[int, Report]:
    """Read where the ranks that waited too long were waiting.

    Parameters
    ----------
    errors : Path
        Folder of the reports.
    launch : str or None
        Launch whose reports are read; None reads all.

    Returns
    -------
    dict of int to report
        Reports by rank.
    """
    reports = [parse_json(file.read_text(encoding="utf-8")) for file in sorted(errors.glob(HANG_FILES))]
    return {report["rank"]: report for report in reports if launch is None or report.get("launch") == launch}


def describe_hang(reports: Mapping[int, Report], hosts: Sequence[str]) -> str:
    """Name the ranks that are missing or in another collective.

    Parameters
    ----------
    reports : mapping of int to report
        Reports of waiting ranks, with ``collective``: ``group``, ``members``, ``call``, ``name``, ``place``.
    hosts : sequence of str
        Host of each rank.

    Returns
    -------
    str
    """
    missing = [rank for rank in range(len(hosts)) if rank not in reports]
    if missing:
        named = ", ".join(f"{rank} on {hosts[rank]}" for rank in missing)
        return f"In no collective: rank {named}. It computes, reads, is stopped, or has died"
    odd = odd_ranks(reports)
    places = _places(reports)
    shown = "\n".join(f"  rank {ranges(ranks)}: {text}" for text, ranks in places.items())
    if len(places) == 1:
        return f"All ranks wait in the same collective, so the network may be broken:\n{shown}"
    who = f"Not where the others are: rank {ranges(odd)}" if odd else "The ranks wait in different collectives"
    return f"{who}; a rank may have left out a collective, or made one too many (DISTNEWTON_CHECK=1 finds it):\n{shown}"


def odd_ranks(reports: Mapping[int, Report]) -> list[int]:
    """Find the ranks that wait somewhere else than most.

    Parameters
    ----------
    reports : mapping of int to report
        Reports of all ranks.

    Returns
    -------
    list of int
        The minority in a group whose members are in different calls; if the sides are equal, the ranks in the later
        call, which have left something out. Among several groups the smallest counts; empty if there is none.
    """
    calls: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rank, report in reports.items():
        calls[report["collective"]["group"]][report["collective"]["call"]].append(rank)
    if len(calls) > 1:
        # a group in which no member is elsewhere is only slow; the others wait for ranks outside
        together = sorted((ranks for by_call in calls.values() for ranks in by_call.values()), key=len)
        return sorted(together[0]) if len(together[0]) < len(together[-1]) else []
    (by_call,) = calls.values()
    if len(by_call) == 1:
        return []
    sides = sorted(by_call.items(), key=lambda item: (len(item[1]), -item[0]))
    return sorted(sides[0][1])


def _places(reports: Mapping[int, Report]) -> dict[str, list[int]]:
    """Group the ranks by the description of where they wait."""
    places: dict[str, list[int]] = defaultdict(list)
    for rank in sorted(reports):
        places[where(reports[rank])].append(rank)
    return places


def where(report: Report) -> str:
    """Describe a place: the call and its group, the phase, and the line of the program."""
    call = report["collective"]
    phase = f", phase {report['phase']}" if report.get("phase") else ""
    place = f", {call['place']}" if call.get("place") else ""
    return f"{call['name']} (call {call['call']} of {call['members']}{phase}{place})"


def ranges(ranks: Sequence[int]) -> str:
    """Write ranks as short text: ``0-3, 7``."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
