"""Command lines in LIBLINEAR's manner, and what their options are among the settings of a run."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from distnewton.cli.parsing import Parser
from distnewton.config import Config, apply_settings, make_config
from distnewton.directions.direction import FULL_BATCH
from distnewton.directions.registry import DIRECTIONS
from distnewton.errors import UsageError

SIMPLENN = "simplenn"
SOLVERS = (*DIRECTIONS, SIMPLENN)
"""What ``-s 0``, ``-s 1``, ... stand for."""
CONSTANTS = {"cg_tolerance": 0.1, "cg_max": 250, "damping": 1.0, "drop": 2.0 / 3.0, "boost": 1.5}
"""simpleNN's, which the directions of all samples take here."""
_CG_MIN = 3
_SHARE = 0.05
_NONE = 1e-12
"""A share of the samples that is less than one of them: the least number of samples then decides."""
_BIAS = "each layer has biases, which are variables like others, as with LIBLINEAR's -B 1: leave it out"
FOREIGN = {
    "R": f"has no meaning here: {_BIAS}",
    "p": "is of support vector regression, which is not trained here; --loss squared is for regression",
    "n": "is of one-class machines, which are not trained here",
    "t": "is svm-train's, whose kernels are not here; --layers says what the network is",
} | dict.fromkeys("dgr", "is of svm-train's kernels, which are not here")
"""Options of LIBLINEAR and LIBSVM without a meaning here, and why."""
_WHAT = (
    "own diagonal block of the Gauss-Newton matrix, no messages (default)",
    "full Gauss-Newton matrix by CG",
    "full Gauss-Newton matrix, exactly, in sample space",
    "own diagonal block, exactly, in sample space",
    "stochastic Gauss-Newton on mini-batches",
    "k-FAC",
    "mini-block Fisher",
    "step sizes of groups from their curvature",
    "stochastic gradient with momentum",
    "Adam",
    "gauss_newton as simpleNN has it: squared loss, ReLU, C 0.01, no combination with the last direction",
)
_EPILOG = """\
Like LIBLINEAR, training minimises |theta|^2 / 2 + C sum_i loss_i; theta are all weights and biases of a
network with one hidden layer of 100 neurons, others by --layers. The label of a sample is its class.

-s type (number or name):
{solvers}

-C without a number finds C by -v-fold cross validation (default 5), from -c (default 2^-6) to 2^10 in steps of 4.
-m n is the number of BLAS threads of a rank. Biases are variables like others, as with LIBLINEAR's -B 1; its -R, -p
and -n have no meaning here.

-w1 5 and -w 1 5 give the samples of label 1 the weight 5: their C is 5 C.

Names of simpleNN mean what they mean there; without them 0 to 3 and 10 have its values, others their own:
  -C         as -c: |theta|^2 / (2 C l) with l samples (simpleNN's 0.01 with -s 10)   method.C = "C l"
  -GNsize    samples whose curvature is used (5 % of them)                            method.subsample_min
  -iter_max  iterations (100)                                                         run.iterations
  -xi        relative residual at which CG stops (0.1)                                method.cg_tolerance
  -CGmax     most CG steps (250)                                                      method.cg_max
  -lambda    first damping (1)                                                        method.damping
  -drop      factor of lambda after a good prediction (2/3)                           method.drop
  -boost     factor of lambda after a bad one (3/2)                                   method.boost
  -eta       sufficient decrease of the line search (0.0001)                          method.sufficient_decrease

Under mpirun all ranks work and one of them speaks: mpirun -n 4 distnewton-train heart_scale
"""


class _Parser(Parser):
    """Errors show the usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}\ntry: {self.prog} --help", collective=True)


def train_parser() -> argparse.ArgumentParser:
    """The command line of ``distnewton-train``."""
    named = enumerate(zip(SOLVERS, _WHAT, strict=True))
    solvers = "\n".join(f"  {i:>2} {name:<18} {what}" for i, (name, what) in named)
    parser = _Parser(
        prog="distnewton-train",
        usage="distnewton-train [options] training_set_file [model_file]",
        description="Train a network on a file, in the manner of LIBLINEAR's train.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG.format(solvers=solvers),
    )
    parser.add_argument("training_set_file", help="LIBSVM text, or another format that distnewton train takes")
    parser.add_argument("model_file", nargs="?", help="default: training_set_file.model in the working folder")
    parser.add_argument("-s", metavar="type", type=_solver, default=SOLVERS[0], help="direction, see below (default 0)")
    parser.add_argument("-c", metavar="cost", type=_positive, help="C (default 1)")
    parser.add_argument(
        "-e", metavar="epsilon", type=_positive,
        help="end when |f'(theta)| <= epsilon |f'(theta_0)|; types 0 to 3 and 10 (default: only -iter_max ends)",
    )
    parser.add_argument("-v", metavar="n", type=_count, help="n-fold cross validation; no model is written")
    parser.add_argument("-q", action="store_true", help="quiet")
    parser.add_argument("-m", metavar="n", type=_count, help="BLAS threads of a rank")
    parser.add_argument("-B", metavar="bias", type=_real, help="1 only: what all layers here have")
    parser.add_argument("-R", action="store_const", const="", help=argparse.SUPPRESS)
    for name in ("p", "n", "t", "d", "g", "r"):
        parser.add_argument(f"-{name}", nargs="?", const="", help=argparse.SUPPRESS)
    parser.add_argument("-w", nargs=2, metavar=("label", "weight"), help="weight of a label; also -wLABEL weight")
    for name, kind in (
        ("C", _positive), ("GNsize", _count), ("iter_max", _number_from_0), ("xi", _real), ("CGmax", _count),
        ("lambda", _real), ("drop", _real), ("boost", _real), ("eta", _real),
    ):  # fmt: skip
        parser.add_argument(f"-{name}", metavar="value", type=kind, help="simpleNN's, see below")
    parser.add_argument("--layers", metavar="LIST", help="widths, as 784-300-300-10 (default auto-100-auto)")
    parser.add_argument("--loss", metavar="NAME", help="cross_entropy (default), logistic, or squared for regression")
    parser.add_argument("--start", metavar="MODEL", help="model to start from")
    _add_set(parser)
    return parser


def predict_parser() -> argparse.ArgumentParser:
    """The command line of ``distnewton-predict``."""
    parser = _Parser(
        prog="distnewton-predict",
        usage="distnewton-predict [options] test_file model_file output_file",
        description="Write the label that a model predicts for each sample of a file, a line each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("test_file", help="data with labels; features that the model does not have are left out")
    parser.add_argument("model_file", help="what distnewton-train has written, or a run folder")
    parser.add_argument("output_file", help="file to write")
    parser.add_argument(
        "-b", metavar="0|1", type=int, choices=(0, 1), default=0,
        help="1: a first line with the labels, and behind each predicted label their probabilities (default 0)",
    )
    parser.add_argument("-q", action="store_true", help="quiet")
    _add_set(parser)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="any setting of distnewton train, as data.scale=standard or data.zero_based=true",
    )  # fmt: skip


def parse_train(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, float]]:
    """Options of ``distnewton-train``, and weights of labels.

    Parameters
    ----------
    arguments : sequence of str
        Without the program's name.

    Returns
    -------
    tuple of argparse.Namespace and dict of str to float

    Raises
    ------
    UsageError
        With the usage.
    """
    parser = train_parser()
    rest, weights = _split_weights(parser, list(arguments))
    rest, find_c = _split_search(rest)
    options = parser.parse_args(rest)
    for name, why in FOREIGN.items():
        if getattr(options, name) is not None:
            parser.error(f"-{name} {why}")
    if options.B not in (None, 1.0):
        parser.error(f"-B {options.B:g}: {_BIAS}")
    options.find_c = find_c
    if options.c is not None and options.C is not None:
        parser.error("-c and -C are two names of the same: give one")
    return options, weights


def _split_search(arguments: list[str]) -> tuple[list[str], bool]:
    """Take LIBLINEAR's ``-C``, which has no value, out; simpleNN's has a number."""
    rest, find_c = [], False
    for i, argument in enumerate(arguments):
        if argument == "-C" and not (i + 1 < len(arguments) and _is_number(arguments[i + 1])):
            find_c = True
        else:
            rest.append(argument)
    return rest, find_c


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split_weights(parser: argparse.ArgumentParser, arguments: list[str]) -> tuple[list[str], dict[str, float]]:
    """Take ``-w1 5`` and ``-w 1 5`` out: labels may look like options."""
    rest: list[str] = []
    weights: dict[str, float] = {}
    while arguments:
        first = arguments.pop(0)
        if not first.startswith("-w"):
            rest.append(first)
            continue
        needed = 2 if first == "-w" else 1
        if len(arguments) < needed:
            parser.error(f"{first} needs a {'label and a ' * (needed == 2)}weight")
        label = arguments.pop(0) if needed == 2 else first[2:]
        text = arguments.pop(0)
        try:
            weights[label] = float(text)
        except ValueError:
            parser.error(f"-w {label}: expected a number as weight, got {text!r}")
    return rest, weights


def training_config(options: argparse.Namespace, weights: dict[str, float]) -> Config:
    """Settings of a run from its options.

    Parameters
    ----------
    options : argparse.Namespace
        Of :func:`parse_train`.
    weights : dict of str to float
        Of labels.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        If they do not go together.
    """
    simplenn = options.s == SIMPLENN
    direction = "gauss_newton" if simplenn else options.s
    method: dict[str, Any] = {"direction": direction}
    if DIRECTIONS[direction].family is FULL_BATCH:
        method |= {"subsample": _SHARE, "subsample_min": 1, "damping": CONSTANTS["damping"]}
        method |= {key: CONSTANTS[key] for key in ("drop", "boost")}
        if direction in ("block_diagonal", "gauss_newton"):
            method |= {key: CONSTANTS[key] for key in ("cg_tolerance", "cg_max")}
    if simplenn:
        method["combine"] = "none"
    names = {
        "xi": "cg_tolerance", "CGmax": "cg_max", "lambda": "damping", "drop": "drop", "boost": "boost",
        "eta": "sufficient_decrease",
    }  # fmt: skip
    method |= {key: getattr(options, name) for name, key in names.items() if getattr(options, name) is not None}
    if options.CGmax is not None and options.CGmax < _CG_MIN:
        method["cg_min"] = options.CGmax
    if options.GNsize is not None:
        method |= {"subsample": _NONE, "subsample_min": options.GNsize}
    C = options.C if options.c is None else options.c
    C = (0.01 if simplenn else 1.0) if C is None else C
    method["C"] = math.inf if math.isinf(C) else f"{C!r} l"
    tree: dict[str, Any] = {
        "data": {"train": options.training_set_file, "class_weights": weights or "none"},
        "network": {"activation": "relu", "loss": "squared"} if simplenn else {},
        "method": method,
        "run": {"tolerance": options.e or 0.0},
    }
    if simplenn:
        tree["data"]["task"] = "classification"
    for section, key in (("network", "layers"), ("network", "loss"), ("network", "start")):
        value = getattr(options, key)
        tree[section] |= {} if value is None else {key: value}
    if options.m is not None:
        tree["run"]["threads"] = options.m
    if options.iter_max is not None:
        tree["run"]["iterations"] = options.iter_max
    return make_config(apply_settings(tree, options.set))


def _solver(text: str) -> str:
    """A direction by its number or name."""
    if text.isdigit() and int(text) < len(SOLVERS):
        return SOLVERS[int(text)]
    if text in SOLVERS:
        return text
    names = ", ".join(SOLVERS)
    raise argparse.ArgumentTypeError(f"expected 0 to {len(SOLVERS) - 1}, or a name ({names}), got {text!r}")


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def _positive(text: str) -> float:
    value = _real(text)
    if not value > 0.0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _number_from_0(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)
