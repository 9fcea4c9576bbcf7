"""The command ``distnewton``: parsing, and what each of its commands is called with; with and without mpirun."""

from __future__ import annotations

import argparse
import faulthandler
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from distnewton.cli.data_commands import add_convert
from distnewton.cli.export_command import add_export
from distnewton.cli.parsing import Parser, all_flags, nearest
from distnewton.cli.report_commands import add_report
from distnewton.errors import UsageError
from distnewton.launch.startup import launched_rank, launched_size, run_guarded

_DESCRIPTION = "Train neural networks with distributed Newton methods; each MPI rank owns a part of the features."

def build_parser() -> argparse.ArgumentParser:
    """The command line; settings of the configuration are its flags, too."""
    parser = Parser(prog="distnewton", description=_DESCRIPTION)
    parser.add_argument("--version", action="store_true", help="show the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    train = commands.add_parser(
        "train",
        help="train a network",
        usage="distnewton train [RECIPE] [--resume [RUN]] [--run-dir DIR] [--data-dir DIR] [--SECTION.KEY VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every setting of a recipe is a flag, too: --method.subsample 0.1 is --set method.subsample=0.1.",
    )
    train.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")
    train.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on from the newest checkpoint of a run folder (RUN, or --run-dir), by default with its own settings; "
        "--resume=auto begins anew where there is none",
    )
    train.add_argument("--start", metavar="MODEL", help="model file or run folder to start from (network.start)")
    train.add_argument(
        "--dry-run", action="store_true", help="show memory, messages and seconds of the run, as plan does, and stop"
    )
    train.add_argument("--quiet", action="store_true", help="show warnings and errors only")
    train.add_argument(
        "--progress", choices=("auto", "bar", "lines"), default="auto",
        help="a bar that moves, or a line an iteration; auto: a bar where the output ends on a terminal",
    )
    train.add_argument("--tensorboard", action="store_true", help="write events to RUN/tensorboard, too")
    _add_settings(train)
    compare = commands.add_parser(
        "compare",
        help="train with several directions and compare them",
        usage="distnewton compare [RECIPE] --directions NAME,NAME,... [--seconds N] [--SECTION.KEY VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Leaves comparison.md, comparison.png and a run folder a run. sgd and adam get three learning rates.",
    )
    compare.add_argument(
        "--directions", required=True, metavar="NAMES", help="directions, or recipes whose [method] is meant, by commas"
    )
    compare.add_argument("--seconds", type=float, default=60.0, metavar="N", help="training of each run (default 60)")
    compare.add_argument(
        "--levels", metavar="VALUES", help="metrics whose times are asked for, as 0.95,0.97 (default: usual ones)"
    )
    _add_settings(compare)
    for name, text in (("evaluate", "metrics of a trained model on data"), ("predict", "write the predicted labels")):
        command = commands.add_parser(name, help=text)
        command.add_argument("run", metavar="RUN", help="run folder, or model file")
        command.add_argument("data", metavar="DATA", help="data file, or a bundled set such as digits:test")
        command.add_argument("--data-dir", metavar="DIR", help="folder of relative data paths")
        command.add_argument(
            "--device", choices=("cpu", "gpu", "auto"), default="cpu", help="what computes (default cpu)"
        )
        if name == "predict":
            command.add_argument(
                "--probabilities", action="store_true",
                help="a first line with the labels, and behind each predicted label their probabilities",
            )  # fmt: skip
            command.add_argument(
                "--out", metavar="FILE", help="file for the labels, a line a sample; else standard output"
            )
    info = commands.add_parser("info", help="what a run was and how it went")
    info.add_argument("run", metavar="RUN", help="run folder")
    why = commands.add_parser("why", help="why a run failed: the first cause, and the rank that hung")
    why.add_argument("run", metavar="RUN", help="run folder")
    _add_cluster_commands(commands)
    _add_plan(commands)
    _add_bench(commands)
    add_convert(commands)
    add_report(commands)
    add_export(commands)
    return parser


def _add_cluster_commands(commands: Any) -> None:
    """``submit`` and ``doctor``."""
    submit = commands.add_parser(
        "submit",
        help="train on a cluster: write the job file and queue it",
        usage="distnewton submit [RECIPE] --cluster FILE [--ranks N] [--dry-run] [--SECTION.KEY VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Writes job.sh and job.toml into the run folder. Without Slurm the job runs here and now.",
    )
    submit.add_argument("--cluster", required=True, metavar="FILE", help="cluster file (see cluster_configs/README.md)")
    submit.add_argument("--ranks", type=_count, metavar="N", help="MPI ranks (default: all that the cluster file has)")
    submit.add_argument("--hosts", metavar="LIST", help="hosts by commas, instead of the cluster file's")
    submit.add_argument("--dry-run", action="store_true", help="show the job file and write nothing")
    _add_settings(submit)
    doctor = commands.add_parser("doctor", help="find what is wrong with MPI, threads, GPUs, folders, versions")
    doctor.add_argument("recipe", nargs="?", help="TOML file to compare over the ranks")
    doctor.add_argument("--cluster", metavar="FILE", help="cluster file to compare with, or for what --bench measures")
    doctor.add_argument("--run-dir", metavar="DIR", help="folder in which runs are to be (default runs)")
    doctor.add_argument("--bench", action="store_true", help="measure messages and products (20 s)")


def _add_plan(commands: Any) -> None:
    """``plan``."""
    plan = commands.add_parser(
        "plan",
        help="memory, messages and seconds of a run before there is a job",
        usage="distnewton plan [RECIPE] [--cluster FILE] [--ranks N] [--samples N ...] [--SECTION.KEY VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Without --samples, --features and --outputs the data of the recipe is read for its size.",
    )
    plan.add_argument("--cluster", metavar="FILE", help="cluster file with rates (doctor --bench measures them)")
    plan.add_argument("--ranks", type=_count, metavar="N", help="MPI ranks (default: all that the cluster file has)")
    for name, text in (
        ("samples", "training samples"),
        ("features", "features"),
        ("outputs", "classes, or targets"),
        ("test-samples", "test samples"),
        ("cg-steps", "CG steps of a direction (default method.cg_max)"),
    ):
        plan.add_argument(f"--{name}", type=_count, metavar="N", help=text)
    plan.add_argument("--trials", type=_count, default=1, metavar="N", help="points of a line search (default 1)")
    plan.add_argument("--nonzeros", type=_positive, metavar="X", help="non-zeros of a sample, of sparse features")
    plan.add_argument("--memory-gb", type=_positive, metavar="X", help="memory of a rank: how wide may the network be?")
    plan.add_argument("--json", action="store_true", help="print all figures as JSON")
    _add_settings(plan)


def _add_bench(commands: Any) -> None:
    """``bench``."""
    bench = commands.add_parser(
        "bench",
        help="rates of the kernels, scaling studies, a slow rank",
        usage="distnewton bench kernels | scaling RECIPE | straggler RECIPE [--ranks 1,2,4] [--SECTION.KEY VALUE ...]",
    )
    bench.add_argument("what", choices=("kernels", "scaling", "straggler"))
    bench.add_argument("--cluster", metavar="FILE", help="cluster file: how runs start, and rates for predictions")
    bench.add_argument("--ranks", type=_counts, metavar="LIST", help="numbers of ranks (default 1,2)")
    bench.add_argument("--nodes", type=_counts, metavar="LIST", help="numbers of nodes of the cluster file instead")
    bench.add_argument(
        "--grow", default="grid", choices=("grid", "replicas"), help="what grows with the ranks: the grid (default), "
        "or the replicas of it, each with its share of the samples"
    )  # fmt: skip
    bench.add_argument("--kind", default="strong", metavar="K", help="strong (default), weak-weights or weak-samples")
    for name, default, text in (
        ("repeats", 5, "runs of each point"),
        ("warmup", 2, "iterations of a run that do not count"),
        ("iterations", 7, "iterations of a run that count"),
    ):
        bench.add_argument(f"--{name}", type=_count, default=default, metavar="N", help=f"{text} (default {default})")
    bench.add_argument(
        "--tolerance", type=_positive, default=1e-3, metavar="X",
        help="points whose objective differs by more are refused (relative, default 0.001)",
    )  # fmt: skip
    bench.add_argument("--factor", type=_positive, default=5.0, metavar="X", help="how much slower (default 5)")
    bench.add_argument("--collect", action="store_true", help="run nothing; collect the runs of --run-dir")
    bench.add_argument("--dry-run", action="store_true", help="write the job files and start nothing")
    _add_settings(bench)


def _counts(text: str) -> list[int]:
    """Numbers from 1, by commas."""
    return [_count(part.strip()) for part in text.split(",")]


def _positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _count(text: str) -> int:
    """A number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The recipe, and one flag a setting, from the configuration's own fields."""
    from distnewton.config import Config

    parser.add_argument("recipe", nargs="?", help="TOML file with the settings; all can be given as flags")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a setting; wins over the recipe"
    )
    parser.add_argument("--run-dir", metavar="DIR", help="run folder (run.directory)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of relative data paths (data.directory)")
    parser.add_argument("--device", metavar="DEVICE", help="cpu, gpu or auto (run.device)")
    for section, field in Config.model_fields.items():
        group = parser.add_argument_group(f"[{section}]")
        table = field.annotation
        for key, setting in table.model_fields.items():  # type: ignore[union-attr]
            default = "" if setting.default in ("", None) else f" (default {setting.default})"
            text = f"{setting.description}{default}".replace("%", "%%")
            group.add_argument(f"--{section}.{key}", dest=f"{section}.{key}", metavar="VALUE", help=text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    Parameters
    ----------
    arguments : sequence of str
        Without the program's name.

    Returns
    -------
    argparse.Namespace

    Raises
    ------
    UsageError
        With the nearest known flag for an unknown one.
    """
    parser = build_parser()
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [f for f in all_flags(parser, known.command) if f.startswith("--")]
        near = nearest(unknown[0].partition("=")[0], flags)
        hint = f"; did you mean {near}?" if near else f"\ntry: distnewton {known.command or ''} --help"
        if not unknown[0].startswith("--") and known.command == "train":
            hint = "; options in LIBLINEAR's manner are those of distnewton-train"
        raise UsageError(f"unknown argument {unknown[0]}{hint}", collective=True)
    return known


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    from distnewton.cli import (
        bench_commands,
        cluster_commands,
        compare_command,
        data_commands,
        export_command,
        model_commands,
        plan_command,
        report_commands,
        train_command,
    )

    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.version:
        from importlib.metadata import version

        if launched_rank() == 0:
            print("distnewton", version("distnewton"))
        return 0
    known: dict[str | None, Callable[[argparse.Namespace], int]] = {
        "train": train_command.train,
        "compare": compare_command.compare,
        "evaluate": model_commands.evaluate,
        "predict": model_commands.predict,
        "info": report_commands.info,
        "why": report_commands.why,
        "submit": cluster_commands.submit,
        "doctor": cluster_commands.doctor,
        "plan": plan_command.plan,
        "bench": bench_commands.bench,
        "convert": data_commands.convert,
        "report": report_commands.report,
        "export": export_command.export,
    }
    if options.command == "train" and options.dry_run:
        return _dry_run(options)
    if options.command not in known:
        build_parser().print_help()
        return 2
    return known[options.command](options)


def _dry_run(options: argparse.Namespace) -> int:
    """Plan the run that ``train`` would make with the ranks there are; rank 0 does so alone."""
    from distnewton.cli.plan_command import show_plans

    if launched_rank() != 0:
        return 0
    planned = parse(["plan", "--ranks", str(launched_size())])
    return show_plans(argparse.Namespace(**{**vars(planned), **vars(options)}))


def console() -> NoReturn:
    """Entry point of the ``distnewton`` script."""
    run_console(main)


def run_console(program: Callable[[], int]) -> NoReturn:
    """Run a program as a console script does: a failure on any rank ends the whole job."""
    if launched_rank() != 0 and not sys.warnoptions:
        # rank 0 warns for all; a rank that fails is heard all the same
        warnings.simplefilter("ignore")
    # a crash inside a library shows where it was called
    faulthandler.enable(all_threads=False)
    code = run_guarded(program)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader of our output has left, say `| head`: nothing is wrong, but Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
