"""Compare methods on the same data, network, start and ranks, each with the same training time."""

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
from distnewton.frozen import frozen
from distnewton.method.divergence import DIVERGED
from distnewton.method.records import IterationRecord
from distnewton.runs.session import Observer, Session

FIRST_ORDER = ("sgd", "adam")
"""Baselines, each run with several learning rates, so that no comparison depends on an ill-chosen one."""
RATE_FACTORS = (0.3, 1.0, 3.0)
"""Factors on a baseline's learning rate: 3e-4, 1e-3 and 3e-3 for adam."""


@frozen
class Entry:
    """One run of a comparison.

    Attributes
    ----------
    method : str
        Name that the user gave. Runs of one method differ only in their learning rate, and the best of them counts.
    name : str
        Name of this run, with its learning rate if the method has several.
    config : Config
        Configuration of the run.
    """

    method: str
    name: str
    config: Config

    @property
    def folder(self) -> str:
        """The name of the run in a form that a folder can have."""
        return re.sub(r"[^\w.]+", "-", self.name).strip("-")


@dataclass
class Trial:
    """The outcome of a run.

    Attributes
    ----------
    entry : Entry
        The run.
    history : list of IterationRecord
        Records of the start and of each iteration.
    failure : str
        Why the run failed, else empty: in a comparison a diverging run is a result, not an error.
    """

    entry: Entry
    history: list[IterationRecord] = field(default_factory=list)
    failure: str = ""


def make_entries(
    tree: Mapping[str, Any], methods: Sequence[str], seconds: float, iterations: int | None, notes: list[str]
) -> list[Entry]:
    """List the runs of a comparison.

    Parameters
    ----------
    tree : mapping
        Settings of the recipe and the flags. Each direction takes the options of ``[method]`` that were meant for it.
    methods : sequence of str
        Names of directions, which may include ``auto``, or recipes whose ``[method]`` is used, schedule included.
    seconds : float
        Training time of each run.
    iterations : int or None
        Largest number of iterations. None sets no limit, except ``run.iterations`` for methods whose learning rate
        falls over it.
    notes : list of str
        A line is added for each option that is left out.

    Returns
    -------
    list of Entry

    Raises
    ------
    ConfigError
        If a method is unknown or named twice, or if settings are wrong; the message then lists every error.
    MissingInputError
        If a file cannot be read.
    """
    if not methods:
        raise ConfigError(
            "name the directions to compare, for example --directions block_diagonal,kfac,adam", collective=True
        )
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
    """Return ``[method]`` of a direction, or of a recipe that was named instead; C is the comparison's."""
    shared = {"C": method["C"]} if "C" in method else {}
    if _is_recipe(name):
        given = dict(read_settings(name).get("method", {}))
        if given.pop("C", method.get("C")) != method.get("C"):
            notes.append(f"{name}: method.C is that of the comparison, in which all runs minimise the same objective")
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
    """Return the configuration whose data and network all runs use: that of ``auto`` if it is compared."""
    return next((entry.config for entry in entries if entry.config.method.direction == AUTO), entries[0].config)


def _with_rates(method: str, config: Config) -> list[Entry]:
    """List the one run of a method, or a run for each learning rate of a first-order baseline."""
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
    """Do the runs one after the other.

    Parameters
    ----------
    session : Session
        Data, network and ranks.
    entries : sequence of Entry
        The runs.
    observers : mapping of str to sequence of Observer
        Observers of each run, by its name.

    Yields
    ------
    Trial
        Each run as soon as it has ended; collective.
    """
    for entry in entries:
        trial = Trial(entry)
        try:
            result = session.train(entry.config, observers=[_Recorder(trial), *observers.get(entry.name, ())])
            trial.failure = result.ended if result.ended.startswith(DIVERGED) else ""
        except NumericalError as error:
            # an error of some ranks only has left the ranks out of step
            if not error.collective and session.setup.comm.size > 1:
                raise
            trial.failure = str(error)
        yield trial


class _Recorder:
    """Observer that keeps the history of a run, even if it fails."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def start(self, summary: object) -> None:
        """Do nothing: there is nothing to keep yet."""

    def iteration(self, record: IterationRecord) -> None:
        """Keep the record."""
        self._trial.history.append(record)
