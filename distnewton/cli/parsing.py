"""Parsing a command line: errors that are ours, and what a word that there is not may have meant."""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import Any, NoReturn

from distnewton.errors import UsageError
from distnewton.launch.startup import launched_rank

_SYNONYMS = {
    "epochs": "iterations", "max_iter": "iterations", "lr": "learning_rate", "batch_size": "batch",
    "label": "label_column", "labels": "label_column", "target": "label_column",
    "output": "run_dir", "out": "run_dir", "output_dir": "run_dir",
    "hidden": "layers", "hidden_layers": "layers", "gpu": "device", "precision": "dtype", "optimizer": "direction",
}  # fmt: skip
"""What settings are called elsewhere."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one message, exit code 2, on rank 0 only; flags are written out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a command that there is not, with the nearest one."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            near = difflib.get_close_matches(value, action.choices, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(action.choices)}"
            self.error(f"there is no command {value!r}; {hint}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Refuse a command line."""
        raise UsageError(f"{message}\ntry: {self.prog} --help", collective=True)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End after --help."""
        if message and launched_rank() == 0:
            sys.stdout.write(message)
        raise SystemExit(status)

    def print_help(self, file: object = None) -> None:
        """Show the help, on rank 0."""
        if launched_rank() == 0:
            sys.stdout.write(self.format_help())


def nearest(flag: str, flags: list[str]) -> str:
    """The flag that one that there is not may have meant.

    Parameters
    ----------
    flag : str
        As typed.
    flags : list of str
        That there are.

    Returns
    -------
    str
        Empty where none is near.
    """
    name = flag.lstrip("-").replace("-", "_")
    # settings are often called without their section
    bare = {known.rpartition(".")[2].lstrip("-").replace("-", "_"): known for known in reversed(flags)}
    if (known := bare.get(_SYNONYMS.get(name, name))) is not None:
        return known
    near = difflib.get_close_matches(flag, flags, n=1) or difflib.get_close_matches(name, bare, n=1, cutoff=0.7)
    return bare.get(near[0], near[0]) if near else ""


def all_flags(parser: argparse.ArgumentParser, command: str | None) -> list[str]:
    """Flags of the program and of one of its commands.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the program.
    command : str or None
        One of its commands.

    Returns
    -------
    list of str
    """
    flags = [flag for action in parser._actions for flag in action.option_strings]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and command in action.choices:
            flags += [flag for inner in action.choices[command]._actions for flag in inner.option_strings]
    return flags
