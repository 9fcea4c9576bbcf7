r"""The computation of a rank's block of a weight layer: products with the weights, their adjoints, and pooling.

The values of a group of units form a matrix, (n, values of the group). Images have their channels last, so a
convolution is one matrix product with the patches of all samples (im2col, [CNN]):

.. math:: S = \phi(Z) W, \qquad dZ = \phi^T(\delta W^T), \qquad dW = \phi(Z)^T \delta

where phi gathers the kernel's window at each place and its adjoint sums the contributions of each pixel. Patches are
made for some samples at a time and never kept. Cotangents delta belong to the activated values: with max pooling to the
chosen ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from distnewton.backend import Array, Backend, is_packed, is_sparse, namespace, on_device
from distnewton.network.pooling import AveragePooling, MaxPooling
from distnewton.network.shapes import LayerShape

PATCH_SIZE = 1 << 18
"""Numbers of the patches gathered at a time, few enough to stay in the cache between gathering and product."""
LINEAR_SIZE = 1 << 20
"""Pre-activations of a group in memory at a time before pooling: a message of 4 MiB in float32."""


class Unfolded(NamedTuple):
    """Inputs and cotangents of some samples, with one row for each place of the kernel.

    Attributes
    ----------
    rows : slice
        The samples.
    inputs : Array of shape (n, n_places, n_in_local), or csr_array of shape (n, n_in_local) with one place
        Inputs that the weights multiply.
    deltas : Array of shape (n, n_places, n_out_local)
        Cotangents of the products.
    biases : Array of shape (n, n_out_local) or None
        Cotangents of the biases, if they are not the sums of the others over the places.
    """

    rows: slice
    inputs: Any
    deltas: Array
    biases: Array | None = None


class Layer(ABC):
    """A weight layer; its blocks are passed in.

    Parameters
    ----------
    shape : LayerShape
        Units, kernel and pooling.
    backend : Backend
        Array library and dtype.
    """

    def __init__(self, shape: LayerShape, backend: Backend) -> None:
        self.shape, self.backend = shape, backend
        pooling = shape.pooling
        self.max_pooling = self.average_pooling = None
        if pooling is not None and pooling.kind == "max":
            self.max_pooling = MaxPooling(pooling.window, shape.image)
        elif pooling is not None:
            self.average_pooling = AveragePooling(pooling.window, shape.image)

    def of_outputs(self, outputs: tuple[int, int]) -> Layer:
        """Return the layer for a block of these output units."""
        return self

    @property
    def n_channels(self) -> int:
        """Number of channels in :meth:`channels`; 0 if the weights' gradient is not such a sum."""
        return 0

    def channels(self, A: Any) -> list[Any]:
        """Split inputs, or cotangents, into channels, as matrices with one row per sample.

        A sample's gradient with respect to the weights is the sum over channels of the outer products of inputs and
        cotangents; with respect to the biases it is the cotangents of the first channel.
        """
        raise NotImplementedError

    @property
    def pooled(self) -> bool:
        """Whether pooling follows."""
        return self.shape.pooling is not None

    def sample_chunks(self, n: int, n_units: int) -> list[slice]:
        """Number of samples whose pre-activations are summed together; the same on all ranks of a boundary."""
        size = max(1, LINEAR_SIZE // max(1, n_units * self.shape.n_linear))
        return [slice(start, min(start + size, n)) for start in range(0, n, size)] or [slice(0, n)]

    @abstractmethod
    def linear(self, Z: Any, W: Array, out: Array) -> None:
        """Write the products with a weight block, of shape (n, n_linear * n_out_local)."""

    @abstractmethod
    def elements(self, Z: Any, W: Array, b: Array | None, winners: Array | None, out: Array) -> None:
        """Write the products plus bias at the places to be activated.

        Parameters
        ----------
        Z : Array or csr_array of shape (n, n_values_below)
            Inputs.
        W : Array of shape (n_in_local, n_out_local)
            Weights, or their change.
        b : Array of shape (n_out_local,) or None
            Bias, or its change.
        winners : Array of uint8 or None
            Choices of max pooling, if there is max pooling.
        out : Array of shape (n, n_elements * n_out_local)
            Overwritten.
        """

    @abstractmethod
    def input_cotangent(self, delta: Array, W: Array, winners: Array | None, out: Array) -> None:
        """Write the cotangents of the inputs, the adjoint of :meth:`elements` in Z.

        Parameters
        ----------
        delta : Array of shape (k n, n_elements * n_out_local)
            Cotangents of the activated values, k for each sample.
        W : Array of shape (n_in_local, n_out_local)
            Weights.
        winners : Array of uint8 or None
            Choices of max pooling for the n samples, if there is max pooling.
        out : Array of shape (k n, n_values_below)
            Overwritten.
        """

    @abstractmethod
    def weight_product(self, Z: Any, delta: Array, winners: Array | None, out: Array) -> None:
        """Write the sum over samples and places of inputs times cotangents: the adjoint of :meth:`elements` in W.

        Parameters
        ----------
        Z : Array or csr_array of shape (n, n_values_below)
            Inputs.
        delta : Array of shape (n, n_elements * n_out_local)
            Cotangents.
        winners : Array of uint8 or None
            Choices of max pooling, if there is max pooling.
        out : Array of shape (n_in_local, n_out_local)
            Overwritten.
        """

    def add_weight_product(self, Z: Any, delta: Array, winners: Array | None, out: Array) -> None:
        """Add the result of :meth:`weight_product`."""
        product = self.backend.empty(*out.shape)
        self.weight_product(Z, delta, winners, product)
        out += product

    @abstractmethod
    def unfold(self, Z: Any, delta: Array, winners: Array | None) -> Iterator[Unfolded]:
        """Yield the factors of :meth:`weight_product`, some samples at a time, for other kinds of sums over samples."""

    def add_bias(self, S: Array, b: Array) -> None:
        """Add one number per unit to all values of that unit, in place."""
        if b.size:
            S.reshape(S.size // len(b), len(b))[...] += b

    def sum_units(self, delta: Array, out: Array) -> None:
        """Write the sum of each unit's values over samples and places: the adjoint of :meth:`add_bias`."""
        if out.size:
            delta.reshape(delta.size // len(out), len(out)).sum(axis=0, out=out)

    def bias_cotangents(self, part: Unfolded) -> Array:
        """Compute the cotangents of each sample's biases, of shape (n, n_out_local), by summing over the places."""
        cotangents: Array = part.deltas.sum(axis=1) if part.biases is None else part.biases
        return cotangents

    def bias_inputs(self, n: int) -> Array | None:
        """Factors of the bias in the rows of n samples and all places; None for ones."""
        return None


class DenseLayer(Layer):
    """Fully connected units; flattening images from the layer below takes no work."""

    n_channels = 1

    def channels(self, A: Any) -> list[Any]:
        """Return A as the only channel."""
        return [A if is_sparse(A) else namespace(A).ascontiguousarray(A)]

    def sample_chunks(self, n: int, n_units: int) -> list[slice]:
        """Return all samples at once."""
        return [slice(0, n)]

    def linear(self, Z: Any, W: Array, out: Array) -> None:
        """Write Z W."""
        self.backend.product(Z, W, out)

    def elements(self, Z: Any, W: Array, b: Array | None, winners: Array | None, out: Array) -> None:
        """Write Z W + b."""
        self.backend.product(Z, W, out)
        if b is not None:
            self.add_bias(out, b)

    def input_cotangent(self, delta: Array, W: Array, winners: Array | None, out: Array) -> None:
        """Write delta W^T."""
        self.backend.product(delta, W.T, out)

    def weight_product(self, Z: Any, delta: Array, winners: Array | None, out: Array) -> None:
        """Write Z^T delta."""
        self.backend.transposed_product(Z, delta, out)

    def add_weight_product(self, Z: Any, delta: Array, winners: Array | None, out: Array) -> None:
        """Add Z^T delta; for few sparse samples only to the rows of features that occur."""
        if not is_sparse(Z) or is_packed(Z) or on_device(Z) or Z.nnz >= Z.shape[1]:
            super().add_weight_product(Z, delta, winners, out)
            return
        touched = np.zeros(Z.shape[1], bool)
        touched[Z.indices] = True
        features = np.flatnonzero(touched)
        out[features] += Z[:, features].T @ delta

    def unfold(self, Z: Any, delta: Array, winners: Array | None) -> Iterator[Unfolded]:
        """Yield all samples at once, with one place each."""
        inputs = Z if is_sparse(Z) else Z[:, None, :]
        yield Unfolded(slice(0, Z.shape[0]), inputs, delta[:, None, :])


class JetLayer(DenseLayer):
    """Fully connected units whose values carry derivatives, which meet the same weights but no bias.

    Parameters
    ----------
    shape, backend : LayerShape, Backend
        As for all layers.
    outputs : tuple of int
        Range of the units of this rank's block; the last ones may be constants.
    """

    def __init__(self, shape: LayerShape, backend: Backend, outputs: tuple[int, int]) -> None:
        super().__init__(shape, backend)
        n_constants = 0 if shape.jet is None else shape.jet.n_constants
        self._n_units = outputs[1] - outputs[0]
        self._n_free = max(0, min(outputs[1], shape.n_out - n_constants) - outputs[0])

    def of_outputs(self, outputs: tuple[int, int]) -> JetLayer:
        """Return the layer for a block of these output units."""
        return JetLayer(self.shape, self.backend, outputs)

    @property
    def n_channels(self) -> int:  # type: ignore[override]
        """Number of values and derivatives; 0 with constants, whose cotangents do not belong to weights."""
        return self.shape.n_linear if self._n_free == self._n_units else 0

    def channels(self, A: Array) -> list[Array]:
        """Return the rows of each channel."""
        size = self.shape.n_linear
        by_channel = A.reshape(len(A), size, A.shape[1] // size).transpose(1, 0, 2)
        return list(namespace(A).ascontiguousarray(by_channel))

    def linear(self, Z: Any, W: Array, out: Array) -> None:
        """Write Z W of each channel."""
        super().linear(self._rows(Z), W, self._rows(out))
        self._rows(out)[:, self._n_free :] = 0

    def elements(self, Z: Any, W: Array, b: Array | None, winners: Array | None, out: Array) -> None:
        """Write Z W of each channel, and add b to the values."""
        self.linear(Z, W, out)
        if b is not None:
            self.add_bias(out, b)

    def input_cotangent(self, delta: Array, W: Array, winners: Array | None, out: Array) -> None:
        """Write delta W^T of each channel."""
        free = slice(0, self._n_free)
        super().input_cotangent(self._rows(delta)[:, free], W[:, free], winners, self._rows(out))

    def weight_product(self, Z: Any, delta: Array, winners: Array | None, out: Array) -> None:
        """Write Z^T delta, summed over samples and channels."""
        super().weight_product(self._rows(Z), self._rows(delta), winners, out)
        out[:, self._n_free :] = 0

    def unfold(self, Z: Any, delta: Array, winners: Array | None) -> Iterator[Unfolded]:
        """Yield all samples at once, with the channels as places."""
        n, size = len(Z), self.shape.n_linear
        deltas = delta.reshape(n, size, delta.shape[1] // size)
        biases = deltas[:, 0]
        if self._n_free < deltas.shape[2]:
            deltas = deltas.copy()
            deltas[:, :, self._n_free :] = 0
        yield Unfolded(slice(0, n), Z.reshape(n, size, Z.shape[1] // size), deltas, biases)

    def add_bias(self, S: Array, b: Array) -> None:
        """Add one number per unit to its value, in place."""
        S[:, : len(b)] += b

    def sum_units(self, delta: Array, out: Array) -> None:
        """Write the sums over samples of the cotangents of the values."""
        delta[:, : len(out)].sum(axis=0, out=out)

    def bias_inputs(self, n: int) -> Array | None:
        """Return 1 for values, 0 for derivatives."""
        ones = self.backend.zeros(n, self.shape.n_linear)
        ones[:, 0] = 1
        return ones.reshape(n * self.shape.n_linear)

    def _rows(self, A: Array) -> Array:
        """View an array with one row for each channel of a sample."""
        size = self.shape.n_linear
        return A.reshape(len(A) * size, A.shape[1] // size)


class ConvolutionLayer(Layer):
    """Kernels that slide over images."""

    def linear(self, Z: Any, W: Array, out: Array) -> None:
        """Write phi(Z) W."""
        for rows, patches in self._patches(Z):
            self.backend.product(patches, W, out[rows].reshape(len(patches), W.shape[1]))

    def elements(self, Z: Any, W: Array, b: Array | None, winners: Array | None, out: Array) -> None:
        """Write phi(Z) W + b, or the values of it that max pooling chooses."""
        n_out, n_linear = W.shape[1], self.shape.n_linear
        for rows, patches in self._patches(Z):
            if self.max_pooling is None or winners is None:
                self.backend.product(patches, W, out[rows].reshape(len(patches), n_out))
            else:
                S = (patches @ W).reshape(rows.stop - rows.start, n_linear * n_out)
                self.max_pooling.gather(S, winners[rows], out[rows])
        if b is not None:
            self.add_bias(out, b)

    def input_cotangent(self, delta: Array, W: Array, winners: Array | None, out: Array) -> None:
        """Write phi^T(delta W^T)."""
        n, size = len(delta), self._chunk_size(len(W))
        n_samples = n if winners is None else len(winners)
        # a replica may have no samples of a small batch
        k = max(1, n // max(1, n_samples))
        step = max(1, size // k)
        for start in range(0, n_samples, step):
            stop = min(start + step, n_samples)
            rows = slice(start * k, stop * k)
            S = self._linear_cotangent(delta[rows], None if winners is None else winners[start:stop])
            columns = S.reshape(len(S) * self.shape.n_linear, W.shape[1]) @ W.T
            self._fold(columns, out[rows])

    def weight_product(self, Z: Any, delta: Array, winners: Array | None, out: Array) -> None:
        """Write phi(Z)^T delta, summed over samples and places."""
        out[...] = 0
        for rows, patches in self._patches(Z):
            S = self._linear_cotangent(delta[rows], None if winners is None else winners[rows])
            out += patches.T @ S.reshape(len(patches), out.shape[1])

    def unfold(self, Z: Any, delta: Array, winners: Array | None) -> Iterator[Unfolded]:
        """Yield patches and cotangents of some samples at a time."""
        n_places = self.shape.n_linear
        for rows, patches in self._patches(Z):
            S = self._linear_cotangent(delta[rows], None if winners is None else winners[rows])
            n, n_out = rows.stop - rows.start, delta.shape[1] // max(1, self.shape.n_elements)
            yield Unfolded(rows, patches.reshape(n, n_places, patches.shape[1]), S.reshape(n, n_places, n_out))

    def _linear_cotangent(self, delta: Array, winners: Array | None) -> Array:
        """Cotangents of all pre-activations from those of the chosen ones."""
        if self.max_pooling is None or winners is None:
            return delta
        n_units = delta.shape[1] // max(1, self.shape.n_elements)
        S = self.backend.empty(len(delta), self.shape.n_linear * n_units)
        self.max_pooling.scatter(delta, winners, S)
        return S

    def _chunk_size(self, n_rows: int) -> int:
        """Number of samples whose patches, with this many rows of weights, are made at a time."""
        return max(1, self.backend.at_once(PATCH_SIZE) // max(1, self.shape.n_linear * n_rows))

    def _patches(self, Z: Array) -> Iterator[tuple[slice, Array]]:
        """Yield patches of some samples at a time, of shape (n n_linear, n_in_local): kernel pixel, then channel."""
        kernel, (h, w) = self._kernel, self.shape.image_in
        n_channels = Z.shape[1] // (h * w)
        n_rows = n_channels * kernel.n_positions
        step = self._chunk_size(n_rows)
        for start in range(0, len(Z), step):
            rows = slice(start, min(start + step, len(Z)))
            images = self._padded(Z[rows].reshape(rows.stop - start, h, w, n_channels))
            windows = self.backend.windows(images, kernel.size, kernel.stride)
            yield rows, self._gather(windows)

    def _gather(self, windows: Array) -> Array:
        """Copy windows of shape (n, h, w, kh, kw, c) into the rows of a matrix."""
        # with few channels the contiguous runs are short, and copying by columns is faster; a product takes the
        # transpose without a copy
        n_places, n_rows = math.prod(windows.shape[:3]), math.prod(windows.shape[3:])
        xp = self.backend.xp
        if windows.shape[5] >= 8:
            rows: Array = xp.ascontiguousarray(windows).reshape(n_places, n_rows)
            return rows
        columns: Array = xp.ascontiguousarray(windows.transpose(3, 4, 5, 0, 1, 2))
        return columns.reshape(n_rows, n_places).T

    def _padded(self, images: Array) -> Array:
        """Pad images with zeros."""
        (ph, pw), (h, w) = self._kernel.padding, images.shape[1:3]
        if not (ph or pw):
            return images
        padded = self.backend.zeros(len(images), h + 2 * ph, w + 2 * pw, images.shape[3])
        padded[:, ph : ph + h, pw : pw + w] = images
        return padded

    def _fold(self, columns: Array, out: Array) -> None:
        """Sum the entries of the patches for each pixel: the adjoint of gathering, with the padding cut off."""
        kernel, (h, w), (oh, ow) = self._kernel, self.shape.image_in, self.shape.image
        (kh, kw), (sh, sw), (ph, pw) = kernel.size, kernel.stride, kernel.padding
        n_channels = columns.shape[1] // kernel.n_positions
        parts = columns.reshape(len(out), oh, ow, kh, kw, n_channels)
        images = self.backend.zeros(len(out), h + 2 * ph, w + 2 * pw, n_channels)
        for y in range(kh):
            for x in range(kw):
                rows, cols = slice(y, y + sh * (oh - 1) + 1, sh), slice(x, x + sw * (ow - 1) + 1, sw)
                images[:, rows, cols] += parts[:, :, :, y, x]
        out.reshape(len(out), h, w, n_channels)[...] = images[:, ph : ph + h, pw : pw + w]

    @property
    def _kernel(self) -> Any:
        return self.shape.kernel


def sample_gradients(part: Unfolded) -> Array:
    """Compute each sample's own product of inputs and cotangents, of shape (n, n_in_local, n_out_local)."""
    products: Array = namespace(part.deltas).matmul(part.inputs.transpose(0, 2, 1), part.deltas)
    return products


def square_sums(part: Unfolded) -> Array:
    """Sum the squares of the samples' gradients with respect to the weights; shape (n_in_local, n_out_local)."""
    Z, delta = part.inputs, part.deltas
    if delta.shape[1] == 1:
        squares = delta[:, 0] * delta[:, 0]
        product: Array = Z.multiply(Z).T @ squares if is_sparse(Z) else Z[:, 0].T ** 2 @ squares
        return product
    gradients = sample_gradients(part)
    gradients *= gradients
    total: Array = gradients.sum(axis=0)
    return total


def make_layer(shape: LayerShape, backend: Backend, outputs: tuple[int, int] = (0, 0)) -> Layer:
    """Make the layer for a shape.

    Parameters
    ----------
    shape : LayerShape
        Dense, with or without derivatives, or convolutional.
    backend : Backend
        Array library and dtype.
    outputs : tuple of int
        Range of the units of this rank's block.

    Returns
    -------
    Layer
    """
    if shape.jet is not None:
        return JetLayer(shape, backend, outputs)
    return DenseLayer(shape, backend) if shape.kernel is None else ConvolutionLayer(shape, backend)
