"""Starting a run from the weights of a trained model, with any grids for both."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.backend import Array, to_host
from distnewton.data.columns import ColumnNames
from distnewton.data.partitioned import Task
from distnewton.data.scaled import gather_scaling
from distnewton.data.scaling import ColumnScaling
from distnewton.errors import ConfigError, DataError
from distnewton.guards.watchdog import watchdog
from distnewton.models.architecture import Architecture
from distnewton.models.model import Model
from distnewton.models.model_file import find_model, join_blocks, read_blocks, read_header
from distnewton.models.saving import gather_layer
from distnewton.network.network import PartitionedNetwork
from distnewton.parallel.collectives import Communicator

StartFrom = Model | str | Path
"""A model in memory, a model file, or a run folder."""
_SHOWN = 100
"""Limit of characters of a value in a message."""


class Start:
    """A model from whose weights a run starts, and whose scaling of the features it adopts.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    model : Model or path
        For a model in memory, each rank must hold its part, or each the whole model.

    Attributes
    ----------
    name : str
        Name for messages.
    architecture : Architecture
        Definition of the model.
    scaling : ColumnScaling
        Scaling of all features.

    Raises
    ------
    MissingInputError, DataError
        If there is no such file, or it is not a model.
    ConfigError
        If a model in memory is distributed over other ranks.

    Notes
    -----
    All methods are collective over ``comm``.
    """

    def __init__(self, comm: Communicator, model: StartFrom) -> None:
        self._comm, self._model, self._file = comm, model if isinstance(model, Model) else None, Path()
        self.architecture: Architecture
        self.scaling: ColumnScaling
        if self._model is not None:
            n_ranks = self._model.grid.world.size
            if n_ranks not in (1, comm.size):
                raise ConfigError(
                    f"the model to start from is distributed over {n_ranks} ranks, but the run has {comm.size}: "
                    "save it, and start from its file",
                    collective=True,
                )
            self.name, self.architecture = "the model", self._model.architecture
            self.scaling = gather_scaling(self._model.grid, self._model.scaling)
            return
        self._file = find_model(str(model))
        self.name = str(self._file)
        with comm.collective_errors():
            self._header = read_header(self._file)
            self.architecture, self.scaling = self._header.architecture, self._header.column_scaling

    @property
    def fingerprint(self) -> int:
        """Checksum of the features' scaling; a run refuses checkpoints with another one."""
        return zlib.crc32(json.dumps(self.scaling.to_dict(), sort_keys=True).encode())

    def adopt(self, task: Task) -> Task:
        """Return a run's task with the target scaling that belongs to the model's weights."""
        own = self.architecture.task
        return replace(task, scaling=own.scaling) if task.n_out == own.n_out else task

    def check(self, architecture: Architecture, scale: str) -> None:
        """Refuse a model that does not match the run, and list the differences.

        Parameters
        ----------
        architecture : Architecture
            Architecture of the run.
        scale : str
            Kind of scaling of the run.

        Raises
        ------
        DataError
            If they differ; on every rank.
        """
        lines = [f"  {line}" for line in self._differences(architecture, scale)]
        if lines:
            raise DataError(f"the run cannot start from {self.name}:\n" + "\n".join(lines), collective=True)

    def check_scaling(self, scaling: ColumnScaling) -> None:
        """Refuse a model whose scaling of features differs from that of the data already read.

        Parameters
        ----------
        scaling : ColumnScaling
            Scaling of all features, of the same kind.

        Raises
        ------
        DataError
            If they differ; on every rank.
        """
        pairs = (self.scaling.offset, scaling.offset), (self.scaling.factor, scaling.factor)
        if not all(np.allclose(a, b) for a, b in pairs):
            raise DataError(
                f"{self.name} scales the features differently from this session: pass it as the session's start",
                collective=True,
            )

    def _differences(self, architecture: Architecture, scale: str) -> Iterator[str]:
        before, after = _facts(self.architecture, self.scaling.kind), _facts(architecture, scale)
        for key, value in before.items():
            if value != after[key]:
                yield f"{key}: {_short(value)} in the model, {_short(after[key])} in the run"
        own, other = ([] if a.names is None else list(a.names.features) for a in (self.architecture, architecture))
        if own and other and own != other:
            yield f"columns: {_short(', '.join(own))} in the model, {_short(', '.join(other))} in the run"
        yield from _encoding_differences(self.architecture.names, architecture.names)

    def params(self, network: PartitionedNetwork) -> Array:
        """Return this rank's variables, cast to the network's dtype; shape (n_params_local,).

        Parameters
        ----------
        network : PartitionedNetwork
            Network with the model's layers.

        Returns
        -------
        Array

        Notes
        -----
        Each rank reads its own slices of a file. A model in memory with other splits goes layer by layer through rank
        0 to all ranks; each rank temporarily holds one layer.
        """
        params: Array = np.zeros(network.layout.n_params, network.backend.dtype)
        if self._model is None:
            with watchdog.patient(), self._comm.collective_errors():
                read_blocks(self._file, self._header, network, params)
        elif self._model.grid.partition == network.grid.partition:
            params[...] = to_host(self._model.params)
        else:
            self._spread(self._model, network, params)
        return network.backend.asarray(params)

    def _spread(self, model: Model, network: PartitionedNetwork, params: Array) -> None:
        """Fill this rank's blocks from those on another grid."""
        views = network.layout.views(params)
        for m in range(1, network.grid.partition.n_layers + 1):
            blocks, parts = gather_layer(model.network, model.params, m)
            whole = None if parts is None else join_blocks(model.network, m, blocks, parts)
            if model.grid.world.size == 1 and whole is not None:
                W, b = whole
            else:
                W, b = (self._comm.broadcast_array(None if whole is None else whole[k]) for k in (0, 1))
            if m in views:
                block, view = network.layout.blocks[m], views[m]
                view.W[...] = W[block.rows, slice(*block.outputs)]
                if view.b is not None:
                    view.b[...] = b[slice(*block.outputs)]


def _facts(a: Architecture, scale: str) -> dict[str, Any]:
    """Return the facts that a run and its model must share."""
    classes = None if a.task.classes is None else list(a.task.classes.classes)
    facts = {"layers": str(a.shape), "input": a.shape.image_shape, "activation": a.activation}
    targets = a.task.scaling and a.task.scaling.to_dict()
    return {**facts, "task": a.task.name, "classes": classes, "scaling of the targets": targets, "scale": scale}


def _encoding_differences(before: ColumnNames | None, now: ColumnNames | None) -> Iterator[str]:
    """Yield the first column with another encoding."""
    if before is None or now is None or before.encoding == now.encoding:
        return
    own, other = (None if names.encoding is None else names.encoding.columns for names in (before, now))
    for name, a, b in zip(before.features, own or repeat(None), other or repeat(None), strict=False):
        if a != b:
            yield f"column {name}: encoded as {_short(a)} in the model, {_short(b)} in the run"
            return


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
