"""To PyTorch and back: a trained network as torch.nn.Sequential, and such a module as the start of a training run.

A model file needs none of this: ``module.load_state_dict(safetensors.torch.load_file("model.safetensors"))`` takes it
as it is, where the module has the layers that :func:`to_torch` makes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.data.labels import LabelMapping
from distnewton.data.partitioned import Task
from distnewton.data.scaling import ColumnScaling, fit_scaling
from distnewton.errors import ConfigError, MissingExtraError
from distnewton.models.model import Architecture, Model
from distnewton.models.whole_model import load_serial_model, model_of_weights
from distnewton.network.activations import ACTIVATIONS, Activation
from distnewton.network.losses import LOSSES, Loss
from distnewton.network.shapes import NetworkShape, resolve_shape
from distnewton.registry import Registry

try:
    import torch
    from torch import nn
except ImportError:
    raise MissingExtraError("distnewton.torch", "torch") from None

__all__ = ["Imported", "ScaleFeatures", "from_torch", "to_torch"]

_PLAIN: dict[type[nn.Module], dict[str, Any]] = {
    nn.Conv2d: {"dilation": 1, "groups": 1, "padding_mode": "zeros"},
    nn.MaxPool2d: {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False},
    nn.AvgPool2d: {"padding": 0, "ceil_mode": False, "divisor_override": None},
    nn.Flatten: {"start_dim": 1, "end_dim": -1},
    nn.Softplus: {"beta": 1, "threshold": 20},
    nn.CrossEntropyLoss: {"weight": None, "label_smoothing": 0.0, "reduction": "mean"},
    nn.BCEWithLogitsLoss: {"weight": None, "pos_weight": None, "reduction": "mean"},
    nn.MSELoss: {"reduction": "mean"},
}
"""Options of modules that must have these values."""


class ScaleFeatures(nn.Module):
    """The scaling of features that belongs to a trained model, as a module without variables.

    Parameters
    ----------
    scaling : ColumnScaling
        Of all features.
    dtype : torch.dtype
        Of the result.
    shape : sequence of int
        Of a sample.
    """

    def __init__(self, scaling: ColumnScaling, dtype: torch.dtype, shape: Sequence[int]) -> None:
        super().__init__()
        self.kind, self._rule, self._dtype, self._shape = scaling.kind, scaling.rule, dtype, tuple(shape)
        # not persistent: the names of the weights alone are what a model file holds
        self.register_buffer("offset", torch.from_numpy(scaling.offset).reshape(self._shape), persistent=False)
        self.register_buffer("factor", torch.from_numpy(scaling.factor).reshape(self._shape), persistent=False)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Scale features, in float64.

        Parameters
        ----------
        X : torch.Tensor of shape (n, *shape)
            Raw features.

        Returns
        -------
        torch.Tensor
            Of the same shape.
        """
        X = X.double()
        if self._rule.takes_logs:
            X = torch.log1p(X)
        X = (X - self.offset) * self.factor
        if self._rule.scales_rows:
            norms = X.flatten(1).norm(dim=1)
            X = X / torch.where(norms > 0, norms, 1.0).reshape(-1, *(1 for _ in self._shape))
        return X.to(self._dtype)

    def extra_repr(self) -> str:
        """The kind of scaling."""
        return self.kind


@dataclass(frozen=True)
class Imported:
    """A module as a run takes it.

    Attributes
    ----------
    network : dict
        The table ``network`` of a configuration with the same layers and loss.
    model : Model
        Its weights, on this process: the ``start`` of :func:`distnewton.train`.
    """

    network: dict[str, Any]
    model: Model


def to_torch(model: Model | str | Path) -> nn.Sequential:
    """The equal torch.nn.Sequential, with copies of the weights, on the CPU.

    Parameters
    ----------
    model : Model or path
        A model, a model file, or a run folder.

    Returns
    -------
    torch.nn.Sequential
        It takes features (n, n_features) or images (n, channels, height, width) and returns the linear outputs: logits,
        or predictions. Where the model scales features, its first module, ``scaling``, does so; the others have the
        numbers, and ``state_dict`` the names, that the model file has.

    Notes
    -----
    Collective over the grid of a model in memory: all ranks get the whole module.
    """
    model = load_serial_model(model)
    a, shape = model.architecture, model.architecture.shape
    dtype = {"float32": torch.float32, "float64": torch.float64}[a.dtype]
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    if model.scaling.kind != "none":
        sample = shape.image_shape or (shape.widths[0],)
        modules["scaling"] = ScaleFeatures(model.scaling, dtype, sample)
    for number, module in enumerate(_modules(shape, a.activation, dtype)):
        modules[str(number)] = module
    made = nn.Sequential(modules)
    weights = model.weights() or {}
    made.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return made


def counterpart(component: Activation | Loss) -> type[nn.Module]:
    """The torch module that an activation or a loss declares as its equal.

    Parameters
    ----------
    component : Activation or Loss
        An entry of a registry.

    Returns
    -------
    type of torch.nn.Module

    Raises
    ------
    ConfigError
        If it declares none, or one that cannot be imported.
    """
    if not component.torch:
        raise ConfigError(f"{component.name} declares no torch module that is its equal (attribute torch)")
    try:
        kind: type[nn.Module] = resolve_name(component.torch)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"{component.torch}, the torch module of {component.name}, cannot be imported: {error}"
        raise ConfigError(message) from None
    return kind


def _name_of(registry: Registry[Any], module: nn.Module) -> str:
    """Name of the component whose counterpart a module is; empty where there is none."""
    kinds = ((name, registry[name]) for name in registry)
    return next((name for name, known in kinds if known.torch and type(module) is counterpart(known)), "")


def _loss_name(module: nn.Module) -> str:
    """Name of the loss that a torch module computes."""
    name = _name_of(LOSSES, module)
    if not name:
        kinds = ", ".join(loss.torch for loss in LOSSES.values() if loss.torch)
        raise ConfigError(f"the loss {module} has no equal here; supported are {kinds}")
    if problems := _unsupported_options(module):
        raise ConfigError(f"the loss {module} has options without an equal here: {', '.join(problems)}")
    return name


def _unsupported_options(module: nn.Module) -> list[str]:
    """Options of a module that differ from the only values that this package has."""
    return [
        f"{name} must be {value}"
        for name, value in _PLAIN.get(type(module), {}).items()
        if getattr(module, name) not in (value, (value, value))
    ]


def _supported() -> str:
    """What a module may consist of."""
    activations = ", ".join(a.torch.rpartition(".")[2] for a in ACTIVATIONS.values() if a.torch)
    return (
        f"supported are Linear and Conv2d (with bias), one of the activations {activations} behind each but the last, "
        "MaxPool2d or AvgPool2d behind a convolution, and Flatten in front of the first Linear"
    )


def _modules(shape: NetworkShape, activation: str, dtype: torch.dtype) -> Iterator[nn.Module]:
    """Modules without weights' values, in their order."""
    images, last = shape.image_shape is not None, len(shape.layers) - 1
    for m, layer in enumerate(shape.layers):
        if layer.kernel is not None:
            k = layer.kernel
            yield nn.Conv2d(layer.n_in, layer.n_out, k.size, stride=k.stride, padding=k.padding, dtype=dtype)
        else:
            if images:
                yield nn.Flatten()
            images = False
            yield nn.Linear(layer.n_in * layer.rows_per_unit, layer.n_out, dtype=dtype)
        if m < last:
            yield counterpart(ACTIVATIONS.find(activation))()
        if layer.pooling is not None:
            pool = nn.MaxPool2d if layer.pooling.kind == "max" else nn.AvgPool2d
            yield pool(layer.pooling.window.size, stride=layer.pooling.window.stride)


def from_torch(
    module: nn.Sequential,
    *,
    loss: str | nn.Module = "cross_entropy",
    classes: Iterable[int | float | str] | None = None,
    input: Sequence[int] | None = None,
) -> Imported:
    """A module's layers as settings, and its weights as a model from which a run can start.

    Parameters
    ----------
    module : torch.nn.Sequential
        Of supported layers, perhaps nested; its outputs are linear (logits, or predictions), without softmax.
    loss : str or torch.nn.Module
        Loss to be minimised: a value of ``network.loss``, or the equal module, such as ``torch.nn.CrossEntropyLoss()``.
    classes : iterable or None
        Labels of the outputs, in ascending order; by default 0, 1, ...
    input : sequence of int or None
        Channels, height and width, where the module has convolutions.

    Returns
    -------
    Imported

    Raises
    ------
    ConfigError
        With every module that is not supported, and what is.

    Examples
    --------
    ::

        imported = from_torch(module)
        config = distnewton.make_config({"network": imported.network})
        result = distnewton.train(config, comm, train_data=data, start=imported.model)
        module = to_torch(result.model)
    """
    loss = LOSSES.find(loss).name if isinstance(loss, str) else _loss_name(loss)
    parser = _Parser()
    for name, layer in _flattened(module):
        parser.read(name, layer)
    parser.end()
    first, last = parser.weights[0], parser.weights[-1]
    n_out = last.out_features
    shape = _shape(parser, first, n_out, input)
    task = _task(loss, classes, n_out)
    dtype = {torch.float32: "float32", torch.float64: "float64"}.get(first.weight.dtype)
    if dtype is None or any(layer.weight.dtype != first.weight.dtype for layer in parser.weights):
        raise ConfigError("the module's weights must all be float32, or all float64: convert it by .float()")
    tensors: dict[str, Array] = {}
    for number, layer in zip(shape.modules, parser.weights, strict=True):
        tensors[f"{number}.weight"] = layer.weight.detach().cpu().numpy()
        tensors[f"{number}.bias"] = layer.bias.detach().cpu().numpy()
    activation = parser.activation or "identity"
    architecture = Architecture(shape, activation, task, True, dtype, loss)
    n_features = shape.widths[0] * shape.features_per_unit
    model = model_of_weights(architecture, tensors, fit_scaling("none", np.zeros((1, n_features))))
    network: dict[str, Any] = {
        "layers": [_plain(entry) for entry in shape.listed], "activation": activation, "loss": loss
    }  # fmt: skip
    if shape.image_shape is not None:
        network["input"] = list(shape.image_shape)
    return Imported(network, model)


def _plain(entry: Any) -> Any:
    """A width, or a layer table with pairs as lists."""
    if not isinstance(entry, dict):
        return entry
    return {key: list(value) if isinstance(value, tuple) else value for key, value in entry.items()}


def _shape(parser: _Parser, first: Any, n_out: int, input: Sequence[int] | None) -> NetworkShape:
    """Layers with their sizes; those of the module must follow from one another."""
    images = isinstance(first, nn.Conv2d)
    if not images:
        if input is not None:
            raise ConfigError(f"input = {list(input)} is for modules with convolutions; this one takes rows")
        shape = resolve_shape(
            [first.in_features, *(layer.out_features for layer in parser.weights)], first.in_features, None, n_out
        )
    else:
        if input is None or len(input) != 3:
            raise ConfigError(
                f"the module has convolutions: give input = ({first.in_channels}, height, width), got {input}"
            )
        shape = resolve_shape(parser.tables, int(np.prod(input)), [int(n) for n in input], n_out)
    wrong = []
    for layer, made in zip(parser.weights, shape.layers, strict=True):
        takes = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
        gets = made.n_in * (1 if made.kernel else made.rows_per_unit)
        if takes != gets:
            wrong.append(f"{layer} gets {gets} {'channels' if made.kernel else 'features'}")
    if wrong:
        raise ConfigError("layers of the module do not follow from one another:\n" + "\n".join(wrong))
    return shape


def _task(loss: str, classes: Iterable[Any] | None, n_out: int) -> Task:
    """What the outputs mean."""
    name = LOSSES[loss].tasks[0]
    if name == "regression":
        if classes is not None:
            raise ConfigError(f"classes are for classification, loss = {loss} is for regression")
        return Task(name, None, n_out)
    n_classes = 2 if name == "binary" else n_out
    if name == "binary" and n_out != 1:
        raise ConfigError(f"loss = {loss} takes one output, the module has {n_out}")
    labels = list(range(n_classes)) if classes is None else list(classes)
    if len(labels) != n_classes or n_classes < 2:
        raise ConfigError(f"{len(labels)} classes for a module of {n_out} output(s), which are {n_classes}")
    mapping = LabelMapping.fit(np.array(labels), name="classes")
    if mapping.classes != tuple(labels):
        raise ConfigError(f"classes must be distinct and ascend, as outputs are numbered: {list(mapping.classes)}")
    return Task(name, mapping, n_out)


def _flattened(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules in their order, out of nested Sequentials."""
    if not isinstance(module, nn.Sequential):
        raise ConfigError(f"from_torch takes a torch.nn.Sequential, got {type(module).__name__}; {_supported()}")
    for name, layer in module.named_children():
        if isinstance(layer, nn.Sequential):
            yield from _flattened(layer, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", layer


@dataclass
class _Parser:
    """Reads modules one after the other; remembers all that is wrong with them."""

    weights: list[Any] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    activation: str = ""
    # the last module: input, weights, activated, pooled (no activation yet), done (both), or flat
    _state: str = "input"
    _problems: list[str] = field(default_factory=list)

    def read(self, name: str, module: nn.Module) -> None:
        """The next module."""
        kind = type(module)
        for problem in _unsupported_options(module):
            self._refuse(name, module, problem)
        activation = _name_of(ACTIVATIONS, module)
        if kind in (nn.Linear, nn.Conv2d):
            self._read_weights(name, module)
        elif activation:
            self._read_activation(name, module, activation)
        elif kind in (nn.MaxPool2d, nn.AvgPool2d):
            self._read_pooling(name, module)
        elif kind is nn.Flatten:
            if self._state == "flat" or (self.weights and isinstance(self.weights[-1], nn.Linear)):
                self._refuse(name, module, "what it gets is flat already")
            elif self._state in ("weights", "pooled"):
                self._activate("identity", name, module)
            self._state = "flat"
        else:
            advice = "; the loss takes logits" if kind in (nn.Softmax, nn.LogSoftmax) else ""
            self._refuse(name, module, f"is not supported{advice}")

    def end(self) -> None:
        """After the last module: refuse what cannot be taken over."""
        last = self.weights[-1] if self.weights else None
        if not isinstance(last, nn.Linear):
            self._problems.append("  the last layer with weights must be a Linear: it holds the outputs")
        elif self._state != "weights":
            self._problems.append("  something stands behind the last Linear: outputs must be linear")
        if self._problems:
            raise ConfigError("the module cannot be taken over:\n" + "\n".join(self._problems) + f"\n{_supported()}")

    def _refuse(self, name: str, module: nn.Module, reason: str) -> None:
        self._problems.append(f"  {name}: {module}: {reason}")

    def _read_weights(self, name: str, module: Any) -> None:
        if module.bias is None:
            self._refuse(name, module, "needs a bias")
        if self._state in ("weights", "pooled"):
            # nothing stands between: the activation is the identity
            self._activate("identity", name, module)
        if isinstance(module, nn.Linear):
            if self.weights and isinstance(self.weights[-1], nn.Conv2d) and self._state != "flat":
                self._refuse(name, module, "Flatten is missing in front of it")
            self.tables.append({"type": "dense", "width": module.out_features})
        else:
            if any(isinstance(layer, nn.Linear) for layer in self.weights) or self._state == "flat":
                self._refuse(name, module, "behind Flatten or Linear only Linear can follow")
            padding = _padding(module)
            if padding is None:
                self._refuse(name, module, "padding must be numbers, or same with a stride of 1 and an odd kernel")
            self.tables.append({
                "type": "conv", "channels": module.out_channels, "kernel": list(module.kernel_size),
                "stride": list(module.stride), "padding": list(padding or (0, 0)),
            })  # fmt: skip
        self.weights.append(module)
        self._state = "weights"

    def _read_activation(self, name: str, module: nn.Module, activation: str) -> None:
        if self._state not in ("weights", "pooled"):
            self._refuse(name, module, "an activation stands directly behind a layer with weights")
            return
        pooled = self._state == "pooled"
        if pooled and self.tables[-1]["type"] == "avg_pool" and activation != "identity":
            self._refuse(name, module, "stands behind AvgPool2d, but must stand in front of it")
        self._activate(activation, name, module)
        self._state = "done" if pooled else "activated"

    def _activate(self, activation: str, name: str, module: nn.Module) -> None:
        """Note the activation of a hidden layer; all have the same."""
        if self.activation not in ("", activation):
            self._refuse(name, module, f"the activation in front of it is {activation}, others are {self.activation}")
        self.activation = self.activation or activation

    def _read_pooling(self, name: str, module: Any) -> None:
        if self._state not in ("weights", "activated") or not isinstance(self.weights[-1], nn.Conv2d):
            self._refuse(name, module, "pooling stands behind a convolution and its activation, once")
            return
        kind = "max_pool" if isinstance(module, nn.MaxPool2d) else "avg_pool"
        size, stride = _pair(module.kernel_size), _pair(module.stride)
        self.tables.append({"type": kind, "size": size, "stride": stride})
        # max pooling in front of the activation is the same as behind it: all activations here are monotonic
        self._state = "pooled" if self._state == "weights" else "done"


def _pair(value: int | Sequence[int]) -> list[int]:
    """Vertical and horizontal."""
    return [value, value] if isinstance(value, int) else list(value)


def _padding(module: nn.Conv2d) -> tuple[int, int] | None:
    """Padding in numbers; None where it is not the same on both sides."""
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":
        odd = all(k % 2 for k in module.kernel_size)
        return (module.kernel_size[0] // 2, module.kernel_size[1] // 2) if odd else None
    vertical, horizontal = module.padding
    return int(vertical), int(horizontal)
