"""Shapes of a network's layers: pure arithmetic, from a list of layers to units, images and weight matrices.

A layer here is a weight layer, dense or convolutional, with the pooling after it. Its units are neurons or channels,
and a neuron is a channel of 1 x 1 pixel. A dense layer flattens images: each channel then feeds a row of weights for
each of its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from distnewton.errors import ConfigError
from distnewton.frozen import frozen
from distnewton.network.jets import Jet
from distnewton.parallel.cuts import FileOwners
from distnewton.parallel.partition import Partition, as_splits

Pair = tuple[int, int]
ONE: Pair = (1, 1)
MOST_COLLECTED = 128
"""Largest number of outputs, or of units in the last hidden layer, for which each rank computes all products itself:
that costs at most this many operations a number, some 10 ns, where a network takes 40 ns to send it."""


@frozen
class Window:
    """A window that slides over an image.

    Attributes
    ----------
    size, stride, padding : tuple of int
        Vertical, then horizontal; ``padding`` rows and columns of zeros on each side.
    """

    size: Pair
    stride: Pair = ONE
    padding: Pair = (0, 0)

    @property
    def n_positions(self) -> int:
        """Pixels in the window."""
        return self.size[0] * self.size[1]

    @classmethod
    def of(cls, size: int | Sequence[int], stride: int | Sequence[int], padding: int | Sequence[int] = 0) -> Window:
        """Make a window from one number for both directions, or from vertical and horizontal numbers."""
        return cls(*((n, n) if isinstance(n, int) else (n[0], n[1]) for n in (size, stride, padding)))

    def output(self, image: Pair) -> Pair:
        """Return the window's number of places on an image, vertical and horizontal; 0 if it does not fit."""
        h, w = (
            max(0, (n + 2 * p - k) // s + 1)
            for n, k, s, p in zip(image, self.size, self.stride, self.padding, strict=True)
        )
        return h, w


@frozen
class Pooling:
    """Pooling of each channel.

    Attributes
    ----------
    kind : str
        ``max`` or ``average``.
    window : Window
        Window without padding; drops pixels that fill no window.
    """

    kind: str
    window: Window


@frozen
class LayerShape:
    """A weight layer and the pooling after it.

    Attributes
    ----------
    n_in, n_out : int
        Units below and above.
    image_in : tuple of int
        Height and width of the input's channels.
    kernel : Window or None
        Kernel of a convolution; None for a dense layer, which flattens its input.
    pooling : Pooling or None
        Pooling after the activation.
    jet : Jet or None
        Derivatives in the network's inputs that a dense layer carries along: one value per unit and channel.
    bias : bool
        Whether units have variable biases; otherwise biases are 0.
    """

    n_in: int
    n_out: int
    image_in: Pair = ONE
    kernel: Window | None = None
    pooling: Pooling | None = None
    jet: Jet | None = None
    bias: bool = True

    @property
    def rows_per_unit(self) -> int:
        """Rows of the weight matrix for each input unit."""
        return self.image_in[0] * self.image_in[1] if self.kernel is None else self.kernel.n_positions

    @property
    def image(self) -> Pair:
        """Height and width of the pre-activations."""
        return ONE if self.kernel is None else self.kernel.output(self.image_in)

    @property
    def image_out(self) -> Pair:
        """Height and width of the output, after pooling."""
        return self.image if self.pooling is None else self.pooling.window.output(self.image)

    @property
    def n_linear(self) -> int:
        """Number of pre-activations of a unit."""
        return self.image[0] * self.image[1] if self.jet is None else self.jet.size

    @property
    def shares_weights(self) -> bool:
        """Whether the weights meet a sample in several places, or in several channels of derivatives."""
        return self.kernel is not None or self.jet is not None

    @property
    def n_elements(self) -> int:
        """Number of a unit's values to which the activation is applied; with max pooling, only chosen ones."""
        chosen = self.pooling is not None and self.pooling.kind == "max"
        return self.n_values if chosen else self.n_linear

    @property
    def n_values(self) -> int:
        """Number of values of a unit in the output."""
        return self.image_out[0] * self.image_out[1] if self.jet is None else self.jet.size

    @property
    def fans(self) -> Pair:
        """Inputs per output value, and output values per input, as initialisation counts them."""
        n_kernel = 1 if self.kernel is None else self.kernel.n_positions
        return self.n_in * self.rows_per_unit, self.n_out * n_kernel


@frozen
class NetworkShape:
    """All layers of a network.

    Attributes
    ----------
    layers : tuple of LayerShape
        Layers 1..L.
    listed : tuple
        The layers as listed, resolved: widths from the features on, or layer tables.
    """

    layers: tuple[LayerShape, ...]
    listed: tuple[Any, ...]

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Units of layers 0..L."""
        return (self.layers[0].n_in, *(layer.n_out for layer in self.layers))

    @cached_property
    def rows_per_unit(self) -> tuple[int, ...]:
        """Rows of the weight matrix for each input unit, for layers 1..L."""
        return tuple(layer.rows_per_unit for layer in self.layers)

    @property
    def features_per_unit(self) -> int:
        """Features per input unit."""
        h, w = self.layers[0].image_in
        return h * w

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of the input images; None for tables."""
        return None if self.layers[0].kernel is None else (self.layers[0].n_in, *self.layers[0].image_in)

    @property
    def n_params(self) -> int:
        """Number of variables."""
        return sum((layer.n_in * layer.rows_per_unit + layer.bias) * layer.n_out for layer in self.layers)

    def partition(
        self, splits: Sequence[int], speeds: Sequence[float] = (), blocks: Sequence[int] = (),
        owners: FileOwners | None = None,
    ) -> Partition:  # fmt: skip
        """Divide these layers into groups of units.

        Parameters
        ----------
        splits : sequence of int
            Numbers of groups of layers 0..L.
        speeds : sequence of float
            Speeds of the ranks; if they differ, groups are sized in proportion.
        blocks : sequence of int
            Groups of the logical blocks; empty: those of the ranks.
        owners : FileOwners or None
            Owners of the files by columns that contain the features.

        Returns
        -------
        Partition
        """
        speeds = () if len(set(speeds)) <= 1 else tuple(speeds)
        unbiased = tuple(m for m, layer in enumerate(self.layers, start=1) if not layer.bias)
        return Partition(
            self.widths, as_splits(splits), self.rows_per_unit, self.features_per_unit, speeds, as_splits(blocks),
            owners, unbiased=unbiased,
        )  # fmt: skip

    def collects_output(self, n_rows: int, n_groups: int) -> bool:
        """Whether a pass down from the outputs gathers the output weights instead of summing products with them.

        Cotangents of the outputs are replicated: a rank with all weights that leave a hidden group can compute its
        cotangents, and weights are fewer numbers than products.

        Parameters
        ----------
        n_rows : int
            Number of cotangents over all samples.
        n_groups : int
            Number of groups of the output layer.

        Returns
        -------
        bool
        """
        layer = self.layers[-1]
        few = n_groups == 1 or layer.n_out <= MOST_COLLECTED
        return few and layer.n_out < n_rows and layer.kernel is None and layer.jet is None

    def repeats_output(self, n: int, partition: Partition) -> bool:
        """Whether each rank computes all outputs since it holds the whole last hidden layer; only weights are sent.

        Parameters
        ----------
        n : int
            Samples in a pass.
        partition : Partition
            Partition of the network.

        Returns
        -------
        bool
        """
        if not (self.collects_output(n, partition.splits[-1]) and partition.shares_last_hidden):
            return False
        n_values = self.layers[-2].n_values * self.layers[-2].n_out
        return n_values <= MOST_COLLECTED and n_values + 1 < n

    @property
    def jet(self) -> Jet | None:
        """Derivatives that are carried along."""
        return self.layers[-1].jet

    def with_jet(self, jet: Jet) -> NetworkShape:
        """Return the same dense layers for samples that carry derivatives along."""
        hidden = replace(jet, n_constants=0)
        layers = [replace(layer, jet=hidden) for layer in self.layers[:-1]]
        return replace(self, layers=(*layers, replace(self.layers[-1], jet=jet)))

    @cached_property
    def modules(self) -> list[int]:
        """Position of each layer's weights in the equivalent torch.nn.Sequential, counting all of its modules."""
        numbers, following = [], 0
        images = self.image_shape is not None
        for layer in self.layers:
            # images are flattened once, before the first dense layer
            following += images and layer.kernel is None
            images = images and layer.kernel is not None
            numbers.append(following)
            following += 2 + (layer.pooling is not None)
        return numbers

    def __str__(self) -> str:
        """Describe the network as papers do: 16-300-300-26, or 1x28x28, conv 5x5x32, max pool 2x2, dense 10."""
        if self.image_shape is None:
            return "-".join(map(str, self.widths))
        parts = ["x".join(map(str, self.image_shape))]
        for layer in self.layers:
            kernel = "" if layer.kernel is None else "x".join(map(str, layer.kernel.size)) + "x"
            parts.append(f"{'conv' if kernel else 'dense'} {kernel}{layer.n_out}")
            if layer.pooling is not None:
                size = "x".join(map(str, layer.pooling.window.size))
                parts.append(f"{layer.pooling.kind} pool {size}")
        return ", ".join(parts)


def dense_shape(widths: Sequence[int], biases: Sequence[bool] = ()) -> NetworkShape:
    """Make the shape of a fully connected network.

    Parameters
    ----------
    widths : sequence of int
        Features, neurons of each hidden layer, and outputs.
    biases : sequence of bool
        Whether each layer has biases; by default all do.

    Returns
    -------
    NetworkShape
    """
    have = biases or [True] * (len(widths) - 1)
    layers = (LayerShape(a, b, bias=bias) for (a, b), bias in zip(pairwise(widths), have, strict=True))
    return NetworkShape(tuple(layers), tuple(widths))


class ShapeInProgress:
    """A network on images under construction, layer by layer from the input.

    Parameters
    ----------
    n_channels : int
        Number of input channels.
    image : tuple of int
        Height and width of the input.

    Attributes
    ----------
    layers : list of LayerShape
        Weight layers so far.
    n_units : int
        Channels or neurons that the next layer reads.
    image : tuple of int
        Height and width of each channel.
    flat : bool
        Whether only dense layers can follow.
    """

    def __init__(self, n_channels: int, image: Pair) -> None:
        self.layers: list[LayerShape] = []
        self.n_units, self.image, self.flat = n_channels, image, False

    def convolve(self, n_channels: int, kernel: Window) -> None:
        """Add a convolution; raises ConfigError if its kernel does not fit."""
        self._check_fit(kernel)
        self._add(LayerShape(self.n_units, n_channels, self.image, kernel))

    def pool(self, kind: str, window: Window) -> None:
        """Add pooling, ``max`` or ``average``, to the last convolution; raises ConfigError if it cannot follow."""
        if not self.layers or self.layers[-1].pooling is not None:
            raise ConfigError("pooling must directly follow a convolution, at most once")
        self._check_fit(window)
        self._add(replace(self.layers.pop(), pooling=Pooling(kind, window)))

    def flatten(self) -> None:
        """Allow only dense layers from here on."""
        self.flat = True

    def connect(self, width: int, *, bias: bool = True) -> None:
        """Add a dense layer, which flattens its input."""
        self._add(LayerShape(self.n_units, width, self.image, bias=bias))
        self.flat = True

    def _add(self, layer: LayerShape) -> None:
        self.layers.append(layer)
        self.n_units, self.image = layer.n_out, layer.image_out

    def _check_fit(self, window: Window) -> None:
        """Refuse a window that is larger than its padded image."""
        if 0 in window.output(self.image):
            padded = "x".join(str(n + 2 * p) for n, p in zip(self.image, window.padding, strict=True))
            size = "x".join(map(str, window.size))
            raise ConfigError(f"a window of {size} does not fit images of {padded}, padding included")
