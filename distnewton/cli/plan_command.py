"""The command ``plan``: predict cost and memory of a run before there is a job, without MPI."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distnewton.cli.command import CLUSTER_FILE, RECIPE, SET, argument, command
from distnewton.cli.parsing import count, finite
from distnewton.cli.settings import overrides
from distnewton.cluster.cluster_file import Cluster, load_cluster
from distnewton.cluster.measured_rates import cluster_rates
from distnewton.config import Config, load_config
from distnewton.config.method import AUTO
from distnewton.config.opening import files_owned
from distnewton.errors import MissingInputError, shown
from distnewton.parallel.cuts import FileOwners
from distnewton.planning.problem import MODELLED

if TYPE_CHECKING:
    from distnewton.planning.plan import Plan
    from distnewton.planning.problem import Problem
    from distnewton.planning.rates import Rates


_SIZES: dict[str, tuple[str, Callable[[str], float]]] = {
    "samples": ("n_samples", count), "features": ("n_features", count), "outputs": ("n_out", count),
    "test_samples": ("n_test", count), "nonzeros": ("nonzeros", finite),
}  # fmt: skip
"""Sizes that ``--sizes`` takes, with their names in a problem and their number types."""


def _sizes(text: str) -> dict[str, float]:
    """Read sizes of the data, by their names in a problem."""
    sizes = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in _SIZES or not equals:
            known = ", ".join(_SIZES)
            raise argparse.ArgumentTypeError(f"expected sizes such as samples=6000, for {known}, got {shown(part)}")
        key, kind = _SIZES[name]
        sizes[key] = kind(value)
    return sizes


@command(
    "plan",
    "predict memory, messages and seconds of a run before there is a job",
    RECIPE,
    SET,
    argument("--cluster", metavar="FILE", help=f"{CLUSTER_FILE}; doctor --bench measures its rates"),
    argument("--ranks", type=count, metavar="N", help="MPI ranks (default: all of the cluster file, else 1)"),
    argument(
        "--sizes", type=_sizes, action="append", default=[], metavar="LIST",
        help="sizes of the data, as samples=6000,features=780,outputs=10; also test_samples, and nonzeros of a sample "
        "if features are sparse",
    ),
    argument("--memory-gb", type=finite, metavar="X", help="memory of a rank; shows how wide the network may be"),
    argument("--json", action="store_true", help="print all figures as JSON"),
    usage="[RECIPE] [--cluster FILE] [--ranks N] [--sizes LIST] [--set SECTION.KEY=VALUE ...]",
    epilog="Without samples, features and outputs in --sizes, the sizes are read from the recipe's data.",
    without_mpirun="--ranks gives the number of ranks",
)
def plan(options: argparse.Namespace) -> int:
    """Show all ways to split the network over a number of ranks, with details and limits of the best."""
    from distnewton.planning.plan import largest, make_plan, make_plans
    from distnewton.reporting.plan_tables import as_dict, print_plans
    from distnewton.runs.planned import planned_grid

    notes: list[str] = []
    config = load_config(options.recipe, overrides(options), notes)
    cluster = load_cluster(options.cluster) if options.cluster else None
    rates, missing = cluster_rates(cluster, config.run.array_dtype)
    notes += _notes_on_rates(options.cluster or "", missing)
    n_ranks = _n_ranks(options, cluster)
    problem = _problem(config, options, n_ranks, notes)
    grid = planned_grid(config, problem, n_ranks)

    def plans_of(problem: Problem) -> list[Plan]:
        if config.partition.splits == "auto":
            return make_plans(problem, n_ranks, rates, **grid)
        return [make_plan(problem, config.partition.splits, rates, **grid)]

    plans = plans_of(problem)
    memory_gb = options.memory_gb or (cluster.compute.memory_gb if cluster else None)
    widest = largest(problem, memory_gb * 1e9, plans_of) if memory_gb else None
    if options.json:
        print(json.dumps(list(map(as_dict, plans)), indent=1))
        return 0
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print_plans(plans, n_ranks, memory_gb, widest)
    if config.partition.splits == "auto" and not grid["speeds"] and problem.owners is None:
        _print_advice(plans[0], _best_plan(problem, rates, grid))
    return 0


def _print_advice(plan: Plan, plan_on: Callable[[int], Plan]) -> None:
    """Say whether fewer ranks would do as well, or more would do better."""
    from distnewton.planning.advice import more_ranks, wasted_ranks

    if text := wasted_ranks(plan, plan_on) or more_ranks(plan, plan_on):
        print(f"ranks: {text}")


def _n_ranks(options: argparse.Namespace, cluster: Cluster | None) -> int:
    """Ranks that are planned: those asked for, else all of the cluster file."""
    every = cluster.launch.nodes * cluster.launch.ranks_per_node if cluster else 1
    return options.ranks or every


def advice_on_ranks(config: Config, cluster: Cluster, n_ranks: int) -> str:
    """Say which ranks of a job are wasted according to its plan; empty if none are or if splits are given.

    Parameters
    ----------
    config : Config
        The run; its data is read for its size if the configuration does not give it.
    cluster : Cluster
        Cluster of the job.
    n_ranks : int
        Number of ranks.

    Returns
    -------
    str
    """
    from distnewton.planning.advice import wasted_ranks
    from distnewton.runs.planned import planned_sketch

    if config.partition.splits != "auto" or not isinstance(config.partition.speeds, str):
        return ""
    rates, _ = cluster_rates(cluster, config.run.array_dtype)
    problem = _problem(config, argparse.Namespace(sizes=[]), n_ranks, [])
    if problem.owners is not None:
        return ""
    grid = {"sketch": planned_sketch(config.method), "n_replicas": config.partition.replicas}
    plan_on = _best_plan(problem, rates, grid)
    return wasted_ranks(plan_on(n_ranks), plan_on)


def _best_plan(problem: Problem, rates: Rates, grid: dict[str, Any]) -> Callable[[int], Plan]:
    """Return a function that finds the fastest plan on a number of ranks."""
    from distnewton.planning.plan import make_plans

    return lambda n_ranks: make_plans(problem, n_ranks, rates, **grid)[0]


def _notes_on_rates(cluster: str, missing: Sequence[str]) -> Iterator[str]:
    """Note which rates are only rough values."""
    if not cluster:
        yield "no --cluster: the rates are round figures for a core and for ranks that share one memory"
    elif missing:
        yield f"{cluster} has no {', '.join(missing)}: round figures are used; doctor --bench measures them"


def _given_sizes(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Return the sizes of the data that flags or recipe give."""
    first, last, image = config.network.listed[0], config.network.last_width, config.network.input
    widths = [first if isinstance(first, int) else None, None if image == "auto" else math.prod(map(int, image))]
    sizes = {
        "n_samples": config.data.n_train,
        "n_features": next(filter(None, widths), None),
        "n_out": None if last == "auto" else int(last),
    }
    for given in options.sizes:
        sizes |= given
    return {name: size for name, size in sizes.items() if size is not None}


def _problem(config: Config, options: argparse.Namespace, n_ranks: int, notes: list[str]) -> Problem:
    """Make the problem from the flags and the recipe; read the data for sizes that neither gives."""
    from distnewton.physics.sources import problem_of
    from distnewton.runs.data_size import DataSize, describe_data
    from distnewton.runs.planned import planned_problem

    given, residual = _given_sizes(config, options), problem_of(None, config.data) is not None
    complete = {"n_samples", "n_features", "n_out"} <= given.keys() and not residual
    try:
        size = (DataSize(0, 0, 0) if complete else describe_data(config))._replace(**given)
    except MissingInputError as error:
        advice = "without data, a plan needs --sizes samples=N,features=N,outputs=N"
        raise MissingInputError(f"{error}\n{advice}", collective=error.collective) from None
    shape = config.network.shape(size.n_features, size.image_shape, size.n_out)
    if config.method.direction == AUTO and not residual:
        notes.append(f"method.direction = auto: {MODELLED[-1]} is planned; name a direction to plan another")
    notes += [f"stages before {config.method.direction} are left out"] if config.method.schedule else []
    owners = None
    if size.files:
        owners = FileOwners(size.files, tuple(files_owned(config.partition)(len(size.files), n_ranks)))
    elif not isinstance(config.data.train, str):
        notes.append("data.train lists files by columns that are not read: features are split as in one file")
    return planned_problem(config, shape, size, owners=owners)
