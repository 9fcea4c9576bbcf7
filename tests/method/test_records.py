"""Records of iterations, as lines of metrics.jsonl and back."""

from __future__ import annotations

import json
import math

import pytest

from distnewton.method.records import DirectionRecord, IterationRecord


def direction(steps: list[int], finished: list[int], failed: list[int]) -> DirectionRecord:
    return DirectionRecord("m", steps, [0.1 * n for n in steps], finished, len(finished) < 2, [0.5, 0.25], failed)


def test_a_line_is_read_as_the_record_that_wrote_it():
    record = IterationRecord(3, 1.5, 0.25, 0.125, betas=[1.0, 0.1], direction=direction([2, 3], [0, 1], []))
    record.train, record.sent_bytes = {"accuracy": 0.1 + 0.2}, {"gradient": 8.0}
    assert IterationRecord.from_json(record.to_json()) == record


def test_numbers_that_json_lacks_are_null_in_the_line_and_nan_behind_it():
    record = IterationRecord(1, 0.0, math.nan, math.inf, train={"rmse": math.nan})
    values = json.loads(record.to_json())
    assert values["objective"] is None
    assert values["train"] == {"rmse": None}
    read = IterationRecord.from_json(record.to_json())
    assert math.isnan(read.objective)
    assert math.isnan(read.loss)
    assert math.isnan(read.train["rmse"])
    assert read.gradient_norm is None


@pytest.mark.parametrize("line", ["", "[]", '{"iteration": 1}', '{"iteration": "x", "elapsed_seconds": 0}'])
def test_what_is_no_record_is_a_value_error(line: str):
    with pytest.raises(ValueError, match=r"Expecting|validation error"):
        IterationRecord.from_json(line)


def test_steps_as_one_add_up_by_rank():
    whole = DirectionRecord.sum([direction([1, 2], [0, 1], []), direction([3, 4], [1], [0])])
    assert whole.inner_iterations == [4, 6]
    assert whole.residuals == [0.30000000000000004, 0.4]
    assert (whole.finished_ranks, whole.failed_ranks, whole.stopped_early) == ([1], [0], True)
    assert whole.seconds == [1.0, 0.5]
    assert DirectionRecord.sum([]) is None
