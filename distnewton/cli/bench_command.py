"""The command ``bench``: rates of the kernels, scaling studies, and the effect of a slow rank."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.cli.command import CLUSTER_FILE, RECIPE, SET, argument, command
from distnewton.cli.parsing import count, counts
from distnewton.cli.settings import overrides
from distnewton.cli.streams import results_go_to_files
from distnewton.cluster.cluster_file import Cluster, LaunchTable, load_cluster
from distnewton.cluster.measured_rates import cluster_rates
from distnewton.config import Config, apply_settings, load_config, make_config, read_settings
from distnewton.errors import ConfigError
from distnewton.outputs import check_folder, write_output
from distnewton.packages import version

if TYPE_CHECKING:
    from distnewton.study.points import Study

_TOLERANCE = 1e-3
"""Relative difference of objectives above which a point of a study is refused."""
_SLOWDOWN = 5
"""How many times slower the straggler is."""
_SETTLED = 10
"""Number of first iterations of a comparison that do not count, while the partition moves."""
DEFAULT_RATES = "no --cluster: no prediction; distnewton doctor --bench writes the rates of this machine to a file"


@command(
    "bench",
    "measure rates of the kernels, scaling, or the effect of a slow rank",
    argument("what", choices=("kernels", "scaling", "straggler")),
    RECIPE,
    SET,
    argument("--cluster", metavar="FILE", help=f"{CLUSTER_FILE}: says how to start runs; its rates give predictions"),
    argument("--ranks", type=counts, metavar="LIST", help="numbers of ranks (default 1,2)"),
    argument("--nodes", type=counts, metavar="LIST", help="numbers of nodes of the cluster file, instead of --ranks"),
    argument(
        "--kind", default="strong", metavar="K", help="strong (default), weak-weights or weak-samples; strong-replicas "
        "and weak-samples-replicas use more ranks for replicas of the grid, each with its share of the samples"
    ),
    argument("--repeats", type=count, default=5, metavar="N", help="runs of each point (default 5)"),
    argument("--iterations", type=count, default=7, metavar="N", help="iterations that are timed (default 7)"),
    argument("--run-dir", metavar="DIR", help="folder of the runs (default scaling, or straggler)"),
    argument("--collect", action="store_true", help="run nothing; collect the finished runs of --run-dir"),
    argument("--dry-run", action="store_true", help="write the job files and start nothing"),
    usage="kernels | scaling RECIPE | straggler RECIPE [--ranks 1,2,4] [--set SECTION.KEY=VALUE ...]",
    without_mpirun="it starts the ranks itself",
)  # fmt: skip
def bench(options: argparse.Namespace) -> int:
    """Run one of the benchmarks."""
    if options.what == "kernels":
        from distnewton.study.kernels import main

        main()
        return 0
    return _straggler(options) if options.what == "straggler" else _scaling(options)


def _scaling(options: argparse.Namespace) -> int:
    """Do the missing runs of a study, then collect all."""
    from distnewton.study.points import KINDS, REPLICAS, plan_study, read_study

    results_go_to_files()
    root = Path(options.run_dir or "scaling")
    cluster = _cluster(options)
    if options.collect:
        return _collect(read_study(root), root, options, cluster)
    known = [*KINDS, *(f"{kind}{REPLICAS}" for kind in KINDS if kind != "weak-weights")]
    if options.kind not in known:
        raise ConfigError(f"--kind is {', '.join(known)}, got {options.kind!r}", collective=True)
    check_folder(root)
    ranks = [n * cluster.launch.ranks_per_node for n in options.nodes or []] or options.ranks or [1, 2]
    study, settings = plan_study(_point_config(options, {}), options.kind, ranks, options.repeats, options.iterations)
    _make_runs(study, root, options, cluster, settings)
    if cluster.launch.scheduler != "none" or options.dry_run:
        print(f"when the jobs have ended: distnewton bench scaling RECIPE --collect --run-dir {root}")
        return 0
    return _collect(study, root, options, cluster)


def _make_runs(
    study: Study, root: Path, options: argparse.Namespace, cluster: Cluster, settings: dict[int, dict[str, Any]]
) -> None:
    """Start or queue every run; repeats take turns, so a slow spell of the machine affects all points."""
    from distnewton.cluster.submit import Submission, queue, run_here

    study.write(root)
    for repeat in range(1, study.n_repeats + 1):
        for n_ranks in study.ranks:
            folder = study.folder(root, n_ranks, repeat)
            changes = {**settings[n_ranks], "run": {**settings[n_ranks]["run"], "directory": str(folder)}}
            config = _point_config(options, changes)
            job_file = Submission(config, cluster, f"scaling-{n_ranks}", n_ranks).write()
            if options.dry_run:
                print(f"dry run: {job_file}")
            elif cluster.launch.scheduler == "none":
                _run(job_file, run_here)
            else:
                print(f"{job_file}: job {queue(job_file)}")


def _run(job_file: Path, run_here: Any) -> None:
    """Run a job here, and write its output beside it."""
    output = job_file.with_name("output.txt")
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        with output.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            code = run_here(job_file)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    if code:
        raise ConfigError(f"{job_file} ended with exit code {code}; its output is in {output}", collective=True)
    print(f"{job_file.parent}: done")


def _collect(study: Study, root: Path, options: argparse.Namespace, cluster: Cluster) -> int:
    """Read the finished runs, and write the table, the lines and the picture."""
    from distnewton.reporting.scaling_plot import ScalingResult
    from distnewton.runs.data_size import describe_data
    from distnewton.study.measured import collect
    from distnewton.study.prediction import predict

    points, missing = collect(study, root, _TOLERANCE)
    if not points:
        raise ConfigError(f"no run of {root} has ended:\n" + "\n".join(missing[:10]), collective=True)
    plans = []
    config = load_config(study.folder(root, points[0].n_ranks, 1) / "config.toml")
    if options.cluster:
        rates, _ = cluster_rates(cluster, config.run.array_dtype)
        plans = predict(study, config, describe_data(config), points, rates)
    else:
        print(f"note: {DEFAULT_RATES}", file=sys.stderr)
    scaling = ScalingResult(study, points, plans)
    table = scaling.markdown(missing)
    lines = "".join(json.dumps(line) + "\n" for line in scaling.lines())
    write_output(root / "scaling.md", table, collective=True)
    write_output(root / "scaling.jsonl", lines, collective=True)
    print(table)
    caption = (
        f"{config.data.title}, {config.network.title}, {config.method.title}; {platform.node()}, "
        f"{platform.machine()}, distnewton {version('distnewton')}"
    )
    try:
        scaling.save_picture(root / "scaling.png", caption)
        print(f"picture: {root / 'scaling.png'}")
    except ConfigError as error:
        print(f"no picture: {error}", file=sys.stderr)
    return 0


def _straggler(options: argparse.Namespace) -> int:
    """Slow one rank down, and compare iterations in which the others wait for it, stop it early, or take its work."""
    import numpy as np

    cluster = _cluster(options)
    n_ranks = max(options.ranks or [2])
    if n_ranks < 2:
        raise ConfigError("--ranks 1: no other rank would wait for the slow one; use 2 or more", collective=True)
    fault = {"DISTNEWTON_FAULT": f"rank={n_ranks - 1} at=all kind=slow factor={_SLOWDOWN}"}
    variables = {**cluster.environment.variables, **fault}
    disturbed = cluster.model_copy(
        update={"environment": cluster.environment.model_copy(update={"variables": variables})}
    )
    equal: dict[str, Any] = {"partition": {"speeds": "equal"}}
    trials = {
        "undisturbed": (cluster, equal),
        "slowed, early termination": (disturbed, equal),
        "slowed, all waited for": (disturbed, {**equal, "run": {"deterministic": True}}),
        "slowed, partition.speeds=auto": (disturbed, {"partition": {"speeds": "auto"}}),
    }
    found: dict[str, list[list[float]]] = {name: [] for name in trials}
    # repeats take turns, so a slow spell of the machine affects all trials
    for repeat in range(1, options.repeats + 1):
        for number, (name, (where, changes)) in enumerate(trials.items(), start=1):
            folder = f"{number}-{re.sub('[, =.]+', '-', name)}/repeat-{repeat:02d}"
            found[name] += _trial(options, where, n_ranks, folder, changes)
    medians = {name: np.median(values, axis=0).tolist() for name, values in found.items()}
    print(f"{n_ranks} ranks, the last one {_SLOWDOWN} times slower; median of iterations after the first {_SETTLED}:")
    for name, (iteration, direction, objective) in medians.items():
        ratio = iteration / medians["undisturbed"][0]
        print(f"  {name:30} {iteration:.4g} s ({ratio:.2f} x), direction {direction:.4g} s, objective {objective:.10g}")
    return 0


def _trial(
    options: argparse.Namespace, cluster: Cluster, n_ranks: int, folder: str, changes: dict[str, Any]
) -> list[list[float]]:
    """Do a run; return the seconds of each timed iteration and of its direction, and the last objective."""
    import numpy as np

    from distnewton.cluster.submit import Submission, run_here
    from distnewton.runs.run_folder import read_metrics

    path = Path(options.run_dir or "straggler") / folder
    run = {"iterations": _SETTLED + options.iterations, "deterministic": False, "directory": str(path)}
    config = _point_config(options, {**changes, "run": {**run, **changes.get("run", {})}})
    _run(Submission(config, cluster, "straggler", n_ranks).write(), run_here)
    records = list(read_metrics(path))
    times = np.diff([record["training_seconds"] for record in records])[_SETTLED:].tolist()
    phases = [record["seconds"]["direction"] for record in records[_SETTLED + 1 :]]
    return [[time, phase, records[-1]["objective"]] for time, phase in zip(times, phases, strict=True)]


def _cluster(options: argparse.Namespace) -> Cluster:
    """Read the cluster file; without one, describe this machine with as many ranks as the command needs."""
    if options.cluster:
        return load_cluster(options.cluster)
    most = max([*(options.ranks or []), *(options.nodes or []), 2])
    return Cluster(name="here", launch=LaunchTable(ranks_per_node=most, threads_per_rank=1))


def _point_config(options: argparse.Namespace, changes: dict[str, Any]) -> Config:
    """Make the configuration of a point: recipe and flags, overridden by the point's own settings."""
    given = [s for s in overrides(options) if not s.startswith("run.directory=")]
    tree = apply_settings(read_settings(options.recipe), given)
    # points with different numbers of threads would be compared as if only their ranks differed
    changes = {**changes, "run": {"threads": tree.get("run", {}).get("threads", 0) or 1, **changes.get("run", {})}}
    for table, values in changes.items():
        tree[table] = {**tree.get(table, {}), **values}
    return make_config(tree)
