"""Conversion to and from PyTorch: a trained network as torch.nn.Sequential, and a module as the start of a run.

A model file loads without this module: ``module.load_state_dict(safetensors.torch.load_file("model.safetensors"))``
works for any module with the layers that :func:`to_torch` makes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from distnewton.frozen import frozen
from distnewton.models.architecture import Architecture
from distnewton.models.loading import load_serial_model, model_of_weights
from distnewton.models.model import Model
from distnewton.network.activations import ACTIVATIONS, Activation
from distnewton.network.layer_tables import resolve_shape
from distnewton.network.losses import LOSSES, Loss
from distnewton.network.shapes import NetworkShape
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
    nn.CrossEntropyLoss: {"weight": None, "label_smoothing": 0.0},
    nn.BCEWithLogitsLoss: {"weight": None, "pos_weight": None},
}
"""Options that modules may have only with these values."""


class ScaleFeatures(nn.Module):
    """A trained model's feature scaling as a module without parameters.

    Parameters
    ----------
    scaling : ColumnScaling
        Scaling of all features.
    dtype : torch.dtype
        Type of the result.
    shape : sequence of int
        Shape of one sample.
    """

    def __init__(self, scaling: ColumnScaling, dtype: torch.dtype, shape: Sequence[int]) -> None:
        super().__init__()
        self.kind, self._rule, self._dtype, self._shape = scaling.kind, scaling.rule, dtype, tuple(shape)
        # not persistent: state_dict must have the same names as a model file, which holds weights only
        self.register_buffer("offset", torch.from_numpy(scaling.offset).reshape(self._shape), persistent=False)
        self.register_buffer("factor", torch.from_numpy(scaling.factor).reshape(self._shape), persistent=False)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Scale features; computes in float64.

        Parameters
        ----------
        X : torch.Tensor of shape (n, *shape)
            Raw features.

        Returns
        -------
        torch.Tensor
            Scaled features of the same shape.
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
        """Return the kind of scaling."""
        return self.kind


@frozen
class Imported:
    """A torch module converted for a run.

    Attributes
    ----------
    network : dict
        Table ``network`` of a configuration with the module's layers and loss.
    model : Model
        The module's weights on this process: pass it as ``start`` to :func:`distnewton.train`.
    """

    network: dict[str, Any]
    model: Model


def to_torch(model: Model | str | Path) -> nn.Sequential:
    """Convert a model to the equivalent torch.nn.Sequential, with copies of the weights, on the CPU.

    Parameters
    ----------
    model : Model or path
        A model in memory, a model file or a run folder.

    Returns
    -------
    torch.nn.Sequential
        Takes features (n, n_features) or images (n, channels, height, width) and returns the linear outputs: logits, or
        predictions. If the model scales features, the first module, named ``scaling``, does so. The other modules are
        numbered, and ``state_dict`` has the same names as the model file.

    Notes
    -----
    Collective over the grid of a model in memory: every rank gets the whole module.
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
    network = nn.Sequential(modules)
    weights = model.exported_weights()
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return network


def counterpart(component: Activation | Loss) -> type[nn.Module]:
    """Return the torch module that an activation or a loss names as its equivalent.

    Parameters
    ----------
    component : Activation or Loss
        Entry of a registry.

    Returns
    -------
    type of torch.nn.Module

    Raises
    ------
    ConfigError
        If the component names none, or one that cannot be imported.
    """
    if not component.torch:
        raise ConfigError(f"{component.name} declares no equivalent torch module (attribute torch)")
    try:
        kind: type[nn.Module] = resolve_name(component.torch)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"{component.torch}, the torch module of {component.name}, cannot be imported: {error}"
        raise ConfigError(message) from None
    return kind


def _name_of(registry: Registry[Any], module: nn.Module) -> str:
    """Name of the component whose counterpart this module is; empty if there is none."""
    kinds = ((name, registry[name]) for name in registry)
    return next((name for name, known in kinds if known.torch and type(module) is counterpart(known)), "")


def _unsupported_options(module: nn.Module) -> list[str]:
    """Options of a module that differ from the only supported values."""
    return [
        f"{name} must be {value}"
        for name, value in _PLAIN.get(type(module), {}).items()
        if getattr(module, name) not in (value, (value, value))
    ]


def _supported() -> str:
    """Describe the modules that can be converted."""
    activations = ", ".join(a.torch.rpartition(".")[2] for a in ACTIVATIONS.values() if a.torch)
    return (
        f"supported are Linear and Conv2d (with bias), one of the activations {activations} after each but the last, "
        "MaxPool2d or AvgPool2d after a convolution, and Flatten before the first Linear"
    )


def _modules(shape: NetworkShape, activation: str, dtype: torch.dtype) -> Iterator[nn.Module]:
    """Yield the modules in order, before their weights are set."""
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
    """Convert a module's layers to settings, and its weights to a model from which a run can start.

    Parameters
    ----------
    module : torch.nn.Sequential
        Supported layers, possibly nested. Its outputs must be linear (logits or predictions), without softmax.
    loss : str or torch.nn.Module
        Loss to minimise: a value of ``network.loss``, or the equivalent module, such as
        ``torch.nn.CrossEntropyLoss()``.
    classes : iterable or None
        Labels of the outputs, in ascending order; by default 0, 1, ...
    input : sequence of int or None
        Channels, height and width, if the module has convolutions.

    Returns
    -------
    Imported

    Raises
    ------
    ConfigError
        If modules are not supported; lists each of them, and what is supported.

    Examples
    --------
    ::

        imported = from_torch(module)
        config = distnewton.make_config({"network": imported.network})
        result = distnewton.train(config, comm, train_data=data, start=imported.model)
        module = to_torch(result.model)
    """
    if not isinstance(module, nn.Sequential):
        raise ConfigError(f"from_torch takes a torch.nn.Sequential, got {type(module).__name__}; {_supported()}")
    name, reduction, problems = read_loss(loss)
    if reduction == "sum":
        problems.append(f"the loss {loss}: reduction must be mean")
    chain = _read_chain(module, problems)
    chain.problems += [f"{layer}: needs a bias" for layer in chain.weights if layer.bias is None]
    chain.refuse()
    model = _model_of_chain(chain, name, classes, input)
    a = model.architecture
    network: dict[str, Any] = {
        "layers": [_plain(entry) for entry in a.shape.listed], "activation": a.activation, "loss": name
    }  # fmt: skip
    if a.shape.image_shape is not None:
        network["input"] = list(a.shape.image_shape)
    return Imported(network, model)


def read_loss(loss: str | nn.Module) -> tuple[str, str, list[str]]:
    """Find the name of a loss in this package.

    Parameters
    ----------
    loss : str or torch.nn.Module
        A value of ``network.loss``, or the equivalent module.

    Returns
    -------
    tuple of str, str and list of str
        Name of the loss; its reduction, ``mean``, ``sum`` or ``mean of elements``; and reasons to refuse the module.
    """
    if isinstance(loss, str):
        return LOSSES.find(loss).name, "mean", []
    name = _name_of(LOSSES, loss)
    if not name:
        kinds = ", ".join(known.torch for known in LOSSES.values() if known.torch)
        return "", "mean", [f"the loss {loss} has no equivalent here; supported are {kinds}"]
    problems = [f"the loss {loss}: {problem}" for problem in _unsupported_options(loss)]
    reduction = str(getattr(loss, "reduction", "mean"))
    if reduction not in ("mean", "sum"):
        problems.append(f"the loss {loss}: reduction must be mean or sum")
    # torch averages squares over samples and outputs
    return name, "mean of elements" if (name, reduction) == ("squared", "mean") else reduction, problems


def read_module(
    module: nn.Module, loss: str, shape: Sequence[int], problems: Sequence[str] = ()
) -> tuple[Model, list[str]]:
    """Read a module as a point in parameter space: layers may lack a bias.

    Parameters
    ----------
    module : torch.nn.Module
        A chain of layers.
    loss : str
        Name of the loss.
    shape : sequence of int
        Shape of the features; for images it gives their height and width.
    problems : sequence of str
        Problems found elsewhere, which are reported together with those of the module.

    Returns
    -------
    tuple of Model and list of str
        The model on this process, and the names of the missing biases, which are 0 in the model.

    Raises
    ------
    ConfigError
        If the module cannot be converted; gives all reasons.
    """
    chain = _read_chain(module, problems)
    chain.refuse()
    model = _model_of_chain(chain, loss, None, shape[1:] if len(shape) == 4 else None)
    numbers = model.architecture.shape.modules
    lacking = [number for number, layer in zip(numbers, chain.weights, strict=True) if layer.bias is None]
    return model, [f"{number}.bias" for number in lacking]


def _model_of_chain(
    chain: _Chain, loss: str, classes: Iterable[Any] | None, input: Sequence[int] | None
) -> Model:
    """Build the model, on this process, of a chain without problems."""
    n_out = chain.weights[-1].out_features
    shape = _shape(chain, n_out, input)
    tensors: dict[str, Array] = {}
    for number, layer in zip(shape.modules, chain.weights, strict=True):
        tensors[f"{number}.weight"] = weight = layer.weight.detach().cpu().numpy()
        bias = np.zeros(len(weight), weight.dtype) if layer.bias is None else layer.bias.detach().cpu().numpy()
        tensors[f"{number}.bias"] = bias
    dtype = str(chain.weights[0].weight.dtype).removeprefix("torch.")
    task = _task(loss, classes, n_out)
    architecture = Architecture(shape, chain.activation or "identity", task, True, dtype, loss)
    n_features = shape.widths[0] * shape.features_per_unit
    return model_of_weights(architecture, tensors, fit_scaling("none", np.zeros((1, n_features))))


def _plain(entry: Any) -> Any:
    """A width, or a layer table with pairs as lists."""
    if not isinstance(entry, dict):
        return entry
    return {key: list(value) if isinstance(value, tuple) else value for key, value in entry.items()}


def _shape(chain: _Chain, n_out: int, input: Sequence[int] | None) -> NetworkShape:
    """Layers with their sizes; the module's own sizes must agree with them."""
    first = chain.weights[0]
    if isinstance(first, nn.Linear):
        if input is not None:
            raise ConfigError(f"input = {list(input)} is for modules with convolutions, but this one has none")
        widths = [first.in_features, *(layer.out_features for layer in chain.weights)]
        shape = resolve_shape(widths, first.in_features, None, n_out)
    elif input is None or len(input) != 3:
        raise ConfigError(
            f"the module has convolutions: give input = ({first.in_channels}, height, width), got {input}"
        )
    else:
        shape = resolve_shape(chain.tables, int(np.prod(input)), [int(n) for n in input], n_out)
    wrong = list(_mismatches(chain, shape))
    if wrong:
        raise ConfigError("the layers of the module do not fit together:\n" + "\n".join(wrong))
    return shape


def _mismatches(chain: _Chain, shape: NetworkShape) -> Iterator[str]:
    """Yield the layers whose declared number of inputs differs from what they receive."""
    for module, layer in zip(chain.weights, shape.layers, strict=True):
        gets, of_what = (layer.n_in, "channels") if layer.kernel else (layer.n_in * layer.rows_per_unit, "features")
        if module.weight.shape[1] != gets:
            yield f"{module} receives {gets} {of_what}"


def _task(loss: str, classes: Iterable[Any] | None, n_out: int) -> Task:
    """Task that the outputs serve."""
    name = LOSSES[loss].tasks[0]
    if name == "regression":
        if classes is not None:
            raise ConfigError(f"classes are for classification, but loss = {loss} is for regression")
        return Task(name, None, n_out)
    n_classes = 2 if name == "binary" else n_out
    if name == "binary" and n_out != 1:
        raise ConfigError(f"loss = {loss} takes one output, but the module has {n_out}")
    labels = list(range(n_classes)) if classes is None else list(classes)
    if len(labels) != n_classes or n_classes < 2:
        raise ConfigError(f"a module of {n_out} output(s) has {n_classes} classes, got {len(labels)}")
    mapping = LabelMapping.fit(np.array(labels), name="classes")
    if mapping.classes != tuple(labels):
        raise ConfigError(f"classes must be distinct and in ascending order, like the outputs: {list(mapping.classes)}")
    return Task(name, mapping, n_out)


def _read_chain(module: nn.Module, problems: Sequence[str] = ()) -> _Chain:
    """Read a module's layers; notes every problem, after those already known."""
    chain = _Chain(problems=list(problems))
    for name, layer in _flatten(module, "", chain):
        chain.read(name, layer)
    chain.end()
    return chain


def _flatten(module: nn.Module, name: str, chain: _Chain) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules in order, nested Sequentials flattened; notes what the conversion would lose."""
    if module._forward_hooks or module._forward_pre_hooks:
        chain.note(name, module, "has forward hooks, which would not run")
    if "forward" in vars(module):
        chain.note(name, module, "its forward method was replaced")
    if not isinstance(module, nn.Sequential):
        yield name, module
    elif type(module).forward is not nn.Sequential.forward:
        chain.note(name, module, "has its own forward method, which cannot be converted")
    else:
        # not named_children, which skips a module that appears twice
        for key, layer in module._modules.items():
            yield from _flatten(layer, f"{name}.{key}" if name else key, chain)


@dataclass
class _Chain:
    """The layers of a module, read in order, and the problems found."""

    weights: list[Any] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    activation: str = ""
    problems: list[str] = field(default_factory=list)
    # the last module: input, weights, activated, pooled (no activation yet), done (both), or flat
    _state: str = "input"

    def read(self, name: str, module: nn.Module) -> None:
        """Read the next module."""
        kind = type(module)
        for problem in _unsupported_options(module):
            self.note(name, module, problem)
        activation = _name_of(ACTIVATIONS, module)
        if kind in _READERS:
            _READERS[kind](self, name, module)
        elif activation:
            self._read_activation(name, module, activation)
        elif kind in _DROPOUTS:
            # dropout is the identity in evaluation mode
            if module.training and module.p > 0:
                self.note(name, module, "drops units at random: call eval() on the module first")
        else:
            advice = "; the loss takes logits" if kind in (nn.Softmax, nn.LogSoftmax) else ""
            self.note(name, module, f"is not supported{advice}")

    def end(self) -> None:
        """Note problems of the layers as a whole."""
        last = self.weights[-1] if self.weights else None
        if not isinstance(last, nn.Linear):
            self.problems.append("the last layer with weights must be a Linear: it holds the outputs")
        elif self._state != "weights":
            self.problems.append("the last Linear must be the last module: outputs must be linear")
        dtypes = {layer.weight.dtype for layer in self.weights}
        if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
            self.problems.append("the module's weights must all be float32, or all float64: convert it by .float()")

    def refuse(self) -> None:
        """Raise an error that lists all problems, if there are any."""
        if self.problems:
            lines = "".join(f"\n  {problem}" for problem in self.problems)
            raise ConfigError(f"the module cannot be converted:{lines}\n{_supported()}")

    def note(self, name: str, module: nn.Module, problem: str) -> None:
        """Note a problem of a module."""
        self.problems.append(f"{name}: {module}: {problem}" if name else f"{module}: {problem}")

    def _read_weights(self, name: str, module: Any) -> None:
        if not all(bool(values.isfinite().all()) for values in module.parameters()):
            self.note(name, module, "holds weights that are not finite")
        if any(module is layer for layer in self.weights):
            self.note(name, module, "appears twice, but the two would no longer share their weights")
        if self._state in ("weights", "pooled"):
            # two layers in a row: the activation between them is the identity
            self._activate("identity", name, module)
        self.weights.append(module)
        self._state = "weights"

    def _read_linear(self, name: str, module: Any) -> None:
        if self.weights and isinstance(self.weights[-1], nn.Conv2d) and self._state != "flat":
            self.note(name, module, "Flatten is missing before it")
        self.tables.append({"type": "dense", "width": module.out_features})
        self._read_weights(name, module)

    def _read_convolution(self, name: str, module: Any) -> None:
        if any(isinstance(layer, nn.Linear) for layer in self.weights) or self._state == "flat":
            self.note(name, module, "only Linear can follow Flatten or Linear")
        padding = _padding(module)
        if padding is None:
            self.note(name, module, "padding must be numbers, or same with a stride of 1 and an odd kernel")
        self.tables.append({
            "type": "conv", "channels": module.out_channels, "kernel": list(module.kernel_size),
            "stride": list(module.stride), "padding": list(padding or (0, 0)),
        })  # fmt: skip
        self._read_weights(name, module)

    def _read_flatten(self, name: str, module: nn.Module) -> None:
        if self._state == "flat" or (self.weights and isinstance(self.weights[-1], nn.Linear)):
            self.note(name, module, "its input is already flat")
        elif self._state in ("weights", "pooled"):
            self._activate("identity", name, module)
        self._state = "flat"

    def _read_activation(self, name: str, module: nn.Module, activation: str) -> None:
        if self._state not in ("weights", "pooled"):
            self.note(name, module, "an activation must directly follow a layer with weights")
            return
        pooled = self._state == "pooled"
        if pooled and self.tables[-1]["type"] == "avg_pool" and activation != "identity":
            self.note(name, module, "follows AvgPool2d, but must precede it")
        self._activate(activation, name, module)
        self._state = "done" if pooled else "activated"

    def _activate(self, activation: str, name: str, module: nn.Module) -> None:
        """Note the activation of a hidden layer; all must be the same."""
        if self.activation not in ("", activation):
            self.note(name, module, f"the activation before it is {activation}, but others are {self.activation}")
        self.activation = self.activation or activation

    def _read_pooling(self, name: str, module: Any) -> None:
        if self._state not in ("weights", "activated") or not isinstance(self.weights[-1], nn.Conv2d):
            self.note(name, module, "pooling must follow a convolution and its activation, at most once")
            return
        kind = "max_pool" if isinstance(module, nn.MaxPool2d) else "avg_pool"
        size, stride = _pair(module.kernel_size), _pair(module.stride)
        self.tables.append({"type": kind, "size": size, "stride": stride})
        # max pooling before the activation equals max pooling after it: all activations here are monotonic
        self._state = "pooled" if self._state == "weights" else "done"


_READERS: dict[type[nn.Module], Callable[[_Chain, str, Any], None]] = {
    nn.Linear: _Chain._read_linear,
    nn.Conv2d: _Chain._read_convolution,
    nn.MaxPool2d: _Chain._read_pooling,
    nn.AvgPool2d: _Chain._read_pooling,
    nn.Flatten: _Chain._read_flatten,
}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def _pair(value: int | Sequence[int]) -> list[int]:
    """Vertical and horizontal value."""
    return [value, value] if isinstance(value, int) else list(value)


def _padding(module: nn.Conv2d) -> tuple[int, int] | None:
    """Padding in numbers; None if it differs between the two sides."""
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":
        odd = all(k % 2 for k in module.kernel_size)
        return (module.kernel_size[0] // 2, module.kernel_size[1] // 2) if odd else None
    vertical, horizontal = module.padding
    return int(vertical), int(horizontal)
