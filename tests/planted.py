"""Numbers that are not finite, planted where a run hands arrays over: the product has no door for them."""

from __future__ import annotations

import math

from distnewton.curvature.linearization import CurvatureSample
from distnewton.data.in_memory import ArraySource
from distnewton.directions.block_diagonal import BlockDiagonal
from distnewton.directions.gauss_newton import GaussNewton
from distnewton.guards.failures import failures
from distnewton.method.objective import Objective
from distnewton.network.network import PartitionedNetwork
from distnewton.runs import training_run

# place -> functions that hand arrays over, and the arrays in (owner, result)
HANDOVERS = {
    "data": ([(ArraySource, "read")], lambda _, X: [X]),
    "init": ([(training_run, "_first_params")], lambda _, params: [params]),
    "forward": (
        [(PartitionedNetwork, "forward")],
        lambda _, activations: [*(Z for key, Z in activations.groups.items() if key[0]), activations.output],
    ),
    "gradient": ([(Objective, "gradient")], lambda _, gradient: [gradient]),
    "jacobian": ([(CurvatureSample, "linearize")], lambda sample, _: sample.jacobian.arrays()),
    "direction": ([(BlockDiagonal, "solve"), (GaussNewton, "solve")], lambda _, result: [result.direction]),
}


def plant(monkeypatch, place, value, *, here, iteration=None):
    """Overwrite one number of the first array that has one, once, on the rank where ``here`` is true."""
    functions, arrays_of = HANDOVERS[place]
    waiting = here

    def overwritten(inner):
        def handing_over(owner, *args, **kwargs):
            nonlocal waiting
            result = inner(owner, *args, **kwargs)
            if waiting and iteration in {None, failures.current_iteration}:
                waiting = not overwrite(arrays_of(owner, result), math.nan if value == "nan" else math.inf)
            return result

        return handing_over

    for owner, name in functions:
        monkeypatch.setattr(owner, name, overwritten(getattr(owner, name)))


def overwrite(arrays, value):
    """Overwrite the middle number of the first array that has one, dense or sparse; tells whether there was one."""
    for array in arrays:
        numbers = array.data if hasattr(array, "indptr") else array
        if numbers.size:
            numbers[tuple(n // 2 for n in numbers.shape)] = value
            return True
    return False
