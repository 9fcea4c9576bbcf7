"""User-defined components: directions, losses and other parts that a program adds to the package's own."""

from __future__ import annotations

from typing import Any, TypeVar

from distnewton.config import Config, choose_direction, make_config
from distnewton.data.formats.registry import FORMATS
from distnewton.data.scaling import SCALINGS
from distnewton.directions.direction import Direction
from distnewton.directions.registry import DIRECTIONS, PRECONDITIONERS
from distnewton.errors import ConfigError
from distnewton.network.activations import ACTIVATIONS
from distnewton.network.layer_tables import LAYERS
from distnewton.network.losses import LOSSES, Loss
from distnewton.registry import Registry

T = TypeVar("T")

REGISTRIES: tuple[Registry[Any], ...] = (DIRECTIONS, PRECONDITIONERS, LOSSES, ACTIVATIONS, LAYERS, SCALINGS, FORMATS)
"""All kinds of components that settings name; each has an entry-point group, such as ``distnewton.losses``."""


def register(component: T) -> T:
    """Register a direction, preconditioner, loss or other component under its name.

    Settings, help and checkpoints then treat it like one of the package's own. Under MPI every rank must register it.

    Parameters
    ----------
    component : T
        A subclass of :class:`~distnewton.directions.direction.Direction` or of another kind's base class, or an
        instance where the kind's components are instances.

    Returns
    -------
    T
        The component itself, so that this function also works as a decorator.

    Raises
    ------
    ConfigError
        If it is of no known kind, or has the name of one of the package's own components.
    """
    for registry in REGISTRIES:
        if registry.accepts(component):
            added: T = registry.add(component)
            return added
    kinds = ", ".join(registry.kind for registry in REGISTRIES)
    raise ConfigError(f"{component!r} is not of a kind that can be registered: {kinds}", collective=True)


def with_components(config: Config, direction: Any = None, loss: Loss | None = None) -> Config:
    """Return a configuration that uses given objects; registers them.

    Parameters
    ----------
    config : Config
        Settings of the run. Options of its direction that the given direction lacks are dropped.
    direction : Direction, type of Direction or None
        Direction of the last stage. An instance's options override the configuration's.
    loss : Loss or None
        Loss of a sample.

    Returns
    -------
    Config
    """
    tree = config.model_dump(exclude_unset=True)
    if direction is not None:
        method = tree.get("method", {})
        kind: type[Direction] = register(direction if isinstance(direction, type) else type(direction))
        chosen: dict[str, Any] = {"direction": kind.name}
        if not isinstance(direction, type):
            own = direction.options
            chosen |= own.model_dump(include=own.model_fields_set)
        tree["method"] = {**choose_direction(method, chosen, []), **chosen}
    if loss is not None:
        tree["network"] = {**tree.get("network", {}), "loss": register(loss).name}
    return make_config(tree)
