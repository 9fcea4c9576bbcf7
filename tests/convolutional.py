"""An independent convolutional network: sums over the windows of plain images, float64 and complex.

Parameters are one vector theta: for each layer the rows of its weight matrix, then the biases. Rows are in torch's
order (channel, row, column of the kernel), and of a dense layer behind images (channel, row, column of the image).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from dense import ACTIVATIONS, STEP, DenseProblem


@dataclass(frozen=True)
class Conv:
    """A convolution with its pooling: kind, size and stride, or None."""

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    pool: tuple[str, tuple[int, int], tuple[int, int]] | None = None

    def tables(self):
        """What a configuration says of it."""
        tables = [{
            "type": "conv", "channels": self.channels, "kernel": list(self.kernel), "stride": list(self.stride),
            "padding": list(self.padding),
        }]  # fmt: skip
        if self.pool is not None:
            kind, size, stride = self.pool
            tables.append({"type": kind, "size": list(size), "stride": list(stride)})
        return tables


def windows(z, size, stride):
    """Views (..., oh, ow, *size) of the places where a window stands on images (..., h, w)."""
    return np.lib.stride_tricks.sliding_window_view(z, size, axis=(-2, -1))[..., :: stride[0], :: stride[1], :, :]


def unfold(z, conv):
    """Inputs of each place, (..., n, places, c kh kw), of images (..., n, c, h, w)."""
    (h, w), (ph, pw) = z.shape[-2:], conv.padding
    padded = np.zeros((*z.shape[:-2], h + 2 * ph, w + 2 * pw), z.dtype)
    padded[..., ph : ph + h, pw : pw + w] = z
    parts = np.moveaxis(windows(padded, conv.kernel, conv.stride), -5, -3)
    return parts.reshape(*parts.shape[:-5], parts.shape[-5] * parts.shape[-4], -1)


def convolve(z, W, b, conv):
    """Pre-activations (..., n, channels, h, w) of images (..., n, c, h, w); W of shape (..., c kh kw, channels)."""
    s = unfold(z, conv) @ W[..., None, :, :] + b[..., None, None, :]
    return np.swapaxes(s, -2, -1).reshape(*s.shape[:-2], *convolution_image(z, conv))


def pool(z, kind, size, stride, known=None):
    """Pooled images; max pooling chooses by the real part, the first on ties, or by that of ``known``."""
    parts = windows(z, size, stride)
    parts = parts.reshape(*parts.shape[:-2], -1)
    if kind == "avg_pool":
        return parts.mean(axis=-1)
    known = z if known is None else known
    chosen = windows(known.real, size, stride).reshape(*known.shape[:-2], *parts.shape[-3:]).argmax(axis=-1)
    return np.take_along_axis(parts, np.broadcast_to(chosen, parts.shape[:-1])[..., None], axis=-1)[..., 0]


class ConvolutionalProblem(DenseProblem):
    """The regularised objective of a convolutional network; ``hidden`` are widths of dense layers behind it."""

    def __init__(self, image_shape, convs, hidden, n_out, activation, loss, X, y, C):
        self.image_shape, self.convs = tuple(image_shape), list(convs)
        self.widths = [image_shape[0], *(conv.channels for conv in convs), *hidden, n_out]
        self.act, self.loss = ACTIVATIONS[activation], loss
        self.X, self.y, self.C = np.asarray(X, float), y, C
        self.n_rows = [c * k for c, k in zip(self.widths[:-1], self._rows_per_unit(), strict=True)]
        self.sizes = [(a + 1) * b for a, b in zip(self.n_rows, self.widths[1:], strict=True)]
        self.starts = np.cumsum([0, *self.sizes])
        self.n_params = int(self.starts[-1])
        self.key = (image_shape, tuple(convs), *hidden, activation, loss, C, self.X.tobytes(), np.asarray(y).tobytes())

    def _rows_per_unit(self):
        rows, (h, w) = [], self.image_shape[1:]
        for conv in self.convs:
            rows.append(conv.kernel[0] * conv.kernel[1])
            z = convolve(np.zeros((1, 1, h, w)), np.zeros((rows[-1], conv.channels)), np.zeros(conv.channels), conv)
            h, w = (z if conv.pool is None else pool(z, *conv.pool)).shape[2:]
        return [*rows, h * w, *[1] * (len(self.widths) - len(self.convs) - 2)]

    def tables(self):
        """What a configuration says of the layers."""
        convs = [table for conv in self.convs for table in conv.tables()]
        return [*convs, *({"type": "dense", "width": width} for width in self.widths[len(self.convs) + 1 :])]

    def outputs(self, theta, rows=None):
        return self.forward(theta, rows)[0]

    known = MappingProxyType({})
    """Images by convolution, by whose values max pooling chooses, so that the objective is smooth around a point."""

    def choose_at(self, theta, rows):
        """Let max pooling of these rows choose as at this point."""
        self.known = MappingProxyType({})
        self.known = self.forward(theta, list(range(*rows)))[2]

    def forward(self, theta, rows=None, offsets=None):
        """Outputs, and the input of each layer by number; ``offsets`` by layer are added to its pre-activations."""
        unpooled = {}
        z = (self.X if rows is None else self.X[rows]).reshape(-1, *self.image_shape)
        matrices, inputs, offsets = self.matrices(theta), {}, offsets or {}
        for m, ((W, b), conv) in enumerate(zip(matrices, self.convs, strict=False), start=1):
            inputs[m] = z
            z = unpooled[m] = self.act(convolve(z, W, b, conv) + offsets.get(m, 0))
            z = z if conv.pool is None else pool(z, *conv.pool, known=self.known.get(m))
        z = z.reshape(*z.shape[:-3], -1)
        for m, (W, b) in enumerate(matrices[len(self.convs) :], start=len(self.convs) + 1):
            inputs[m] = z
            s = z @ W + b[..., None, :] + offsets.get(m, 0)
            z = self.act(s) if m < len(matrices) else s
        return z, inputs, unpooled

    def places(self, theta, rows, cotangents):
        """By layer: inputs (n, places, rows of W), and cotangents (n, places, channels) of the pre-activations."""
        inputs = self.forward(theta, rows)[1]
        made = {}
        for m, z in inputs.items():
            conv = self.convs[m - 1] if m <= len(self.convs) else None
            unfolded = z[:, None, :] if conv is None else unfold(z, conv)
            image = (self.widths[m],) if conv is None else convolution_image(z, conv)
            n_places = int(np.prod(image))
            offsets = np.tile((1j * STEP * np.eye(n_places)).reshape(-1, 1, *image), (1, len(rows), *[1] * len(image)))
            outputs = self.forward(theta, rows, {m: offsets})[0]
            gradients = np.einsum("sa,ksa->sk", cotangents, np.imag(outputs) / STEP)
            made[m] = unfolded, gradients.reshape(len(rows), self.widths[m], -1).transpose(0, 2, 1)
        return made


def convolution_image(z, conv):
    """Channels, height and width of the pre-activations."""
    size = zip(z.shape[-2:], conv.kernel, conv.stride, conv.padding, strict=True)
    return (conv.channels, *((n + 2 * p - k) // s + 1 for n, k, s, p in size))
