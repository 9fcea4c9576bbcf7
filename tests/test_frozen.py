"""The cheap frozen dataclasses against those of the standard library."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace
from functools import cached_property
from inspect import signature

import pytest

from distnewton.frozen import frozen


@frozen
class Point:
    x: int
    y: float = 0.5
    note: str = field(default="", compare=False, repr=False)

    @cached_property
    def double(self) -> int:
        return 2 * self.x


@frozen
class Named(Point):
    name: str = "p"

    def __repr__(self) -> str:
        return self.name


@frozen
class Listed:
    items: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Standard:
    x: int
    y: float = 0.5
    note: str = field(default="", compare=False, repr=False)


def test_equality_hash_and_text_are_those_of_the_standard_library():
    assert Point(1, note="a") == Point(1, note="b")
    assert hash(Point(1, 2.0)) == hash(Standard(1, 2.0))
    assert repr(Point(3)) == repr(Standard(3)).replace("Standard", "Point")
    assert Point(1) != Point(2)
    assert Point(1) != Standard(1)
    assert Point(1) != Named(1)


def test_fields_are_set_once_and_no_other():
    point = Point(1)
    for name in ("x", "y", "other"):
        with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(point, name, 2)
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'x'"):
        del point.x
    assert point.double == 2
    assert replace(point, x=4).double == 8
    assert pickle.loads(pickle.dumps(point)) == point


def test_arguments_are_those_of_the_standard_library():
    assert Point(1, note="a").note == "a"
    assert (Named(1).y, Named(1).name) == (0.5, "p")
    assert signature(Point) == signature(Standard).replace(return_annotation=signature(Point).return_annotation)
    for values, named in (((), {}), ((1, 2.0, "", 3), {}), ((1,), {"x": 2}), ((1,), {"z": 2})):
        for cls in (Point, Standard):
            with pytest.raises(TypeError, match=r"argument"):
                cls(*values, **named)


def test_each_instance_has_its_own_default():
    first, second = Listed(), Listed()
    first.items.append(1)
    assert second.items == []


def test_own_methods_stay():
    assert repr(Named(1, name="q")) == "q"
    assert Named(1, name="q") != Named(1, name="r")
