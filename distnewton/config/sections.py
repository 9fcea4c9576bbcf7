"""The tables of a configuration other than ``[method]``: data, network, partition, run."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, SerializeAsAny, Tag, model_validator
from pydantic_core import CoreSchema, core_schema

from distnewton.data.formats.registry import FORMATS
from distnewton.data.labels import MISSING_VALUES
from distnewton.data.scaling import SCALINGS
from distnewton.errors import ConfigError, shown
from distnewton.frozen import frozen
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.layer_tables import (
    Dense,
    LayerTable,
    Size,
    number_of_weight_layers,
    resolve_shape,
    tables_problem,
)
from distnewton.network.losses import LOSSES
from distnewton.network.shapes import NetworkShape
from distnewton.options import Options
from distnewton.parallel.partition import regular_blocks
from distnewton.registry import Registry

TaskName = Literal["auto", "classification", "binary", "multilabel", "regression"]


@frozen
class NameOf:
    """Annotation of a setting that names a component; the help and the reference list the registry's names."""

    registry: Registry[Any]  # components of that kind
    also: tuple[str, ...] = ()  # further values, such as ``auto``

    @property
    def choices(self) -> tuple[str, ...]:
        """All values that the setting takes."""
        return (*self.also, *self.registry)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Return the schema of a text that the registry knows."""
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def _known(self, name: str) -> str:
        if name in self.also:
            return name
        try:
            self.registry.find(name)
        except ConfigError as error:
            # pydantic collects only ValueErrors
            raise ValueError(str(error)) from None
        return name


def _dashes_to_list(value: object) -> object:
    """Read ``2-2-2-2`` as [2, 2, 2, 2], the way papers write it."""
    if isinstance(value, str) and re.fullmatch(r"\w+(-\w+)+", value):
        return [int(part) if part.isdigit() else part for part in value.split("-")]
    return value


def _commas_to_numbers(value: object) -> object:
    """Read ``1,1,0.5`` from a command line as a list of numbers."""
    if isinstance(value, str) and re.fullmatch(r"[\d.]+(,[\d.]+)+", value):
        return [float(part) for part in value.split(",")]
    return [float(number) if type(number) is int else number for number in value] if isinstance(value, list) else value


def _commas_to_list(value: object) -> object:
    """Read ``id,name`` from a command line as a list."""
    if not isinstance(value, str | int):
        return value
    parts = [part.strip() for part in str(value).split(",") if part.strip()]
    return [int(part) if re.fullmatch(r"-?\d+", part) else part for part in parts]


def _commas_to_texts(value: object) -> object:
    """Read ``NA,-999`` as a list of texts."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _pairs_to_weights(value: object) -> object:
    """Read ``spam=5,ham=1`` from a command line as a table."""
    if not isinstance(value, str) or "=" not in value:
        return value
    pairs = [part.rpartition("=") for part in value.split(",")]
    try:
        return {label.strip(): float(weight) for label, _, weight in pairs}
    except ValueError:
        raise ValueError(f"expected weights of labels, such as spam=5,ham=1, got {shown(value)}") from None


def _pairs_to_files(value: object) -> object:
    """Read ``observed=measured.csv,start=start.npy`` from a command line as a table."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    return {term.strip(): path.strip() for term, _, path in pairs}


def _kind_of_layers(value: object) -> str:
    """Tell whether a list of layers holds tables or widths."""
    tables = isinstance(value, list) and any(isinstance(layer, dict | LayerTable) for layer in value)
    return "tables" if tables else "widths"


DataName = str | Annotated[list[str], Field(min_length=2)]
"""Name of a data set, or names of files by columns whose rows are joined."""
Width = Annotated[int, Field(ge=1)] | Literal["auto"]
Split = Annotated[int, Field(ge=1)]
ClassWeight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
_DEFAULT_LAYERS: list[int | Literal["auto"]] = ["auto", 100, "auto"]


def data_title(name: str | list[str]) -> str:
    """Return the name of a data set, or the names of its files by columns, for people to read."""
    return name if isinstance(name, str) else ", ".join(name)


READING = (
    "format", "label_column", "ignore_columns", "header", "comment", "missing_values", "missing", "categories",
    "zero_based", "sort_indices", "id_column",
)  # fmt: skip
"""Settings of ``[data]`` that decide how a file is read; a model stores them, to read later data in the same way."""


class DataConfig(Options):
    """``[data]``: what to train and test on. The attributes are the keys of the table."""

    train: DataName = Field(
        "", description="training data: file, images as FOLDER or ARCHIVE:FOLDER, or a bundled set such as "
        "digits:train; a list: files by columns, each read only by the ranks that own it"
    )  # fmt: skip
    points: Annotated[dict[str, Annotated[str, Field(min_length=1)]], BeforeValidator(_pairs_to_files)] = Field(
        {}, description="residual problems: files of points, with observations in the label column where the term "
        "takes some, by the names of the terms, as observed=measured.csv"
    )  # fmt: skip
    test: DataName = Field("", description="test data; without it only training metrics are shown")
    validation: DataName = Field(
        "", description="validation data; the model of the iteration with the best main metric on it is kept "
        "(accuracy; auc for two classes with the logistic loss; rmse for regression)"
    )  # fmt: skip
    validation_fraction: Literal["auto"] | Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        "auto", description="share of the training samples for validation; used instead of data.validation. The "
        "samples are drawn by run.seed, the same share of each class, and not trained on. auto: with "
        "method.direction = auto a share that suits the data; else 0"
    )  # fmt: skip
    directory: str = Field("", description="folder of relative paths; if empty, DISTNEWTON_DATA or the working folder")
    format: Annotated[str, NameOf(FORMATS, also=("auto",))] = Field(
        "auto", description="file format; auto looks at the content"
    )
    task: TaskName = Field(
        "auto", description="meaning of the labels; auto follows the loss. multilabel: any number a sample, as 1,5,7"
    )
    scale: Annotated[str, NameOf(SCALINGS, also=("auto",))] = Field(
        "auto", description="scaling, fitted on the training data and stored in the model; auto: with method.direction "
        "= auto what suits the data; else none"
    )  # fmt: skip
    label_column: int | str | Annotated[list[str], Field(min_length=2)] | None = Field(
        None, description="label column of CSV and Parquet; by index (from 0, or from -1) or by name. A list of names, "
        "with data.task = multilabel: a column of 0 and 1 for each label"
    )  # fmt: skip
    ignore_columns: Annotated[list[int | str], BeforeValidator(_commas_to_list)] = Field(
        [], description="CSV and Parquet: columns that are neither features nor labels, by index or name, as id,name"
    )
    id_column: str = Field(
        "", description="column that identifies a row; it is no feature, and joins the rows of files by columns"
    )
    n_features: Annotated[int, Field(ge=1)] | None = Field(
        None, description="number of features, if it differs from what the file shows"
    )
    n_train: Annotated[int, Field(ge=1)] | None = Field(
        None, description="number of samples to train on, drawn by run.seed; by default all"
    )
    class_weights: Annotated[
        Literal["none", "balanced"] | dict[str, ClassWeight], BeforeValidator(_pairs_to_weights)
    ] = Field(
        "none", description='weights of the classes: {spam = 5, "-1" = 0.5}, and 1 for other labels; balanced: all '
        "classes have the same total weight"
    )  # fmt: skip
    unpenalised: Annotated[list[str], BeforeValidator(_commas_to_texts)] = Field(
        [], description="features whose first-layer weights are not regularised, by name, as age,PC*"
    )
    header: Literal["auto"] | bool = Field(
        "auto", description="CSV: whether the first line names the columns; auto compares it with the lines below"
    )
    comment: Annotated[str, Field(pattern="^[!-~]?$")] = Field(
        "", description="CSV: character that begins comment lines; by default no line is a comment"
    )
    missing_values: Annotated[list[str], BeforeValidator(_commas_to_texts)] = Field(
        list(MISSING_VALUES), description="CSV: texts that stand for a missing value, as NA,?; case does not matter"
    )
    missing: Literal["auto", "refuse", "mean", "median", "indicator"] = Field(
        "auto", description="tables: how missing values of features are replaced; fitted on the training data and "
        "stored in the model. indicator and auto: by the median, with another feature that marks them"
    )  # fmt: skip
    categories: Literal["auto", "refuse", "onehot"] = Field(
        "auto", description="tables: how columns of text are encoded; onehot: one feature for each text; auto: the "
        "same, but a few texts in a column of numbers are an error"
    )  # fmt: skip
    zero_based: bool = Field(False, description="LIBSVM: whether indices start at 0")
    sort_indices: bool = Field(False, description="LIBSVM: sort indices that are out of order; slow")

    @property
    def title(self) -> str:
        """The name of the training data, for people to read."""
        return data_title(self.train)

    @property
    def reading(self) -> "DataConfig":
        """The settings that decide how a file is read (:data:`READING`), with defaults for all others."""
        return DataConfig(**self.model_dump(include=set(READING)))

    @model_validator(mode="after")
    def _one_validation(self) -> Self:
        if self.validation and self.validation_fraction not in ("auto", 0.0):
            raise ValueError("validation and validation_fraction both name validation data: give one of them")
        return self

    @model_validator(mode="after")
    def _files_by_columns(self) -> Self:
        listed = [key for key in ("train", "test", "validation") if isinstance(getattr(self, key), list)]
        if not listed:
            return self
        if not self.id_column:
            raise ValueError(f"{listed[0]} lists files by columns: id_column must name what joins their rows")
        if "train" not in listed:
            raise ValueError(f"{listed[0]} lists files by columns, but train does not")
        if self.n_features is not None or not all(isinstance(c, str) for c in (self.label_column or "",
                                                                               *self.ignore_columns)):  # fmt: skip
            raise ValueError(
                "columns of files by columns are known by name: give names in label_column and ignore_columns, and no "
                "n_features"
            )
        return self


class NetworkConfig(Options):
    """``[network]``: fully connected layers, or layers on images."""

    # a list of tables or a list of widths: the discriminator decides first, so that errors speak of one kind only
    layers: Annotated[
        Annotated[list[SerializeAsAny[LayerTable]], Field(min_length=1), Tag("tables")]
        | Annotated[list[Width], Field(min_length=2), Tag("widths")],
        Discriminator(_kind_of_layers),
        BeforeValidator(_dashes_to_list),
    ] = Field(
        _DEFAULT_LAYERS,
        description='widths from features to outputs: 16-300-300-26; "auto" as the first or last takes the width of '
        'the data. For images a list of tables: {type = "conv", channels, kernel, stride, padding}, {type = "max_pool" '
        'or "avg_pool", size, stride}, {type = "flatten"}, {type = "dense", width}',
    )
    input: Annotated[
        Literal["auto"] | Annotated[list[Size], Field(min_length=3, max_length=3)], BeforeValidator(_dashes_to_list)
    ] = Field(
        "auto", description="channels, height and width of images, as 1-28-28, if the data does not give them"
    )
    activation: Annotated[str, NameOf(ACTIVATIONS, also=("auto",))] = Field(
        "auto", description="activation; outputs are always linear. auto: relu for classes with method.direction = "
        "auto; else tanh"
    )  # fmt: skip
    loss: Annotated[str, NameOf(LOSSES)] = Field("cross_entropy", description="loss")
    init: Literal["auto", "glorot", "he", "lecun", "zero"] = Field(
        "auto", description="variance of the initial weights; zero is for networks without hidden layers. auto: zero "
        "for these with method.direction = auto; else he"
    )  # fmt: skip
    start: str = Field("", description="model file or run folder whose weights and scaling the run starts with")

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        if self.init == "zero" and number_of_weight_layers(self.layers) > 1:
            raise ValueError("init = zero never moves hidden layers: it is for networks without them")
        if isinstance(self.layers[0], LayerTable):
            if problem := tables_problem(self.layers):
                raise ValueError(problem)
        elif "auto" in self.layers[1:-1]:
            raise ValueError(f'only the first and the last of layers may be "auto", got {self.layers}')
        elif self.input != "auto":
            raise ValueError("input is for layers on images, but layers is a list of widths")
        return self

    @property
    def listed(self) -> list[Any]:
        """Widths, or layer tables as plain dictionaries."""
        return [layer.model_dump() if isinstance(layer, LayerTable) else layer for layer in self.layers]

    def shape(self, n_features: int, image_shape: Sequence[int] | None, n_out: int) -> NetworkShape:
        """Resolve the layers for data of these sizes; ``input`` wins over `image_shape` unless it is ``auto``."""
        given = image_shape if self.input == "auto" else self.input
        return resolve_shape(self.listed, n_features, given, n_out)

    @property
    def title(self) -> str:
        """The layers in one line, with ``auto`` as it is."""
        if isinstance(self.layers[0], LayerTable):
            return ", ".join(layer.title for layer in self.layers if isinstance(layer, LayerTable))
        return "-".join(map(str, self.layers))

    @property
    def last_width(self) -> int | str:
        """Number of outputs, or ``auto``."""
        last: Any = self.layers[-1]
        width: int | str = last.width if isinstance(last, Dense) else last
        return width


class PartitionConfig(Options):
    """``[partition]``: which rank owns which neurons and samples."""

    splits: Annotated[Literal["auto"] | list[Split], BeforeValidator(_dashes_to_list)] = Field(
        "auto", description="groups of each layer's neurons, as 2-2-2-2; auto chooses them by a model of the time"
    )
    blocks: Annotated[Literal["ranks"] | Split | list[Split], BeforeValidator(_dashes_to_list)] = Field(
        "ranks", description="blocks that block-diagonal methods solve separately: ranks (one for each rank), a "
        "number, or groups as in splits. With a number or groups a rank owns whole blocks, and the method is the same "
        "on any number of ranks"
    )  # fmt: skip
    speeds: Annotated[
        Literal["equal", "measured", "auto"] | Annotated[list[Annotated[float, Field(gt=0.0)]], Field(min_length=1)],
        BeforeValidator(_commas_to_numbers),
    ] = Field(
        "equal", description="relative speed of each rank, as 1,1,0.5,1: block sizes are in proportion; measured: by a "
        "matrix product on all ranks at the start; auto: equal at first, less for a rank that stays slow in the run"
    )  # fmt: skip
    files: Annotated[list[Split], BeforeValidator(_dashes_to_list)] = Field(
        [], description="files by columns: number of ranks that own each, as 1-1-2; by default as equal as possible"
    )
    replicas: int = Field(
        1, ge=1, description="copies of the grid, each with its share of the samples; splits describe one copy"
    )

    def logical(self, shape: NetworkShape) -> tuple[int, ...]:
        """Return the splits of the network's logical blocks; empty if each rank is a block."""
        if self.blocks == "ranks":
            return ()
        if isinstance(self.blocks, int):
            return regular_blocks(self.blocks, shape.widths, shape.rows_per_unit)
        return tuple(self.blocks)


UNLIMITED = 10**9
"""Number of iterations that stands for no limit."""


class RunConfig(Options):
    """``[run]``: how long and how precisely to train, and where to write. The attributes are the keys of the table."""

    iterations: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto", description="number of iterations; 0 writes the initial model. auto: 100; with method.direction = auto "
        "no limit if run.seconds is given, else 400 if the last stage is exact, and 20 for classes of fewer than 1,000 "
        "samples without validation data"
    )  # fmt: skip
    seconds: float = Field(
        math.inf, gt=0.0, description="training time; the iteration that reaches it is the last. Evaluation does not "
        "count"
    )  # fmt: skip
    patience: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto", description="iterations to wait for a better validation metric; training then ends; 0: never. auto: "
        "15 with method.direction = auto and validation data; else 0"
    )  # fmt: skip
    tolerance: float = Field(
        0.0, ge=0.0, lt=1.0, description="relative gradient norm at which training ends: the last iteration is the one "
        "that begins with at most this share of the first norm; of the norm at zero weights, where a linear network "
        "starts from a model. For directions that use all samples"
    )  # fmt: skip
    seed: int = Field(0, ge=0, lt=2**63, description="seed of initial weights and subsamples")
    dtype: Literal["float32", "float64", "tf32"] = Field(
        "float32", description="type of arrays; sums are taken in float64. tf32: float32, but GPUs round the factors "
        "of products to 10 bits: several times faster, with less exact directions"
    )  # fmt: skip
    device: Literal["cpu", "gpu", "auto"] = Field(
        "cpu", description="device that computes: cpu; gpu, which needs cupy and a GPU for every rank; auto uses GPUs "
        "if every rank sees one, else the CPU, and says so"
    )  # fmt: skip
    comm: Literal["auto", "mpi", "nccl"] = Field(
        "auto", description="how arrays on GPUs are summed: mpi, through host memory unless a test shows that MPI "
        "reads GPU memory; nccl, which needs a GPU for each rank; auto is mpi"
    )  # fmt: skip
    deterministic: bool = Field(False, description="no early termination, so that runs repeat bit for bit")
    threads: int = Field(0, ge=0, description="BLAS threads of a rank; 0: OMP_NUM_THREADS if set, else the cores "
        "divided by the ranks that share them")
    memory_mb: float = Field(
        1024.0, gt=0.0, allow_inf_nan=False, description="megabytes of activations that a rank may hold"
    )
    overlap: int = Field(
        1, ge=1, description="pieces into which a pass divides the samples, to sum one piece while it multiplies the "
        "next: 2 to 4 on slow networks; 1: no overlap. Networks on images ignore it"
    )  # fmt: skip
    compress: Literal["none", "bfloat16"] = Field(
        "none", description="bfloat16: sums over boundaries between ranks are sent with 8 significant bits, which "
        "halves their bytes, and are equal on all ranks; outputs, weights and decisions are not compressed. For "
        "float32 on the CPU"
    )  # fmt: skip
    max_seconds: float = Field(
        math.inf, gt=0.0, description="seconds within which the whole command stops, with exit code 75; it also stops "
        "before a Slurm job ends"
    )  # fmt: skip
    hang_seconds: float = Field(
        600.0, ge=0.0, allow_inf_nan=False, description="seconds that a rank waits for others before it names the "
        "missing ranks and ends the job with exit code 76; 3 times as long while files are read or written; 0: never"
    )  # fmt: skip
    checkpoint_minutes: float = Field(
        10.0, ge=0.0, description="minutes between checkpoints, longer if saving would take more than 1 % of the time; "
        "inf: only when the run ends or is stopped; 0: after each iteration, whatever it costs"
    )  # fmt: skip
    keep_checkpoints: int = Field(3, ge=0, description="number of last checkpoints kept, beside the best; 0 saves none")
    warn_seconds: float = Field(
        60.0, ge=0.0, allow_inf_nan=False, description="seconds that a rank waits for others before it warns; 0: never"
    )
    checks: Annotated[list[Literal["memory", "messages"]], BeforeValidator(_commas_to_list)] = Field(
        ["memory"], description="memory: refuse to start if the predicted memory is more than the hosts have free; "
        "messages: to find bugs, compare what all ranks are about to send before each collective, as "
        "DISTNEWTON_CHECK=1 does"
    )  # fmt: skip
    directory: str = Field("", description="run folder; if empty, runs/NAME-NUMBER is created")
    overwrite: bool = Field(False, description="replace the files of an earlier run in the run folder")

    @model_validator(mode="after")
    def _tf32_has_an_effect(self) -> Self:
        if self.dtype == "tf32" and self.device == "cpu":
            raise ValueError("dtype = tf32 has no effect with device = cpu")
        return self

    @model_validator(mode="after")
    def _compression_has_numbers_to_round(self) -> Self:
        if self.compress != "none" and (self.dtype, self.device) != ("float32", "cpu"):
            raise ValueError(
                f"compress = {self.compress} is for dtype = float32 with device = cpu, not for {self.dtype} with "
                f"{self.device}"
            )
        return self

    @property
    def array_dtype(self) -> str:
        """Type of arrays, as numpy names it."""
        return "float32" if self.dtype == "tf32" else self.dtype

    @property
    def n_iterations(self) -> int:
        """Number of iterations; an ``auto`` that is still unsettled counts as 100."""
        return 100 if self.iterations == "auto" else self.iterations

    def of_iterations(self, n: int, of: str = " of ") -> str:
        """Write ``n of N`` iterations, or only ``n`` where there is no limit or a resumed run is beyond it."""
        return str(n) if self.n_iterations >= UNLIMITED or n > self.n_iterations else f"{n}{of}{self.n_iterations}"
