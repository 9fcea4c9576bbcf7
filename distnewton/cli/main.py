"""The program ``distnewton``: it finds the called command and runs it, with or without mpirun."""

from __future__ import annotations

import argparse
import faulthandler
import gc
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from distnewton.cli.command import COMMANDS
from distnewton.cli.parsing import Parser, nearest
from distnewton.cli.streams import guard_streams, results_go_to_files
from distnewton.errors import UsageError, shown
from distnewton.launch.startup import launched_rank, run_guarded

_DESCRIPTION = "Train neural networks with distributed Newton methods; each MPI rank owns a part of the features."
_MODULES = {
    "train": ("train",), "compare": ("compare",), "model": ("evaluate", "predict"), "report": ("report", "info", "why"),
    "submit": ("submit",), "doctor": ("doctor",), "plan": ("plan",), "bench": ("bench",), "convert": ("convert",),
    "export": ("export",), "recipes": ("recipes",),
}  # fmt: skip
"""Modules of commands and the commands of each, in the order of the help."""


def build_parser(called: str = "") -> argparse.ArgumentParser:
    """Build the parser of all commands, or of the called one alone, which saves importing the other modules."""
    needed = [module for module, names in _MODULES.items() if called in names] or list(_MODULES)
    for module in needed:
        import_module(f"distnewton.cli.{module}_command")
    parser = Parser(prog="distnewton", description=_DESCRIPTION)
    parser.add_argument("--version", action="store_true", help="show the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name in (name for module in needed for name in _MODULES[module]):
        COMMANDS[name].add_to(commands)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; an unknown flag is a UsageError that names the nearest known one."""
    if wrong := [argument for argument in arguments if "\0" in argument]:
        raise UsageError(f"an argument has a NUL character in it: {shown(wrong[0])}", collective=True)
    parser = build_parser(arguments[0] if arguments else "")
    command = COMMANDS.get(arguments[0]) if arguments else None
    options, unknown = parser.parse_known_args(command.rewrite(arguments) if command else arguments)
    if unknown:
        flags = command.flags() if command else []
        raise UsageError(f"unknown argument {unknown[0][:100]}{_hint(unknown[0], options, flags)}", collective=True)
    return options


def _hint(unknown: str, options: argparse.Namespace, flags: list[str]) -> str:
    """Suggest what an unknown argument may have meant."""
    if not unknown.startswith("--") and options.command == "train":
        return "; LIBLINEAR's options belong to distnewton-train"
    near = nearest(unknown.partition("=")[0], flags)
    return f"; did you mean {near}?" if near else f"\ntry: distnewton {options.command or ''} --help"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.version:
        from distnewton.packages import version

        if launched_rank() == 0:
            print("distnewton", version("distnewton"))
        return 0
    if options.command is None:
        build_parser().print_help()
        return 2
    return COMMANDS[options.command](options)


def console() -> NoReturn:
    """Entry point of the ``distnewton`` script."""
    run_console(main)


def run_console(program: Callable[[], int]) -> NoReturn:
    """Run a program as a console script does: a failure on any rank ends the whole job."""
    if launched_rank() != 0 and not sys.warnoptions:
        # rank 0 warns for all ranks; errors of other ranks are still reported
        warnings.simplefilter("ignore")
    guard_streams()
    # a crash inside a library then prints where it was called
    faulthandler.enable(all_threads=False)
    code = run_guarded(lambda: _flushed(program()))
    # after an error, Python would only complain at exit
    results_go_to_files()
    sys.stdout.flush()
    # the process ends and returns all of its memory: garbage collection at exit is wasted time
    gc.freeze()
    sys.exit(code)


def _flushed(code: int) -> int:
    """Flush the output of a command and return its exit code; a reader that has left (`| head`) is no error."""
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    return code
