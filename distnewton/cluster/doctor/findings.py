"""A finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that is well, slow, or broken.

    Attributes
    ----------
    name : str
        Of the check.
    level : str
        ``ok``, ``slow`` (runs, but wastes the machine) or ``problem`` (will not run, or not as meant).
    text : str
        What was found.
    advice : str
        What to do, one line; empty where all is well.
    """

    name: str
    level: str
    text: str
    advice: str = ""

    def lines(self) -> list[str]:
        """As shown."""
        head = f"{self.level.upper() if self.level != 'ok' else 'ok':<8} {self.name:<9} {self.text}"
        return [head, *([f"{'':<18} -> {self.advice}"] if self.advice else [])]


def ok(name: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(name, "ok", text)


def slow(name: str, text: str, advice: str) -> Finding:
    """It runs, but wastes the machine."""
    return Finding(name, "slow", text, advice)


def problem(name: str, text: str, advice: str) -> Finding:
    """It will not run, or not as meant."""
    return Finding(name, "problem", text, advice)
