"""Standard input, pipes and FIFOs as data; standard output for results, and what is lost with it."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import sys
import threading

import numpy as np
import pytest
from launched import call, distnewton, mpirun, run

from distnewton.cli.streams import StandardStream
from distnewton.errors import WriteError

pytestmark = pytest.mark.skipif(
    any(name in os.environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")), reason="programs of one process"
)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
TABLE = "a,b,c,label\n" + "".join(f"{a},{b},{c},{'yes' if a > b else 'no'}\n" for a, b, c in X.tolist())
TRAIN = ["--run.iterations", "3", "--network.layers", "auto-4-auto", "--quiet"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the table, which commands only read, and the table."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "table.csv").write_text(TABLE)
    done = call("train", "--data.train", folder / "table.csv", "--run-dir", folder / "run", *TRAIN)
    assert done.returncode == 0, done.stderr
    return folder / "run", folder / "table.csv"


def piped(path, command):
    """Run a command with a file as standard input, through a pipe."""
    return run(["bash", "-c", f"cat {path} | {shlex.join(map(str, command))}"])


@pytest.mark.parametrize("n_ranks", [1, 3])
def test_every_stream_is_read_as_the_file_is(tmp_path, table, n_ranks):
    launch = mpirun(3) if n_ranks == 3 else []
    trained = piped(table, [*launch, *distnewton("train", "--data.train", "-", "--run-dir", tmp_path / "run", *TRAIN)])
    assert trained.returncode == 0, trained.stdout + trained.stderr
    expected = call("predict", tmp_path / "run", table)
    assert len(expected.stdout.splitlines()) == 60
    os.mkfifo(tmp_path / "fifo")
    for name in ("/dev/stdin", str(tmp_path / "fifo")):
        writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_text(TABLE), daemon=True)
        if name != "/dev/stdin":
            writer.start()
        found = piped(table, [*launch, *distnewton("predict", tmp_path / "run", name, "--out", "-")])
        assert found.returncode == 0, found.stderr
        assert found.stdout == expected.stdout, name
        assert f"{name} was copied once, to " in found.stderr
    assert not (tmp_path / "-").exists()


def test_a_pipe_of_the_shell(trained):
    run_folder, table = trained
    words = shlex.join(distnewton("evaluate", run_folder))
    found = run(["bash", "-c", f"{words} <(cat {table})"])
    assert found.returncode == 0, found.stderr
    assert found.stdout == call("evaluate", run_folder, table).stdout


@pytest.mark.parametrize(("name", "code", "text"), [
    ("/dev/zero", 66, "/dev/zero: is a device or a socket, expected a file or a pipe"),
    ("-", 65, "stdin"),
])  # fmt: skip
def test_refusals(tmp_path, name, code, text):
    done = piped("/dev/null", distnewton("train", "--data.train", name, "--run-dir", tmp_path / "run", *TRAIN))
    assert done.returncode == code, done.stderr
    assert text in done.stderr


def test_liblinear_commands(tmp_path):
    (tmp_path / "rows").write_text("".join(f"{int(a > b)} 1:{a} 2:{b}\n" for a, b, _ in X.tolist()))
    program = "from distnewton.cli.liblinear_commands import {0}_console as main; main()"

    def command(name, *arguments):
        return piped(tmp_path / "rows", [sys.executable, "-c", program.format(name), *arguments])

    done = command("train", "-q", "/dev/stdin", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    found = command("predict", "-", tmp_path / "model", "-")
    assert found.returncode == 0, found.stderr
    assert set(found.stdout.split()) <= {"0", "1"}
    assert "Accuracy = " in found.stderr
    refused = command("train", "-q", "/dev/stdin", "-")
    assert refused.returncode == 2, refused.stderr
    assert "a model is written to a file" in refused.stderr


@pytest.mark.parametrize(("redirection", "words"), [
    (">/dev/full", "standard output is lost (No space left on device); the command continues"),
    ("2>/dev/full >/dev/full", ""),
    (">&- 2>&- <&-", ""),
    ("| head -1", "standard output is lost (Broken pipe); the command continues"),
])  # fmt: skip
def test_a_run_goes_on_without_its_output(tmp_path, table, redirection, words):
    told = TRAIN[:-1]
    command = shlex.join(map(str, distnewton("train", "--data.train", table, "--run-dir", tmp_path / "run", *told)))
    done = run(["bash", "-o", "pipefail", "-c", f"{command} {redirection}"])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(words or "lost") == bool(words), done.stderr
    # neither does another file get the number of the stream
    records = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in records] == [0, 1, 2, 3]
    assert json.loads((tmp_path / "run/end.json").read_text()) == {"exit_code": 0}


@pytest.mark.parametrize(("redirection", "codes"), [(">/dev/full", [74]), ("| head -c 1", [0, 1]), (">&-", [0])])
def test_results_that_cannot_be_said_are_no_bug(trained, redirection, codes):
    words = shlex.join(map(str, distnewton("evaluate", *trained)))
    done = run(["bash", "-o", "pipefail", "-c", f"{words} {redirection}"])
    assert done.returncode in codes, done.stderr
    assert ("cannot write standard output: No space left on device" in done.stderr) == (codes == [74])
    assert "SystemExit" not in done.stderr
    assert "bug" not in done.stderr


def test_a_full_disk_ends_a_run_that_resumes(tmp_path, table):
    command = distnewton("train", "--data.train", table, "--run-dir", tmp_path / "run", "--run.checkpoint_minutes=0",
                         "--network.layers=auto-4-auto", "--run.tolerance=0", "--quiet")  # fmt: skip
    # files of more than so many kilobytes are refused, as on a disk that is full
    words = shlex.join(map(str, [*command, "--run.iterations=40"]))
    done = run(["bash", "-c", f"ulimit -f 16; {words}"])
    assert done.returncode == 74, done.stderr
    metrics = tmp_path / "run/metrics.jsonl"
    assert f"cannot write {metrics}: " in done.stderr
    assert "Traceback" not in done.stderr
    last = max(int(path.name[5:]) for path in (tmp_path / "run/checkpoints").glob("step-??????"))
    assert 0 < last < 40
    more = run([*command, f"--run.iterations={last + 1}", "--resume=auto"])
    assert more.returncode == 0, more.stderr
    assert [json.loads(line)["iteration"] for line in metrics.read_text().splitlines()] == [*range(last + 2)]


class Full(io.StringIO):
    """A stream whose disk is full."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def fileno(self):
        return self.number

    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_stream_that_is_lost_goes_nowhere(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        stream = StandardStream(Full(file.fileno()))
        stream.write("a")
        with pytest.raises(WriteError, match="cannot write standard output: No space left on device"):
            stream.flush()
        assert os.readlink(f"/proc/self/fd/{file.fileno()}") == os.devnull
        stream.optional = True
        stream.flush()


def test_ranks_on_several_hosts_are_refused(monkeypatch):
    from distnewton.data.formats import spool
    from distnewton.errors import ConfigError
    from distnewton.parallel.collectives import Communicator

    comm = Communicator()
    monkeypatch.setattr(comm, "allgather_json", lambda value: [value, "other"])
    with pytest.raises(ConfigError, match="- can be read on one host only, but the ranks run on"):
        spool.spool_for_all(comm, "-", None)
