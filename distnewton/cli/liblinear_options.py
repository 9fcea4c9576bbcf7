"""LIBLINEAR's command lines, and the settings of a run that their flags stand for."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from distnewton.cli.parsing import Parser, count, count_from_0, number, positive
from distnewton.cli.setting_help import settings
from distnewton.config import Config, apply_settings, make_config
from distnewton.directions.direction import FULL_BATCH
from distnewton.directions.registry import DIRECTIONS
from distnewton.errors import UsageError

SIMPLENN = "simplenn"
LINEAR_LOSSES = {"0": "logistic", "1": "squared_hinge", "2": "squared_hinge", "7": "logistic"}
"""Loss of LIBLINEAR's solvers with an L2 penalty, by the number of ``-s``; primal and dual have one solution."""
REFUSED = {
    "3": "the hinge loss is not here: take -s 2, its square",
    "4": "the loss of Crammer and Singer is not here: take -s 2, or --loss cross_entropy",
    "5": "there is no L1 penalty: take -s 2, which has the same loss",
    "6": "there is no L1 penalty: take -s 0, which has the same loss",
    **dict.fromkeys(("11", "12", "13"), "support vector regression is not here: take --loss squared"),
    "21": "one-class problems are not here",
}
"""LIBLINEAR's other numbers, and what to take in their place."""
CONSTANTS = {
    "cg_tolerance": 0.1, "cg_max": 250, "damping": 1.0, "drop": 2.0 / 3.0, "boost": 1.5, "sketch": 0, "parts": 1,
}  # fmt: skip
"""simpleNN's values, which directions on all samples use here."""
FLAGS: tuple[tuple[str, str, Callable[[str], Any], str], ...] = (
    ("-e", "epsilon", positive, "run.tolerance"),
    ("-m", "n", count, "run.threads"),
    ("-iter_max", "n", count_from_0, "run.iterations"),
    ("-GNsize", "n", count, "method.subsample_min"),
    ("-xi", "x", number, "method.cg_tolerance"),
    ("-CGmax", "n", count, "method.cg_max"),
    ("-lambda", "x", number, "method.damping"),
    ("-drop", "x", number, "method.drop"),
    ("-boost", "x", number, "method.boost"),
    ("-eta", "x", number, "method.sufficient_decrease"),
    ("--layers", "LIST", str, "network.layers"),
    ("--loss", "NAME", str, "network.loss"),
    ("--start", "MODEL", str, "network.start"),
)
"""Flags of LIBLINEAR, of simpleNN and of this package that stand for one setting each."""
_SIMPLENN_TREE: dict[str, dict[str, Any]] = {
    "data": {"task": "classification"},
    "network": {"activation": "relu", "loss": "squared"},
    "method": {"combine": "none"},
}
_SHARE = 0.05
_NO_SHARE = 1e-12
"""A share below one sample, with which the least number of samples decides."""
_EPILOG = """\
Like LIBLINEAR, training minimises |theta|^2 / 2 + C sum_i loss_i; theta are all weights and biases of a
network, whose label of a sample is its class.

Numbers of -s are LIBLINEAR's. They train a linear network to the solution, by Newton's method with all samples:
   0, 7  logistic regression of two classes (-b 1 of distnewton-predict gives probabilities)
   1, 2  the squared hinge of each class against the rest (default)
LIBLINEAR's other numbers are refused. --loss cross_entropy gives probabilities of several classes. Outputs have no bias
unless -B 1 gives them one, a variable like others. --layers 123-100-2 adds a hidden layer, and biases.

Names of -s are directions of distnewton train:
{types}

-C without a number finds C by -v-fold cross validation (default 5), from -c (default 2^-6) to 2^10 in steps of 4.
Directions of all samples, and simplenn, have simpleNN's defaults: 5 % of the samples, cg_tolerance 0.1, cg_max 250,
damping 1. They take -e, too; without it -iter_max ends training.

Under mpirun all ranks work and one of them prints: mpirun -n 4 distnewton-train heart_scale
"""
_SET = ("SECTION.KEY=VALUE", "any setting of distnewton train, as data.scale=standard or data.zero_based=true")


class LiblinearParser(Parser):
    """A parser whose errors show the usage."""

    def __init__(self, usage: str, **options: Any) -> None:
        form = argparse.RawDescriptionHelpFormatter
        prog = usage.split()[0]
        super().__init__(None, prog=prog, usage=usage, formatter_class=form, **options)
        self.add_argument("-q", action="store_true", help="quiet")
        self.add_argument("--set", action="append", default=[], metavar=_SET[0], help=_SET[1])

    def format_help(self, *, complete: bool = False) -> str:
        """The help; what it says of settings and directions takes the import of every direction."""
        known = settings()
        for action in self._actions:
            if action.dest in known:
                action.help = f"{known[action.dest].clause} ({action.dest})"
        if self.epilog:
            self.epilog = _EPILOG.format(types="\n".join(_types()))
        return super().format_help(complete=complete)

    def error(self, message: str) -> NoReturn:
        """Refuse a command line, and show how it is written."""
        raise UsageError(f"{message}\n{self.format_usage().strip()}\ntry: {self.prog} --help", collective=True)


def train_parser() -> argparse.ArgumentParser:
    """The parser of ``distnewton-train``."""
    parser = LiblinearParser(
        "distnewton-train [options] training_set_file [model_file]",
        description="Train a network on a file, as LIBLINEAR's train does.",
        epilog=_EPILOG,
    )
    parser.add_argument("training_set_file", help="LIBSVM text, or another format that distnewton train takes")
    parser.add_argument("model_file", nargs="?", help="default: training_set_file.model in the working folder")
    solver = "solver by LIBLINEAR's number (default 2), or direction by name; see below"
    parser.add_argument("-s", metavar="type", type=_direction, help=solver)
    parser.add_argument("-c", metavar="cost", type=positive, help="C (default 1)")
    parser.add_argument("-C", metavar="cost", type=positive, help="C as in simpleNN; without a number: find C")
    parser.add_argument("-v", metavar="n", type=count, help="n-fold cross validation; no model is written")
    parser.add_argument(
        "-B", metavar="bias", type=number, choices=(1.0, -1.0),
        help="1: outputs have a bias; -1: they have none (default; only for linear networks)",
    )  # fmt: skip
    parser.add_argument(
        "-w", metavar="label weight", type=_weight, action="append", default=[], help="weight of a label, also -wLABEL"
    )
    for flag, metavar, kind, name in FLAGS:
        parser.add_argument(flag, dest=name, metavar=metavar, type=kind, help=name)
    return parser


def predict_parser() -> argparse.ArgumentParser:
    """The parser of ``distnewton-predict``."""
    parser = LiblinearParser(
        "distnewton-predict [options] test_file model_file output_file",
        description="Write the label that a model predicts for each sample of a file, one a line.",
    )
    parser.add_argument("test_file", help="data with labels; features that the model does not have are left out")
    parser.add_argument("model_file", help="model file of distnewton-train, or a run folder")
    parser.add_argument("output_file", help="file to write")
    parser.add_argument(
        "-b", metavar="0|1", type=int, choices=(0, 1), default=0,
        help="1: begin with a line of all labels, and write their probabilities after each predicted label (default 0)",
    )  # fmt: skip
    return parser


def parse_train(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the options of ``distnewton-train``; settings of :data:`FLAGS` keep their names. May raise UsageError."""
    parser = train_parser()
    words, find_c = _plain(arguments)
    options = parser.parse_args(words, argparse.Namespace(find_c=find_c))
    if options.c is not None and options.C is not None:
        parser.error("-c and -C are two names of the same option: give one")
    return options


def _plain(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Join each weight into one word, since labels may look like flags; tell whether a -C has no number."""
    words, plain, find_c = list(arguments)[::-1], [], False
    while words:
        word = words.pop()
        if word == "-C" and not (words and _is_number(words[-1])):
            find_c = True
        elif word.startswith("-w"):
            label = word[2:] or (words.pop() if words else "")
            plain.append(f"-w={label}={words.pop() if words else ''}")
        else:
            plain.append(word)
    return plain, find_c


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def training_config(options: argparse.Namespace) -> Config:
    """Make the configuration of a run from its options.

    Parameters
    ----------
    options : argparse.Namespace
        Options from :func:`parse_train`.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        If the options do not fit together.
    """
    given = {name: value for *_, name in FLAGS if (value := vars(options)[name]) is not None}
    tree = _defaults_of_type(options.s, given, options.B)
    tree["data"] |= {
        "train": options.training_set_file, "class_weights": dict(options.w) or "none", "scale": "none",
    }  # fmt: skip
    tree["method"]["C"] = _constant(options, 0.01 if options.s == SIMPLENN else 1.0)
    for name, value in given.items():
        section, _, key = name.partition(".")
        tree[section][key] = value
    tree["method"] |= _consequences(given)
    return make_config(apply_settings(tree, options.set))


def _defaults_of_type(named: str | None, given: Iterable[str], bias: float | None) -> dict[str, dict[str, Any]]:
    """Return the settings of what -s names; without a direction those of a linear network, unless layers are given."""
    tree: dict[str, dict[str, Any]] = {"data": {}, "network": {}, "method": {}, "run": {}}
    tree |= {section: dict(table) for section, table in _SIMPLENN_TREE.items() if named == SIMPLENN}
    loss = named if named in LINEAR_LOSSES.values() else None
    if loss and "network.loss" in given:
        raise UsageError(f"-s has named the loss {loss}: leave out -s or --loss")
    direction = None if loss else _direction_of(named, given)
    tree["network"] |= {"loss": loss} if loss else {}
    if direction is not None:
        tree["method"] |= _defaults(direction)
    elif not {"network.layers", "network.start"} & set(given):
        outputs = {"type": "dense", "width": "auto", "bias": bias == 1.0}
        tree["network"] |= {"layers": [outputs], "loss": loss or "squared_hinge"}
        return tree
    if bias == -1.0:
        raise UsageError("-B -1 is for a linear network: leave out --layers, --start, directions and their options")
    return tree


def _direction_of(named: str | None, given: Iterable[str]) -> str | None:
    """Return the direction of a name; options of directions that are given without one mean ``block_diagonal``."""
    if named is None:
        return "block_diagonal" if any(name.startswith("method.") for name in given) else None
    return "gauss_newton" if named == SIMPLENN else named


def _constant(options: argparse.Namespace, default: float) -> float | str:
    """Return C, as a factor on the sum over the samples, from ``-c`` or ``-C``."""
    C = next((value for value in (options.c, options.C) if value is not None), default)
    return math.inf if math.isinf(C) else f"{C!r} l"


def _consequences(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of the method that follow from the given ones."""
    follow: dict[str, Any] = {"subsample": _NO_SHARE} if "method.subsample_min" in given else {}
    if "method.cg_max" in given:
        fewest = settings()["method.cg_min"].field.default
        follow |= {"cg_min": given["method.cg_max"]} if given["method.cg_max"] < fewest else {}
    return follow


def _defaults(direction: str) -> dict[str, Any]:
    """Return a direction with those of simpleNN's constants that it uses, if it works on all samples."""
    if DIRECTIONS[direction].family is not FULL_BATCH:
        return {"direction": direction}
    constants = {"subsample": _SHARE, "subsample_min": 1, **CONSTANTS}
    users = {name: settings()[f"method.{name}"].users for name in constants}
    return {"direction": direction, **{name: v for name, v in constants.items() if direction in users[name]}}


def _types() -> Iterator[str]:
    """Yield a line for each direction with its name."""
    for name in DIRECTIONS:
        yield f"   {name:<18} {DIRECTIONS[name].help}"
    yield f"   {SIMPLENN:<18} gauss_newton with simpleNN's C, loss and activation, without combination"


def _direction(text: str) -> str:
    """Read one of LIBLINEAR's numbers, as its loss, or a direction by its name."""
    names = (*DIRECTIONS, SIMPLENN)
    if text in names:
        return text
    if text in REFUSED:
        raise argparse.ArgumentTypeError(f"{text}: {REFUSED[text]}")
    if text not in LINEAR_LOSSES:
        raise argparse.ArgumentTypeError(f"expected {', '.join(LINEAR_LOSSES)}, or a name ({', '.join(names)})")
    return LINEAR_LOSSES[text]


def _weight(text: str) -> tuple[str, float]:
    """Read a label and its weight, as label=weight."""
    label, _, weight = text.rpartition("=")
    if not label or not _is_number(weight):
        raise argparse.ArgumentTypeError(f"expected a label and a number, got {f'{label} {weight}'.strip()!r}")
    return label, float(weight)
