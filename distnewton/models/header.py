"""The header of a model file, JSON in its metadata: the model without its weights, checked as a whole.

All code that reads models calls :func:`parse_header`, whose result needs no further checks.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from distnewton.config.sections import READING, DataConfig, NameOf
from distnewton.config.tree import describe_errors
from distnewton.data.columns import ColumnNames, StoredColumns
from distnewton.data.labels import MAX_WHOLE, LabelMapping, label_text
from distnewton.data.partitioned import Task
from distnewton.data.scaling import SCALINGS, ColumnScaling
from distnewton.data.target_scaling import TargetScaling
from distnewton.errors import ConfigError, DataError
from distnewton.models.architecture import Architecture
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.layer_tables import LayerTable, convolutional_shape
from distnewton.network.shapes import NetworkShape, dense_shape
from distnewton.options import Options

FORMAT_VERSION = 5
"""1: fully connected networks, by widths. 2: networks on images, by layer tables. 3: scaled targets, or encoded
columns. 4: data read with other than default settings. 5: data with identifiers, or several labels.
Each model is written in the first format that can hold it, for use with older versions."""

_SHOWN = 300
"""Limit of characters of a problem in a message, which quotes the input."""
Number = Annotated[float, Field(allow_inf_nan=False)]
Width = Annotated[int, Field(ge=1, lt=2**31)]
Label = Annotated[int, Field(ge=-MAX_WHOLE, le=MAX_WHOLE)] | Number | str


class Classes(Options):
    """Labels of the classes, in the order of the outputs."""

    classes: Annotated[list[Label], Field(min_length=2)]


class Scaling(Options):
    """A fitted scaling; only kinds that shift columns have offset and factor."""

    kind: Annotated[str, NameOf(SCALINGS)]
    n_columns: int
    offset: list[Number] | None = None
    factor: list[Number] | None = None


class Targets(Options):
    """Scaling of regression targets."""

    mean: list[Number]
    deviation: list[Annotated[float, Field(gt=0.0, allow_inf_nan=False)]]


class ModelHeader(Options):
    """Definition of a model in its file; attributes of :class:`Architecture` have the same meaning here.

    Each attribute is a key of the header. Fully connected networks have ``widths``; networks on images have
    ``input`` (channels, height, width) and ``layers``. ``tensor_sums`` contains the checksums of the sections of each
    weight, ``header_crc32`` the checksum of the text before it.
    """

    format_version: Annotated[int, Field(ge=1, le=FORMAT_VERSION)]
    widths: Annotated[list[Width], Field(min_length=2)] | None = None
    input: Annotated[list[Width], Field(min_length=3, max_length=3)] | None = None
    layers: Annotated[list[SerializeAsAny[LayerTable]], Field(min_length=1)] | None = None
    activation: Annotated[str, NameOf(ACTIVATIONS)]
    task: Literal["classification", "binary", "multilabel", "regression"]
    loss: str = ""
    classes: Classes | None
    scaling: Scaling
    dense: bool
    dtype: Literal["float32", "float64"]
    targets: Targets | None = None
    columns: StoredColumns | None = None
    reading: DataConfig | None = None
    tensor_sums: dict[str, list[int]] | None = None
    header_crc32: int | None = None

    @classmethod
    def of(cls, a: Architecture, scaling: ColumnScaling) -> "ModelHeader":
        """Make the header of a model, without checksums."""
        tree: dict[str, Any] = {
            "activation": a.activation,
            "task": a.task.name,
            "loss": a.loss,
            "classes": None if a.task.classes is None else a.task.classes.to_dict(),
            "scaling": scaling.to_dict(),
            "dense": a.dense,
            "dtype": a.dtype,
        }
        if a.shape.image_shape is not None:
            tree |= {"input": a.shape.image_shape, "layers": a.shape.listed}
        else:
            tree["widths"] = a.shape.widths
        if a.task.scaling is not None:
            tree["targets"] = a.task.scaling.to_dict()
        if a.names is not None:
            tree["columns"] = a.names.to_json()
        if a.reading is not None:
            tree["reading"] = a.reading.model_dump(exclude_defaults=True)
        return cls.model_validate_json(json.dumps({"format_version": _first_version(a, tree), **tree}))

    def text(self) -> str:
        """Return JSON."""
        return json.dumps(self.model_dump(exclude_defaults=True))

    @property
    def shape(self) -> NetworkShape:
        """Layers of the network."""
        if self.widths is not None:
            return dense_shape(self.widths)
        return convolutional_shape(self.input or (), [layer.model_dump() for layer in self.layers or ()])

    @property
    def architecture(self) -> Architecture:
        """Architecture of the model."""
        shape = self.shape
        classes = None if self.classes is None else LabelMapping.from_dict(self.classes.model_dump())
        targets = None if self.targets is None else TargetScaling.from_dict(self.targets.model_dump())
        task = Task(self.task, classes, shape.widths[-1], targets)
        names = None if self.columns is None else ColumnNames.from_json(self.columns.model_dump())
        return Architecture(shape, self.activation, task, self.dense, self.dtype, self.loss, names, self.reading)

    @property
    def column_scaling(self) -> ColumnScaling:
        """Scaling of all features."""
        return ColumnScaling.from_dict(self.scaling.model_dump())

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if problem := next(self._problems(), None):
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """Yield contradictions; only the first is used, since later checks rely on earlier ones."""
        if [self.widths is None, self.input is None, self.layers is None] not in ([False, True, True],
                                                                                  [True, False, False]):  # fmt: skip
            yield "expected widths, or input and layers"
        try:
            shape = self.shape
        except ConfigError as error:
            yield str(error)
        n_features, n_out = shape.widths[0] * shape.features_per_unit, shape.widths[-1]
        yield from self._scaling_problems(n_features)
        if self.columns is not None and self.columns.n_features != n_features:
            yield f"columns: they make {self.columns.n_features} features, but the network has {n_features}"
        if self.reading is not None and self.reading != self.reading.reading:
            yield f"reading: only {', '.join(READING)} may be set"
        yield from self._task_problems(n_out)

    def _scaling_problems(self, n_features: int) -> Iterator[str]:
        s = self.scaling
        if s.n_columns != n_features:
            yield f"scaling: has {s.n_columns} columns, but the network has {n_features} features"
        wanted = n_features if SCALINGS.find(s.kind).shifts_columns else None
        for name, values in (("offset", s.offset), ("factor", s.factor)):
            if (None if values is None else len(values)) != wanted:
                n_found = "no" if values is None else len(values)
                yield f"scaling.{name}: {n_found} numbers, but {s.kind} needs {wanted or 'none'} here"

    def _task_problems(self, n_out: int) -> Iterator[str]:
        n_classes = 0 if self.classes is None else len(self.classes.classes)
        several = n_out, n_out
        expected = {
            "classification": several, "multilabel": several, "binary": (2, 1), "regression": (0, n_out)
        }[self.task]  # fmt: skip
        if (n_classes, n_out) != expected:
            yield f"classes: {n_classes} with {n_out} outputs do not fit task = {self.task}"
        yield from _label_problems([] if self.classes is None else self.classes.classes)
        if self.targets is None:
            return
        if self.task != "regression":
            yield f"targets: only regression scales them, but task = {self.task}"
        for name, values in (("mean", self.targets.mean), ("deviation", self.targets.deviation)):
            if len(values) != n_out:
                yield f"targets.{name}: {len(values)} numbers for {n_out} outputs"


def _label_problems(labels: Sequence[int | float | str]) -> Iterator[str]:
    """Yield problems of labels: mixed kinds, or duplicates."""
    if len({isinstance(label, str) for label in labels}) > 1:
        yield "classes: some are numbers, some texts"
    if twice := [text for text, count in Counter(map(label_text, labels)).items() if count > 1]:
        yield f"classes: {twice[0]!r} appears twice"


def parse_header(text: str, name: str) -> ModelHeader:
    """Read and check a header.

    Parameters
    ----------
    text : str
        Header as JSON.
    name : str
        Name of the file, for messages.

    Returns
    -------
    ModelHeader

    Raises
    ------
    DataError
        If a newer version wrote it, or it is damaged; names the first problem.
    """
    try:
        return ModelHeader.model_validate_json(text)
    except ValidationError as error:
        for details in error.errors():
            if details["loc"] == ("format_version",) and details["type"] == "less_than_equal":
                raise DataError(
                    f"{name} has format {details['input']}, this version reads up to {FORMAT_VERSION}: update "
                    "distnewton"
                ) from None
        problem = describe_errors(error, ModelHeader).strip().splitlines()[0]
        raise DataError(f"{name} has a damaged header: {problem[:_SHOWN]}") from None


def _first_version(a: Architecture, tree: dict[str, Any]) -> int:
    """Return the first version that can represent all of a header."""
    encoded = a.names is not None and a.names.encoding is not None
    needed = {
        5: "id_column" in tree.get("reading", {}) or a.task.name == "multilabel",
        4: bool(tree.get("reading")),
        3: a.task.scaling is not None or encoded,
        2: a.shape.image_shape is not None,
    }
    return next((version for version, is_needed in needed.items() if is_needed), 1)
