"""Signals that stop a run: noted in a ``with``, handlers as before after it; and Ctrl-C in a program that trains."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

import distnewton
from distnewton.guards import signals
from distnewton.guards.signals import STOP_SIGNALS, StopSignals

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4))
y = (X[:, 0] > 0).astype(int)


@pytest.fixture(autouse=True)
def handlers():
    """What a program begins with, and what was there before."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noted_and_its_handler_comes_back(number):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        send(number)
        assert stop.received == number.name
        if number != signal.SIGINT:
            send(number)
    assert signal.getsignal(number) is before


def test_the_second_interrupt_ends_at_once_unless_it_is_the_same(monkeypatch, capfd):
    with StopSignals(notice="wait") as stop:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        # from the terminal and from the launcher
        send(signal.SIGINT)
        assert stop.received == "SIGINT"
        monkeypatch.setattr(signals, "_SAME_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert capfd.readouterr().err == "wait\n"


def test_what_the_program_ignores_or_handles_stays_so():
    came = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: came.append("own"))
    with StopSignals() as stop:
        send(signal.SIGHUP)
        send(signal.SIGTERM)
    assert (stop.received, came) == ("", ["own"])


def test_other_threads_touch_no_handlers():
    left = []

    def enter():
        with StopSignals():
            left.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert left == [signal.SIG_DFL]


def config(iterations=50):
    return distnewton.make_config({"network": {"layers": ["auto", 3, "auto"]}, "run": {"iterations": iterations}})


class PressesCtrlC:
    """An observer that interrupts the program after an iteration."""

    def __init__(self, at):
        self.at = at

    def start(self, summary):
        pass

    def iteration(self, record):
        if record.iteration == self.at:
            send(signal.SIGINT)


def test_ctrl_c_in_a_program_saves_and_the_run_resumes(tmp_path):
    with pytest.raises(KeyboardInterrupt, match=r"interrupted after iteration 4; saved as .*step-000004"):
        distnewton.train(config(), (X, y), observers=[PressesCtrlC(3)], checkpoints=tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    result = distnewton.train(config(6), (X, y), checkpoints=tmp_path, resume=True)
    whole = distnewton.train(config(6), (X, y))
    assert [record.iteration for record in result.history] == [4, 5, 6]
    assert result.last.objective == pytest.approx(whole.last.objective, rel=1e-9)


def test_ctrl_c_without_checkpoints_ends_at_once():
    seen = []

    class Watches(PressesCtrlC):
        def iteration(self, record):
            seen.append(record.iteration)
            super().iteration(record)

    with pytest.raises(KeyboardInterrupt):
        distnewton.train(config(), (X, y), observers=[Watches(3)])
    assert seen[-1] == 3
