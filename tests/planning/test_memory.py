"""The prediction of an iteration's memory against the arrays that are held."""

from __future__ import annotations

import pytest
from convolutional import Conv
from problems import alternating, make_case, make_image_case

from distnewton.curvature.factors import AveragedFactor, StoredFactor
from distnewton.curvature.jacobian import linearize
from distnewton.planning.memory import iteration_memory
from distnewton.planning.messages import widest_kept
from distnewton.planning.problem import Problem, Share

pytestmark = pytest.mark.mpi(min_size=1)

POOLS = [None, ("max_pool", (2, 2), (2, 2)), ("avg_pool", (2, 2), (2, 2))]


def cases(world):
    for splits in alternating(world.size, 3):
        case = make_case(world, (5, 7, 6, 3), splits)
        with case.grid:
            yield case
        for pool in POOLS:
            convs = [Conv(4, (3, 3), padding=(1, 1), pool=pool), Conv(3, (2, 2))]
            case = make_image_case(world, (2, 6, 6), convs, (), 3, splits)
            with case.grid:
                yield case


def stored(factor):
    """Bytes of a factor in full, 0 of those kept in two small parts."""
    if isinstance(factor, AveragedFactor):
        return stored(factor._factor)
    return factor._D.nbytes if isinstance(factor, StoredFactor) else 0


def test_activations_and_jacobian_hold_what_is_predicted(world):
    for case in cases(world):
        n, network = 4, case.network
        evaluation = case.objective.evaluate(case.params, (2, 2 + n))
        activations = evaluation.subsample[1]
        hidden = {key: Z for key, Z in activations.groups.items() if key[0] > 0}
        held = [*hidden.values(), *activations.activated.values(), *activations.winners.values(), activations.output]
        assert case.agree(sum(array.nbytes for array in held) == n * network.n_kept * 8)
        jacobian = linearize(network, case.params, activations)
        used = sum(stored(part.factor) for part in jacobian.parts.values())
        used += sum(array.nbytes for array in jacobian._work.values())
        partition = case.grid.partition
        shares = [Share(network.shape, partition, rank) for rank in range(partition.n_ranks)]
        share = shares[case.grid.rank]
        assert case.agree(share.n_kept(8) == network.n_kept)
        assert case.agree(share.n_params == network.layout.n_params)
        sizes = case.objective.n_samples, n, network.n_out
        problem = Problem(network.shape, *sizes, itemsize=8, memory_bytes=case.objective.memory_bytes)
        parts = iteration_memory(problem, share, widest_kept(problem, shares))
        assert case.agree(parts["jacobian"] == used)
        assert case.agree(parts["features"] == case.objective.X.nbytes)
        assert case.agree(parts["outputs"] == 3 * evaluation.outputs.nbytes)
