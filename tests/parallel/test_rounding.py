"""Sums that travel as bfloat16: nearest even, in float32, the same on all ranks; and what they do to a network."""

from __future__ import annotations

import math

import numpy as np
import pytest
from problems import alternating

from distnewton.backend import Backend
from distnewton.config import make_config
from distnewton.errors import ConfigError
from distnewton.guards.ledger import allreduce_bytes
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.grid import ProcessGrid
from distnewton.parallel.partition import Partition
from distnewton.parallel.rounding import rounded, widened

LARGEST = np.float32(np.finfo(np.float32).max)


def nearest(x):
    """The nearest of the numbers with 8 significant bits, by distances in float64; ties to an even last bit."""
    low = np.array([x], np.float32).view(np.uint32) >> 16 << 16
    high = low + (1 << 16)
    below, above = (float(bits.view(np.float32)[0]) for bits in (low, high))
    # what would be the next number stands for infinity
    above = math.copysign(2.0**128, x) if math.isinf(above) else above
    d = abs(float(x) - below), abs(above - float(x))
    odd = bool(low[0] >> 16 & 1)
    chosen = high if d[1] < d[0] or (d[0] == d[1] and odd) else low
    return chosen.view(np.float32)[0]


def test_numbers_are_rounded_to_nearest_even():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=4000, dtype=np.uint32)
    # half of them are ties, of either sign and every size
    bits[::2] = bits[::2] >> 16 << 16 | 0x8000
    edges = np.array([0.0, -0.0, 1.0, 1e-45, -1e-40, LARGEST, -LARGEST, np.inf, -np.inf], np.float32)
    x = np.concatenate([bits.view(np.float32), edges])
    x = x[~np.isnan(x)]
    found = widened(rounded(x))
    finite = np.isfinite(x)
    assert np.array_equal(found[finite], [nearest(value) for value in x[finite]])
    assert np.array_equal(found[~finite], x[~finite])
    assert np.array_equal(np.signbit(found), np.signbit(x))
    nans = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(widened(rounded(nans))).all()


@pytest.mark.mpi(min_size=2, sizes=(2, 3, 4))
@pytest.mark.parametrize("shape", [(1,), (2, 1), (3,), (7, 11), (0,)])
def test_sums_are_those_of_rounded_numbers_and_equal_on_all_ranks(world, shape):
    parts = np.random.default_rng(5).standard_normal((world.size, *shape)).astype(np.float32)
    expected = np.zeros(shape, np.float32)
    for part in parts:
        expected += widened(rounded(part.ravel())).reshape(shape)
    expected = widened(rounded(expected.ravel())).reshape(shape)
    comm = world.duplicate()
    for _ in range(2):
        array = parts[world.rank].copy()
        world.ledger.take()
        assert comm.sum_rounded(array) is array
        cost = world.ledger.take()["other"]
        assert not world.any(not np.array_equal(array, expected))
        assert not world.any(cost.sent_bytes != allreduce_bytes(2 * array.size, world.size))
        assert not world.any(cost.n_messages != bool(array.size))
    comm.free()


def passes(world, splits, *, rounds):
    """Outputs, gradient, and bytes of a network's passes."""
    widths, n = (12, 9, 8, 3), 40
    rng = np.random.default_rng(1)
    X, U = (rng.standard_normal((n, k)).astype(np.float32) for k in (12, 3))
    with ProcessGrid(world, Partition(widths, splits), rounded=rounds) as grid:
        network = PartitionedNetwork(grid, "tanh", Backend.of("float32"))
        params = network.initial_params(0, "he")
        world.ledger.take()
        activations = network.forward(params, X[:, slice(*grid.feature_range())].copy())
        gradient = np.zeros_like(params)
        network.add_gradient(params, activations, U, gradient)
        groups = [(m, j) for m in (1, 2) for j in grid.groups(m)]
        boundaries = {key: len(grid.partition.boundary(*key)) for key in groups}
        # forward all hidden groups, backward those of layer 1: above it weights are collected
        numbers = sum(
            allreduce_bytes(n * grid.group_width(m, j) * (2 if m == 1 else 1), boundaries[m, j]) for m, j in groups
        )
        return activations.output, gradient, world.ledger.take()["other"].sent_bytes, numbers


@pytest.mark.mpi(min_size=2, sizes=(2, 3, 4))
def test_passes_of_a_network_send_half_and_differ_by_rounding(world):
    for splits in alternating(world.size, 3):
        exact, g, whole, numbers = passes(world, splits, rounds=False)
        output, rough, half, _ = passes(world, splits, rounds=True)
        assert not world.any(abs(whole - half - 2 * numbers) > 1e-6)
        # 2^-9 a rounding, some of which meet
        assert not world.any(np.abs(output - exact).max() > 0.05 * np.abs(exact).max())
        assert not world.any(g.size > 0 and np.linalg.norm(rough - g) > 0.05 * np.linalg.norm(g))
        # outputs are replicated: all ranks have the same ones
        spread = world.allgather(output[0].astype(np.float64))
        assert not world.any(np.ptp(spread, axis=0).max() > 1e-6)


@pytest.mark.parametrize("run", [{"dtype": "float64"}, {"dtype": "tf32", "device": "gpu"}, {"device": "auto"}])
def test_compression_is_refused_where_nothing_is_rounded_by_it(run):
    with pytest.raises(ConfigError, match="compress = bfloat16 is for dtype = float32 with device = cpu"):
        make_config({"run": {"compress": "bfloat16", **run}})
