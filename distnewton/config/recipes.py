"""Recipes that come with the package, by name."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

from distnewton.errors import MissingInputError
from distnewton.files import user_path

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "launch" / "recipes")
"""Folders of the recipes in an installed package and in a clone."""


def shipped_recipes() -> dict[str, Path]:
    """List the recipes that come with the package: files by name, in alphabetical order."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    files = folder.glob("*.toml") if folder else ()
    return {file.stem: file for file in sorted(files, key=lambda file: file.stem)}


def locate_recipe(name: str | Path) -> Path:
    """Find the file of a recipe: a file of that name, or else the package's recipe of that name.

    Parameters
    ----------
    name : str or Path
        Path of a TOML file, or a name such as ``digits``.

    Returns
    -------
    Path

    Raises
    ------
    MissingInputError
        If neither exists.
    """
    file = user_path(name)
    text = str(name)
    if "/" in text or (file.exists() and not file.is_dir()):
        return file
    recipes = shipped_recipes()
    if text in recipes:
        return recipes[text]
    if file.is_dir():
        return file
    near = get_close_matches(file.stem, recipes, n=1)
    hint = f"distnewton train {near[0]} uses the package's" if near else "see distnewton recipes"
    raise MissingInputError(f"there is no recipe {name}, here or in the package: {hint}; --data.train names data")


def summary(recipe: Path) -> str:
    """Return the first sentence of a recipe's comment."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.strip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    end = comment.find(". ")
    return comment[:end] if end >= 0 else comment.rstrip(".")
