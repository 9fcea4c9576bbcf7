"""The help of every command: its size, its choices, and settings that are written as flags."""

from __future__ import annotations

import argparse
import os
import re

import pytest

from distnewton.cli.command import COMMANDS
from distnewton.cli.liblinear_options import predict_parser, train_parser
from distnewton.cli.main import build_parser, main, parse
from distnewton.cli.setting_help import COMMON, settings
from distnewton.cli.settings import overrides
from distnewton.errors import UsageError
from distnewton.network.activations import ACTIVATIONS


@pytest.fixture(autouse=True)
def place(monkeypatch):
    if any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")):
        pytest.skip("programs of one process")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("DISTNEWTON_DATA", raising=False)


def shown(capsys, *arguments):
    with pytest.raises(SystemExit):
        main(arguments)
    return capsys.readouterr().out


def n_flags(parser, text):
    """Flags that a parser takes or a help shows, whichever are more."""
    return max(sum(bool(a.option_strings) for a in parser._actions), len(re.findall(r"^ {2,4}-", text, re.M)))


def test_flags_of_all_commands_are_few(capsys):
    program = build_parser()
    (commands,) = (a.choices for a in program._actions if isinstance(a, argparse._SubParsersAction))
    total = n_flags(program, program.format_help())
    for name, parser in commands.items():
        everything = "--help-all" if name == "train" else "--help"
        total += n_flags(parser, shown(capsys, name, everything))
    total += sum(n_flags(parser, parser.format_help()) for parser in (train_parser(), predict_parser()))
    print(f"{total} flags")
    assert total <= 200


def test_the_help_of_training_fits_a_screen(capsys):
    text = shown(capsys, "train", "--help")
    assert len(text.splitlines()) <= 45
    assert all(len(line) <= 80 for line in text.splitlines())
    assert set(COMMON) <= set(settings())
    assert set(re.findall(r"^  --(\w+\.\w+)", text, re.M)) == set(COMMON)
    assert "loss: squared, [cross_entropy], logistic" in text


def test_the_whole_help_has_every_setting_and_every_choice(capsys):
    text = " ".join(shown(capsys, "train", "--help-all").split())
    short = {"data.directory", "run.device", "run.directory", "network.start"}
    for setting in settings().values():
        assert (f" --{setting.name} " in text) == (setting.name not in short)
        for choice in setting.choices:
            assert re.search(rf"[ \[]{re.escape(choice)}[\], ]", text), (setting.name, choice)
    known = settings()
    assert known["network.activation"].choices == ("auto", *ACTIVATIONS)
    assert known["network.layers"].choices == ()
    assert "[method], used by kfac, mini_block_fisher --method.kl_clip" in text


@pytest.mark.parametrize("command", ["train", "compare", "submit", "plan", "bench"])
def test_settings_are_flags_or_set(command, capsys):
    required = {"compare": ["--directions=adam"], "submit": ["--cluster=c"], "bench": ["scaling"]}.get(command, [])
    ways = (["--run.seed", "3", "--data.label_column=-1"], ["--set", "run.seed=3", "--set=data.label_column=-1"])
    for way in ways:
        options = parse([command, *required, "recipe.toml", *way, "--device", "gpu"])
        assert options.recipe == "recipe.toml"
        given = dict(setting.split("=") for setting in overrides(options))
        assert (given["run.seed"], given["data.label_column"], given["run.device"].strip('"')) == ("3", "-1", "gpu")
        noted = "note: --run.seed is written --set run.seed=3 from the next version on" in capsys.readouterr().err
        assert noted == (way is ways[0] and command not in ("train", "compare"))


def test_a_setting_keeps_its_place_and_needs_a_value():
    options = parse(["train", "--resume", "--run.seed", "3", "--run-dir", "r"])
    assert (options.resume, options.recipe) == ("", None)
    for arguments in (["--run.seed"], ["--run.seed", "--quiet"]):
        with pytest.raises(UsageError, match=r"argument --run\.seed: expected one argument"):
            parse(["train", *arguments])


def test_every_command_is_described():
    build_parser()
    for command in COMMANDS.values():
        assert command.help
        assert all(keywords.get("help") for names, keywords in command.arguments if names != ("what",))
