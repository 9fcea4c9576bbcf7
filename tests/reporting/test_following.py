"""Following a run: a bar on a terminal, plain lines in a log, events for TensorBoard, the slowest rank by name."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from launched import UNDER_LAUNCHER, distnewton, launches, mpirun, small_data
from rich.console import Console

import distnewton as package
from distnewton.config import make_config
from distnewton.errors import MissingExtraError
from distnewton.method.objective import Objective
from distnewton.method.records import DirectionRecord, IterationRecord
from distnewton.parallel.collectives import Communicator
from distnewton.reporting import terminal
from distnewton.reporting.progress import Progress, _clock
from distnewton.reporting.slowest import slowest_rank
from distnewton.reporting.tensorboard import TensorBoard

mpi = pytest.mark.mpi(min_size=1)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BLOCKS = {"method": {"direction": "block_diagonal"}}


def trained(*observers, iterations=3, **more):
    rng = np.random.default_rng(0)
    source = package.ArraySource(rng.standard_normal((40, 3)), rng.integers(3, size=40))
    settings = {"network": {"layers": ["auto", 4, "auto"]}, "run": {"iterations": iterations, **more}}
    return package.train(make_config(settings), train_data=source, test_data=source, observers=observers)


def test_a_log_has_a_plain_line_an_iteration():
    out = io.StringIO()
    progress = Progress(Console(file=out, width=120))
    progress.finish(trained(progress))
    text = out.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:2] == ["iter", "objective"])
    assert [line.split()[0] for line in lines[first + 1 : first + 5]] == ["0", "1", "2", "3"]
    assert lines[first].split()[-1] == "left"
    assert lines[first + 4].split()[-1] == "0:00"


@pytest.fixture(autouse=True)
def _capable_terminal(monkeypatch):
    """Rich draws no bar on what calls itself a dumb terminal, as logs of batch systems and of CI do."""
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("width", [60, 80, 150])
def test_a_terminal_has_a_bar_with_the_figures(width):
    out = io.StringIO()
    progress = Progress(Console(file=out, width=width, force_terminal=True), live=True)
    result = trained(progress)
    progress.finish(result)
    shown = ESCAPES.sub("", out.getvalue())
    for words in ("iteration 3/3", "objective", "test accuracy", "|grad|", "lambda", "CG ", "compute", "gone", "left"):
        assert words in shown, words
    assert "iter    objective" not in shown
    assert f"objective {result.last.objective:.5g}" in shown
    # the cursor is there at the end, and was given back at once for the case of an abort
    cursor = re.findall(r"\x1b\[\?25[lh]", out.getvalue())
    assert cursor[:2] == ["\x1b[?25l", "\x1b[?25h"]
    assert cursor[-1] == "\x1b[?25h"


def test_a_bar_tells_of_rejected_directions():
    out = io.StringIO()
    progress = Progress(Console(file=out, width=150, force_terminal=True), live=True)
    trained(progress, iterations=1)
    progress.iteration(IterationRecord(2, 1.0, 0.5, 0.5, note="no [descent] direction"))
    progress.close()
    progress.close()
    assert "iteration 2: no [descent] direction" in ESCAPES.sub("", out.getvalue())


def record(k, elapsed, compute=(), wait=0.0):
    direction = DirectionRecord("m", [1], [0.0], [0], False, [0.0])
    return IterationRecord(
        k, elapsed, 1.0, 1.0, training_seconds=elapsed, direction=direction, compute_seconds=list(compute),
        seconds={"wait": wait},
    )  # fmt: skip


@pytest.mark.parametrize(("limits", "left"), [
    ({}, 2.0 * 15), ({"seconds": 14.0}, 4.0), ({"max_seconds": 13.0}, 3.0),
])  # fmt: skip
def test_the_time_left(limits, left):
    progress = Progress(Console(file=io.StringIO()))
    progress._config, progress._columns = make_config({"run": {"iterations": 20, **limits}}), ["iter", "objective"]
    progress._task = "regression"
    for k, elapsed in enumerate([0.0, 2.0, 4.0, 6.0, 8.0, 10.0]):
        progress.iteration(record(k, elapsed))
    assert progress._left() == pytest.approx(left)


@pytest.mark.parametrize(("seconds", "shown"), [
    (None, ""), (0.4, "0:00"), (65, "1:05"), (3599.7, "1:00:00"), (7322, "2:02:02"),
])  # fmt: skip
def test_clocks(seconds, shown):
    assert _clock(seconds) == shown


def timed(rows, seconds, since=0.0):
    """Records that share so many seconds of training."""
    return [record(k, since + seconds * k / len(rows), row) for k, row in enumerate(rows, start=1)]


def test_a_rank_that_costs_more_than_a_fifth_is_named():
    rows = [[1.0, 2.0, 1.0, 1.1]] * 3
    found = slowest_rank(timed(rows, 6.6))
    assert (found.rank, round(found.ratio, 2)) == (1, 2.0)
    assert found.share == pytest.approx(3.0 / 6.6)
    assert "rank 1 on b is the slowest" in found.text(["a", "b", "a", "b"])
    assert "rank 1 is the slowest" in found.text(["a"] * 4)
    assert slowest_rank(timed([[1.0, 1.2, 1.0]] * 3, 3.9)) is None
    assert slowest_rank(timed([[0.001, 0.002]] * 3, 0.009)) is None
    assert slowest_rank(timed([[5.0]] * 3, 15.0)) is None
    assert slowest_rank(timed([[]] * 3, 15.0)) is None
    assert slowest_rank([]) is None
    # a run that went on with other ranks: only the last ones are compared, by their own time
    found = slowest_rank([*timed([[9.0, 1.0]] * 4, 100.0), *timed([[1.0, 1.0, 2.0]] * 2, 4.0, since=100.0)])
    assert (found.rank, found.share) == (2, pytest.approx(0.5))


@mpi
def test_computing_and_waiting_are_recorded_by_rank(world):
    rng = np.random.default_rng(0)
    source = package.ArraySource(rng.standard_normal((60, 9)), rng.integers(3, size=60))
    result = package.train(make_config({"run": {"iterations": 2}, **BLOCKS}), world, train_data=source)
    good = True
    for found in result.history:
        good &= len(found.compute_seconds) == len(found.wait_seconds) == world.size
        good &= all(seconds >= 0.0 for seconds in found.compute_seconds)
        # the same waiting, by rank and by phase
        waits = {phase: seconds for phase, seconds in found.phase_wait_seconds.items() if phase != "evaluation"}
        good &= abs(sum(waits.values()) - np.mean(found.wait_seconds)) <= 1e-9 + 1e-9 * sum(waits.values())
        good &= (sum(waits.values()) > 0.0) == (world.size > 1)
        good &= sum(found.compute_seconds) > 0.0 and max(found.compute_seconds) <= found.elapsed_seconds + 1e-3
    result.model.grid.free()
    assert not world.any(not good)
    assert not world.any(sum(result.predictions["n_of"]) != 60)


def events(path):
    """Scalars of an event file, whose records are length, checksum, content, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found, data = {}, path.read_bytes()
    while data:
        (n,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + n])
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, {})[event.step] = value.simple_value
        data = data[16 + n :]
    return found


def test_events_hold_the_record(tmp_path):
    pytest.importorskip("tensorboardX")
    for _ in range(2):
        writer = TensorBoard(tmp_path)
        assert not list(tmp_path.glob("*/*2"))
        result = trained(writer)
        writer.close()
    files = list((tmp_path / "tensorboard").iterdir())
    assert len(files) == 1
    found = events(files[0])
    for name, get in {
        "objective": lambda r: r.objective, "test/accuracy": lambda r: r.test["accuracy"],
        "seconds/wait": lambda r: r.seconds["wait"],
    }.items():  # fmt: skip
        assert found[name] == pytest.approx({r.iteration: get(r) for r in result.history}, rel=1e-6)
    assert set(found["method/damping"]) == {1, 2, 3}
    TensorBoard(tmp_path / "never begun").close()
    assert not (tmp_path / "never begun").exists()


def test_what_to_install_for_events(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'distnewton\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_without_a_launcher_the_terminal_is_ones_own(monkeypatch):
    monkeypatch.setattr(terminal, "launched_size", lambda: 1)
    monkeypatch.setattr(terminal, "launcher_kind", lambda: "")
    for answer in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda answer=answer: answer, raising=False)
        assert terminal.ends_on_terminal() is answer


IN_TERMINAL = """
import fcntl, os, pty, struct, sys, termios
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 72, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
out = b""
while True:
    try:
        data = os.read(fd, 65536)
    except OSError:
        break
    if not data:
        break
    out += data
sys.stdout.buffer.write(out)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def on_terminal(command, cwd):
    return subprocess.run(
        [sys.executable, "-c", IN_TERMINAL, *map(str, command)], capture_output=True, text=True, timeout=100,
        check=False, cwd=cwd, env=os.environ | {"TERM": "xterm", "OMPI_ALLOW_RUN_AS_ROOT": "1",
                                                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
    )  # fmt: skip


@pytest.mark.launches
@pytest.mark.skipif(UNDER_LAUNCHER, reason="already under mpirun")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for mpirun in /proc")
def test_under_mpirun_a_terminal_gets_a_bar_and_a_file_lines(tmp_path):
    if launches[1].args[0]:
        pytest.skip("no mpirun")
    data = small_data(tmp_path)
    command = [*mpirun(2), *distnewton("train", "--data.train", data, "--network.layers", "auto-5-auto",
               "--run.iterations", 2, "--method.direction=block_diagonal", "--tensorboard", "--run-dir")]  # fmt: skip
    done = on_terminal([*command, tmp_path / "bar"], tmp_path)
    assert done.returncode == 0, done.stdout
    shown = ESCAPES.sub("", done.stdout)
    assert "iteration 2/2" in shown
    # a line that is wider than the terminal would be left behind when the bar moves on
    assert max(len(line) for line in re.split("[\r\n]+", shown) if line.startswith(("iteration", "objective"))) <= 72
    to_file = " ".join(map(str, [*command, tmp_path / "lines", ">", tmp_path / "log"]))
    done = on_terminal(["bash", "-c", to_file], tmp_path)
    assert done.returncode == 0, done.stdout
    log = (tmp_path / "log").read_text()
    assert "\r" not in log
    assert "\x1b" not in log
    assert [line.split()[0] for line in log.splitlines() if re.match(r" +\d", line)] == ["0", "1", "2"]
    assert list((tmp_path / "bar" / "tensorboard").iterdir())


@mpi
def test_a_planted_slow_rank_is_named_within_three_iterations(world, monkeypatch):
    rng = np.random.default_rng(0)
    source = package.ArraySource(rng.standard_normal((60, 9)), rng.integers(3, size=60))
    gradient, last = Objective.gradient, world.size - 1

    def slow(self, evaluation):
        time.sleep(0.3 if world.rank == last else 0.0)
        return gradient(self, evaluation)

    monkeypatch.setattr(Objective, "gradient", slow)
    # the comparison before each sum takes the waiting upon itself, uncounted
    monkeypatch.setenv("DISTNEWTON_CHECK", "0")
    comm = Communicator(world.mpi)
    out = io.StringIO()
    progress = Progress(Console(file=out, width=120))
    config = make_config({"run": {"iterations": 3}, **BLOCKS})
    result = package.train(config, comm, train_data=source, observers=[progress])
    progress.finish(result)
    found = slowest_rank(result.history)
    result.model.grid.free()
    named = found is not None and found.rank == last and f"rank {last} is the slowest" in out.getvalue()
    assert not world.any(named != (world.size > 1)), [r.compute_seconds for r in result.history]
