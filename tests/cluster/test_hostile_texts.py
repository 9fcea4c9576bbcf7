"""Random texts in job files: bash and a reader of ``#SBATCH`` lines get them as they are, or they are refused.

``DISTNEWTON_FUZZ=10000 python -m pytest tests/cluster/test_hostile_texts.py`` runs as many jobs.
"""

from __future__ import annotations

import ast
import os
import random
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from pydantic import ValidationError

import distnewton
from distnewton.cluster.cluster_file import Cluster, load_cluster
from distnewton.cluster.job import Job
from distnewton.cluster.job_text import job_text
from distnewton.cluster.tables import write_measured
from distnewton.errors import ConfigError

N = int(os.environ.get("DISTNEWTON_FUZZ", "200"))
PIECES = [
    "'", '"', " ", "  ", "#", " #", "$(touch HIT)", "`touch HIT`", "; touch HIT;", "&& touch HIT", "| touch HIT",
    "$HOME",
    "${x:-y}", "\\", "\\\\", "%", "%j", "!", "!!", "*", "?", "[a]", "{a,b}", "~", "-", "--wrap=touch HIT", "=",
    "#SBATCH",
    "<<E", ">HIT", "a", "b.c", "é", "日本", "\u00a0", "\u202e", "\U0001f600", ",", "@", "(", ")", "$'\\n'", "\\n",
]  # fmt: skip
HOSTILE = [
    "\n", "\r", "\t", "\0", "\x1b[2J", "\x7f", "\x85", "\u2028", "\udcff", "\ntouch HIT\n#", "\n#SBATCH --wrap=id\n",
    "x" * 100_001,
]  # fmt: skip
ANYWHERE = ["name", "folder", "directory", "programs", "option", "variable"]
PLACES = {"mpirun": [*ANYWHERE, "agent", "interface"], "srun": [*ANYWHERE, "account", "extra"]}
STUB = """#!/bin/bash
[ "$1" = --version ] && exit
printf '%s\\0' "$PWD" "$NOTE" "$@" >"$STUB_OUT"
"""


def random_texts(rng, places):
    """A text for each place, and the place whose text is hostile, where there is one."""
    texts = {place: "".join(rng.choices(PIECES, k=rng.randint(1, 6))) for place in places}
    place = rng.choice([None] * 4 + places)
    if place:
        at = rng.randint(0, len(texts[place]))
        texts[place] = texts[place][:at] + rng.choice(HOSTILE) + texts[place][at:]
    return texts, place


def may_be_refused(texts, launcher):
    """Whether a text breaks a rule; written from the documentation of the rules and not from their code."""
    kinds = {unicodedata.category(char) for text in texts.values() for char in text}
    return bool(kinds & {"Cc", "Cs", "Zl", "Zp"}) or any(len(text) > 100_000 for text in texts.values()) or (
        launcher == "srun" and "\\" in texts["folder"]
    ) or ":" in texts["programs"]  # fmt: skip


def cluster_of(texts, launcher):
    slurm = {"account": texts["account"], "extra": [f"-{texts['extra']}"]} if launcher == "srun" else {}
    mpirun = {key: texts[key] for key in ("agent", "interface") if launcher == "mpirun"}
    launch = {"launcher": launcher, "scheduler": "slurm" if launcher == "srun" else "none", "mpi": "auto",
              "options": [texts["option"]], **mpirun}  # fmt: skip
    return Cluster.model_validate(
        {"name": "c", "launch": launch, "slurm": slurm, "environment": {"variables": {"NOTE": texts["variable"]}}}
    )


def sbatch_arguments(line):
    """What sbatch reads from the rest of a line (``_get_argument`` of its sources)."""
    arguments, i = [], 0
    while True:
        while i < len(line) and line[i] in " \t\n\v\f\r":
            i += 1
        if i == len(line) or line[i] == "#":
            return arguments
        text, quote = "", ""
        while i < len(line) and (quote or line[i] not in " \t\n\v\f\r"):
            char = line[i]
            if char == "\\" and i + 1 < len(line):
                i += 1
                text += line[i]
            elif char == quote:
                quote = ""
            elif not quote and char in "\"'":
                quote = char
            elif not quote and char == "#":
                return [*arguments, text]
            else:
                text += char
            i += 1
        arguments.append(text)


def try_job(base, rng, number):
    """Whether the texts were taken; asserts that they arrive, or that a rule forbids them."""
    launcher = rng.choice(sorted(PLACES))
    texts, hostile = random_texts(rng, PLACES[launcher])
    names = {place: f"{place}{number}{texts[place]}".replace("/", "-") for place in ("directory", "programs")}
    folder, directory, programs = base / "r" / texts["folder"], base / names["directory"], base / names["programs"]
    try:
        cluster = cluster_of(texts, launcher)
        text = job_text(Job(cluster, texts["name"], folder, directory, programs, 3))
    except (ConfigError, ValidationError) as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert may_be_refused(texts, launcher), (texts, refused)
        assert len(refused) < 1000
        return False
    assert hostile is None, (hostile, texts[hostile])
    for path in (directory, programs):
        path.mkdir(exist_ok=True)
    for program in ("python", "distnewton", "mpirun", "srun"):
        (programs / program).symlink_to(base / "stub")
    (base / "job.sh").write_text(text, encoding="utf-8")
    assert subprocess.run(["bash", "-n", base / "job.sh"], capture_output=True, check=False).stderr == b""
    environment = {"PATH": "/usr/bin:/bin", "STUB_OUT": str(base / "out"), "HOME": "/nowhere"}
    done = subprocess.run(["bash", base / "job.sh"], env=environment, cwd=base, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), (texts, done)
    if launcher == "srun":
        start = ["srun", "--ntasks=3", "--kill-on-bad-exit=1", texts["option"]]
    else:
        start = [f"{programs}/mpirun", "-launcher", "ssh", "-launcher-exec", texts["agent"], "-iface"]
        start += [texts["interface"], texts["option"], "-n", "3"]
    train = [f"{programs}/distnewton", "train", f"{folder}/job.toml", "--run-dir", str(folder), "--resume=auto"]
    expected = [str(directory), texts["variable"], "-m", "distnewton.cluster.supervise", str(folder), "--"]
    arrived = (base / "out").read_bytes().decode().split("\0")[:-1]
    assert arrived == [*expected, *start, *train]
    lines = [line[7:] for line in text.split("\n") if line.startswith("#SBATCH")]
    options = [argument for line in lines for argument in sbatch_arguments(line)]
    assert len(options) == len(lines)
    if launcher == "srun":
        output = str(folder).replace("%", "%%") + "/job-%j.out"
        wanted = {f"--job-name={texts['name']}", f"--account={texts['account']}", f"--output={output}"}
        assert wanted | {f"-{texts['extra']}"} <= set(options)
        sizes = ["--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--open-mode=append", "--no-requeue"]
        assert set(options) == {*wanted, *sizes, f"-{texts['extra']}"}
    else:
        assert not options
    for path in (directory, programs):
        shutil.rmtree(path)
    return True


@pytest.mark.skipif(not shutil.which("bash"), reason="job files are for bash")
@pytest.mark.timeout(3600)
def test_texts_arrive_as_they_are_or_are_refused(tmp_path):
    (tmp_path / "stub").write_text(STUB)
    (tmp_path / "stub").chmod(0o755)
    rng = random.Random(5)
    n_taken = sum(try_job(tmp_path, rng, number) for number in range(N))
    print(f"{n_taken} of {N} jobs with 8 texts each were taken and read back, the others refused")
    assert 0.05 * N < n_taken < 0.95 * N
    assert not list(tmp_path.rglob("HIT"))


def test_folders_that_no_quotes_can_save():
    cluster = Cluster.model_validate({"name": "c"})
    for name, programs, words in (("a/b", "/p", "may not contain '/'"), ("n" * 241, "/p", "241 bytes"),
                                  ("n", "/a:b", "may not contain ':'")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            Job(cluster, name, Path("/r"), Path("/d"), Path(programs), 1)


@pytest.mark.parametrize("name", ["run", "code", "options", "1a", "a b", "a\n"])
def test_variables_that_the_job_file_would_lose(name):
    with pytest.raises(ValidationError, match="does not use itself"):
        Cluster.model_validate({"name": "c", "environment": {"variables": {name: "x"}}})


@pytest.mark.parametrize("stem", ['a"\nx = "1', "-é-", "...", "plain-1.x"])
def test_a_measured_cluster_file_can_be_read_whatever_its_name(tmp_path, stem):
    write_measured(tmp_path / "c.toml", stem, {"nodes": 1}, {})
    assert load_cluster(tmp_path / "c.toml").launch.nodes == 1


def test_one_module_quotes_for_the_shell():
    package = Path(distnewton.__file__).parent
    files = [file for file in package.rglob("*.py") if "shlex" in file.read_text(encoding="utf-8")]
    assert files == [package / "cluster" / "quoting.py"]
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "html":
                assert file == package / "reporting" / "report.py"
