"""Recipes by name: listed, printed, trained, and in the package that pip installs."""

from __future__ import annotations

from pathlib import Path

import pytest
from launched import call

from distnewton.cli.main import main
from distnewton.config import load_config, recipes
from distnewton.errors import MissingInputError

HERE = Path(__file__).parents[2] / "launch/recipes"


def test_every_recipe_is_listed_with_a_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["recipes"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(lines) == {file.stem for file in HERE.glob("*.toml")}
    assert lines["digits"].startswith("Handwritten digits, 8 x 8 pixels of 17 grey levels: 1797 samples")


def test_a_printed_recipe_is_the_file(capsys):
    assert main(["recipes", "letter-kfac"]) == 0
    assert capsys.readouterr().out == (HERE / "letter-kfac.toml").read_text()


def test_a_name_is_the_recipe_unless_a_file_here_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("letter").mkdir()  # perhaps the folder of its data
    assert load_config("letter") == load_config(HERE / "letter.toml")
    Path("digits").write_text("[run]\niterations = 7\n")
    assert load_config("digits").run.n_iterations == 7


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("leter", "distnewton train letter uses"), ("usps.toml", "distnewton train usps uses"),
        ("zzz", "see distnewton recipes"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(tmp_path, monkeypatch, name, found):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError, match=found):
        load_config(name)


def test_an_installed_package_has_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "own.toml").write_text("# A sentence. And more.\n[run]\nseed = 3\n")
    monkeypatch.setattr(recipes, "_FOLDERS", (tmp_path, HERE))
    assert list(recipes.shipped_recipes()) == ["own"]
    assert recipes.summary(recipes.locate_recipe("own")) == "A sentence"
    assert load_config("own").run.seed == 3


def test_a_comparison_takes_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("compare", "digits", "--directions=letter-kfac", "--seconds=1", "--run.iterations=1")
    assert done.returncode == 0, done.stderr
    assert "letter-kfac" in Path("runs/compare-digits-001/comparison.md").read_text()
