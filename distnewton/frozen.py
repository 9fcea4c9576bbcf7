"""Frozen dataclasses that are cheap to define."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any, TypeVar, dataclass_transform

C = TypeVar("C")


class _Methods:
    """What ``dataclass(frozen=True)`` compiles for each class, written once for all."""

    __dataclass_fields__: dict[str, Any]

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name, each in self.__dataclass_fields__.items() if each.repr)
        return f"{type(self).__qualname__}({', '.join(values)})"

    def __eq__(self, other: object) -> bool:
        return _compared(self) == _compared(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(_compared(self))

    def __setattr__(self, name: str, value: object) -> None:
        # __init__ sets each field once; cached properties do not come here
        if name in self.__dict__ or name not in self.__dataclass_fields__:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")


_SHARED = {name: vars(_Methods)[name] for name in ("__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__")}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[C]) -> type[C]:
    """Make a class a frozen dataclass, as ``dataclass(frozen=True)`` does.

    ``dataclass`` writes and compiles six methods of each class at import, which took a tenth of the processor time of a
    short run. Here only ``__init__`` is compiled; all classes share the others.

    Returns
    -------
    type
        The class itself.
    """
    for name, method in _SHARED.items():
        if name not in vars(cls):
            setattr(cls, name, method)
    return dataclass(repr=False, eq=False)(cls)


def _compared(instance: Any) -> tuple[Any, ...]:
    return tuple(getattr(instance, name) for name, each in instance.__dataclass_fields__.items() if each.compare)
