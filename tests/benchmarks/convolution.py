"""Rates of convolutions and of the Gauss-Newton product on images, against the equal matrix products.

``python -m benchmarks.convolution [N_SAMPLES]`` takes the convolutions of simpleNN's network on images of
28 x 28 pixels, on one rank with one thread, and prints ratios from one run, each the best of interleaved repeats. The
equal matrix product multiplies patches that are there already by the weights, or their transposes.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np

from distnewton.backend import Array, Backend
from distnewton.curvature.jacobian import linearize
from distnewton.curvature.operators import BlockGaussNewton
from distnewton.network.layer_tables import convolutional_shape
from distnewton.network.losses import LOSSES
from distnewton.network.network import Activations, PartitionedNetwork
from distnewton.network.shapes import LayerShape
from distnewton.parallel.collectives import Communicator
from distnewton.parallel.grid import ProcessGrid
from distnewton.study.kernels import Task, interleaved_best

_REPEATS = 7


def simplenn(image_shape: tuple[int, int, int], n_out: int) -> PartitionedNetwork:
    """The four layers of simpleNN on one rank, in float32."""

    def convolution(channels: int, kernel: int) -> list[dict[str, Any]]:
        padding = kernel // 2
        window = {"type": "conv", "channels": channels, "kernel": kernel, "stride": 1, "padding": padding}
        return [window, {"type": "max_pool", "size": 2, "stride": None}]

    tables = [*convolution(32, 5), *convolution(64, 3), *convolution(64, 3), {"type": "dense", "width": n_out}]
    shape = convolutional_shape(image_shape, tables)
    grid = ProcessGrid(Communicator(), shape.partition((1,) * len(shape.widths)))
    return PartitionedNetwork(grid, "relu", Backend.of("float32"), shape)


def matrix_product(layer: LayerShape, n: int, rng: np.random.Generator) -> tuple[Task, float]:
    """The equal product of patches and weights, and its operations."""
    rows, inner, columns = n * layer.n_linear, layer.n_in * layer.rows_per_unit, layer.n_out
    patches = rng.standard_normal((rows, inner)).astype(np.float32)
    W = rng.standard_normal((inner, columns)).astype(np.float32)
    out = np.empty((rows, columns), np.float32)
    return lambda: np.matmul(patches, W, out=out), 2.0 * rows * inner * columns


def benchmark_forward(network: PartitionedNetwork, params: Array, activations: Activations, n: int) -> None:
    """Print the rate of each convolution, bias included, against its matrix product."""
    rng, views = np.random.default_rng(1), network.layout.views(params)
    for m, shape in enumerate(network.shape.layers, start=1):
        if shape.kernel is None:
            continue
        layer, Z = network.layers[m], activations.groups[m - 1, 0]
        S = network.backend.empty(n, shape.n_linear * shape.n_out)
        product, flops = matrix_product(shape, n, rng)
        tasks: dict[str, Task] = {"convolution": partial(layer.linear, Z, views[m].W, S), "product": product}
        best = interleaved_best(tasks, _REPEATS)
        print(
            f"convolution {m} ({shape.n_in} to {shape.n_out} channels): {best['convolution'] * 1e3:.1f} ms, "
            f"{flops / best['convolution'] / 1e9:.1f} GFLOP/s, {best['product'] / best['convolution']:.0%} of the "
            "equal matrix product"
        )


def benchmark_product(network: PartitionedNetwork, params: Array, activations: Activations, n: int) -> None:
    """Print the rate of the Gauss-Newton product against matrix products of the same shapes."""
    rng, targets = np.random.default_rng(2), np.zeros(n, dtype=np.int64)
    jacobian = linearize(network, params, activations)
    hessian = LOSSES["cross_entropy"].hessian(activations.output, targets)
    matrix = BlockGaussNewton(jacobian, hessian, 0.1)
    products = [matrix_product(layer, n, rng) for layer in network.shape.layers]
    # J v and J^T u are a product of this shape each
    flops = 2.0 * sum(count for _, count in products)
    tasks: dict[str, Task] = {
        "gauss_newton": lambda: matrix.matvec(params),
        "forward": lambda: network.forward(params, activations.groups[0, 0]),
        "products": lambda: [product() for product, _ in products],
    }
    best = interleaved_best(tasks, _REPEATS)
    print(
        f"forward pass, pooling and activation included: {best['products'] / best['forward']:.0%} of the equal matrix "
        "products"
    )
    print(
        f"Gauss-Newton product, {network.n_out} outputs: {best['gauss_newton'] * 1e3:.1f} ms, "
        f"{flops / best['gauss_newton'] / 1e9:.1f} GFLOP/s, {2 * best['products'] / best['gauss_newton']:.0%} of the "
        "equal matrix products"
    )


def main() -> None:
    """Run both, with one BLAS thread."""
    from threadpoolctl import threadpool_limits

    n = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    network = simplenn((1, 28, 28), 10)
    params = network.initial_params(0, "he")
    X = network.backend.asarray(np.random.default_rng(0).standard_normal((n, 784)))
    with threadpool_limits(1):
        activations = network.forward(params, X)
        benchmark_forward(network, params, activations, n)
        benchmark_product(network, params, activations, n)


if __name__ == "__main__":
    main()
