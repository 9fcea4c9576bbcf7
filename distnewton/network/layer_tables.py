"""Layers as users list them: tables of ``network.layers``, each of which extends the shape of a network on images.

A table is a component (:mod:`distnewton.registry`): its class declares the table's keys and the layer's effect on the
units and images so far. The shape alone determines what a rank computes.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from distnewton.errors import ConfigError
from distnewton.network.shapes import NetworkShape, ShapeInProgress, Window, dense_shape
from distnewton.options import Options
from distnewton.registry import Registry

Size = Annotated[int, Field(ge=1, lt=2**31)]
Padding = Annotated[int, Field(ge=0, lt=2**31)]
WindowPixels = Annotated[int, Field(ge=1, le=16)]


class LayerTable(Options):
    """A layer, as a table whose key ``type`` names it; validation returns an instance of the named layer's class.

    To add one, write a subclass with the keys of the table as fields and register it: :func:`distnewton.register`, or
    an entry point of the group ``distnewton.layers``.

    Attributes
    ----------
    name, help : str
        Value of ``type``, and a one-line description.
    has_weights : bool
        Whether it is a weight layer, whose units ``partition.splits`` divides into groups.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    has_weights: ClassVar[bool] = False

    type: str

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_type(cls, table: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if cls is not LayerTable or not isinstance(table, Mapping):
            return handler(table)
        try:
            kind = LAYERS.find(str(table.get("type", "")))
        except ConfigError as error:
            problem = PydanticCustomError("unknown_component", "{message}", {"message": str(error)})
            details = InitErrorDetails(type=problem, loc=("type",), input=table.get("type"))
            raise ValidationError.from_exception_data("layers", [details]) from None
        try:
            return cast(Self, kind.model_validate(table))
        except ValidationError as error:
            # the location includes the type, so that messages can list the valid keys
            raise ValidationError.from_exception_data("layers", [_at(kind.name, e) for e in error.errors()]) from None

    @property
    def title(self) -> str:
        """Describe the layer briefly: its kind and the sizes given."""
        values = (value for key, value in self.model_dump(exclude_defaults=True).items() if key != "type")
        texts = ("x".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)
        return " ".join([self.type, *texts])

    def extend(self, shape: ShapeInProgress) -> None:
        """Add the layer to those below it.

        Parameters
        ----------
        shape : ShapeInProgress
            Layers so far; modified.

        Raises
        ------
        ConfigError
            If the layer cannot follow those; the message gives the reason, the caller the layer.
        """
        raise NotImplementedError


def _at(name: str, details: ErrorDetails) -> InitErrorDetails:
    """Error of a table, with the table's type before the key."""
    context = {"message": details["msg"], **details.get("ctx", {})}
    problem = PydanticCustomError(details["type"], "{message}", context)
    return InitErrorDetails(type=problem, loc=(name, *details["loc"]), input=details["input"])


class Convolution(LayerTable):
    """A convolution with bias, then the activation; pairs are vertical, horizontal."""

    name, help = "conv", "convolution with bias, then the activation"
    has_weights = True

    channels: Size = Field(description="output channels")
    kernel: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] = Field(description="size of the kernel")
    stride: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] = Field(1, description="step of the kernel")
    padding: Padding | Annotated[list[Padding], Field(min_length=2, max_length=2)] = Field(
        0, description="rows and columns of zeros on each side"
    )

    def extend(self, shape: ShapeInProgress) -> None:
        """Add a convolution to the channels so far."""
        shape.convolve(self.channels, Window.of(self.kernel, self.stride, self.padding))


class PoolingTable(LayerTable):
    """Pooling after a convolution's activation; drops pixels that fill no window."""

    kind: ClassVar[Literal["max", "average"]]

    size: WindowPixels | Annotated[list[WindowPixels], Field(min_length=2, max_length=2)] = Field(
        description="size of the window"
    )
    stride: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] | None = Field(
        None, description="step of the window; by default its size"
    )

    def extend(self, shape: ShapeInProgress) -> None:
        """Pool the channels of the last convolution."""
        shape.pool(self.kind, Window.of(self.size, self.stride or self.size))


class MaxPooling(PoolingTable):
    """The largest value of each window, after a convolution; drops pixels that fill no window."""

    name, help, kind = "max_pool", "largest value of each window", "max"


class AveragePooling(PoolingTable):
    """The mean of each window, after a convolution's activation; drops pixels that fill no window."""

    name, help, kind = "avg_pool", "mean of each window", "average"


class Flatten(LayerTable):
    """Conversion of images to rows of numbers; a dense layer after images does this by itself."""

    name, help = "flatten", "images become rows of numbers"

    def extend(self, shape: ShapeInProgress) -> None:
        """Allow only dense layers from here on."""
        shape.flatten()


class Dense(LayerTable):
    """A fully connected layer."""

    name, help = "dense", "fully connected"
    has_weights = True

    width: Size | Literal["auto"] = Field(description="neurons; auto, for the last layer, takes it from the data")
    bias: bool = Field(True, description="whether neurons have biases; if not, they are 0")

    def extend(self, shape: ShapeInProgress) -> None:
        """Connect all values so far to each neuron."""
        if self.width == "auto":
            raise ConfigError("the width must be a number here")
        shape.connect(int(self.width), bias=self.bias)


LAYERS: Registry[type[LayerTable]] = Registry(
    "layer", LayerTable, (Convolution, MaxPooling, AveragePooling, Flatten, Dense), "distnewton.layers"
)
"""Layer tables by their ``type``."""


def number_of_weight_layers(layers: Sequence[Any]) -> int:
    """Weight layers of a list of widths or of tables."""
    if not isinstance(layers[0], LayerTable):
        return len(layers) - 1
    return sum(layer.has_weights for layer in layers)


def tables_problem(layers: Sequence[LayerTable]) -> str | None:
    """Explain what is wrong with the order of layer tables; empty if it is right."""
    if not isinstance(layers[-1], Dense):
        return 'network.layers must end in a dense layer, {type = "dense", width = "auto"}: it holds the outputs'
    if any(isinstance(layer, Dense) and layer.width == "auto" for layer in layers[:-1]):
        return 'only the last of layers may have width = "auto"'
    return None


def convolutional_shape(image_shape: Sequence[int], tables: Sequence[Mapping[str, Any]]) -> NetworkShape:
    """Compute the shape of a network on images.

    Parameters
    ----------
    image_shape : sequence of int
        Channels, height, width.
    tables : sequence of mapping
        Layers as in ``network.layers``; the last one is dense, and its width is a number.

    Returns
    -------
    NetworkShape

    Raises
    ------
    ConfigError
        If a layer cannot follow the one before, or a window does not fit its image.
    """
    shape = ShapeInProgress(image_shape[0], (image_shape[1], image_shape[2]))
    layers: list[LayerTable] = []
    for k, table in enumerate(tables, start=1):
        try:
            layer = LayerTable.model_validate(dict(table))
            if shape.flat and not isinstance(layer, Dense):
                raise ConfigError("only dense layers can follow a dense layer or flatten")
            layer.extend(shape)
        except (ConfigError, ValidationError) as error:
            raise ConfigError(f"network.layers, layer {k} ({table.get('type')}): {error}", collective=True) from None
        layers.append(layer)
    if not isinstance(layers[-1], Dense):
        raise ConfigError("network.layers must end in a dense layer: it holds the outputs", collective=True)
    first = shape.layers[0]
    if first.kernel is None:
        # without convolutions, images are rows of numbers from the start
        widths = [first.n_in * first.rows_per_unit, *(layer.n_out for layer in shape.layers)]
        return dense_shape(widths, [layer.bias for layer in shape.layers])
    return NetworkShape(tuple(shape.layers), tuple(layer.model_dump() for layer in layers))


def resolve_shape(
    listed: Sequence[Any], n_features: int, image_shape: Sequence[int] | None, n_out: int
) -> NetworkShape:
    """Compute the shape of a network on a data set, with ``auto`` widths taken from the data.

    Parameters
    ----------
    listed : sequence
        Widths from features to outputs, or layer tables; the data determine ``auto`` ends.
    n_features, n_out : int
        Features of the data, and outputs for the task.
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
            f"network.layers has layers for images, but the data is a table of {n_features} features: set "
            "network.input = [channels, height, width] to read them as images",
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
