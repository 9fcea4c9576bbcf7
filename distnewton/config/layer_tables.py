"""Layer tables of ``network.layers``, for networks on images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[int, Field(ge=1)]
Padding = Annotated[int, Field(ge=0)]
WindowPixels = Annotated[int, Field(ge=1, le=16)]


class LayerTable(BaseModel):
    """A layer: unknown keys are errors, values are not converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)

    @property
    def title(self) -> str:
        """The layer in a few words: its kind, and the sizes that are given."""
        values = (value for key, value in self.model_dump(exclude_defaults=True).items() if key != "type")
        texts = ("x".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)
        return " ".join([str(self.model_dump()["type"]), *texts])


class ConvolutionTable(LayerTable):
    """A convolution with bias, then the activation; pairs are vertical, horizontal."""

    type: Literal["conv"]
    channels: Size = Field(description="output channels")
    kernel: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] = Field(description="size of the kernel")
    stride: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] = Field(1, description="step of the kernel")
    padding: Padding | Annotated[list[Padding], Field(min_length=2, max_length=2)] = Field(
        0, description="rows and columns of zeros on each side"
    )


class PoolingTable(LayerTable):
    """Pooling behind a convolution's activation; pixels that fill no window are left out."""

    type: Literal["max_pool", "avg_pool"]
    size: WindowPixels | Annotated[list[WindowPixels], Field(min_length=2, max_length=2)] = Field(
        description="size of the window"
    )
    stride: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] | None = Field(
        None, description="step of the window; by default its size"
    )


class FlattenTable(LayerTable):
    """Images become rows of numbers; a dense layer behind images does so by itself."""

    type: Literal["flatten"]


class DenseTable(LayerTable):
    """A fully connected layer."""

    type: Literal["dense"]
    width: Size | Literal["auto"] = Field(description="neurons; auto, for the last layer, takes the data's")


LAYER_TABLES: dict[str, type[LayerTable]] = {
    "conv": ConvolutionTable,
    "max_pool": PoolingTable,
    "avg_pool": PoolingTable,
    "flatten": FlattenTable,
    "dense": DenseTable,
}
"""Tables by their ``type``."""
AnyTable = Annotated[ConvolutionTable | PoolingTable | FlattenTable | DenseTable, Field(discriminator="type")]


def number_of_weight_layers(layers: list[Any]) -> int:
    """Layers with weights of a list of widths or of tables."""
    if not isinstance(layers[0], LayerTable):
        return len(layers) - 1
    return sum(isinstance(layer, ConvolutionTable | DenseTable) for layer in layers)


def tables_problem(layers: list[Any]) -> str | None:
    """What is wrong with the order of layer tables."""
    last = layers[-1]
    if not isinstance(last, DenseTable):
        return 'network.layers must end in a dense layer, {type = "dense", width = "auto"}: it holds the outputs'
    if any(isinstance(layer, DenseTable) and layer.width == "auto" for layer in layers[:-1]):
        return 'only the width of the last of layers may be "auto"'
    return None
