"""Frozen dataclasses that are cheap to define."""

from __future__ import annotations

from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from inspect import Parameter, Signature
from typing import Any, TypeVar, dataclass_transform

C = TypeVar("C")


class _SignatureOfFields:
    """The signature of a class, for help and documentation, since all classes share one ``__init__``."""

    def __get__(self, instance: object, cls: Any) -> Signature:
        kind = Parameter.POSITIONAL_OR_KEYWORD
        return Signature([
            Parameter(each.name, kind, default=_default(each, Parameter.empty), annotation=each.type)
            for each in fields(cls)
        ])


class _Methods:
    """What ``dataclass(frozen=True)`` compiles for each class, written once for all."""

    __dataclass_fields__: dict[str, Field[Any]]
    __signature__ = _SignatureOfFields()

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.__dataclass_fields__
        given = dict(zip(names, values, strict=False))
        if len(values) > len(names) or given.keys() & named.keys() or named.keys() - names.keys():
            # says which argument is at fault
            type(self).__signature__.bind(*values, **named)
        given.update(named)
        for name, each in names.items():
            value = given.get(name, MISSING)
            if value is MISSING:
                value = _default(each, MISSING)
            if value is MISSING:
                raise TypeError(f"{type(self).__name__}() misses the argument {name!r}")
            # a frozen class has no __slots__: the fields are its dictionary
            self.__dict__[name] = value
        if post_init := getattr(self, "__post_init__", None):
            post_init()

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name, each in self.__dataclass_fields__.items() if each.repr)
        return f"{type(self).__qualname__}({', '.join(values)})"

    def __eq__(self, other: object) -> bool:
        return _compared(self) == _compared(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(_compared(self))

    def __setattr__(self, name: str, value: object) -> None:
        # cached properties do not come here
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")


_NAMES = ("__signature__", "__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__")
_SHARED = {name: vars(_Methods)[name] for name in _NAMES}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[C]) -> type[C]:
    """Make a class a frozen dataclass, as ``dataclass(frozen=True)`` does.

    ``dataclass`` writes and compiles six methods of each class at import, which took a tenth of the processor time of a
    short run. Here all classes share them.

    Returns
    -------
    type
        The class itself.
    """
    for name, method in _SHARED.items():
        if name not in vars(cls):
            setattr(cls, name, method)
    return dataclass(init=False, repr=False, eq=False)(cls)


def _default(each: Field[Any], otherwise: object) -> Any:
    """Default of a field."""
    if each.default is not MISSING:
        return each.default
    return otherwise if each.default_factory is MISSING else each.default_factory()


def _compared(instance: Any) -> tuple[Any, ...]:
    return tuple(getattr(instance, name) for name, each in instance.__dataclass_fields__.items() if each.compare)
