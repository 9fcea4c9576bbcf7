"""The configuration of a run: one checked tree, whether it comes from a TOML file, from flags or from Python.

Defaults are simpleNN's where it has them; others state their source. All errors of a configuration are reported
together, and an unknown key is shown with the nearest known one.
"""

import difflib
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from distnewton.config.method import AUTO, MethodConfig, default_method, default_options, method_fields
from distnewton.config.old_names import with_present_names
from distnewton.config.recipes import locate_recipe
from distnewton.config.sections import DataConfig, NameOf, NetworkConfig, PartitionConfig, RunConfig
from distnewton.directions.composition import CHOICES, ComponentError, choices
from distnewton.directions.options import BatchOptions
from distnewton.errors import ConfigError, MissingInputError, shown
from distnewton.files import check_tree, parse_toml, user_path
from distnewton.network.layer_tables import LAYERS, LayerTable, number_of_weight_layers
from distnewton.network.losses import LOSSES
from distnewton.options import Options

_MOST_BYTES = 1 << 24
"""Largest size of a recipe or a cluster file; a larger file must be something else."""


class Config(Options):
    """A whole run."""

    data: DataConfig = Field(default_factory=DataConfig)
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    partition: PartitionConfig = Field(default_factory=PartitionConfig)
    method: SerializeAsAny[MethodConfig] = Field(default_factory=default_method)
    run: RunConfig = Field(default_factory=RunConfig)

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        problems = [*self._splits_problems(), *self._task_problems()]
        batched = [o.direction for o in (*self.method.schedule, self.method) if o.has(BatchOptions)]
        if self.run.tolerance and batched:
            problems.append(
                f"run.tolerance is for directions that use the gradient of all samples, not {', '.join(batched)}"
            )
        if self.run.deterministic and self.partition.speeds == "auto":
            problems.append("partition.speeds = auto depends on measured times, which run.deterministic rules out")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _splits_problems(self) -> Iterator[str]:
        """Yield a line for splits, and for blocks, that do not fit the layers."""
        layers = self.network.layers
        n_splits = number_of_weight_layers(layers) + 1
        for name in ("splits", "blocks"):
            splits = getattr(self.partition, name)
            if isinstance(splits, list) and len(splits) != n_splits:
                what = "widths of network.layers"
                if isinstance(layers[0], LayerTable):
                    what = "groups of channels or neurons: those of the input images, and of each conv and dense layer"
                yield f"partition.{name} has {len(splits)} numbers for {n_splits} {what}"

    def _task_problems(self) -> Iterator[str]:
        """Yield a line for each two of loss, task, outputs and class weights that do not fit together."""
        loss, task = self.network.loss, self.data.task
        if isinstance(self.data.label_column, list) and task != "multilabel":
            yield "data.label_column lists a column for each label, which is for data.task = multilabel"
        fitting = LOSSES[loss].tasks
        if task not in ("auto", *fitting):
            yield f"network.loss = {loss} fits data.task = {' or '.join(fitting)}, not {task}"
        last = self.network.last_width
        if fitting[0] == "binary" and self.task != "multilabel" and last not in (1, "auto"):
            yield f"network.loss = {loss} needs one output, network.layers ends in {last}"
        if self.data.class_weights != "none" and self.task in ("regression", "multilabel"):
            yield f"data.class_weights is for classes, but the task is {self.task}"

    @property
    def task(self) -> str:
        """The task; where it is ``auto``, the one that the loss implies."""
        return LOSSES[self.network.loss].tasks[0] if self.data.task == "auto" else self.data.task


def settings_of(section: str) -> dict[str, FieldInfo]:
    """Return the settings of a section; for ``[method]`` those of all directions.

    Parameters
    ----------
    section : str
        Name of a table of the configuration.

    Returns
    -------
    dict of str to FieldInfo
    """
    if section == "method":
        return {**method_fields(), **MethodConfig.model_fields}
    model: Any = Config.model_fields[section].annotation
    return dict(model.model_fields)


def setting_names() -> list[str]:
    """List every setting as ``section.key``, in the order of the configuration."""
    return [f"{section}.{key}" for section in Config.model_fields for key in settings_of(section)]


def is_setting(name: str) -> bool:
    """Whether a name is that of a setting, as ``section.key``; only ``method.key`` asks every direction."""
    section, _, key = name.partition(".")
    return section in Config.model_fields and key in settings_of(section)


def choices_of(key: str, field: FieldInfo) -> tuple[str, ...]:
    """List the names that a setting accepts; empty where its values cannot be listed.

    Parameters
    ----------
    key : str
        Name of the setting, without its section.
    field : FieldInfo
        The setting's field, from :func:`settings_of`.

    Returns
    -------
    tuple of str
    """
    if key in CHOICES:
        return (AUTO, *choices(key)) if key == "direction" else choices(key)
    for item in field.metadata:
        if isinstance(item, NameOf):
            return item.choices
    values = get_args(field.annotation)
    return values if all(isinstance(value, str) for value in values) else ()


def make_config(tree: Mapping[str, Any]) -> Config:
    """Check a tree of settings.

    Parameters
    ----------
    tree : mapping
        Tables ``data``, ``network``, ``partition``, ``method``, ``run``; missing settings take their defaults. Paths,
        tuples and numpy's numbers are accepted.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        If the tree has errors; the message has a line for each.
    """
    try:
        check_tree(tree)
    except ValueError as error:
        raise ConfigError(f"the configuration has errors:\n  {error}") from None
    notes: list[str] = []
    tree = with_present_names(_plain(tree), notes)
    for note in notes:
        warnings.warn(note, FutureWarning, stacklevel=2)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"the configuration has errors:\n{describe_errors(error, Config)}") from None


def _plain(value: Any) -> Any:
    """A tree with TOML's types in place of Python's paths and tuples and of numpy's numbers."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def load_config(
    path: str | Path | None = None, overrides: Sequence[str] = (), notes: list[str] | None = None
) -> Config:
    """Read a recipe and apply settings given as ``section.key=value``, which win over it.

    If a setting chooses another direction, options of the recipe that were meant for its own direction are dropped
    (:func:`choose_direction`).

    Parameters
    ----------
    path : path or None
        A TOML file, or the name of a recipe that comes with the package; None starts from the defaults.
    overrides : sequence of str
        Values in TOML's notation; anything else counts as text, so ``network.loss=squared`` needs no quotes.
    notes : list of str or None
        A line is added for each dropped option and for each setting given by an old name.

    Returns
    -------
    Config

    Raises
    ------
    MissingInputError
        If the file cannot be read.
    ConfigError
        If it is not TOML, or if settings are wrong; the message then has a line for each error.
    """
    notes = [] if notes is None else notes
    tree = with_present_names(read_settings(path), notes)
    given = apply_settings({}, overrides)
    chosen = given.get("method")
    if isinstance(chosen, dict) and isinstance(tree.get("method", {}), dict):
        tree["method"] = choose_direction(tree.get("method", {}), chosen, notes)
    return make_config(with_present_names(apply_settings(tree, overrides), notes))


def read_settings(path: str | Path | None) -> dict[str, Any]:
    """Read the tree of a recipe without checking it.

    Parameters
    ----------
    path : path or None
        A TOML file, or the name of a recipe that comes with the package; None gives an empty tree.

    Returns
    -------
    dict

    Raises
    ------
    MissingInputError
        If the file does not exist or cannot be read.
    ConfigError
        If it is not TOML.
    """
    if path is None:
        return {}
    return read_toml(locate_recipe(path), "recipe", f"; to name data, use --data.train {path}")


def read_toml(path: str | Path, what: str, hint: str = "", *, collective: bool = False) -> dict[str, Any]:
    """Read the tree of a TOML file; errors name the kind of file and end in the hint where it is not TOML."""
    try:
        with user_path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        message = f"cannot read the {what} {path}: {error.strerror or error}"
        raise MissingInputError(message, collective=collective) from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path} has more than {_MOST_BYTES:,} bytes: not a {what}{hint}", collective=collective)
    try:
        return parse_toml(content.decode("utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}{hint}", collective=collective) from None


def apply_settings(tree: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Set ``section.key=value`` in a tree.

    Parameters
    ----------
    tree : dict
        The tree, which is changed in place.
    settings : sequence of str
        The settings; values are in TOML's notation, or text.

    Returns
    -------
    dict
        The same tree.

    Raises
    ------
    ConfigError
        If a setting has another form, or its section is not a table.
    """
    for text in settings:
        key, equals, value = text.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise ConfigError(f"a setting is written section.key=value, got {shown(text)}")
        table = tree.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{section} must be a table of settings, got {shown(table)}")
        table[name] = parse_value(value)
    return tree


def choose_direction(method: Mapping[str, Any], chosen: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Drop the options of ``[method]`` that were not meant for a newly chosen direction.

    Options are dropped that have no effect on the new direction, or whose default differs between the two directions,
    such as a damping or a learning rate.

    Parameters
    ----------
    method : mapping
        The ``[method]`` table.
    chosen : mapping
        Settings that win over the table and may choose another direction.
    notes : list of str
        A line is added for each dropped option.

    Returns
    -------
    dict
    """
    if not set(CHOICES) & set(chosen):
        return dict(method)
    try:
        before, after = default_options(method), default_options({**method, **chosen})
    except ComponentError:
        # the check of the whole tree reports this error with all others
        return dict(method)
    kept = {}
    for key, value in method.items():
        if key not in before or key in chosen or (key in after and before[key] == after[key]):
            kept[key] = value
        else:
            notes.append(f"method.{key} of the recipe is ignored: it was not meant for {after['direction']}")
    return kept


_POINT_AT_AN_END = re.compile(r"[+-]?(\.[0-9]+|[0-9]+\.)([eE][+-]?[0-9]+)?")


def parse_value(text: str) -> Any:
    """Read a value in TOML's notation; return the text itself if it is not TOML."""
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        # numbers such as 1. and .5, which TOML refuses and other programs accept
        return float(text) if _POINT_AT_AN_END.fullmatch(text.strip()) else text.strip()
    # no setting is a date, but the widths 1024-10-10 look like one
    return text.strip() if isinstance(value, date | time) else value


def to_toml(config: Config) -> str:
    """Write the resolved configuration as TOML; reading it back gives the same run."""
    lines = []
    for section, table in config.model_dump().items():
        lines += [f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in table.items() if value is not None), ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """Write one value; TOML's basic strings, numbers and booleans are JSON's, except for inf and DEL."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items() if item is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return "inf" if value == math.inf else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    """Write a key, quoted if necessary: a label may be any text."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def describe_errors(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe the errors of a tree, a line each, with the nearest known key for an unknown one.

    Parameters
    ----------
    error : ValidationError
        The error that the check raised.
    model : type of BaseModel
        The model that the tree should fit.

    Returns
    -------
    str
    """
    lines = [line for details in error.errors() for line in _describe(details, model)]
    return "\n".join(f"  {line}" for line in dict.fromkeys(lines))


def _describe(details: ErrorDetails, model: type[BaseModel]) -> list[str]:
    """Describe one error in lines that give the key, what is wrong, and the value."""
    parts = [str(part) for part in details["loc"]]
    key = _key_of(parts)
    if details["type"] == "extra_forbidden":
        # a name at the top is shown as it is given, even with dots
        shown_key = parts[0] if model is Config and len(parts) == 1 else key
        return [f"{shown_key}: unknown key; {_hint(parts, model)}".removesuffix("; known are ")]
    if details["type"] == "value_error":
        return [f"{key}: {line}".removeprefix(": ") for line in str(details["ctx"]["error"]).splitlines()]
    if details["type"] == "unknown_component":
        return [f"{key}: {details['msg']}"]
    message = details["msg"][0].lower() + details["msg"][1:]
    return [f"{key}: {message}, got {shown(details['input'])}".removeprefix(": ")]


def _key_of(place: Sequence[str]) -> str:
    """Return the key of a place in the tree, without the parts that pydantic adds."""
    return ".".join(
        part for k, part in enumerate(place)
        if re.fullmatch(r"[A-Za-z_]\w*|\d+", part) and (k == 0 or part not in (*_UNION_TAGS, *LAYERS))
    )


_UNION_TAGS = ("int", "str", "float", "tables", "widths")
"""Names of types that pydantic appends to the place of an error in a union; they are no keys of the tree."""


def _hint(path: Sequence[str], model: type[BaseModel]) -> str:
    """Say what an unknown key may have meant: a setting outside of its table, or the nearest of the known ones."""
    if model is Config and len(path) == 1:
        name = path[0].rpartition(".")[-1]
        if section := next((section for section in Config.model_fields if name in settings_of(section)), None):
            return f"did you mean {name} in {section}?"
    known = _known_keys(path[:-1], model)
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _known_keys(path: Sequence[str], model: type[BaseModel]) -> list[str]:
    """List the keys of the tree or of one of its tables."""
    if not path:
        return list(model.model_fields)
    if list(path[:2]) == ["method", "schedule"]:
        return [*method_fields(), "iterations"]
    if list(path[:2]) == ["network", "layers"]:
        return [name for tag in path if tag in LAYERS for name in LAYERS[tag].model_fields]
    if model is Config and path[0] in Config.model_fields:
        return list(settings_of(path[0]))
    return list(getattr(model.model_fields[path[0]].annotation, "model_fields", ()))
