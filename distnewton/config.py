"""The configuration of a run: one checked tree, whether it comes from a TOML file, from flags or from Python.

Defaults are simpleNN's where it has them; others say where they come from. Every error of a configuration is
reported at once, and unknown keys come with the nearest known one.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from distnewton.errors import ConfigError, MissingInputError

ActivationName = Literal["sigmoid", "tanh", "relu", "softplus", "identity"]
LossName = Literal["squared", "cross_entropy", "logistic"]
TaskName = Literal["auto", "classification", "binary", "regression"]
ScaleName = Literal["none", "minmax", "minmax_joint", "standard", "unit_rows", "log1p_unit_rows"]
FormatName = Literal["auto", "libsvm", "csv", "npy", "npz", "idx"]

TASK_OF_LOSS = {"cross_entropy": "classification", "logistic": "binary", "squared": "regression"}


def _dashes_to_list(value: object) -> object:
    """Read ``2-2-2-2`` as [2, 2, 2, 2], the way papers write it."""
    if isinstance(value, str) and re.fullmatch(r"\w+(-\w+)+", value):
        return [int(part) if part.isdigit() else part for part in value.split("-")]
    return value


Width = Annotated[int, Field(ge=1)] | Literal["auto"]
Split = Annotated[int, Field(ge=1)]

_MULTIPLE_OF_L = r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)?\s*\*?\s*l\s*"


def regularization_constant(C: float | str, n_samples: int) -> float:
    """C as a number, for a number l of training samples.

    Parameters
    ----------
    C : float or str
        A number, or a multiple of l such as ``"0.01 l"``.
    n_samples : int
        l.

    Returns
    -------
    float
        inf means no regularisation.

    Raises
    ------
    ValueError
        If C is neither a positive number nor a positive multiple of l.
    """
    if isinstance(C, str) and (match := re.fullmatch(_MULTIPLE_OF_L, C)):
        number = float(match[1] or 1) * n_samples
    else:
        number = 0.0 if isinstance(C, str) else C
    if not number > 0:
        raise ValueError(f'must be a positive number, inf, or a multiple of l such as "0.01 l", got {C!r}')
    return number


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values are not converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)


class DataConfig(Section):
    """``[data]``: what to train and test on."""

    train: str = Field("", description="training data: a file, or a bundled set such as digits:train")
    test: str = Field("", description="test data; without it only training metrics are shown")
    directory: str = Field("", description="folder of relative paths; else DISTNEWTON_DATA, else the working folder")
    format: FormatName = Field("auto", description="file format; auto looks at the content")
    task: TaskName = Field("auto", description="classification, binary or regression; auto follows the loss")
    scale: ScaleName = Field("none", description="scaling, fitted on the training data and stored in the model")
    label_column: int | str | None = Field(None, description="CSV: label column, by index (from 0, or from -1) or name")
    n_features: Annotated[int, Field(ge=1)] | None = Field(
        None, description="number of features, if not what the file shows"
    )
    zero_based: bool = Field(False, description="LIBSVM: whether indices start at 0")


class NetworkConfig(Section):
    """``[network]``: fully connected layers."""

    layers: Annotated[list[Width], BeforeValidator(_dashes_to_list), Field(min_length=2)] = Field(
        ["auto", 100, "auto"],
        description='widths from features to outputs, as 16-300-300-26; "auto" first or last takes the data\'s',
    )
    activation: ActivationName = Field("tanh", description="hidden activation; outputs are linear")
    loss: LossName = Field("cross_entropy", description="loss of a sample")
    init: Literal["glorot", "he", "lecun"] = Field("he", description="variance of the initial weights")

    @model_validator(mode="after")
    def _auto_only_at_the_ends(self) -> NetworkConfig:
        if "auto" in self.layers[1:-1]:
            raise ValueError(f"only the first and the last of layers may be \"auto\", got {self.layers}")
        return self


class PartitionConfig(Section):
    """``[partition]``: who owns what."""

    splits: Annotated[Literal["auto"] | list[Split], BeforeValidator(_dashes_to_list)] = Field(
        "auto", description="groups of each layer's neurons, as 2-2-2-2; auto plans them"
    )
    replicas: Literal[1] = Field(1, description="copies of the grid over samples; only 1 so far")


class MethodConfig(Section):
    """``[method]``: the Newton method."""

    direction: Literal["block_diagonal", "gauss_newton"] = Field(
        "block_diagonal", description="method of the direction"
    )
    blocks: Literal["rank", "layer"] = Field("rank", description="whether a rank's block couples its layers")
    C: float | str = Field(
        "l", description='regularisation theta^2 / (2C): a number, inf, or a multiple of l as "0.01 l"'
    )
    subsample: float = Field(0.05, gt=0.0, le=1.0, description="share of the samples whose curvature is used")
    subsample_min: int = Field(512, ge=1, description="but at least so many samples, as far as there are")
    cg_tolerance: float = Field(0.1, ge=0.0, lt=1.0, description="relative residual at which CG stops")
    cg_max: int = Field(30, ge=1, description="most CG steps")
    cg_min: int = Field(3, ge=1, description="fewest CG steps")
    finish_fraction: float = Field(
        0.5, gt=0.0, le=1.0, description="share of finished ranks that ends the direction phase"
    )
    damping: float = Field(1.0, ge=0.0, allow_inf_nan=False, description="first lambda")
    drop: float = Field(2.0 / 3.0, gt=0.0, le=1.0, description="factor of lambda after a good prediction")
    boost: float = Field(1.5, ge=1.0, allow_inf_nan=False, description="factor of lambda after a bad one")
    combine: Literal["previous", "scale", "none"] = Field(
        "previous", description="combine the direction with the last one, only scale it, or take it as it is"
    )
    sufficient_decrease: float = Field(1e-4, gt=0.0, lt=1.0, description="eta of the line search")
    line_search_max: int = Field(20, ge=1, description="most trials of the line search")

    @field_validator("C")
    @classmethod
    def _is_constant(cls, C: float | str) -> float | str:
        regularization_constant(C, 1)
        return C

    @model_validator(mode="after")
    def _steps_fit(self) -> MethodConfig:
        if self.cg_min > self.cg_max:
            raise ValueError(f"cg_min = {self.cg_min} must not exceed cg_max = {self.cg_max}")
        return self

    def regularization(self, n_samples: int) -> float:
        """1/C for a number l of training samples."""
        C = regularization_constant(self.C, n_samples)
        return 0.0 if math.isinf(C) else 1.0 / C


class RunConfig(Section):
    """``[run]``: how long, how precisely, and where to."""

    iterations: int = Field(100, ge=0, description="Newton iterations; 0 writes the initial model")
    seed: int = Field(0, ge=0, lt=2**63, description="of initial weights and subsamples")
    dtype: Literal["float32", "float64"] = Field("float32", description="of arrays; sums are accumulated in float64")
    device: Literal["cpu"] = Field("cpu", description="only cpu so far")
    deterministic: bool = Field(False, description="no early termination, so that runs repeat bit for bit")
    threads: int = Field(0, ge=0, description="BLAS threads a rank; 0: cores divided by the ranks that share them")
    memory_mb: float = Field(
        1024.0, gt=0.0, allow_inf_nan=False, description="megabytes a rank may fill with activations"
    )
    directory: str = Field("", description="run folder; empty: runs/NAME-NUMBER is made")
    overwrite: bool = Field(False, description="replace the files of an earlier run in that folder")


class Config(Section):
    """A whole run."""

    data: DataConfig = Field(default_factory=DataConfig)
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    partition: PartitionConfig = Field(default_factory=PartitionConfig)
    method: MethodConfig = Field(default_factory=MethodConfig)
    run: RunConfig = Field(default_factory=RunConfig)

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        problems = []
        splits, layers, loss, task = self.partition.splits, self.network.layers, self.network.loss, self.data.task
        if splits != "auto" and len(splits) != len(layers):
            problems.append(f"partition.splits has {len(splits)} numbers for {len(layers)} widths of network.layers")
        fitting = {"squared": ["regression", "classification"]}.get(loss, [TASK_OF_LOSS[loss]])
        if task not in ("auto", *fitting):
            problems.append(f"network.loss = {loss} fits data.task = {' or '.join(fitting)}, not {task}")
        if loss == "logistic" and layers[-1] not in (1, "auto"):
            problems.append(f"network.loss = logistic needs one output, network.layers ends in {layers[-1]}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def task(self) -> str:
        """The task, derived from the loss where it is ``auto``."""
        return TASK_OF_LOSS[self.network.loss] if self.data.task == "auto" else self.data.task


def make_config(tree: Mapping[str, Any]) -> Config:
    """Check a tree of settings.

    Parameters
    ----------
    tree : mapping
        Tables ``data``, ``network``, ``partition``, ``method``, ``run``; what is missing takes its default.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        With every error of the tree, a line each.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [line for details in error.errors() for line in _describe(details)]
        text = "\n".join(f"  {line}" for line in dict.fromkeys(lines))
        raise ConfigError(f"the configuration has errors:\n{text}") from None


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file and apply settings given as ``section.key=value``, which win.

    Parameters
    ----------
    path : path or None
        The file; None starts from the defaults.
    overrides : sequence of str
        Values in TOML's notation; what is not TOML counts as text, so that ``network.loss=squared`` needs no quotes.

    Returns
    -------
    Config

    Raises
    ------
    MissingInputError
        If the file cannot be read.
    ConfigError
        If it is not TOML, or with every error of the settings.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise MissingInputError(f"cannot read the recipe {path}: {error.strerror or error}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not a TOML file: {error}") from None
    for text in overrides:
        key, equals, value = text.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise ConfigError(f"a setting is written section.key=value, got {text!r}")
        table = tree.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{section} must be a table of settings, got {table!r}")
        table[name] = parse_value(value)
    return make_config(tree)


def parse_value(text: str) -> Any:
    """A value in TOML's notation, or the text itself where it is not TOML."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
    # no setting is a date, but the widths 1024-10-10 look like one
    return text.strip() if isinstance(value, date | time) else value


def to_toml(config: Config) -> str:
    """The resolved configuration as TOML: reading it back gives the same run."""
    lines = []
    for section, table in config.model_dump().items():
        lines += [f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in table.items() if value is not None), ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """One value; TOML's basic strings, numbers, booleans and arrays are JSON's, except for inf and the DEL sign."""
    return "inf" if value == math.inf else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _describe(details: ErrorDetails) -> list[str]:
    """One error as lines: the key, what is wrong, what came."""
    parts = [str(part) for part in details["loc"]]
    key = ".".join(part for part in parts if re.fullmatch(r"[A-Za-z_]\w*|\d+", part) and part not in _UNION_TAGS)
    if details["type"] == "extra_forbidden":
        known = _known_keys(parts[:-1])
        near = difflib.get_close_matches(parts[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return [f"{key}: unknown key; {hint}"]
    if details["type"] == "value_error":
        return [f"{key}: {line}".removeprefix(": ") for line in str(details["ctx"]["error"]).splitlines()]
    message = details["msg"][0].lower() + details["msg"][1:]
    return [f"{key}: {message}, got {details['input']!r}"]


_UNION_TAGS = ("int", "str", "float")
"""What pydantic appends to the place of an error in a union: the type it tried, which is no key of the tree."""


def _known_keys(path: Sequence[str]) -> list[str]:
    """Keys of the tree or of one of its tables."""
    if not path:
        return list(Config.model_fields)
    section = Config.model_fields[path[0]].annotation
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []

