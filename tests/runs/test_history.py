"""Records in little memory: nothing of them may change."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from distnewton.guards.ledger import PHASES
from distnewton.method.records import DirectionRecord, IterationRecord
from distnewton.runs.history import History


def a_record(k, rng, n_ranks=4):
    """As one of a run, with numbers that have all their digits."""

    def numbers(n):
        return rng.standard_normal(n).tolist()

    return IterationRecord(
        k, *numbers(4), note="" if k % 3 else "rejected", betas=numbers(2),
        direction=DirectionRecord("sgn", [3, 4, 5, 6][:n_ranks], numbers(n_ranks), [0, 2], True, numbers(n_ranks)),
        seconds=dict(zip([*PHASES, "wait"], numbers(len(PHASES) + 1), strict=True)),
        phase_wait_seconds=dict(zip(PHASES, numbers(len(PHASES)), strict=True)),
        wait_seconds=numbers(n_ranks), compute_seconds=numbers(n_ranks),
        sent_bytes=dict(zip(PHASES, numbers(len(PHASES)), strict=True)),
        train={"accuracy": rng.random()}, test={"accuracy": rng.random()},
    )  # fmt: skip


def test_records_come_back_as_they_were():
    rng = np.random.default_rng(0)
    records = [a_record(k, rng) for k in range(50)]
    records[7].objective, records[7].reduction_ratio = math.inf, None
    history = History(records[:1])
    for record in records[1:]:
        history.append(record)
    assert list(history) == records
    assert len(history) == 50
    assert history[-1] == records[-1]
    assert history[3:6] == records[3:6]
    with pytest.raises(IndexError):
        history[50]


def test_not_a_number_stays_one():
    record = a_record(0, np.random.default_rng(1))
    record.test = {"auc": math.nan}
    (back,) = History([record])
    assert math.isnan(back.test["auc"])
    assert math.isnan(record.test.pop("auc"))
    assert back.train == record.train


def test_a_record_takes_less_than_a_kilobyte():
    # 70 numbers of random digits, which no packing shortens below 8 bytes
    rng = np.random.default_rng(2)
    history = History(a_record(k, rng) for k in range(100))
    assert sum(sys.getsizeof(packed) for packed in history._packed) / 100 < 1000
