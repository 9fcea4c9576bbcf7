"""The runs of a study, with the settings and the folder of each."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distnewton.config import Config
from distnewton.directions.options import CGOptions
from distnewton.errors import ConfigError, DataError, MissingInputError
from distnewton.files import parse_json
from distnewton.frozen import frozen
from distnewton.network.shapes import NetworkShape
from distnewton.outputs import write_output
from distnewton.planning.plan import widened
from distnewton.runs.data_size import describe_data
from distnewton.runs.planned import expected_steps

STUDY_FILE = "study.json"
KINDS = ("strong", "weak-weights", "weak-samples")
"""Kinds of studies: the same problem on more ranks, or hidden layers or samples that grow with the ranks."""
REPLICAS = "-replicas"
"""Suffix of the kinds of studies in which the number of replicas grows and the grid stays the same."""
_WARMUP = 2
"""Number of first iterations of a run that do not count."""


@frozen
class Study:
    """The description of a study."""

    kind: str  # one of :data:`KINDS`
    ranks: list[int]  # numbers of ranks, ascending
    n_repeats: int  # runs of each
    # iterations of a run that do not count, and those that do
    n_warmup: int
    n_measured: int
    n_samples: int  # samples of the problem on the fewest ranks
    # replicas of the grid on the fewest ranks, where they grow with the ranks; 0 where the grid grows
    n_replicas: int = 0
    # logical blocks of all points, so that block methods do the same work on any number of ranks; 0 for the recipe's
    n_blocks: int = 0
    # CG steps of every direction, so that rounding decides nowhere how many there are; 0 for the recipe's rule
    n_steps: int = 0

    def folder(self, root: Path, n_ranks: int, repeat: int) -> Path:
        """Return the run folder of a point."""
        return root / f"ranks-{n_ranks:04d}" / f"repeat-{repeat:02d}"

    def settings(self, shape: NetworkShape, n_ranks: int) -> dict[str, Any]:
        """Return the settings of a point, which override those of the recipe.

        Parameters
        ----------
        shape : NetworkShape
            Layers of the problem on the fewest ranks.
        n_ranks : int
            Number of ranks of the point.

        Returns
        -------
        dict
            Settings by table and key.
        """
        run = {"iterations": self.n_warmup + self.n_measured, "deterministic": True}
        changes: dict[str, Any] = {"run": run}
        if self.n_blocks:
            changes["partition"] = {"blocks": self.n_blocks}
        if self.n_steps:
            changes["method"] = {"cg_tolerance": 0.0, "cg_min": self.n_steps, "cg_max": self.n_steps}
        if self.n_replicas:
            changes["partition"] = {"replicas": self.n_replicas * n_ranks // self.ranks[0]}
        if self.kind == "weak-samples":
            changes["data"] = {"n_train": self.n_samples * n_ranks // self.ranks[0]}
        if self.kind == "weak-weights" and n_ranks > self.ranks[0]:
            grown = grow(shape, n_ranks / self.ranks[0])
            changes["network"] = {"layers": list(grown.widths)}
        return changes

    def write(self, root: Path) -> None:
        """Store the study beside its runs.

        Parameters
        ----------
        root : Path
            Folder of the study, which is created if it is missing.

        Raises
        ------
        WriteError
            If it cannot be written.
        """
        write_output(root / STUDY_FILE, json.dumps(asdict(self), indent=1) + "\n", collective=True)


def read_study(root: Path) -> Study:
    """Read the study of a folder.

    Parameters
    ----------
    root : Path
        Folder of the study.

    Returns
    -------
    Study

    Raises
    ------
    MissingInputError
        If the folder holds no study.
    DataError
        If its file is damaged.
    """
    try:
        return Study(**parse_json((root / STUDY_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise MissingInputError(f"{root} holds no study ({STUDY_FILE})", collective=True) from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{root / STUDY_FILE} is damaged: {error}", collective=True) from None


def check_ranks(ranks: Sequence[int]) -> list[int]:
    """Sort the numbers of ranks.

    Parameters
    ----------
    ranks : sequence of int
        Numbers as given.

    Returns
    -------
    list of int

    Raises
    ------
    ConfigError
        If there are fewer than two.
    """
    counts = sorted(set(ranks))
    if len(counts) < 2:
        raise ConfigError(f"a study compares at least two numbers of ranks, got {list(ranks)}", collective=True)
    return counts


def plan_study(
    config: Config, kind: str, ranks: Sequence[int], n_repeats: int, n_iterations: int
) -> tuple[Study, dict[int, dict[str, Any]]]:
    """Choose the runs of a study.

    Parameters
    ----------
    config : Config
        Of the recipe, whose data is read for its size.
    kind : str
        One of :data:`KINDS`, with :data:`REPLICAS` behind it where replicas grow.
    ranks : sequence of int
        Numbers of ranks, two at least.
    n_repeats, n_iterations : int
        Runs of each number, and iterations that count in each.

    Returns
    -------
    Study
    dict
        Settings of the points by their ranks.

    Raises
    ------
    ConfigError
        If there are fewer than two numbers of ranks, or the network cannot grow with them.
    """
    ranks = check_ranks(ranks)
    data = describe_data(config)
    shape = config.network.shape(data.n_features, data.image_shape, data.n_out)
    growing = kind.removesuffix(REPLICAS)
    n = data.n_samples * ranks[0] // ranks[-1] if growing == "weak-samples" else data.n_samples
    n_replicas = config.partition.replicas if growing != kind else 0
    n_blocks = _shared_blocks(config, ranks) if growing == kind == "strong" else 0
    n_steps = expected_steps(config.method) if growing == "strong" and config.method.has(CGOptions) else 0
    study = Study(growing, list(ranks), n_repeats, _WARMUP, n_iterations, n, n_replicas, n_blocks, n_steps)
    return study, {n: study.settings(shape, n) for n in ranks}


def _shared_blocks(config: Config, ranks: Sequence[int]) -> int:
    """Return a number of blocks that the ranks of all points can own; 0 if there is none or the recipe gives blocks."""
    # a strong study has one problem and one method, and blocks are part of the method
    shares = config.partition.blocks == "ranks" and all(ranks[-1] % n == 0 for n in ranks)
    return ranks[-1] if shares else 0


def grow(shape: NetworkShape, factor: float) -> NetworkShape:
    """Multiply the number of a network's variables by a factor; all hidden layers are widened alike.

    Parameters
    ----------
    shape : NetworkShape
        Layers.
    factor : float
        Factor of at least 1.

    Returns
    -------
    NetworkShape

    Raises
    ------
    ConfigError
        For networks that cannot be widened: without hidden layers, or on images.
    """
    if len(shape.layers) < 2 or shape.image_shape is not None:
        text = "weak-weights widens hidden layers of neurons; use weak-samples for this network"
        raise ConfigError(text, collective=True)
    low, high = 1.0, factor
    while high - low > 1e-4:
        middle = math.sqrt(low * high)
        if widened(shape, middle).n_params < factor * shape.n_params:
            low = middle
        else:
            high = middle
    return widened(shape, high)
