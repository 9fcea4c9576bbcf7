"""Shapes of a network's layers: pure arithmetic, from a list of layers to units, images and weight matrices.

A layer here is a weight layer, dense or convolutional, with the pooling behind it. Its units are neurons or channels,
and a neuron is a channel of 1 x 1 pixel. Where images meet a dense layer they are flattened: each channel then feeds a
row of weights for each of its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from distnewton.errors import ConfigError
from distnewton.parallel.partition import Partition, as_splits

Pair = tuple[int, int]
ONE: Pair = (1, 1)


@dataclass(frozen=True)
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

    def output(self, image: Pair) -> Pair:
        """Number of places of the window on an image, vertical and horizontal; 0 where it does not fit."""
        h, w = (
            max(0, (n + 2 * p - k) // s + 1)
            for n, k, s, p in zip(image, self.size, self.stride, self.padding, strict=True)
        )
        return h, w


@dataclass(frozen=True)
class Pooling:
    """Pooling of each channel.

    Attributes
    ----------
    kind : str
        ``max`` or ``average``.
    window : Window
        Without padding; pixels that fill no window are left out.
    """

    kind: str
    window: Window


@dataclass(frozen=True)
class LayerShape:
    """A weight layer and the pooling behind it.

    Attributes
    ----------
    n_in, n_out : int
        Units below and above.
    image_in : tuple of int
        Height and width of the input's channels.
    kernel : Window or None
        Of a convolution; None for a dense layer, which flattens its input.
    pooling : Pooling or None
        Behind the activation.
    """

    n_in: int
    n_out: int
    image_in: Pair = ONE
    kernel: Window | None = None
    pooling: Pooling | None = None

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
        """Height and width of the output, pooled."""
        return self.image if self.pooling is None else self.pooling.window.output(self.image)

    @property
    def n_linear(self) -> int:
        """Pre-activations of a unit."""
        return self.image[0] * self.image[1]

    @property
    def n_elements(self) -> int:
        """Values of a unit to which the activation is applied: those that max pooling has chosen."""
        chosen = self.pooling is not None and self.pooling.kind == "max"
        return self.n_values if chosen else self.n_linear

    @property
    def n_values(self) -> int:
        """Values of a unit in the output."""
        return self.image_out[0] * self.image_out[1]

    @property
    def fans(self) -> Pair:
        """Inputs of an output value, and output values of an input, as initialisation counts them."""
        n_kernel = 1 if self.kernel is None else self.kernel.n_positions
        return self.n_in * self.rows_per_unit, self.n_out * n_kernel


@dataclass(frozen=True)
class NetworkShape:
    """All layers of a network.

    Attributes
    ----------
    layers : tuple of LayerShape
        Layers 1..L.
    listed : tuple
        The layers as they were listed, resolved: widths from the features on, or layer tables.
    """

    layers: tuple[LayerShape, ...]
    listed: tuple[Any, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of layers 0..L."""
        return (self.layers[0].n_in, *(layer.n_out for layer in self.layers))

    @property
    def rows_per_unit(self) -> tuple[int, ...]:
        """Rows of the weight matrix for each input unit, of layers 1..L."""
        return tuple(layer.rows_per_unit for layer in self.layers)

    @property
    def features_per_unit(self) -> int:
        """Features of an input unit."""
        h, w = self.layers[0].image_in
        return h * w

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of the input images; None for tables."""
        return None if self.layers[0].kernel is None else (self.layers[0].n_in, *self.layers[0].image_in)

    @property
    def n_params(self) -> int:
        """Number of variables."""
        return sum((layer.n_in * layer.rows_per_unit + 1) * layer.n_out for layer in self.layers)

    def partition(self, splits: Sequence[int], speeds: Sequence[float] = ()) -> Partition:
        """These layers cut into so many groups of units each; in proportion to the speeds of ranks, if these differ."""
        speeds = () if len(set(speeds)) <= 1 else tuple(speeds)
        return Partition(self.widths, as_splits(splits), self.rows_per_unit, self.features_per_unit, speeds)

    @property
    def modules(self) -> list[int]:
        """Number of each layer's weights in the equal torch.nn.Sequential, with activations, pooling and Flatten."""
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
        """As papers write it: 16-300-300-26, or 1x28x28, conv 5x5x32, max pool 2x2, dense 10."""
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


def dense_shape(widths: Sequence[int]) -> NetworkShape:
    """Shape of a fully connected network.

    Parameters
    ----------
    widths : sequence of int
        Features, neurons of each hidden layer, outputs.

    Returns
    -------
    NetworkShape
    """
    layers = (LayerShape(a, b) for a, b in pairwise(widths))
    return NetworkShape(tuple(layers), tuple(widths))


def convolutional_shape(image_shape: Sequence[int], tables: Sequence[Mapping[str, Any]]) -> NetworkShape:
    """Shape of a network on images.

    Parameters
    ----------
    image_shape : sequence of int
        Channels, height, width.
    tables : sequence of mapping
        One a layer, with ``type`` ``conv`` (``channels, kernel, stride, padding``), ``max_pool`` or ``avg_pool``
        (``size, stride``), ``flatten``, or ``dense`` (``width``); pairs are vertical, horizontal.

    Returns
    -------
    NetworkShape

    Raises
    ------
    ConfigError
        If layers do not follow each other, or a window does not fit its image.
    """
    n_units, image, flat = image_shape[0], (image_shape[1], image_shape[2]), False
    layers: list[LayerShape] = []
    for k, table in enumerate(tables, start=1):
        kind, where = table["type"], f"network.layers, layer {k} ({table['type']})"
        if flat and kind != "dense":
            raise ConfigError(f"{where}: behind a dense layer or flatten only dense layers can follow", collective=True)
        if kind == "flatten":
            flat = True
        elif kind == "dense":
            layers.append(LayerShape(n_units, table["width"], image))
            n_units, image, flat = table["width"], ONE, True
        elif kind == "conv":
            window = Window(_pair(table["kernel"]), _pair(table["stride"]), _pair(table["padding"]))
            _check_fit(where, window, image)
            layers.append(LayerShape(n_units, table["channels"], image, window))
            n_units, image = table["channels"], layers[-1].image_out
        else:
            layers.append(_pooled(where, layers, table, image))
            image = layers[-1].image_out
    if not flat or tables[-1]["type"] != "dense":
        raise ConfigError("network.layers must end in a dense layer: it holds the outputs", collective=True)
    if layers[0].kernel is None:
        # without convolutions images are rows of numbers from the start
        return dense_shape([layers[0].n_in * layers[0].rows_per_unit, *(layer.n_out for layer in layers)])
    return NetworkShape(tuple(layers), tuple(dict(table) for table in tables))


def _pooled(where: str, layers: list[LayerShape], table: Mapping[str, Any], image: Pair) -> LayerShape:
    """The last convolution with a pooling behind it; it is taken off the list."""
    if not layers or layers[-1].pooling is not None:
        raise ConfigError(f"{where}: pooling stands directly behind a convolution, once", collective=True)
    size = _pair(table["size"])
    window = Window(size, _pair(table["stride"] or size))
    _check_fit(where, window, image)
    last = layers.pop()
    kind = {"max_pool": "max", "avg_pool": "average"}[table["type"]]
    return LayerShape(last.n_in, last.n_out, last.image_in, last.kernel, Pooling(kind, window))


def _check_fit(where: str, window: Window, image: Pair) -> None:
    """Refuse a window that is larger than its padded image."""
    if 0 in window.output(image):
        padded = "x".join(str(n + 2 * p) for n, p in zip(image, window.padding, strict=True))
        size = "x".join(map(str, window.size))
        message = f"{where}: a window of {size} does not fit images of {padded}, padding included"
        raise ConfigError(message, collective=True)


def _pair(value: int | Sequence[int]) -> Pair:
    """One number for both directions, or vertical and horizontal."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def resolve_shape(
    listed: Sequence[Any], n_features: int, image_shape: Sequence[int] | None, n_out: int
) -> NetworkShape:
    """Shape of a network on a data set, with ``auto`` taken from the data.

    Parameters
    ----------
    listed : sequence
        Widths from features to outputs, or layer tables, whose ``auto`` ends the data decides.
    n_features, n_out : int
        What the data has and the task needs.
    image_shape : sequence of int or None
        Channels, height and width of the data's images.

    Returns
    -------
    NetworkShape

    Raises
    ------
    ConfigError
        If given widths or images differ from the data.
    """
    if not isinstance(listed[0], Mapping):
        return dense_shape(_resolve_widths(list(listed), n_features, n_out))
    if image_shape is None and not any(table["type"] == "conv" for table in listed):
        image_shape = n_features, 1, 1
    if image_shape is None:
        raise ConfigError(
            f"network.layers has layers for images, but the data is a table of {n_features} features: say how they "
            "are images by network.input = [channels, height, width]",
            collective=True,
        )
    channels, height, width = image_shape
    if channels * height * width != n_features:
        raise ConfigError(
            f"network.input = {list(image_shape)} makes {channels * height * width} values, but the data has "
            f"{n_features} features",
            collective=True,
        )
    last = dict(listed[-1])
    if last.get("width") == "auto":
        last["width"] = n_out
    elif last["type"] == "dense" and last["width"] != n_out:
        raise ConfigError(
            f"network.layers: the data needs {n_out} outputs (classes, or targets), not {last['width']}\n"
            'write "auto" to take the width from the data',
            collective=True,
        )
    return convolutional_shape(image_shape, [*listed[:-1], last])


def _resolve_widths(widths: list[Any], n_features: int, n_out: int) -> tuple[int, ...]:
    """Widths of a fully connected network, with ``auto`` ends taken from the data."""
    listed, problems = list(widths), []
    for end, n, what in ((0, n_features, "features"), (-1, n_out, "outputs (classes, or targets)")):
        if widths[end] == "auto":
            widths[end] = n
        elif widths[end] != n:
            problems.append(f"network.layers = {listed}: the data has {n} {what}, not {widths[end]}")
    if problems:
        raise ConfigError("\n".join([*problems, 'write "auto" to take the width from the data']), collective=True)
    return tuple(int(width) for width in widths)
