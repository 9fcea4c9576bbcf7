"""Rate of the Gauss-Newton product on a GPU, or the CPU, against matrix products of its shapes and against PyTorch.

``python -m benchmarks.device [--device gpu] [--dtype float32] [--samples 1024] [--widths 784-2000-2000-10]``
prints, from one run on one rank and by interleaved repeats, the product's share of the matrix products' rate, the
seconds of an iteration, and where torch is installed those of torch.func's jvp and vjp on the same device, with the
largest difference.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.overhead import block_diagonal_trainer
from distnewton.backend import Array, Backend, library_of, to_host
from distnewton.directions.block_diagonal import BlockDiagonalOptions
from distnewton.launch.devices import choose_device
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.collectives import Communicator
from distnewton.study.kernels import (
    Task,
    damped_matrix,
    interleaved_best,
    product_flops,
    serial_network,
)

WIDTHS = ("784-2000-2000-10", "3072-4000-1000-4000-10")
CG_STEPS = 10


def matrix_products(backend: Backend, widths: Sequence[int], n: int) -> Task:
    """What multiplies matrices of a product's shapes: a layer's inputs and weights, and inputs and cotangents."""
    library = backend.library
    tasks = []
    for n_in, n_out in pairwise(widths):
        Z, V, T = (backend.asarray(np.ones(shape)) for shape in ((n, n_in), (n_in, n_out), (n, n_out)))
        tasks.append((Z, V, backend.empty(n, n_out), T, backend.empty(n_in, n_out)))

    def run() -> None:
        for Z, V, forward, T, adjoint in tasks:
            backend.product(Z, V, forward)
            backend.transposed_product(Z, T, adjoint)
        library.synchronize()

    return run


def torch_product(network: PartitionedNetwork, params: Array, X: Array, v: Array, shift: float) -> Any:
    """torch.func's product of the same matrix and vector on the same device; None where there is no torch."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    where = "cpu" if library_of(X).host else "cuda"

    def tensors(vector: Array) -> list[Any]:
        views = network.layout.views(to_host(vector))
        parts = [part for view in views.values() for part in (view.W, view.b)]
        return [torch.tensor(np.ascontiguousarray(part), device=where) for part in parts]

    weights, tangents, inputs = tensors(params), tensors(v), torch.tensor(to_host(X), device=where)

    def outputs(*given: Any) -> Any:
        Z = inputs
        for m in range(0, len(given), 2):
            Z = (torch.tanh(Z) if m else Z) @ given[m] + given[m + 1]
        return Z

    def run() -> list[Any]:
        _, Jv = torch.func.jvp(outputs, tuple(weights), tuple(tangents))
        found, back = torch.func.vjp(outputs, *weights)
        p = torch.softmax(found, 1)
        products = back(p * (Jv - (p * Jv).sum(1, keepdim=True)) / len(inputs))
        made = [product + shift * tangent for product, tangent in zip(products, tangents, strict=True)]
        if where == "cuda":
            torch.cuda.synchronize()
        return made

    return run


def benchmark(backend: Backend, widths: tuple[int, ...], n: int, repeats: int) -> None:
    """Print the figures of a network."""
    network, library = serial_network(widths, backend), backend.library
    rng = np.random.default_rng(0)
    X = backend.asarray(rng.uniform(-1, 1, (n, widths[0])))
    y = library.to_device(rng.integers(widths[-1], size=n))
    params = network.initial_params(0, "he")
    matrix = damped_matrix(network, params, X)
    v = backend.asarray(rng.standard_normal(network.layout.n_params))

    def product() -> Array:
        made = matrix.matvec(v)
        library.synchronize()
        return made

    tasks: dict[str, Task] = {"gemm": matrix_products(backend, widths, n), "product": product}
    other = torch_product(network, params, X, v, 1.0)
    if other is not None:
        tasks["torch"] = other
    interleaved_best(tasks, 2)
    best = interleaved_best(tasks, repeats)
    rate = sum(4.0 * n * a * b for a, b in pairwise(widths)) / best["gemm"]
    achieved = product_flops(widths, n) / best["product"]
    print(
        f"{'-'.join(map(str, widths))}, {n} samples, {backend.dtype}, {backend.description}\n"
        f"  Gauss-Newton product {1e3 * best['product']:.3g} ms, {achieved / 1e12:.3g} TFLOP/s = {achieved / rate:.0%} "
        f"of the matrix products' {rate / 1e12:.3g}"
    )
    if other is not None:
        theirs = np.concatenate([part.cpu().numpy().ravel() for part in other()])
        ours = to_host(product())
        difference = abs(ours - theirs).max() / abs(ours).max()
        ratio = best["torch"] / best["product"]
        print(f"  torch.func {1e3 * best['torch']:.3g} ms = {ratio:.2f} x, differs by {difference:.1e}")
    seconds = seconds_of_iteration(network, X, y, repeats)
    print(f"  iteration, block_diagonal, {CG_STEPS} CG steps: {1e3 * seconds:.4g} ms")


def seconds_of_iteration(network: PartitionedNetwork, X: Array, y: Array, n_iterations: int) -> float:
    """Median seconds of an iteration on all samples, with a fifth of them as subsample."""
    options = BlockDiagonalOptions(cg_tolerance=0.0, cg_max=CG_STEPS, cg_min=CG_STEPS)
    params = network.initial_params(0, "he")
    trainer = block_diagonal_trainer(network, X, y, params, options, 0.2, n_iterations + 1)
    # scalars of each iteration are waited for: its seconds are those of the device, too
    records = list(trainer.iterations(n_iterations + 1))
    return float(np.median(np.diff([record.training_seconds for record in records])[1:]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--device", default="gpu", choices=("cpu", "gpu"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--widths", action="append", help="such as 784-2000-2000-10; may be given again")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args(arguments)
    device = choose_device(Communicator(), options.device, options.dtype, tf32=options.tf32)
    for text in options.widths or WIDTHS:
        benchmark(device.backend, tuple(int(width) for width in text.split("-")), options.samples, options.repeats)


if __name__ == "__main__":
    main()
