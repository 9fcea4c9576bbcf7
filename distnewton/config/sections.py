"""The tables of a configuration other than ``[method]``: data, network, partition, run."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

ActivationName = Literal["sigmoid", "tanh", "relu", "softplus", "identity"]
LossName = Literal["squared", "cross_entropy", "logistic"]
TaskName = Literal["auto", "classification", "binary", "regression"]
ScaleName = Literal["none", "minmax", "minmax_joint", "standard", "unit_rows", "log1p_unit_rows"]
FormatName = Literal["auto", "libsvm", "csv", "npy", "npz", "idx", "images"]

TASK_OF_LOSS = {"cross_entropy": "classification", "logistic": "binary", "squared": "regression"}


def _dashes_to_list(value: object) -> object:
    """Read ``2-2-2-2`` as [2, 2, 2, 2], the way papers write it."""
    if isinstance(value, str) and re.fullmatch(r"\w+(-\w+)+", value):
        return [int(part) if part.isdigit() else part for part in value.split("-")]
    return value


Width = Annotated[int, Field(ge=1)] | Literal["auto"]
Split = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values are not converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)


class DataConfig(Section):
    """``[data]``: what to train and test on."""

    train: str = Field(
        "", description="training data: file, images as FOLDER or ARCHIVE:FOLDER, or a bundled set such as digits:train"
    )
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


class RunConfig(Section):
    """``[run]``: how long, how precisely, and where to."""

    iterations: int = Field(100, ge=0, description="most iterations; 0 writes the initial model")
    seconds: float = Field(
        math.inf, gt=0.0, description="training ends with the iteration that reaches so many, evaluation left out"
    )
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
