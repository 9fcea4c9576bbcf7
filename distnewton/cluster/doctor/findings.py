"""Results of the doctor's checks."""

from __future__ import annotations

from distnewton.frozen import frozen


@frozen
class CheckResult:
    """Result of a check of the set-up."""

    name: str  # name of the check
    level: str  # ``ok``, ``slow`` (runs, but wastes the machine) or ``problem`` (will not run, or not as meant)
    text: str  # state of what was checked
    advice: str = ""  # what to do, in a line; empty if all is well

    def lines(self) -> list[str]:
        """The lines that the user sees."""
        level = self.level if self.level == "ok" else self.level.upper()
        return [f"{level:<8} {self.name:<9} {self.text}", *([f"{'':<18} -> {self.advice}"] if self.advice else [])]


def ok(name: str, text: str) -> CheckResult:
    """Make the result of a check that finds no fault."""
    return CheckResult(name, "ok", text)


def slow(name: str, text: str, advice: str) -> CheckResult:
    """Make the result for a set-up that runs but wastes the machine."""
    return CheckResult(name, "slow", text, advice)


def problem(name: str, text: str, advice: str) -> CheckResult:
    """Make the result for a set-up that will not run, or not as meant."""
    return CheckResult(name, "problem", text, advice)


def findings_that_count(results: list[CheckResult]) -> list[CheckResult]:
    """Drop results that are ok if another result of the same check is not."""
    bad = {result.name for result in results if result.level != "ok"}
    return [result for result in results if result.level != "ok" or result.name not in bad]
