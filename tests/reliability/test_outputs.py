"""Outputs: refused at once where they cannot be written, never in the place of inputs, with the mode of the umask."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from launched import call, launching, run

from distnewton.cli import liblinear_commands
from distnewton.cluster.tables import write_measured
from distnewton.errors import CreateError, DistNewtonError, WriteError
from distnewton.guards.failures import failures
from distnewton.outputs import check_output, whole, write_output

ROWS = "".join(f"{k % 7},{k % 3},{k % 2}\n" for k in range(40))
CLUSTER = 'name = "c"\n[launch]\nlauncher = "none"\n'
SETTINGS = ["--network.layers=auto-auto", "--run.iterations=2", "--run.checkpoint_minutes=0", "--quiet"]

FILES = {
    "distnewton-train": ["distnewton-train", "{data}", "{out}"],
    "distnewton-predict": ["distnewton-predict", "{data}", "R", "{out}"],
    "predict": ["predict", "R", "{data}", "--out", "{out}"],
    "evaluate": ["evaluate", "R", "{data}", "--json", "{out}"],
    "export LIBLINEAR": ["export", "R", "{out}.model"],
    "export ONNX": ["export", "R", "{out}.onnx"],
    "report": ["report", "R", "--out", "{out}"],
    "doctor": ["doctor", "--bench", "--cluster", "{out}", "--run-dir", "runs"],
}
FOLDERS = {
    "train": ["train", "--data.train={data}", *SETTINGS, "--run-dir={out}"],
    "compare": ["compare", "--directions=sgd", "--set=data.train={data}", "--run-dir={out}"],
    "convert": ["convert", "{data}", "{out}"],
    "submit": ["submit", "--cluster=c.toml", "--set=data.train={data}", "--run-dir={out}"],
    "bench": ["bench", "scaling", "--dry-run", "--set=data.train={data}", "--run-dir={out}"],
}
MAKE_NO_FOLDER = {"distnewton-train", "export LIBLINEAR", "export ONNX", "doctor"}
pytest.importorskip("onnx")


def start(arguments, **names):
    """Call a command of the package in this process; returns the exit code and what it said."""
    words = [word.format(**names) for word in arguments]
    program = getattr(liblinear_commands, words[0].removeprefix("distnewton-"), None)
    if words[0].startswith("distnewton-"):
        try:
            return program(words[1:]), ""
        except DistNewtonError as error:
            return error.exit_code, str(error)
    done = call(*words)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table, a run on it, and a cluster file."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("data.csv").write_text(ROWS)
        Path("c.toml").write_text(CLUSTER)
        done = call("train", "--data.train=data.csv", *SETTINGS, "--run-dir=R")
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A working folder with a copy of it."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("command", {**FILES, **FOLDERS})
def test_what_cannot_be_written_is_told_before_data_are_opened(place, command):
    arguments, names = {**FILES, **FOLDERS}[command], {"data": "nowhere.csv"}
    before = contents(place)
    outs = ["data.csv/out"]
    outs += ["missing/out"] * (command in MAKE_NO_FOLDER)
    if command in FILES:
        for suffix in ("", ".model", ".onnx"):
            (place / f"taken{suffix}").mkdir()
    outs += ["taken"] if command in FILES else ["data.csv"]
    for out in outs:
        code, said = start(arguments, out=out, **names)
        assert code in (CreateError.exit_code, WriteError.exit_code), (out, said)
        assert out in said
        assert "nowhere.csv" not in said
        assert out != "data.csv/out" or "data.csv is a file" in said
    code, said = start(arguments, out="a" * 300, **names)
    assert (code != 70, "File name too long" in said) == (True, True)
    assert contents(place) == before
    assert not (place / "missing").exists()


NO_PERMISSION = """
import sys
sys.path.insert(0, sys.argv[1])
from reliability.test_outputs import FILES, FOLDERS, start
for name, arguments in {**FILES, **FOLDERS}.items():
    print(name, *start(arguments, data="nowhere.csv", out="closed/out"), sep="|")
"""


def in_a_closed_folder(place, *, mounted):
    """Call all commands with outputs in a folder in which nothing can be made."""
    tests = Path(__file__).parents[1]
    python = [sys.executable, "-c", NO_PERMISSION, str(tests)]
    (place / "closed").mkdir(mode=0o555)
    mount = ["unshare", "--mount", "bash", "-c", 'mount -t tmpfs -o ro none closed && exec "$@"', "-"]
    return run([*(mount if mounted else []), *python], cwd=place)


@launching
def test_folders_without_permission(place):
    is_root = os.geteuid() == 0
    if is_root and subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("root may write everywhere, and this one may mount nothing")
    done = in_a_closed_folder(place, mounted=is_root)
    told = [line.split("|") for line in done.stdout.splitlines() if "|" in line]
    assert [name for name, *_ in told] == [*FILES, *FOLDERS], done.stderr
    for name, code, said in told:
        assert int(code) in (CreateError.exit_code, WriteError.exit_code), (name, said)
        assert "closed/out" in said
        assert "Read-only file system" in said or "Permission denied" in said, (name, said)


def test_an_output_is_replaced_whole_or_not_at_all(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    write_output(real, "old")
    link.symlink_to(real)
    with pytest.raises(WriteError, match=r"cannot write .*link.txt: No such file"), whole(link) as part:
        part.with_name("missing").rename(part)
    assert contents(tmp_path) == {"real.txt": b"old", "link.txt": b"old"}
    write_output(link, "new")
    assert link.is_symlink()
    assert contents(tmp_path) == {"real.txt": b"new", "link.txt": b"new"}


def test_devices_and_pipes_stay_what_they_are(tmp_path, place):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for command in ("distnewton-train", "distnewton-predict", "predict", "evaluate"):  # write less than a pipe holds
        check_output(pipe)
        assert start(FILES[command], data="data.csv", out=pipe)[0] == 0
        assert os.read(reader, 1 << 20)
        assert pipe.is_fifo()
    os.close(reader)


def test_files_have_the_mode_that_the_umask_asks_for(place, monkeypatch):
    # neither what programs write by themselves (022) nor what safetensors does (077)
    umask = 0o027
    before = os.umask(umask)
    try:
        out, data = place / "new", "--set=data.train=data.csv"
        more = ["--tensorboard"] if find_spec("tensorboardX") else []
        done = call("train", "--data.train=data.csv", *SETTINGS, *more, f"--run-dir={out}/run")
        assert done.returncode == 0, done.stderr
        monkeypatch.setattr(failures, "folder", out / "run")
        assert failures.write(0, 70, "a failure") == (False, "")
        for name, arguments in FILES.items():
            if name != "doctor":
                assert start(arguments, data="data.csv", out=f"{out}/{name}")[0] == 0
        assert call("compare", "--directions=sgd", data, "--set=run.iterations=1", f"--run-dir={out}/c").returncode == 0
        assert call("convert", "data.csv", f"{out}/store").returncode == 0
        assert call("report", f"{out}/run").returncode == 0
        assert call("bench", "scaling", "--dry-run", data, f"--run-dir={out}/study").returncode == 0
        write_measured(out / "cluster.toml", "x", {"nodes": 1}, {"compute": {"float64_gflop_s": 7.0}})
    finally:
        os.umask(before)
    modes = {path.relative_to(out): stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*")}
    expected = {name: (0o777 if (out / name).is_dir() else 0o666) & ~umask for name in modes}
    expected |= {name: 0o755 for name in modes if name.name == "job.sh"}
    assert {name: mode for name, mode in modes.items() if mode != expected[name]} == {}
    names = {name.name for name in modes}
    assert names >= {"model.safetensors", "metrics.jsonl", "end.json", "manifest.json", "convergence.png", "first.json",
                     "comparison.png", "comparison.md", "job.sh", "job.toml", "study.json", "features.bin",
                     "sums.bin"}  # fmt: skip
