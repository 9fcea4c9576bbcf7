"""Runs that are stopped, saved and resumed, for tests."""

from __future__ import annotations

import numpy as np

import distnewton
from distnewton.launch.deadline import Stop


class StopAfter:
    """A clock that ends a run after some iterations, by what the last rank says alone."""

    def __init__(self, n_iterations, comm=None):
        self._left, self._speaks = n_iterations, comm is None or comm.rank == comm.size - 1
        self.save_seconds = []

    def must_stop(self):
        self._left -= 1
        return Stop.CLOCK if self._left < 0 and self._speaks else Stop.NO

    def saved(self, seconds):
        self.save_seconds.append(seconds)


def blobs(n=80, n_features=7, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    centres = 2 * rng.standard_normal((n_classes, n_features))
    y = rng.integers(n_classes, size=n)
    return centres[y] + rng.standard_normal((n, n_features)), y


def settings(method, iterations=6, **tables):
    tables = {
        "network": {"layers": ["auto", 8, 5, "auto"]},
        "run": {"iterations": iterations, "dtype": "float64", "deterministic": True, "threads": 1},
        "method": method,
    } | {name: table for name, table in tables.items() if name != "run"} | (
        {"run": {"iterations": iterations, "deterministic": True, "threads": 1, "dtype": "float64"} | tables["run"]}
        if "run" in tables else {}
    )  # fmt: skip
    return distnewton.make_config(tables)


def facts(record):
    """What of a record is not time."""
    return untimed(record.as_dict())


def untimed(values):
    """The same of a line of metrics.jsonl."""
    direction = dict(values["direction"] or {}, seconds=None)
    timed = {name for name in values if name.endswith("seconds")}
    return {name: value for name, value in values.items() if name not in timed} | {"direction": direction}


def free(*results):
    for result in results:
        result.model.grid.free()


def stopped_and_resumed(world, folder, config, k, **data):
    """Results of the whole run, of its first k iterations, and of the rest."""
    whole = distnewton.train(config, world, **data)
    part = distnewton.train(config, world, **data, clock=StopAfter(k, world), checkpoints=folder / "c")
    rest = distnewton.train(config, world, **data, checkpoints=folder / "c", resume=True)
    return whole, part, rest


def same_run(world, whole, part, rest, k):
    """Verdict: both parts together are the whole, bit for bit."""
    assert part.last.iteration == k
    assert rest.history[0].as_dict() == part.last.as_dict()
    resumed, uninterrupted = ([facts(r) for r in h] for h in ([*part.history, *rest.history[1:]], whole.history))
    if part.last.note:
        # a rejected direction leaves the linearisation to the next one, which sends for it anew after a resumption
        for history in (resumed, uninterrupted):
            del history[k + 1]["sent_bytes"]
    assert resumed == uninterrupted
    same = np.array_equal(whole.model.params, rest.model.params)
    assert not world.any(not same)
