"""All passes of the tests: serial ones, then one under mpirun for each number of ranks; launch/test.sh runs it.

One after another: ranks that wait poll, so two passes at once take no less time on two cores.

`passes.py --as-rank FOLDER PYTEST_ARGUMENT ...` is what mpirun starts: rank 0 speaks, the others write to FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

LOGS = Path("build/test-logs")
COUNTS = ("passed", "failed", "skipped")
NO_TESTS = 5  # pytest's exit code
LATE = 124  # that of timeout


@dataclass
class Pass:
    """One start of pytest, on one process or on ranks."""

    name: str
    pytest: list[str]
    launcher: list[str] = field(default_factory=list)
    n_ranks: int = 0
    checked: bool = True

    @property
    def folder(self) -> Path:
        """Logs and reports of this pass."""
        return LOGS / self.name.replace(" ", "-")

    @property
    def command(self) -> list[str]:
        """The command, without the limit of the pass."""
        if self.n_ranks:
            rank = [sys.executable, __file__, "--as-rank", str(self.folder)]
            return [*self.launcher, "-n", str(self.n_ranks), *rank, *self.pytest]
        return [sys.executable, "-m", "pytest", *self.pytest]

    def run(self, limit: float) -> dict[str, int]:
        """Run it, with its output shown and logged; return and print the counts."""
        print(f"== {self.name}", flush=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        begin = time.monotonic()
        # in the foreground, so that Ctrl-C reaches the tests; macOS has no such command
        timeout = ["timeout", "--foreground", "--kill-after=20", f"{limit:.0f}"] if shutil.which("timeout") else []
        environment = {"DISTNEWTON_CHECK": str(int(self.checked)), **os.environ}
        environment["DISTNEWTON_TEST_REPORT"] = str(self.folder.resolve())
        with subprocess.Popen(
            [*timeout, *self.command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env=environment,
        ) as process:  # fmt: skip
            try:
                self._show(process.stdout)
            except BaseException:
                process.terminate()  # with all that it started
                raise
        counts, troubles = self._judge(process.returncode)
        for trouble in troubles:
            print(f"{self.name}: {trouble}", flush=True)
        text = ", ".join(f"{counts[kind]} {kind}" for kind in COUNTS)
        self.summary = f"{self.name}: {text} in {time.monotonic() - begin:.0f} s"
        return counts

    def _show(self, lines) -> None:
        hidden = False  # pytest-mpi describes the MPI library
        with (self.folder / "output.log").open("w") as log:
            for line in lines:
                log.write(line)
                if re.match(r"=+ .* =+$|\d+ \w+.* in [\d.]+s", line.strip()):
                    hidden = " MPI Information " in line
                if not hidden:
                    print(line, end="", flush=True)

    def _judge(self, code: int) -> tuple[dict[str, int], list[str]]:
        """Counts of the first rank, and what is wrong beside failed tests; each trouble counts as a failure."""
        reports = [self._report(rank) for rank in range(self.n_ranks or 1)]
        counts = {kind: reports[0].get(kind, 0) for kind in COUNTS}
        troubles = ["ended at the limit of the pass"] if code == LATE else []
        for rank, report in enumerate(reports):
            where = f"rank {rank}: " if self.n_ranks else ""
            if "code" not in report:
                troubles.append(f"{where}ended in {report.get('test', 'no test')}")
            elif rank and report["code"] not in (0, NO_TESTS):
                troubles.append(f"{where}exit code {report['code']}, {self.folder}/rank-{rank}.log")
        if len({report.get("code") == NO_TESTS for report in reports}) > 1:
            troubles.append("some ranks found no tests: all must collect the same")
        if code not in (0, NO_TESTS) and not counts["failed"] and not troubles:
            troubles.append(f"exit code {code}")
        if not counts["failed"]:
            counts["failed"] = int(bool(troubles))
        return counts, troubles

    def _report(self, rank: int) -> dict:
        """What tests/conftest.py wrote: the running test, at the end the counts and the exit code."""
        try:
            return json.loads((self.folder / f"rank-{rank}.json").read_text())
        except (OSError, ValueError):
            return {}


def passes(options: argparse.Namespace) -> list[Pass]:
    """The passes that the options ask for."""
    common = ["-q", "--color=no", *(["--all-ranks"] if options.full else [])]
    not_slow = "" if options.full else " and not slow"
    # each worker collects all tests, 12 CPU seconds of more than a thousand; one more than there are cores, as tests of
    # signals, watchdogs and Slurm wait
    n_workers = min(4, (os.cpu_count() or 1) + 1)
    chosen = []
    if not options.mpi_only:
        # in the order of tests/conftest.py: what takes longest begins first
        beside = ["-n", str(n_workers), "--dist", "loadfile", "--no-loadscope-reorder"]
        chosen = [Pass("serial", [*common, *beside, "-m", f"not mpi{not_slow}", *options.pytest])]
    if not options.serial_only:
        # a cache folder would be written by all ranks
        ranked = [*common, "--with-mpi", "-p", "no:cacheprovider", "-m", f"mpi{not_slow}", *options.pytest]
        launcher = options.launcher.split()
        # to compare each message before it is sent doubles the time of three and four ranks, which take turns on two
        # cores; two ranks have cores of their own, and the grids of seven leave ranks idle
        chosen += [
            Pass(f"{n} rank{'s'[: n > 1]}", ranked, launcher, n, options.full or n not in (3, 4)) for n in options.ranks
        ]
    return chosen


def rank_counts(text: str) -> list[int]:
    """Numbers of ranks from "1 2 3"."""
    if not re.fullmatch(r" *[1-9]\d*( +[1-9]\d*)* *", text):
        raise argparse.ArgumentTypeError(f"is a list of numbers from 1 such as \"1 2 3\", got '{text}'")
    return [int(word) for word in text.split()]


def main() -> int:
    """Run the passes and count; 1 where a test failed or none ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=rank_counts, default=[1, 2, 3, 4, 7])
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--serial-only", action="store_true")
    one.add_argument("--mpi-only", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--launcher", default="mpirun")
    parser.add_argument("pytest", nargs="*")
    options = parser.parse_args()
    chosen = passes(options)
    if options.dry_run:
        for one in chosen:
            print(f"== {one.name}\n{shlex.join(one.command)}")
        return 0

    from speed import slowness

    begin = time.monotonic()
    limit = float(os.environ.get("DISTNEWTON_TEST_LIMIT", "900")) * slowness()
    total = dict.fromkeys(COUNTS, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for one in chosen:
        counts = one.run(limit)
        total = {kind: total[kind] + counts[kind] for kind in COUNTS}
    print(f"\nTests under '{options.launcher}', limits times {slowness():.2f}:")
    print("".join(f"  {one.summary}\n" for one in chosen))
    if not total["passed"] and not total["failed"]:
        print("no tests ran")
        return 1
    print(", ".join(f"{total[kind]} {kind}" for kind in COUNTS), f"in {time.monotonic() - begin:.0f} s")
    return int(total["failed"] > 0)


def as_rank(folder: Path, arguments: list[str]) -> int:
    """One rank of a pass."""
    import pytest
    from launched import rank

    if rank():
        log = os.open(folder / f"rank-{rank()}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
    code = int(pytest.main(arguments))
    if code in (0, NO_TESTS):
        return 0
    time.sleep(5)  # mpirun ends the whole job at the first failure: let the others report theirs
    return code


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-rank"]:
        sys.exit(as_rank(Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(main())
