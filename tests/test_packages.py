"""What is told from the folders of metadata is what importlib.metadata tells."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata

import pytest

from distnewton import packages

POINTS = "[distnewton.losses]\n{0} = {0}_package:Loss\n\n[console_scripts]\n{0} = {0}_package:main\n"


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A path of two folders and an archive, which has nothing else on it."""
    for place, name in (("first", "one-1.0.dist-info"), ("second", "One-2.0.dist-info"), ("second", "two_b.egg-info")):
        info = tmp_path / place / name
        info.mkdir(parents=True)
        known = name.partition("-")[0].partition(".")[0]
        (info / ("PKG-INFO" if name.endswith("egg-info") else "METADATA")).write_text(f"Name: {known}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(POINTS.format(f"{known.lower()}_of_{place}"))
    (tmp_path / "second" / "none-3.dist-info").mkdir()
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("zipped-3.0.dist-info/METADATA", "Name: zipped\nVersion: 3.0\n")
        archive.writestr("zipped-3.0.dist-info/entry_points.txt", POINTS.format("zipped"))
    places = [tmp_path / "first", tmp_path / "second", tmp_path / "archive.zip", tmp_path / "missing"]
    monkeypatch.setattr(sys, "path", [str(place) for place in places])
    packages._folders.cache_clear()
    packages._own_entry_points.cache_clear()
    yield
    packages._folders.cache_clear()
    packages._own_entry_points.cache_clear()


def test_entry_points_of_folders_and_archives(path):
    found = packages.entry_points("distnewton.losses")
    assert sorted(point.name for point in found) == ["one_of_first", "two_b_of_second", "zipped"]
    assert sorted(found) == sorted(metadata.entry_points(group="distnewton.losses"))
    assert {point.dist.name for point in found} == {"one", "two_b", "zipped"}
    assert packages.entry_points("distnewton.formats") == []


def test_versions(path):
    # of folders whose names have none, and of archives, importlib.metadata is asked
    names = ("two-b", "two.b", "zipped", "missing")
    assert [packages.version(name) for name in names] == ["2.5", "2.5", "3.0", "not installed"]
    assert packages.version("ONE") == "1.0"


def test_versions_of_what_is_installed():
    installed = {d.name: d.version for d in metadata.distributions() if d.name and d.files is not None}
    assert len(installed) > 5
    # the first one on the path is what an import finds
    assert {name: packages.version(name) for name in installed} == {name: metadata.version(name) for name in installed}
