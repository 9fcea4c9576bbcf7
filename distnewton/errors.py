"""Errors that users can meet, each with an exit code that job scripts can act on.

An error is *collective* if every rank raises it with the same text: a configuration error, or a decision of
:func:`distnewton.parallel.collectives.Communicator.agree`. Rank 0 prints it once, and all ranks leave in step. Any
other error may be known to one rank only, and ends the whole job.
"""

from __future__ import annotations

_MOST_SHOWN = 100
STOPPED_EARLY, HANGS, INTERRUPTED = 75, 76, 130
"""Exit codes of ends that are not input errors: the time limit, the watchdog and Ctrl-C."""


class DistNewtonError(Exception):
    """Base class of errors that show advice instead of a traceback.

    Parameters
    ----------
    message : str
        What was expected, what was found, and what to do.
    collective : bool
        Whether every rank raises the same error.
    """

    exit_code = 70

    def __init__(self, message: str, *, collective: bool = False) -> None:
        super().__init__(message)
        self.collective = collective


class UsageError(DistNewtonError):
    """The command line is wrong."""

    exit_code = 2


class NumericalError(DistNewtonError):
    """The computation cannot continue: the objective is not finite, or the curvature is not positive."""

    exit_code = 3


class DataError(DistNewtonError):
    """A data or model file has invalid content."""

    exit_code = 65


class MissingInputError(DistNewtonError):
    """An input does not exist or cannot be read."""

    exit_code = 66


class CreateError(DistNewtonError):
    """An output cannot be created."""

    exit_code = 73


class WriteError(DistNewtonError):
    """Writing an output failed."""

    exit_code = 74


class ConfigError(DistNewtonError):
    """The configuration or the launch is wrong."""

    exit_code = 78


class NoMemoryError(ConfigError):
    """A rank could not allocate memory.

    Parameters
    ----------
    detail : str
        Message of Python or numpy.
    """

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            f"out of memory{f' ({detail})' if detail else ''}: use more ranks or hosts, a smaller run.memory_mb, "
            "method.subsample or method.sketch, or float32"
        )


class MissingExtraError(ConfigError):
    """An optional dependency is needed but not installed.

    Parameters
    ----------
    purpose : str
        Feature that needs it.
    extra : str
        Extra of this package that installs it.
    """

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs an optional package; install it with: pip install 'distnewton[{extra}]'")


def shown(value: object) -> str:
    """A value as messages show it: on one line, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"  # which Python refuses to write
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


EXIT_CODES: dict[int, type[DistNewtonError]] = {
    kind.exit_code: kind
    for kind in (UsageError, NumericalError, DataError, MissingInputError, CreateError, WriteError, ConfigError)
}
