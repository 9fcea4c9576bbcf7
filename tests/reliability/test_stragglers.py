"""A slow rank is named in the log within three iterations, one that is not is not."""

from __future__ import annotations

import pytest
from launched import distnewton, launches, mpirun, run

from distnewton.method.records import DirectionRecord, IterationRecord
from distnewton.reporting.stragglers import Stragglers


def record(k, waits, steps, seconds):
    made = IterationRecord(k, float(k), 1.0, 1.0, training_seconds=float(k), wait_seconds=waits)
    made.direction = DirectionRecord("m", steps, [0.0] * len(steps), [], True, seconds)
    return made


@pytest.mark.parametrize(("waits", "steps", "seconds", "words"), [
    ([0.5, 0.5, 0.1, 0.5], [9, 9, 9, 9], [0.1] * 4, "rank 2 on h2 is slow: it works 1.8 times as long"),
    ([0.1] * 4, [10, 4, 10, 10], [0.2, 0.2, 0.2, 0.2], "rank 1 on h1 is slow: its CG steps take 2.5 times as long"),
    ([0.1, 0.2, 0.1, 0.2], [9, 9, 8, 9], [0.1] * 4, ""),
    ([0.5, 0.1], [9, 9], [0.1] * 2, "rank 1 on h1 is slow"),
    ([0.0], [9], [0.1], ""),
])  # fmt: skip
def test_signs_of_a_slow_rank(waits, steps, seconds, words):
    look = Stragglers([f"h{r}" for r in range(4)])
    said = [look.look(record(k, waits, steps, seconds)) for k in range(1, 7)]
    assert said[2].startswith(words)
    assert bool(said[2]) == bool(words)
    assert not any(said[:2] + said[3:])


def test_a_slow_rank_is_named_in_the_log(tmp_path):
    lines = [",".join(str((i * j) % 17 / 17) for j in range(1, 41)) + f",{'abc'[i % 3]}" for i in range(600)]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    done = run([*mpirun(2), *distnewton(
        "train", "--data.train=in.csv", "--network.layers=auto-80-80-auto", "--run.iterations=5", "--run-dir=R",
        "--method.cg_max=10", "--method.subsample=1.0", "--run.threads=1",
    )], cwd=tmp_path, DISTNEWTON_FAULT="rank=1 at=cg kind=slow factor=60")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rank 1 on ") == 1, done.stdout
    at = done.stdout.index("rank 1 on ")
    assert "\n    4 " not in done.stdout[:at]


for mark in launches:
    mark(test_a_slow_rank_is_named_in_the_log)
