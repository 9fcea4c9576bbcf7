"""Trained networks as ONNX files, which map raw features to outputs, probabilities and labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.backend import Array
from distnewton.errors import MissingExtraError
from distnewton.models.loading import load_serial_model
from distnewton.models.model import Model
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.shapes import LayerShape
from distnewton.outputs import whole

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError:
    raise MissingExtraError("writing ONNX files", "onnx") from None

__all__ = ["save_onnx", "to_onnx"]

OPSET = 17
_IR_VERSION = 9
"""IR version from the years of the opset: a runtime refuses files of a newer IR version than its own."""
_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


def to_onnx(model: Model | str | Path) -> Any:
    """Convert a network to an ONNX model.

    Parameters
    ----------
    model : Model or path
        A model in memory, a model file or a run folder.

    Returns
    -------
    onnx.ModelProto
        The input ``X`` holds raw features of shape (n, n_features) or images (n, channels, height, width); the stored
        scaling is part of the graph. The output ``outputs`` (n, n_out) is linear: logits or predictions. Classifiers
        also have ``label`` (n,), the user's own labels as int64, float64 or strings, and ``probabilities``
        (n, n_classes) if the loss defines them (``Loss.link``; absent for files of versions that did not store the
        loss). Numbers have the model's type, float32 or float64; images are always float32, since runtimes convolve no
        other type. If the training data had column names, the metadata entry ``features`` is a JSON list that describes
        the columns of ``X``; an encoded table also has names such as ``island=Dream`` (1 or 0) and ``age (missing)``.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    DataError
        If the file is not a model.
    ConfigError
        If the activation declares no ONNX operator.

    Notes
    -----
    Collective over the grid of a model in memory.
    """
    model = load_serial_model(model)
    graph = _Graph(model)
    graph.scale_features()
    graph.add_layers()
    graph.add_answers()
    model_proto = helper.make_model(
        helper.make_graph(graph.nodes, "distnewton", [graph.input], graph.outputs, graph.constants),
        producer_name="distnewton",
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    if model.names is not None:
        helper.set_model_props(model_proto, {"features": json.dumps(model.names.inputs)})
    onnx.checker.check_model(model_proto, full_check=True)
    return model_proto


def save_onnx(model: Model | str | Path, path: str | Path) -> None:
    """Write the model of :func:`to_onnx` into a file; raises CreateError or WriteError if that fails."""
    model_proto = to_onnx(model)
    with whole(Path(path)) as part:
        part.write_bytes(model_proto.SerializeToString())


class _Graph:
    """The nodes and constants of a graph built in order; ``last`` names the latest result."""

    def __init__(self, model: Model) -> None:
        self.model, self.architecture = model, model.architecture
        shape = self.architecture.shape
        self.dtype = "float32" if shape.image_shape else self.architecture.dtype
        self._sample = list(shape.image_shape or (shape.widths[0],))
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.input = helper.make_tensor_value_info("X", _TYPES[self.dtype], ["n", *self._sample])
        self.outputs: list[Any] = []
        self.last = "X"

    def scale_features(self) -> None:
        """Add the stored scaling, in float64."""
        scaling = self.model.scaling
        if scaling.kind == "none":
            return
        self._cast("float64")
        if scaling.rule.takes_logs:
            self._add("Add", self.last, self._constant("one", np.ones(())))
            self._add("Log", self.last)
        if scaling.rule.scales_rows:
            axes = list(range(1, len(self._sample) + 1))
            squares = self._add("ReduceSumSquare", self.last, axes=axes, keepdims=1, keep=True)
            # a row of zeros stays zero
            zero = self._add("Equal", squares, self._constant("zero", np.zeros(())), keep=True)
            safe = self._add("Where", zero, self._constant("unit", np.ones(())), squares, keep=True)
            norms = self._add("Sqrt", safe, keep=True)
            self._add("Div", self.last, norms)
        else:
            self._add("Sub", self.last, self._constant("offset", scaling.offset.reshape(self._sample)))
            self._add("Mul", self.last, self._constant("factor", scaling.factor.reshape(self._sample)))
        self._cast(self.dtype)

    def add_layers(self) -> None:
        """Add products, activations and pooling."""
        shape, weights = self.architecture.shape, self.model.exported_weights()
        images = shape.image_shape is not None
        for m, layer in enumerate(shape.layers):
            number, is_last = shape.modules[m], m == len(shape.layers) - 1
            W, b = (
                self._constant(name, weights[name].astype(self.dtype))
                for name in (f"{number}.weight", f"{number}.bias")
            )
            name = "outputs" if is_last else ""
            if layer.kernel is not None:
                (top, left), window = layer.kernel.padding, layer.kernel
                self._add("Conv", self.last, W, b, kernel_shape=window.size, strides=window.stride,
                          pads=[top, left, top, left])  # fmt: skip
            else:
                if images:
                    self._add("Flatten", self.last, axis=1)
                images = False
                self._add("Gemm", self.last, W, b, transB=1, name=name)
            if not is_last:
                self._activate()
                self._pool(layer)
        n_out = shape.widths[-1]
        self.outputs.append(helper.make_tensor_value_info("outputs", _TYPES[self.dtype], ["n", n_out]))

    def add_answers(self) -> None:
        """Add labels, and probabilities if the loss defines them."""
        task = self.architecture.task
        if task.classes is None or task.name == "multilabel":
            return
        if task.name == "binary":
            positive = self._add("Greater", "outputs", self._constant("middle", np.zeros((), self.dtype)), keep=True)
            chosen = self._add("Cast", positive, to=TensorProto.INT64, keep=True)
            chosen = self._add("Squeeze", chosen, self._constant("second_axis", np.array([1])), keep=True)
        else:
            chosen = self._add("ArgMax", "outputs", axis=1, keepdims=0, keep=True)
        labels = _labels(list(task.classes.classes))
        kind = {"O": TensorProto.STRING, "i": TensorProto.INT64, "f": TensorProto.DOUBLE}[labels.dtype.kind]
        self._add("Gather", self._constant("classes", labels), chosen, axis=0, name="label")
        self.outputs.append(helper.make_tensor_value_info("label", kind, ["n"]))
        if not (self.architecture.loss and self.architecture.link):
            return
        if self.architecture.link == "logistic":
            negated = self._add("Neg", "outputs", keep=True)
            both = self._add("Concat", negated, "outputs", axis=1, keep=True)
            self._add("Sigmoid", both, name="probabilities")
        else:
            self._add("Softmax", "outputs", axis=1, name="probabilities")
        described = helper.make_tensor_value_info("probabilities", _TYPES[self.dtype], ["n", task.classes.n_classes])
        self.outputs.append(described)

    def _activate(self) -> None:
        """Add the hidden activation."""
        activation = ACTIVATIONS.find(self.architecture.activation)
        self.last = activation.add_to_onnx(lambda operator, *inputs: self._add(operator, *inputs, keep=True), self.last)

    def _pool(self, layer: LayerShape) -> None:
        """Add the pooling that follows an activation."""
        if layer.pooling is not None:
            window = layer.pooling.window
            kind = {"max": "MaxPool", "average": "AveragePool"}[layer.pooling.kind]
            self._add(kind, self.last, kernel_shape=window.size, strides=window.stride)

    def _add(self, operator: str, *inputs: str, name: str = "", keep: bool = False, **attributes: Any) -> str:
        """Add a node and return its name; the node becomes ``last`` unless `keep` is set."""
        result = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [result], name=result, **attributes))
        if not keep:
            self.last = result
        return result

    def _cast(self, dtype: str) -> None:
        self._add("Cast", self.last, to=_TYPES[dtype])

    def _constant(self, name: str, values: Array) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _labels(classes: list[Any]) -> Array:
    """Labels as an array of strings, whole numbers or floats."""
    if any(isinstance(label, str) for label in classes):
        return np.array(classes, dtype=object)
    whole = all(isinstance(label, int) for label in classes)
    return np.array(classes, dtype=np.int64 if whole else np.float64)
