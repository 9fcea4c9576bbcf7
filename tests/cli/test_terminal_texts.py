"""Labels, names and paths with control characters do not steer the terminal, whatever a command says."""

from __future__ import annotations

import os
import pty
import subprocess

import numpy as np
import pytest
from launched import call, distnewton, run

from distnewton.printable import printable

pytestmark = pytest.mark.skipif(
    any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")), reason="programs of one process"
)
EVIL = "\x1b]0;evil\x07\x9b31m"
SHOWN = r"\x1b]0;evil\x07\x9b31m"
SETTINGS = ["--data.header", "true", "--data.label_column", "kind", "--run.iterations", "2"]


def on_terminal(*command, cwd):
    """All that a command says to a terminal, as bytes, and its exit code."""
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=cwd)
    os.close(slave)
    said = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:
            # Linux tells so that the last process has closed the terminal
            break
        if not part:
            break
        said += part
    os.close(master)
    return said, process.wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on a table whose labels and names would set the window's title."""
    folder = tmp_path_factory.mktemp("evil")
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{EVIL if a > b else 'plain'}" for a, b in rng.normal(size=(40, 2))]
    (folder / "table.csv").write_text("\n".join([f"{EVIL}a,b,kind", *rows]) + "\n")
    (folder / "other.csv").write_text(f"{EVIL}a,b,kind,{EVIL}c\n1,2,{EVIL}?,5\n2,1,plain,4\n")
    (folder / "bad.csv").write_text(f"b,kind\n1,{EVIL}\n")
    done = call("train", "--data.train", folder / "table.csv", *SETTINGS, "--run-dir", folder / "run", "--quiet")
    assert done.returncode == 0, done.stderr
    return folder


COMMANDS = [
    (["train", "--data.train", "table.csv", *SETTINGS, "--data.test", "other.csv", "--run-dir", "other"], 0),
    (["train", "--data.train", "table.csv", "--data.label_column", EVIL], 78),
    (["train", f"--{EVIL}"], 2),
    (["evaluate", "run", "table.csv"], 0),
    (["evaluate", "run", "other.csv"], 0),
    (["evaluate", "run", "bad.csv"], 65),
    (["evaluate", "run", f"{EVIL}.csv"], 66),
    (["predict", "run", "table.csv"], 0),
    (["info", "run"], 0),
    (["info", EVIL], 66),
    (["convert", "table.csv", "store", *SETTINGS[:4]], 0),
    (["plan", "--ranks", "2", "--set", "data.train=table.csv", "--set", f"network.start={EVIL}"], 0),
]


@pytest.mark.parametrize(("arguments", "code"), COMMANDS, ids=[" ".join(printable(a) for a in c) for c, _ in COMMANDS])
def test_no_text_steers_the_terminal(place, arguments, code):
    said, found = on_terminal(*distnewton(*arguments), cwd=place)
    assert found == code, said
    for raw in ("\x1b]0;", "\x07", "\x9b"):
        assert raw.encode() not in said
    if arguments[0] in ("evaluate", "predict") or code:
        assert SHOWN.encode() in said


def test_predictions_go_to_others_as_the_data_have_them(place):
    done = run(distnewton("predict", place / "run", place / "table.csv"))
    assert EVIL in done.stdout.splitlines()
    assert call("predict", place / "run", place / "table.csv", "--out", place / "out").returncode == 0
    assert (place / "out").read_text() == done.stdout


def test_a_failed_run_is_told_without_its_signs(place):
    done = call("train", "--data.train", place / "bad.csv", "--data.label_column", EVIL, "--run-dir", place / "failed")
    assert done.returncode == 78
    said, _ = on_terminal(*distnewton("why", "failed"), cwd=place)
    assert b"\x1b]0;" not in said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – naïve ☃ 日本", "plain – naïve ☃ 日本"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31m\r\b\x7f\x85", r"\x1b[31m\r\x08\x7f\x85"),
        ("\u202eright to left\u2028\udc80", r"\u202eright to left\u2028\udc80"),
    ],
)
def test_what_does_not_show_is_shown_by_its_code(text, shown):
    assert printable(text) == shown
    assert printable(printable(text)) == shown


def test_a_text_in_a_line_has_no_others():
    assert printable("a\nb\tc", keep="") == r"a\nb\tc"
