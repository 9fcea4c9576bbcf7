"""Mini-batches: every pass is an order of all samples, in equal parts, and a function of seed and pass alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distnewton.method.batches import Batches


@given(st.integers(1, 120), st.integers(1, 150), st.integers(0, 9))
def test_each_pass_takes_every_sample_once_in_parts_of_equal_size(n, size, seed):
    batches = Batches(n, size, seed)
    assert batches.per_pass == int(np.ceil(n / size))
    for i_pass in range(3):
        parts = [batches.rows(i_pass * batches.per_pass + i) for i in range(batches.per_pass)]
        assert sorted(np.concatenate(parts)) == list(range(n))
        sizes = [len(part) for part in parts]
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1


def test_steps_can_be_asked_for_in_any_order():
    batches = Batches(53, 8, 4)
    forward = [batches.rows(step).tolist() for step in range(30)]
    assert [batches.rows(step).tolist() for step in reversed(range(30))] == forward[::-1]
    assert [Batches(53, 8, 4).rows(step).tolist() for step in range(30)] == forward


def test_passes_and_seeds_have_other_orders():
    orders = [np.concatenate([Batches(50, 10, seed).rows(5 * i_pass + i) for i in range(5)]).tolist()
              for seed in (0, 1) for i_pass in (0, 1, 2)]  # fmt: skip
    assert len({tuple(order) for order in orders}) == 6
    assert list(range(50)) not in orders
    # the size of the batches cuts the same order
    assert np.concatenate([Batches(50, 25, 0).rows(i) for i in range(2)]).tolist() == orders[0]
