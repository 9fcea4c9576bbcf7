"""Composition of a direction from names: the options of a stage, and the objects that they describe.

A stage names a direction, whose slots (preconditioner, solver, proposal) name further components. The options of the
stage are the union of those of its family, of the direction and of all components in the slots, so an option is
accepted exactly where it has an effect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from pydantic import create_model
from pydantic.fields import FieldInfo

from distnewton.directions.direction import Direction, Role
from distnewton.directions.preconditioner import Preconditioner
from distnewton.directions.registry import DIRECTIONS, PRECONDITIONERS
from distnewton.errors import ConfigError
from distnewton.options import Options
from distnewton.registry import Registry

NO_PRECONDITIONER = "none"
SLOTS = ("preconditioner", "solver", "proposal")
CHOICES = ("direction", *SLOTS)
"""Options that name components, and so determine which other options exist."""


def choices(option: str) -> tuple[str, ...]:
    """Return the names that an option of :data:`CHOICES` can have."""
    if option == "direction":
        return tuple(DIRECTIONS)
    if option == "preconditioner":
        return (NO_PRECONDITIONER, *PRECONDITIONERS)
    return tuple(direction.name for direction in DIRECTIONS.available() if option in direction.roles)


class ComponentError(ConfigError):
    """An option names a component that is unknown, or that cannot fill its slot.

    Parameters
    ----------
    option : str
        The option, of :data:`CHOICES`.
    message : str
        What was expected, and what was found.
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message, collective=True)
        self.option = option


@dataclass
class Composition:
    """A direction and the components in its slots.

    Attributes
    ----------
    direction : type of Direction
        The direction of the stage.
    chosen : dict of str to str
        Names in its slots, and in the slots of those components.
    models : list of type of Options
        Models whose union forms the options.
    presets : dict of str to object
        Defaults that differ from the models'.
    """

    direction: type[Direction]
    chosen: dict[str, str] = field(default_factory=dict)
    models: list[type[Options]] = field(default_factory=list)
    presets: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, given: Mapping[str, Any]) -> Composition:
        """Compose a direction with the components that settings name.

        Parameters
        ----------
        name : str
            The direction.
        given : mapping
            Settings; only those that name components matter, and missing ones take their defaults.

        Returns
        -------
        Composition

        Raises
        ------
        ComponentError
            If a component is unknown or cannot fill its slot.
        """
        direction = _find("direction", name)
        composition = cls(direction, models=[direction.family.options])
        composition._add(direction, "direction", given)
        return composition

    def _add(self, direction: type[Direction], role: Role, given: Mapping[str, Any]) -> None:
        """Add the options of a direction in a role, and those of the components in its slots."""
        self.models += [direction.own_options, *direction.role_options.get(role, ())]
        # an outer direction's presets come first: it knows what suits it
        self.presets = {**direction.presets.get(role, {}), **self.presets}
        for slot in direction.slots:
            default = self.presets.get(slot, direction.own_options.model_fields[slot].default)
            name = str(given.get(slot, default))
            self.chosen[slot] = name
            if slot != "preconditioner":
                self._add(_find(slot, name), cast(Role, slot), given)
            elif name != NO_PRECONDITIONER:
                self.models.append(_find(slot, name).own_options)

    def model(self, base: type[Options], *, presets: bool = True) -> type[Options]:
        """Build the model of the options.

        Parameters
        ----------
        base : type of Options
            Model whose fields come first.
        presets : bool
            Whether the direction's own defaults apply.

        Returns
        -------
        type of Options
        """
        chosen = {"direction": self.direction.name, **self.chosen}
        models = tuple(dict.fromkeys(self.models))
        return _model(base, models, _frozen(self.presets if presets else {}), _frozen(chosen))


def _find(option: str, name: str) -> Any:
    """Return the component that an option names."""
    registry: Registry[Any] = PRECONDITIONERS if option == "preconditioner" else DIRECTIONS
    if name in registry:
        # looked up alone: listing the choices of some slots would import every direction
        if option in ("direction", "preconditioner") or option in registry[name].roles:
            return registry[name]
        raise ComponentError(option, f"{name} cannot be a {option}; known are {', '.join(choices(option))}")
    near = difflib.get_close_matches(name, choices(option), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ComponentError(option, f"unknown {option} {name!r}; {hint}known are {', '.join(choices(option))}")


def _frozen(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items()))


@cache
def _model(
    base: type[Options],
    models: tuple[type[Options], ...],
    presets: tuple[tuple[str, Any], ...],
    chosen: tuple[tuple[str, str], ...],
) -> type[Options]:
    """Union of models with changed defaults; a model that another one extends adds nothing."""
    needed = [m for m in models if not any(m is not other and issubclass(other, m) for other in (*models, base))]
    described: dict[str, Any] = {"__module__": base.__module__, "__doc__": base.__doc__}
    union = cast(Any, create_model(base.__name__, __base__=(*reversed(needed), base), **described))
    fields = _own_fields(reversed(needed))
    changed: dict[str, Any] = {name: (field.annotation, field) for name, field in fields.items()}
    for name, default in {**dict(presets), **dict(chosen)}.items():
        # skip presets of options that no component here reads
        if name in union.model_fields:
            known = fields.get(name, union.model_fields[name])
            changed[name] = (known.annotation, FieldInfo.merge_field_infos(known, default=default))
    return cast(type[Options], create_model(base.__name__, __base__=union, **described, **changed))


def _own_fields(models: Iterable[type[Options]]) -> dict[str, FieldInfo]:
    """Fields that models define themselves: a redefined option takes precedence over an inherited one."""
    return {
        name: field
        for model in models
        for name, field in model.model_fields.items()
        if name in vars(model).get("__annotations__", ())
    }


def make_direction(options: Any) -> Direction:
    """Build the direction of a stage.

    Parameters
    ----------
    options : Options
        Options of the stage, with the names of its components.

    Returns
    -------
    Direction
    """
    return _direction(options.direction, options)


def _direction(name: str, options: Any) -> Direction:
    """Build a direction and the components in its slots, all with the options of the stage."""
    component = DIRECTIONS[name]
    return component(options, **{slot: _part(slot, getattr(options, slot), options) for slot in component.slots})


def _part(slot: str, name: str, options: Any) -> Direction | Preconditioner | None:
    if slot != "preconditioner":
        return _direction(name, options)
    return None if name == NO_PRECONDITIONER else PRECONDITIONERS[name](options)


def possible_options(direction: type[Direction], role: Role = "direction") -> Iterator[type[Options]]:
    """Yield the models of all options that a direction can have in a role, for any components in its slots."""
    if role == "direction":
        yield direction.family.options
    yield direction.own_options
    yield from direction.role_options.get(role, ())
    for slot in direction.slots:
        if slot == "preconditioner":
            yield from (component.own_options for component in PRECONDITIONERS.available())
        else:
            for name in choices(slot):
                yield from possible_options(DIRECTIONS[name], cast(Role, slot))
