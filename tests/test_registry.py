"""Registries: components of the package, of a program, and of installed packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from distnewton import registry as module
from distnewton.data.formats.registry import FORMATS
from distnewton.directions.registry import DIRECTIONS, PRECONDITIONERS
from distnewton.errors import ConfigError
from distnewton.registry import Registry


class Shape:
    def __init__(self, name):
        self.name = name


ROUND = Shape("round")


def make(monkeypatch, *points):
    found = EntryPoints(EntryPoint(n, v, "my.shapes") for n, v in points)
    monkeypatch.setattr(module, "entry_points", lambda group: list(found.select(group=group)))
    return Registry("shape", Shape, [Shape("flat"), ROUND], "my.shapes")


def test_names_come_in_order_and_components_by_name(monkeypatch):
    shapes = make(monkeypatch)
    assert list(shapes) == ["flat", "round"]
    assert len(shapes) == 2
    assert shapes["round"] is ROUND
    assert shapes.find("round") is ROUND
    assert "square" not in shapes


def test_a_program_adds_components_and_replaces_its_own(monkeypatch):
    shapes = make(monkeypatch)
    square = shapes.add(Shape("square"))
    assert shapes.add(square) is square
    assert list(shapes) == ["flat", "round", "square"]
    again = shapes.add(Shape("square"))
    assert shapes["square"] is again
    with pytest.raises(ConfigError, match="the shape round belongs to distnewton"):
        shapes.add(Shape("round"))
    assert shapes["round"] is ROUND


@pytest.mark.parametrize("component", [3, Shape("two words"), Shape(None), "flat"])
def test_only_components_of_the_kind_with_a_name_are_taken(monkeypatch, component):
    with pytest.raises(ConfigError, match="cannot be registered as a shape: it must be a Shape"):
        make(monkeypatch).add(component)


def test_installed_packages_add_components(monkeypatch):
    monkeypatch.setattr(ROUND, "name", "oval")
    shapes = Registry("shape", Shape, [Shape("flat")], "my.shapes")
    found = EntryPoints([EntryPoint("oval", f"{__name__}:ROUND", "my.shapes"), EntryPoint("x", "x:x", "other.shapes")])
    monkeypatch.setattr(module, "entry_points", lambda group: list(found.select(group=group)))
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(ROUND=ROUND))
    assert list(shapes) == ["flat", "oval"]
    assert shapes["oval"] is ROUND


def test_a_package_that_cannot_be_imported_is_named(monkeypatch):
    shapes = make(monkeypatch, ("bad", "no_such_module:Bad"), ("wrong", "collections:Counter"))
    with pytest.raises(ConfigError, match=r"the shape bad .* cannot be imported: ModuleNotFoundError"):
        shapes.find("bad")
    with pytest.raises(ConfigError, match="names wrong"):
        shapes.find("wrong")
    with pytest.warns(RuntimeWarning, match="the shape") as told:
        assert [shape.name for shape in shapes.available()] == ["flat", "round"]
    assert len(told) == 2


def test_own_components_are_imported_at_their_first_use(monkeypatch):
    monkeypatch.setattr(module, "entry_points", lambda group: [])
    shapes = Registry("shape", Shape, {"flat": "no_such_module:Flat", "round": f"{__name__}:ROUND"})
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(ROUND=ROUND))
    assert list(shapes) == ["flat", "round"]
    assert len(shapes) == 2
    assert "flat" in shapes
    assert shapes["round"] is ROUND
    assert list(shapes) == ["flat", "round"]
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        shapes.find("flat")
    with pytest.raises(ConfigError, match="the shape round belongs to distnewton"):
        shapes.add(Shape("round"))


@pytest.mark.parametrize("registry", [DIRECTIONS, PRECONDITIONERS, FORMATS])
def test_components_have_the_names_by_which_they_are_listed(registry):
    assert [component.name for component in registry.values()] == list(registry)
    assert all(registry.accepts(component) for component in registry.values())


def test_unknown_names_come_with_the_nearest_and_all(monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown shape 'ruond'; did you mean round\? known are flat, round"):
        make(monkeypatch).find("ruond")
