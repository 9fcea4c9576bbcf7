"""Several methods on the same data, network, start and ranks, each for the same seconds of training."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distnewton.config import Config, choose_direction, make_config, read_settings
from distnewton.config.method import AUTO, default_options
from distnewton.config.recipes import shipped_recipes
from distnewton.config.sections import UNLIMITED
from distnewton.directions.registry import DIRECTIONS
from distnewton.errors import ConfigError, NumericalError
from distnewton.method.divergence import DIVERGED
from distnewton.method.records import IterationRecord
from distnewton.runs.session import Observer, Session

FIRST_ORDER = ("sgd", "adam")
"""Baselines, which get several learning rates each, so that no comparison hangs on one that was ill chosen."""
RATE_FACTORS = (0.3, 1.0, 3.0)
"""Of the learning rate that a baseline would have: for adam 3e-4, 1e-3 and 3e-3."""
"""Iterations of a run that only its seconds end."""


@dataclass(frozen=True)
class Entry:
    """One run of a comparison.

    Attributes
    ----------
    method : str
        What the user named; runs of one method differ in their learning rate only, and the best of them counts.
    name : str
        Of this run, with its learning rate where the method has several.
    config : Config
        The run.
    """

    method: str
    name: str
    config: Config

    @property
    def folder(self) -> str:
        """Name that can be a folder's."""
        return re.sub(r"[^\w.]+", "-", self.name).strip("-")


@dataclass
class Trial:
    """What a run came to.

    Attributes
    ----------
    entry : Entry
        The run.
    history : list of IterationRecord
        The start and each iteration.
    failure : str
        Why it ended early, else empty: a diverging run is a result, not an error.
    """

    entry: Entry
    history: list[IterationRecord] = field(default_factory=list)
    failure: str = ""


def make_entries(
    tree: Mapping[str, Any], methods: Sequence[str], seconds: float, iterations: int | None, notes: list[str]
) -> list[Entry]:
    """The runs of a comparison.

    Parameters
    ----------
    tree : mapping
        Settings of the recipe and the flags. Of its ``[method]`` each direction takes what was meant for it.
    methods : sequence of str
        Names of directions, ``auto`` among them, or of recipes whose ``[method]`` is taken, schedule included.
    seconds : float
        Training time of each run.
    iterations : int or None
        At most so many iterations; None leaves the end to the seconds, apart from methods whose learning rate falls
        over ``run.iterations``.
    notes : list of str
        Takes a line on each option left out.

    Returns
    -------
    list of Entry

    Raises
    ------
    ConfigError
        If a method is unknown or named twice, or with every error of its settings.
    MissingInputError
        If a file cannot be read.
    """
    if not methods:
        raise ConfigError("name the directions to compare, as --directions block_diagonal,kfac,adam", collective=True)
    if twice := {m for m in methods if list(methods).count(m) > 1}:
        raise ConfigError(f"named twice: {', '.join(sorted(twice))}", collective=True)
    entries: list[Entry] = []
    for method in methods:
        own = copy.deepcopy(dict(tree))
        own["method"] = _method_settings(own.get("method", {}), method, notes)
        config = make_config(own)
        falls = getattr(config.method, "rate_decay", "none") != "none"
        n = config.run.n_iterations if falls else UNLIMITED
        length = {"seconds": seconds, "iterations": n if iterations is None else iterations}
        config = config.model_copy(update={"run": config.run.model_copy(update={**length, "directory": ""})})
        entries += _with_rates(_short(method), config)
    return entries


def _method_settings(method: Mapping[str, Any], name: str, notes: list[str]) -> dict[str, Any]:
    """``[method]`` of a direction, or of the recipe that was named instead; C is the comparison's."""
    shared = {"C": method["C"]} if "C" in method else {}
    if _is_recipe(name):
        given = dict(read_settings(name).get("method", {}))
        if given.pop("C", method.get("C")) != method.get("C"):
            notes.append(f"{name}: method.C is the comparison's, since all runs minimise the same objective")
        return {**given, **shared}
    if name == AUTO:
        return {"direction": AUTO, **shared}
    if name not in DIRECTIONS:
        raise ConfigError(
            f"unknown direction {name!r}: known are {', '.join([*DIRECTIONS, AUTO])}, or a recipe", collective=True
        )
    own = {key: value for key, value in method.items() if key != "schedule"}
    if name == default_options(own)["direction"]:
        return {**own, "direction": name}
    return {**choose_direction(own, {"direction": name}, notes), "direction": name}


def session_config(entries: Sequence[Entry]) -> Config:
    """Configuration whose data and network all runs have: where ``auto`` is compared, those that it chooses."""
    return next((entry.config for entry in entries if entry.config.method.direction == AUTO), entries[0].config)


def _with_rates(method: str, config: Config) -> list[Entry]:
    """One run, or one for each learning rate of a first-order baseline."""
    if config.method.direction not in FIRST_ORDER or config.method.schedule:
        return [Entry(method, method, config)]
    entries = []
    for factor in RATE_FACTORS:
        rate = float(f"{factor * config.method.learning_rate:.3g}")
        options = config.method.model_copy(update={"learning_rate": rate})
        entries.append(Entry(method, f"{method} {rate:g}", config.model_copy(update={"method": options})))
    return entries


def _is_recipe(name: str) -> bool:
    return name.endswith(".toml") or (name not in DIRECTIONS and name in shipped_recipes())


def _short(method: str) -> str:
    return Path(method).stem if _is_recipe(method) else method


def run_entries(
    session: Session, entries: Sequence[Entry], observers: Mapping[str, Sequence[Observer]]
) -> Iterator[Trial]:
    """Run one after the other.

    Parameters
    ----------
    session : Session
        Data, network and ranks.
    entries : sequence of Entry
        The runs.
    observers : mapping of str to sequence of Observer
        Of each run, by its name.

    Yields
    ------
    Trial
        As soon as it has ended; collective.
    """
    for entry in entries:
        trial = Trial(entry)
        try:
            result = session.train(entry.config, observers=[_Recorder(trial), *observers.get(entry.name, ())])
            trial.failure = result.ended if result.ended.startswith(DIVERGED) else ""
        except NumericalError as error:
            # one that not all ranks share has left them out of step
            if not error.collective and session.setup.comm.size > 1:
                raise
            trial.failure = str(error)
        yield trial


class _Recorder:
    """Observer that keeps the history also of a run that fails."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def start(self, summary: object) -> None:
        """Nothing to keep."""

    def iteration(self, record: IterationRecord) -> None:
        """Keep the record."""
        self._trial.history.append(record)
