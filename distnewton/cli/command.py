"""Declarations of commands: each module registers its own with :func:`command`, and ``main`` runs them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from distnewton.cli import end_start
from distnewton.cli.parsing import OLD_FLAGS, Parser, settings_to_set
from distnewton.errors import ConfigError
from distnewton.frozen import frozen
from distnewton.launch.startup import launched_rank, launched_size

Function = Callable[[argparse.Namespace], int]
Argument = tuple[tuple[str, ...], dict[str, Any]]
"""Names and keywords of a call of ``add_argument``."""


def argument(*names: str, **keywords: Any) -> Argument:
    """Declare an argument of a command; takes the arguments of ``add_argument``."""
    return names, keywords


RUN = argument("run", metavar="RUN", help="run folder")
RECIPE = argument("recipe", nargs="?", metavar="RECIPE", help="file of settings, or a name from `distnewton recipes`")
SET = argument(
    "--set", action="append", default=[], metavar="KEY=VALUE", help="setting section.key, which wins over the recipe"
)
READING_SET = argument(
    "--set", action="append", default=[], metavar="KEY=VALUE",
    help="how the data are read, for example data.label_column=class, data.zero_based=true or "
    "data.ignore_columns=id,name; data.directory is the folder of relative paths",
)  # fmt: skip
RUN_DIR = argument("--run-dir", metavar="DIR", help="run folder (default runs/NAME-NUMBER)")
DATA_DIR = argument("--data-dir", metavar="DIR", help="folder of relative data paths")
DEVICE = argument("--device", choices=("cpu", "gpu", "auto"), metavar="NAME", help="cpu (default), gpu or auto")
CLUSTER_FILE = "cluster file (keys: cluster_configs/README.md)"


@frozen
class Command:
    """A command of ``distnewton``.

    Attributes
    ----------
    name, help : str
        Word on the command line, and a line on what the command does.
    run : callable
        Takes the parsed arguments and returns the exit code.
    arguments : tuple of Argument
        Arguments of the command.
    usage, epilog : str
        Arguments in the usage line, where argparse's are used if empty, and text below the help.
    without_mpirun : str
        Why the command is refused under mpirun; empty if it is allowed.
    first_rank : bool
        Whether rank 0 alone does the work under mpirun, without MPI.
    setting_flags : bool
        Whether each setting has a flag ``--section.key VALUE``.
    appendix : callable or None
        Makes the text below the help, about all settings or the common ones.
    """

    name: str
    help: str
    run: Function
    arguments: tuple[Argument, ...]
    usage: str = ""
    epilog: str = ""
    without_mpirun: str = ""
    first_rank: bool = False
    setting_flags: bool = False
    appendix: Callable[[bool], str] | None = None

    def add_to(self, parsers: Any) -> None:
        """Add the command to the subparsers of the program."""
        parser = parsers.add_parser(self.name, help=self.help, **self._keywords())
        self._add_arguments(parser)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments of this command alone, for another command that calls it."""
        parser = Parser(prog=f"distnewton {self.name}", **self._keywords())
        self._add_arguments(parser)
        return parser.parse_args(arguments)

    def rewrite(self, arguments: Sequence[str]) -> list[str]:
        """Rewrite settings given as flags as ``--set``, if the command takes settings."""
        if not any(item in self.arguments for item in (SET, READING_SET)):
            return list(arguments)
        flags = {name for names, _ in self.arguments for name in names}
        return settings_to_set(arguments, flags, OLD_FLAGS.get(self.name, {}), note_settings=not self.setting_flags)

    def flags(self) -> list[str]:
        """List the flags that a user may have meant: the command's own, and those of settings if it has them."""
        from distnewton.cli.setting_help import settings
        from distnewton.config.sections import READING

        own = [name for names, _ in self.arguments for name in names if name.startswith("--")]
        known = settings() if SET in self.arguments else (f"data.{key}" for key in READING)
        return own + [f"--{name}" for name in known if any(item in self.arguments for item in (SET, READING_SET))]

    def __call__(self, options: argparse.Namespace) -> int:
        """Run the command on the ranks that it is meant for."""
        if self.without_mpirun and launched_size() > 1:
            raise ConfigError(f"{self.name} is called without mpirun: {self.without_mpirun}", collective=True)
        if self.first_rank and launched_rank() != 0:
            return 0
        end_start()
        return self.run(options)

    def _keywords(self) -> dict[str, Any]:
        usage = f"distnewton {self.name} {self.usage}" if self.usage else None
        return {"usage": usage, "epilog": self.epilog or None, "appendix": self.appendix}

    def _add_arguments(self, parser: argparse.ArgumentParser) -> None:
        for names, keywords in self.arguments:
            parser.add_argument(*names, **keywords)


COMMANDS: dict[str, Command] = {}
"""Commands by name, in the order of the help."""


def command(name: str, help: str, *arguments: Argument, **more: Any) -> Callable[[Function], Function]:
    """Register a function as a command; keywords are attributes of :class:`Command`."""

    def register(run: Function) -> Function:
        COMMANDS[name] = Command(name, help, run, arguments, **more)
        return run

    return register
