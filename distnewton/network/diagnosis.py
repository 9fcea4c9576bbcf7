"""The origin of non-finite numbers: the first place, in the order of computation, over all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np

from distnewton.backend import Array, is_packed, is_sparse, to_host
from distnewton.frozen import frozen
from distnewton.network.network import Activations, PartitionedNetwork

_ROWS_AT_ONCE = 4096
# magnitude whose sum of squares exceeds the range of float64
TOO_LARGE = 1e150


@frozen
class Finding:
    """A number that is not finite, or too large."""

    # order of the computation: features, weights, activations, Jacobian, gradient, direction; and the layer
    stage: int
    layer: int
    what: str  # the array and the place in it, with global indices from 0
    value: str  # ``NaN``, ``inf``, or the number
    # least and largest finite number among the layer's inputs
    low: float
    high: float


def first_finding(
    network: PartitionedNetwork,
    params: Array,
    X: Any,
    activations: Sequence[Activations] = (),
    factors: dict[int, list[Array]] | None = None,
    vectors: dict[str, Array] | None = None,
) -> str:
    """Name the first array that contains a non-finite number.

    Parameters
    ----------
    network : PartitionedNetwork
        The network on its grid.
    params : Array of shape (n_params_local,)
        Variables.
    X : Array or csr_array of shape (n, n_features_local)
        Features.
    activations : sequence of Activations
        Kept results of forward passes.
    factors : dict of int to list of Array
        Jacobian factors of own layers, with the values of a group on the last axis.
    vectors : dict of str to Array of shape (n_params_local,)
        Gradient or direction by name; these come last in the order.

    Returns
    -------
    str
        The same on all ranks; empty if everything is finite.

    Notes
    -----
    Collective: one gather of short texts.
    """
    look, named = _Findings(network, X, activations), (vectors or {}).items()
    # in the order of computation
    findings = chain(
        look.in_features(),
        look.in_vector(params, "the weights", 1),
        look.in_activations(),
        look.in_factors(factors or {}),
        *(look.in_vector(vector, name, stage, TOO_LARGE) for stage, (name, vector) in enumerate(named, start=4)),
    )
    first = next(findings, None)
    views = network.grid.world.allgather_json(None if first is None else asdict(first))
    known = [(view["stage"], view["layer"], rank, view) for rank, view in enumerate(views) if view is not None]
    if not known:
        return ""
    _, _, rank, view = min(known, key=lambda item: item[:3])
    inputs = "no finite numbers" if view["low"] > view["high"] else f"{view['low']:.3g} to {view['high']:.3g}"
    return f"{view['value']} in {view['what']}, on rank {rank}; finite inputs there are {inputs}"


class _Findings:
    """Searches of this rank's arrays."""

    def __init__(self, network: PartitionedNetwork, X: Any, activations: Sequence[Activations]) -> None:
        self._network, self._X, self._activations = network, X, activations
        # the least and largest finite input of each own layer
        self._ranges = {
            m: _range([a.groups[m - 1, block.i] for a in activations] if m > 1 else [X])
            for m, block in network.grid.blocks.items()
        }

    def in_features(self) -> Iterator[Finding]:
        """Yield the first feature that is not finite."""
        place = _feature(self._network, self._X)
        if place is not None:
            yield Finding(0, 0, place[0], place[1], *_range([self._X]))

    def in_activations(self) -> Iterator[Finding]:
        """Yield findings in the results of forward passes, layer by layer."""
        network = self._network
        hidden = [(m, j) for m in range(1, network.n_layers) for j in network.grid.groups(m)]
        for m, j in [*hidden, (network.n_layers, 0)]:
            group = f", group {j}" if m < network.n_layers else ""
            for kept in self._activations:
                bad = _first(kept.groups[m, j] if group else kept.output)
                if bad is not None:
                    unit = _unit(network, m, j, bad[0][-1])
                    what = f"the activations of layer {m}{group}, unit {unit}, sample {bad[0][0]} of its chunk"
                    yield Finding(2, m, what, bad[1], *self._ranges.get(m, (1.0, -1.0)))

    def in_factors(self, factors: dict[int, list[Array]]) -> Iterator[Finding]:
        """Yield findings in Jacobian factors, which are computed from the output layer down."""
        for m in sorted(factors, reverse=True):
            block = self._network.grid.blocks[m]
            for bad in filter(None, map(_first, factors[m])):
                unit = _unit(self._network, m, block.j, bad[0][-1])
                what = f"the Jacobian of layer {m}, block ({block.i}, {block.j}), unit {unit}"
                yield Finding(3, self._network.n_layers - m, what, bad[1], *self._ranges[m])

    def in_vector(self, vector: Array, name: str, stage: int, limit: float = np.inf) -> Iterator[Finding]:
        """Yield findings in a vector of this rank's variables."""
        for m, matrix in self._network.layout.matrices(vector).items():
            bad = _first(matrix, limit)
            if bad is None:
                continue
            block, (row, column) = self._network.grid.blocks[m], bad[0]
            target = block.outputs[0] + column
            source = f"from input {self._network.input_rows(m)[row]}" if row < block.shape[0] else "of the bias"
            what = f"{name} of layer {m}, block ({block.i}, {block.j}), {source} to unit {target}"
            yield Finding(stage, m, what, bad[1], *self._ranges[m])


def _feature(network: PartitionedNetwork, X: Any) -> tuple[str, str] | None:
    """Return the first feature that is not finite, and its value."""
    if is_packed(X):
        return None  # packed columns have a few finite values
    if not is_sparse(X):
        start, _ = network.grid.feature_range()
        bad = _first(X)
        if bad is None:
            return None
        (row, column), value = bad
        # pixels are stored with channels last
        n_pixels = network.shape.features_per_unit
        pixel, channel = divmod(column, X.shape[1] // n_pixels)
        return f"the features: feature {start + channel * n_pixels + pixel}, sample {row} in the run's order", value
    bad = _first(X.data)
    if bad is None:
        return None
    position = bad[0][0]
    row = int(np.searchsorted(to_host(X.indptr), position, side="right")) - 1
    feature = network.input_rows(1)[int(to_host(X.indices[position]))]
    return f"the features: feature {feature}, sample {row} in the run's order", bad[1]


def _unit(network: PartitionedNetwork, m: int, j: int, column: int) -> int:
    """Global unit of a column of a group's values; output columns keep their numbers."""
    if m == network.n_layers:
        return column
    return network.grid.partition.group(m, j)[0] + column % network.grid.group_width(m, j)


def _first(array: Array, limit: float = np.inf) -> tuple[tuple[int, ...], str] | None:
    """Return index and value of the first number that is not finite, or not below a limit."""
    for start in range(0, len(array), _ROWS_AT_ONCE):
        part = to_host(array[start : start + _ROWS_AT_ONCE])
        # NaN compares false; in float64, since the limit does not fit float32
        fine = np.isfinite(part) if limit == np.inf else np.abs(part.astype(np.float64)) < limit
        if not fine.all():
            index = tuple(int(i) for i in np.unravel_index(int(np.argmin(fine)), fine.shape))
            value = float(part[index])
            return (start + index[0], *index[1:]), "NaN" if np.isnan(value) else f"{value:.3g}"
    return None


def _range(arrays: Sequence[Any]) -> tuple[float, float]:
    """Return the least and largest finite number; (inf, -inf) if there is none."""
    low, high = np.inf, -np.inf
    for array in arrays:
        numbers = array.data if is_sparse(array) else array
        for start in range(0, len(numbers), _ROWS_AT_ONCE):
            part = to_host(numbers[start : start + _ROWS_AT_ONCE])
            part = part[np.isfinite(part)]
            if part.size:
                low, high = min(low, float(part.min())), max(high, float(part.max()))
    return (low, high) if low <= high else (1.0, -1.0)
