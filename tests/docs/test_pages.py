"""Pages say what is true: commands parse, Python runs, settings, files and links that are named exist."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
import tomllib

import pytest
from doc_pages import DOCS, FENCE, REPOSITORY, blocks, commands

from distnewton.cli.main import build_parser, main, parse
from distnewton.cli.settings import overrides
from distnewton.cluster.cluster_file import load_cluster
from distnewton.config import Config, apply_settings, load_config, make_config, settings_of
from distnewton.directions.registry import DIRECTIONS

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "cluster_configs/README.md")),
    *sorted(path for path in DOCS.rglob("*.md") if "generated" not in path.parts),
]
IDS = [str(page.relative_to(REPOSITORY)) for page in PAGES]
OWN_RECIPES = {"iris.toml", "recipe.toml", "NAME", "RECIPE"}
"""Recipes that pages let the reader write or name."""
HARMLESS = {"git", "cd", ".", "sphinx-build", "pre-commit", "ruff", "mypy", "pytest", "export"}


def check_distnewton(words):
    options = parse(words)
    assert options.command
    settings = overrides(options) if hasattr(options, "set") else []
    recipe = getattr(options, "recipe", None)
    if recipe and recipe not in OWN_RECIPES:
        load_config(recipe, settings)
    else:
        make_config(apply_settings({}, settings))
    if getattr(options, "cluster", None):
        load_cluster(REPOSITORY / options.cluster)
    for name in filter(None, (getattr(options, "directions", None) or "").split(",")):
        # a recipe may stand for a direction
        assert name in DIRECTIONS or load_config(name)


def check_command(words):
    """A command that a page shows: raises where it would be refused."""
    if words[0] == "mpirun":
        assert words[1] == "-n"
        assert words[2].isdigit()
        words = words[3:]
    if words[0] == "distnewton":
        check_distnewton(words[1:])
    elif words[0].removeprefix("./").startswith("launch/"):
        text = (REPOSITORY / words[0]).read_text(encoding="utf-8")
        for flag in (word for word in words[1 : words.index("--") if "--" in words else None] if word[:2] == "--"):
            assert f" {flag} " in text, f"{words[0]} knows no {flag}"
    elif words[0] == "pip":
        assert words[1] == "install"
        extras = set(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"])
        assert all(set(names.split(",")) <= extras for names in re.findall(r"\[(.*)\]", " ".join(words)))
    elif words[0] in {"python", "python3"}:
        if words[1] == "-m" and words[2].startswith(("distnewton", "benchmarks")):
            assert importlib.util.find_spec(words[2])
        elif words[1].startswith(("docs/", "tests/")):
            assert (REPOSITORY / words[1]).exists()
    else:
        assert words[0] in HARMLESS, f"nothing checks {words[0]}"


def test_the_check_of_commands_fails_where_it_should():
    for text in (
        "distnewton trian x.toml", "distnewton train --run.iterationz 3", "distnewton train no",
        "distnewton train --method.direction adam --method.cg_max 3", "launch/hosts.sh --host a", "make all",
        "pip install '.[nothing]'", "distnewton compare --directions adagrad", "python -m benchmarks.none",
    ):  # fmt: skip
        try:
            check_command(shlex.split(text))
        except (Exception, SystemExit):
            continue
        pytest.fail(f"{text} passed")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_are_accepted(page):
    for words in commands(page):
        check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_tables_are_recipes_or_clusters(page, tmp_path):
    for body in blocks(page, "toml"):
        if "launch" in tomllib.loads(body):
            (tmp_path / "cluster.toml").write_text(body)
            load_cluster(tmp_path / "cluster.toml")
        else:
            make_config(tomllib.loads(body))


def test_print_config_prints_what_the_page_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i % 7},{i % 11},{'ab'[i % 2]}\n" for i in range(1000))
    (tmp_path / "table.csv").write_text(f"x,y,label\n{rows}")
    page = DOCS / "guide" / "training.md"
    (command,) = [words for words in commands(page) if "--print-config" in words]
    (shown,) = [tomllib.loads(body) for body in blocks(page, "toml") if "table.csv" in body]
    assert main(command[1:]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    for section, settings in shown.items():
        assert settings.items() <= printed[section].items()


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=lambda p: p.name)
def test_python_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for body in blocks(page, "python"):
        exec(compile(body, str(page), "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_what_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    tables = {section: settings_of(section) for section in Config.model_fields}
    keys = {f"{section}.{key}" for section, settings in tables.items() for key in settings}
    named = re.findall(r"(?<![\w./-])(?:data|network|partition|method|run)\.[A-Za-z_]+(?![\w/(*])", text)
    named = {name for name in named if not name.endswith((".md", ".py", ".toml"))}
    # the keys of cluster files are those of another model, which tests/cluster holds against this page
    assert page.parent.name == "cluster_configs" or named <= keys
    paths = re.findall(r"`((?:distnewton|docs|tests|launch|cluster_configs)/[\w./-]*\w)`", text)
    assert all((REPOSITORY / path).exists() for path in paths), paths
    for module in re.findall(r"`(?:python -m )?(distnewton(?:\.[a-z_]+)+)[ `]", text):
        assert importlib.util.find_spec(module) or resolves(module), module


def resolves(name):
    """Whether a dotted name is a public one of the package, or a file of it."""
    import distnewton

    return name.removeprefix("distnewton.") in (*distnewton.__all__, "store")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"(?<!`)\]\(([^)#]*)(?:#[^)]*)?\)", text):
        if link.startswith("http") or not link:
            continue
        target = (page.parent / link).resolve()
        generated = target.parent.name == "generated" and target.stem in pages_module().PAGES
        assert target.exists() or generated, link
    for link in re.findall(r'(?:src|srcset)="([^"]*)"', text):
        assert (page.parent / link).exists(), link


def test_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_page_is_in_the_contents():
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = {str(p.relative_to(DOCS).with_suffix("")) for p in DOCS.rglob("*.md")} - {"index"}
    pages |= {f"reference/generated/{name}" for name in pages_module().PAGES}
    listed = set(re.findall(r"^([\w/]+)$", contents, re.M))
    assert pages == listed


def test_pictures_are_those_of_the_script(tmp_path):
    draw = load(DOCS / "pictures" / "draw.py")
    draw.draw(tmp_path)
    for path in tmp_path.iterdir():
        assert (DOCS / "pictures" / path.name).read_text(encoding="utf-8") == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["peers", "networks"])
def test_pages_of_benchmarks_are_written_from_their_files(name):
    page = importlib.import_module(f"benchmarks.{name}_page").page
    table = json.loads((DOCS / "benchmarks" / f"{name}.json").read_text())
    assert (DOCS / "benchmarks" / f"{name}.md").read_text(encoding="utf-8") == page(table)


@pytest.mark.parametrize(("reached", "spent", "share"), [(None, 0.5, 1.0), (None, 3.0, 1.5), (0.5, 3.0, 0.25)])
def test_a_best_of_adam_that_is_not_reached_counts_as_its_seconds_at_least(reached, spent, share):
    page = importlib.import_module("benchmarks.peers_page")
    ours = {"seed": 0, "test": 0.2, "within": 0.2, "reached": reached, "spent": spent}
    adam = {"seed": 0, "test": 0.1, "least": [0.1, 2.0]}
    row = {"deviation": 1.0, "methods": {page.OURS: [ours], page.ADAM[0]: [adam]}}
    assert page.beside_adam(row)["share"] == share


def test_generated_pages_have_every_setting_and_command(tmp_path):
    pages_module().write_pages(tmp_path)
    settings = (tmp_path / "configuration.md").read_text(encoding="utf-8")
    for name in Config.model_fields:
        section = settings.partition(f"## [{name}]\n")[2].partition("\n## ")[0]
        for key, setting in settings_of(name).items():
            (row,) = re.findall(rf"^\| `{key}` \|.*$", section, re.M)
            assert setting.description.split()[0].split("_")[0] in row
    # who uses an option is what the check of configurations says
    (row,) = re.findall(r"^\| `momentum` \|.*$", settings, re.M)
    used = {d for d in DIRECTIONS if f"`{d}`" in row}
    assert used == {"sgd", "kfac", "mini_block_fisher", "grouped_newton", "dual", "sgn"}
    assert "momentum" in make_config({"method": {"direction": "sgd"}}).method.used()
    listed = (tmp_path / "commands.md").read_text(encoding="utf-8")
    (choices,) = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    for command, parser in choices.items():
        section = listed.partition(f"## distnewton {command}\n")[2].partition("\n## ")[0]
        flags = [a.option_strings[-1] for a in parser._actions if a.option_strings and "." not in a.option_strings[-1]]
        assert all(f"`{flag}" in section for flag in flags if flag != "--help")
        assert "| | " not in section


def test_citation_agrees_with_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    for line in ("cff-version: 1.2.0", f"version: {project['version']}", f"license: {project['license']}"):
        assert f"\n{line}\n" in f"\n{citation}"
    assert project["authors"][0]["name"] in citation


def load(path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def pages_module():
    return load(DOCS / "_ext" / "reference_pages.py")
