"""Costs go to the phase they belong to, once."""

from __future__ import annotations

import pytest

from distnewton.guards import ledger as module
from distnewton.guards.ledger import PHASES, Ledger, allreduce_bytes


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(module.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_messages_are_charged_to_the_phase_that_is_open():
    ledger = Ledger()
    ledger.charge(10.0, 0.5)
    with ledger.phase("gradient"):
        ledger.charge(20.0, 0.25)
        ledger.charge(30.0, 0.25)
    ledger.charge(1.0, 0.125)
    costs = ledger.take()
    assert (costs["other"].sent_bytes, costs["other"].wait_seconds, costs["other"].n_messages) == (11.0, 0.625, 2)
    gradient = costs["gradient"]
    assert (gradient.sent_bytes, gradient.wait_seconds, gradient.n_messages) == (50.0, 0.5, 2)
    assert all(costs[name].n_messages == 0 for name in set(PHASES) - {"gradient", "other"})


def test_inner_phases_take_their_time_from_the_outer(clock):
    ledger = Ledger()
    with ledger.phase("line_search"):
        clock.now += 2
        with ledger.phase("evaluation"):
            clock.now += 5
        ledger.charge(8.0, 0.0)
        clock.now += 1
    costs = ledger.take()
    assert (costs["line_search"].seconds, costs["evaluation"].seconds, costs["other"].seconds) == (3.0, 5.0, 0.0)
    assert costs["line_search"].sent_bytes == 8.0


def test_an_error_closes_its_phase(clock):
    ledger = Ledger()
    with pytest.raises(ValueError, match="oops"), ledger.phase("direction"):  # noqa: PT012  (time passes first)
        clock.now += 4
        raise ValueError("oops")
    assert ledger.current == "other"
    assert ledger.take()["direction"].seconds == 4.0


def test_taking_starts_anew_and_unknown_phases_are_refused():
    ledger = Ledger()
    with ledger.phase("jacobian"):
        ledger.charge(4.0, 1.0)
    assert set(ledger.take()) == set(PHASES)
    assert ledger.take()["jacobian"].sent_bytes == 0.0
    with pytest.raises(KeyError, match="nonsense"), ledger.phase("nonsense"):
        pass


@pytest.mark.parametrize(
    ("n_bytes", "n_ranks", "sent"), [(800, 1, 0.0), (800, 2, 800.0), (700, 7, 1200.0), (0, 3, 0.0)]
)
def test_bytes_of_a_sum(n_bytes, n_ranks, sent):
    assert allreduce_bytes(n_bytes, n_ranks) == pytest.approx(sent)
