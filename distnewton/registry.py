"""Components by name: those of this package, those a program registers, and those of installed packages.

Directions, preconditioners, losses, activations, scalings and data formats are *components*: each declares its own
name, help line and options. The rest of the package (configuration, help, plans, checkpoints, bridges) asks the
registry of that kind. Other packages add components through entry points of the registry's group::

    [project.entry-points."distnewton.losses"]
    huber = "my_package.losses:Huber"

The package's own directions and formats are listed the same way, so a run imports only those that it uses.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from distnewton.errors import ConfigError
from distnewton.packages import entry_points

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """The components of one kind, by name.

    Parameters
    ----------
    kind : str
        Word for such a component in messages, for example ``loss``.
    base : type
        Class of which each component is an instance, or a subclass if components are classes.
    builtin : iterable of T, or mapping of str to str
        Components of this package, each with an attribute ``name``, in the order of the help; or a mapping from names
        to places, ``module:attribute``, which are imported at first use.
    group : str
        Entry-point group in which installed packages name components of this kind; empty for none.
    objects : bool
        Whether components are objects; a class then stands for its instance without arguments.
    """

    def __init__(
        self,
        kind: str,
        base: type,
        builtin: Iterable[T] | Mapping[str, str],
        group: str = "",
        *,
        objects: bool = False,
    ) -> None:
        self.kind, self.base, self._group, self._objects = kind, base, group, objects
        self._components: dict[str, T] = {}
        self._unloaded: dict[str, EntryPoint] | None = None
        self._builtin: tuple[str, ...] = ()
        self._places = dict(builtin) if isinstance(builtin, Mapping) else {}
        for component in () if isinstance(builtin, Mapping) else builtin:
            self.add(component)
        self._builtin = (*self._places, *self._components)

    def accepts(self, component: Any) -> bool:
        """Whether a component is of this registry's kind."""
        return issubclass(component, self.base) if isinstance(component, type) else isinstance(component, self.base)

    def add(self, component: T) -> T:
        """Register a component under its name.

        Parameters
        ----------
        component : T
            Has an attribute ``name``. It replaces a component that the program registered before under this name, as
            happens when a notebook cell runs again.

        Returns
        -------
        T
            The component itself, so that this method also works as a decorator.

        Raises
        ------
        ConfigError
            If the component is of another kind, or has the name of one of the package's own.
        """
        name = getattr(component, "name", None)
        if not self.accepts(component) or not isinstance(name, str) or not name.isidentifier():
            raise ConfigError(
                f"{component!r} cannot be registered as a {self.kind}: it must be a {self.base.__name__} whose `name` "
                "is an identifier",
                collective=True,
            )
        item = component() if self._objects and isinstance(component, type) else component
        if name in self._builtin and self[name] is not item:
            message = f"the {self.kind} {name} belongs to distnewton; give {component!r} another name"
            raise ConfigError(message, collective=True)
        self._components[name] = item
        return component

    def __getitem__(self, name: str) -> T:
        if name in self._components:
            return self._components[name]
        if name in self._places:
            module, _, attribute = self._places[name].partition(":")
            component = getattr(import_module(module), attribute)
            self._components[name] = component() if self._objects else component
        else:
            self._load(name)
        return self._components[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._builtin, *self._components, *self._outside())))

    def __len__(self) -> int:
        return len({*self._builtin, *self._components, *self._outside()})

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._components or name in self._outside()

    def available(self) -> Iterator[T]:
        """Yield all components; warns of those of installed packages that cannot be imported.

        A broken package must not disable the others; a run that names its component fails with the reason.

        Yields
        ------
        T
        """
        for name in self:
            try:
                component = self[name]
            except ConfigError as error:
                warnings.warn(str(error), RuntimeWarning, stacklevel=2)
                continue
            yield component

    def find(self, name: str) -> T:
        """Return the component with a name that a user has written.

        Parameters
        ----------
        name : str
            Name of the component.

        Returns
        -------
        T

        Raises
        ------
        ConfigError
            If there is none; the message gives the closest name and all names.
        """
        if name in self:
            return self[name]
        near = difflib.get_close_matches(name, list(self), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        message = f"unknown {self.kind} {name!r}; {hint}known are {', '.join(self)}"
        raise ConfigError(message, collective=True)

    def _outside(self) -> dict[str, EntryPoint]:
        """Entry points of installed packages, by name."""
        if self._unloaded is None:
            # looked up at first use: imports should not have to read metadata files
            points = entry_points(self._group) if self._group else []
            self._unloaded = {point.name: point for point in points}
        return self._unloaded

    def _load(self, name: str) -> None:
        """Import a component that an installed package provides."""
        point = self._outside()[name]
        try:
            component = point.load()
        except Exception as error:
            package = point.dist.name if point.dist else "an installed package"
            message = f"the {self.kind} {name} of {package} cannot be imported: {type(error).__name__}: {error}"
            raise ConfigError(message, collective=True) from error
        own_name = getattr(component, "name", None)
        if own_name != name:
            message = f"the {self.kind} that {point.value} names {name} calls itself {own_name!r}"
            raise ConfigError(message, collective=True)
        self.add(component)
