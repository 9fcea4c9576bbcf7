"""Parsing of command lines: clear messages, suggestions for misspelt words, and settings as flags."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from distnewton.errors import UsageError, shown
from distnewton.launch.startup import launched_rank

SHORT_FLAGS = {
    "--data-dir": "data.directory", "--device": "run.device", "--run-dir": "run.directory", "--start": "network.start",
}  # fmt: skip
"""Flags of commands that stand for a setting."""
OLD_FLAGS = {
    "plan": {
        "--samples": "--sizes=samples", "--features": "--sizes=features", "--outputs": "--sizes=outputs",
        "--test-samples": "--sizes=test_samples", "--nonzeros": "--sizes=nonzeros",
    },
}  # fmt: skip
"""Flags of the last version by command, with what replaces them; this version still reads them, with a note."""
_SYNONYMS = {
    "epochs": "iterations", "max_iter": "iterations", "lr": "learning_rate", "batch_size": "batch",
    "label": "label_column", "labels": "label_column", "target": "label_column",
    "output": "run_dir", "out": "run_dir", "output_dir": "run_dir",
    "hidden": "layers", "hidden_layers": "layers", "gpu": "device", "precision": "dtype", "optimizer": "direction",
}  # fmt: skip
"""Names of settings in other programs."""


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one message on rank 0 with exit code 2, and refuses abbreviated flags.

    Parameters
    ----------
    appendix : callable or None
        Makes the text below the help; its argument says whether to show everything. With it, the parser has the flag
        ``--help-all``.
    **options : object
        Options of argparse's parser.
    """

    def __init__(self, appendix: Callable[[bool], str] | None = None, **options: Any) -> None:
        super().__init__(allow_abbrev=False, add_help=False, **options)
        self._appendix = appendix
        # one group saves lines: the help of a command with many flags should fit on a screen
        self._positionals = self._optionals
        self._positionals.title = "arguments"
        self.add_argument("-h", "--help", action="help", help="show this help")
        if appendix is not None:
            self.add_argument("--help-all", action=_HelpAll, nargs=0, help="show every setting, and what uses it")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse an unknown command, and name the nearest one."""
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

    def format_help(self, *, complete: bool = False) -> str:
        """Return the help, with all settings or the common ones if settings are flags of the command."""
        text = super().format_help()
        return text if self._appendix is None else f"{text}\n{self._appendix(complete)}"

    def print_help(self, file: object = None, *, complete: bool = False) -> None:
        """Show the help, on rank 0."""
        if launched_rank() == 0:
            sys.stdout.write(self.format_help(complete=complete))


class _HelpAll(argparse.Action):
    """The flag ``--help-all``."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        assert isinstance(parser, Parser)  # noqa: S101  (no other parser adds this action)
        parser.print_help(complete=True)
        parser.exit()


def settings_to_set(
    arguments: Sequence[str], flags: Iterable[str], old: Mapping[str, str], *, note_settings: bool
) -> list[str]:
    """Rewrite ``--section.key value`` as ``--set=section.key=value``, and old flags, in place among other arguments.

    Parameters
    ----------
    arguments : sequence of str
        Arguments of a command.
    flags : iterable of str
        The command's own flags. A flag of :data:`SHORT_FLAGS` that is not among them is rewritten too.
    old : mapping of str to str
        Replacements of flags of the last version, such as ``--sizes=samples`` for ``--samples``; each use is noted on
        stderr.
    note_settings : bool
        Whether to note also that the command takes settings by ``--set``.

    Returns
    -------
    list of str

    Raises
    ------
    UsageError
        If a setting has no value.
    """
    from distnewton.config import is_setting
    from distnewton.config.old_names import old_names

    known = {f"--{name}": f"--set={name}" for name in old_names()}
    known |= {flag: f"--set={name}" for flag, name in SHORT_FLAGS.items() if flag not in flags}
    known |= old
    rest, words = [], iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and is_setting(flag[2:]):
            known[flag] = f"--set={flag[2:]}"
        if flag not in known:
            rest.append(word)
            continue
        if not equals and (value := next(words, "--")).startswith("--"):
            raise UsageError(f"argument {flag}: expected one argument", collective=True)
        if note_settings or flag in old:
            written = known[flag].replace("=", " ", 1)
            print(f"note: {flag} is written {written}={value} from the next version on", file=sys.stderr)
        rest.append(f"{known[flag]}={value}")
    return rest


def nearest(flag: str, flags: list[str]) -> str:
    """Find the flag that a misspelt one probably means.

    Parameters
    ----------
    flag : str
        Flag as typed.
    flags : list of str
        Flags of the command.

    Returns
    -------
    str
        Empty if no flag is near.
    """
    name = flag.lstrip("-").replace("-", "_")
    # users often leave out the section of a setting
    bare = {known.rpartition(".")[2].lstrip("-").replace("-", "_"): known for known in reversed(flags)}
    if (known := bare.get(_SYNONYMS.get(name, name))) is not None:
        return known
    near = difflib.get_close_matches(flag, flags, n=1) or difflib.get_close_matches(name, bare, n=1, cutoff=0.7)
    return bare.get(near[0], near[0]) if near else ""


def number(text: str) -> float:
    """Read a number of a command line."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {shown(text)}") from None


def positive(text: str) -> float:
    """Read a number above 0, which may be infinite."""
    value = number(text)
    if not value > 0.0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {shown(text)}")
    return value


def finite(text: str) -> float:
    """Read a finite number above 0."""
    value = positive(text)
    if math.isinf(value):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {shown(text)}")
    return value


def count(text: str, least: int = 1) -> int:
    """Read a whole number of at least `least`."""
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a number from {least}, got {shown(text)}")
    return int(text)


def count_from_0(text: str) -> int:
    """Read a whole number of at least 0."""
    return count(text, 0)


def counts(text: str) -> list[int]:
    """Read whole numbers of at least 1, separated by commas."""
    return [count(part.strip()) for part in text.split(",")]
