"""The identity of a run, which must match when it resumes from a checkpoint, and the size of its checkpoints."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from distnewton.config import Config
from distnewton.config.method import MethodConfig, StageOptions
from distnewton.directions.composition import make_direction
from distnewton.directions.options import NewtonOptions
from distnewton.models.architecture import Architecture
from distnewton.models.warm_start import Start
from distnewton.network.active import ActiveNetwork
from distnewton.network.shapes import NetworkShape
from distnewton.parallel.partition import Partition
from distnewton.runs.data_sets import DataSets
from distnewton.runs.training_data import TrainingData

_SHOWN = 60
"""Length beyond which a message shortens a value."""


def run_identity(
    config: Config, architecture: Architecture, data: DataSets, training: TrainingData, start: Start | None
) -> dict[str, Any]:
    """Collect network, data, method, seed and dtype of a run as plain JSON values.

    Parameters
    ----------
    config : Config
        Settings of the run.
    architecture : Architecture
        Layers and task, resolved.
    data : DataSets
        Training and held-out data.
    training : TrainingData
        The training data that was read.
    start : Start or None
        Model that the run starts from.

    Returns
    -------
    dict
        Length, splits, threads, memory and file names are left out: a run may resume with others. Logical blocks are
        included where they are given.
    """
    network: dict[str, Any] = {
        "layers": list(architecture.shape.listed),
        "input": architecture.shape.image_shape,
        "activation": architecture.activation,
        "loss": config.network.loss,
    }
    if start is not None:
        network["start"] = f"a model with scaling {start.fingerprint:08x}"
    described = _described_data(config, architecture, data, training)
    blocks = config.partition.logical(architecture.shape)
    seed = {"seed": config.run.seed, "dtype": config.run.array_dtype}
    identity: dict[str, Any] = _plain(
        {"network": network, "data": described, "method": config.method.model_dump(), "run": seed}
        | ({"partition": {"blocks": blocks}} if blocks else {})
    )
    return identity


def _described_data(
    config: Config, architecture: Architecture, data: DataSets, training: TrainingData
) -> dict[str, Any]:
    """Describe the data of a run and how it is prepared."""
    task, names = architecture.task, architecture.names
    described: dict[str, Any] = {
        "features": data.train.n_features,
        "samples": data.n_train,
        "values, labels and weights (hash)": training.fingerprint,
        "scale": config.data.scale,
        "task": task.name,
        "outputs": task.n_out,
        "classes": None if task.classes is None else task.classes.to_dict()["classes"],
    }
    if isinstance(training.objective.network, ActiveNetwork):
        described["features with weights"] = training.objective.network.title
    if task.scaling is not None:
        described["scaling of the targets"] = task.scaling.to_dict()
    if config.data.unpenalised:
        described["unpenalised"] = config.data.unpenalised
    if config.data.class_weights != "none":
        described["class weights"] = config.data.class_weights
    if names is not None:
        # there may be very many names: store a checksum
        described["names of columns (checksum)"] = zlib.crc32("\n".join(names.features).encode())
        if names.encoding is not None:
            encoding = json.dumps(names.encoding.to_json())
            described["encoding of columns (checksum)"] = zlib.crc32(encoding.encode())
    if "validation" in data.held_out:
        described["validation samples"] = data.held_out["validation"].description.n_samples
    return described


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a line for each difference between two identities.

    Parameters
    ----------
    before, now : mapping
        Identity in the checkpoint, and that of the run that is to resume.
    prefix : str
        Names of the enclosing tables, each with a dot.

    Yields
    ------
    str
        ``network.layers: [7, 6, 3] in the checkpoint, [7, 8, 3] now``.
    """
    for key in sorted({*before, *now}):
        a, b = before.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}: {_short(a, b)} in the checkpoint, {_short(b, a)} now"


def _short(value: Any, other: Any) -> str:
    """Write a value briefly; for a long list, write the items that the other one lacks."""
    text = str(value)
    if isinstance(value, list) and isinstance(other, list) and len(text) > _SHOWN:
        more = [item for item in value if item not in other][:5]
        text = f"{len(value)} items" + (f", among them {', '.join(map(str, more))}" if more else "")
    return text if len(text) <= 2 * _SHOWN else f"{text[: 2 * _SHOWN]}..."


def _plain(value: Any) -> Any:
    """Convert tuples to lists, and numbers that JSON lacks to text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def state_bytes(
    method: MethodConfig, shape: NetworkShape, partition: Partition, itemsize: int, *, n_more: int = 0
) -> float:
    """Estimate the bytes of a checkpoint of a run, over all ranks.

    Parameters
    ----------
    method : MethodConfig
        The stages of the run, of which the largest counts.
    shape : NetworkShape
        The layers.
    partition : Partition
        Blocks of the layers.
    itemsize : int
        Bytes of a number.
    n_more : int
        Vectors of variables that the run saves besides those of its method, such as the best model.

    Returns
    -------
    float
    """
    cut = partition.logical
    blocks = [block for number in range(cut.n_ranks) for block in cut.blocks(number)]
    sizes = []
    for options in (method, *method.schedule):
        direction = make_direction(options)
        factors = sum(direction.factor_size(shape, block) for block in blocks)
        sizes.append((1 + n_more + direction.n_vectors() + _n_stage_vectors(options)) * shape.n_params + factors)
    return float(itemsize * max(sizes))


def _n_stage_vectors(options: StageOptions) -> int:
    """Count the vectors of variables that a stage keeps besides the point and those of its direction."""
    if options.has(NewtonOptions):
        return 1
    return int(getattr(options, "momentum", 0.0) > 0) + 2 * int(options.average > 0)
