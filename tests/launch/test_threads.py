"""How many threads a rank uses."""

from __future__ import annotations

import pytest

from distnewton.launch.threads import own_cores, threads_of_rank, threads_per_rank
from distnewton.parallel.collectives import Communicator


@pytest.mark.parametrize(
    ("asked", "variable", "n_threads"),
    [(0, "3", 3), (0, " 3,2", 3), (2, "3", 2), (0, "0", None), (0, "many", None), (0, "", None), (5, "", 5)],
)
def test_a_setting_goes_before_the_variable_and_that_before_the_cores(monkeypatch, asked, variable, n_threads):
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    comm = Communicator()
    assert threads_per_rank(comm) == len(own_cores())
    assert threads_of_rank(comm, asked) == (n_threads or len(own_cores()))
