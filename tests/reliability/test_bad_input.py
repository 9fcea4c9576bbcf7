"""Bad input, row by row as a user meets it: exit code, what the message says, said once, no traceback, within seconds.

All rows run in this process, alone and on 4 ranks; some are launched.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import pickle
import time
import zipfile
from dataclasses import dataclass, field

import numpy as np
import pytest
from launched import call, call_together, distnewton, launching, mpirun, run

GOOD = "1 1:0.5 2:-1\n2 1:1.5 3:2\n1 2:0.25 3:-2\n2 1:1 2:0.5\n"
TABLE = "".join(f"{x},{-x},{'ab'[x % 2]}\n" for x in range(8))


@dataclass
class Row:
    """A bad input: its number in the list of requirements, the files, the command, and what it must yield."""

    number: str
    code: int
    words: list[str]
    content: bytes | str | None = None
    settings: list[str] = field(default_factory=list)
    command: list[str] | None = None
    name: str = "bad.libsvm"

    def arguments(self):
        if self.command is not None:
            return self.command
        return ["train", f"--data.train={self.name}", "--network.layers=auto-3-auto", "--run.iterations=1",
                "--run.memory_mb=50", "--run-dir=R", *self.settings]  # fmt: skip

    def write(self, folder):
        (folder / "good.libsvm").write_text(GOOD)
        (folder / "good.csv").write_text(TABLE)
        if self.content is not None:
            data = self.content.encode() if isinstance(self.content, str) else self.content
            (folder / self.name).write_bytes(data)


def compressed(packer):
    data = packer.compress((GOOD * 500).encode())
    return data[: len(data) // 2]


def torch_like():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    return buffer.getvalue()


def foreign_safetensors():
    from safetensors.numpy import save

    return save({"0.weight": np.zeros((2, 2), np.float32)})


def newer_model():
    from safetensors.numpy import save

    return save({"0.weight": np.zeros((2, 2), np.float32)}, {"distnewton": json.dumps({"format_version": 99})})


def data(number, content, code, *words, **more):
    return Row(number, code, list(words), content, **more)


def settings(number, code, words, *given, name="good.libsvm"):
    return Row(number, code, words, settings=list(given), name=name)


def model(number, content, *words):
    return Row(number, 65, list(words), content, name="bad.safetensors",
               command=["predict", "bad.safetensors", "good.libsvm"])  # fmt: skip


L = "bad.libsvm"
HUGE = "".join(f"{1 + i % 2} 1:{i}e200 2:-{i}e199\n" for i in range(1, 9))
ADVICE = "scale the data ([data] scale"
ROWS = [
    # 1-3: files that cannot be read
    Row("1", 66, ["good.libsvn: does not exist (working directory ", "did you mean good.libsvm?"], name="good.libsvn"),
    Row("1 in a folder that is missing", 66, ["the folder nowhere does not exist either"], name="nowhere/x.libsvm"),
    Row("3", 66, ["good.d: is a folder, expected a file"], name="good.d", settings=["--data.format=libsvm"]),
    # 4-5: nothing in it
    data("4", "", 65, f"{L}: no samples"),
    data("5", "# nothing\n\n  \n#\n", 65, f"{L}: no samples"),
    # 8: something else
    data("8 HTML", "<!DOCTYPE html>\n<html>", 65, f"{L}:1: looks like HTML", "readable are LIBSVM"),
    data("8 CSV as LIBSVM", TABLE, 65, f"{L}:1: looks like CSV", "`label index:value",
         settings=["--data.format=libsvm"]),
    data("8 binary", b"\x01\x02\0\0\xff" * 40, 65, f"{L}:1: looks like binary data"),
    data("8 PNG", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, 65, f"{L}: looks like a PNG image"),
    data("8 line end inside", b'1,2,"a"\n3,4,b\rc"\n', 65, "bad.libsvm:2: cannot be split into fields"),
    # 9: cut short
    data("9 gzip", compressed(gzip), 65, f"{L}: compressed file is cut short", "bytes of content"),
    data("9 bzip2", compressed(bz2), 65, f"{L}: compressed file is cut short", "bytes of content"),
    data("9 xz", compressed(lzma), 65, f"{L}: compressed file is cut short", "bytes of content"),
    # 11-17, 19: lines
    data("11", GOOD + "1 0:1 2:3\n", 65, f"{L}:5:3: index 0, but indices start at 1", "data.zero_based=true"),
    data("12 negative", GOOD + "1 -1:1\n", 65, f"{L}:5:3: index '-1' is not a whole number of at least 1"),
    data("12 fraction", GOOD + "1 1.5:1\n", 65, f"{L}:5:3: index '1.5' is not a whole number"),
    data("13 too large", GOOD + "1 2147483648:1\n", 65, f"{L}:5:3: index 2147483648 is above the largest possible"),
    data("13 given number", GOOD + "1 9:1\n", 65, f"{L}:5:3: index 9 is beyond the 4 features expected",
         "data.n_features", settings=["--data.n_features=4"]),
    data("14 order", GOOD + "1 3:1 2:1\n", 65, f"{L}:5: index 2 after 3: indices must increase"),
    data("14 repeated", GOOD + "1 2:1 2:1\n", 65, f"{L}:5: index 2 appears twice"),
    data("15 value missing", GOOD + "1 3:\n", 65, f"{L}:5:3: value missing in '3:'"),
    data("15 index missing", GOOD + "1 :2\n", 65, f"{L}:5:3: index missing in ':2'"),
    data("15 text", GOOD + "1 3:abc\n", 65, f"{L}:5:3: value 'abc' of index 3 is not a decimal number"),
    data("15 hexadecimal", GOOD + "1 3:0x10\n", 65, f"{L}:5:3: value '0x10' of index 3 is not a decimal number"),
    data("16 nan", GOOD + "1 3:nan\n", 65, f"{L}:5:3: value 'nan' of index 3 is not a finite number"),
    data("16 inf", GOOD + "1 3:-inf\n", 65, f"{L}:5:3: value '-inf' of index 3 is not a finite number"),
    data("16 1e999", GOOD + "1 3:1e999\n", 65, f"{L}:5:3: value '1e999' of index 3 is not a finite number"),
    data("17 no label", GOOD + "3:1 4:1\n", 65, f"{L}:5: label missing: the line begins with '3:1'"),
    data("17 regression", GOOD + "cat 3:1\n", 65, f"{L}:5: label 'cat' is not a finite number",
         settings=["--network.loss=squared"]),
    data("19", GOOD + "1,3 3:1\n", 65, f"{L}:5: label '1,3': multi-label rows need"),
    data("21", "1 1:1\n1 2:1\n", 65, f"{L}: classification needs two classes, found only '1'"),
    data("26", HUGE, 3, "feature 0 (counted", "which overflows in layer 1", ADVICE, settings=["--data.scale=none"]),
    data("26 float64", HUGE, 3, "feature 0 (counted from 0",
         "is 1e+200, which overflows in layer 1", ADVICE, settings=["--data.scale=none", "--run.dtype=float64"]),
    # 28-37: settings
    settings("28", 78, ["needs 60 ranks", "Splits that fit"], "--partition.splits=3-20-1"),
    settings("30", 2, ["unknown argument --method.cg_mx", "did you mean --method.cg_max?"], "--method.cg_mx=3"),
    settings("30 set", 78, ["method.cg_mx: unknown key; did you mean cg_max?"], "--set", "method.cg_mx=3"),
    settings("31", 78, ["method.cg_max:", "run.dtype:", "method.C:", "network.layers"], "--method.cg_max=few",
             "--run.dtype=float128", "--method.C=-1", "--network.layers=3"),
    settings("32 type", 78, ["method.cg_max: input should be a valid integer, got 'few'"], "--method.cg_max=few"),
    settings("32 range", 78, ["method.cg_tolerance:", "got -1"], "--method.cg_tolerance=-1.0"),
    settings("32 C negative", 78, ["method.C: must be a positive number"], "--method.C=-1"),
    settings("32 C nan", 78, ["method.C: must be a positive number"], "--method.C=nan"),
    settings("32 nan", 78, ["method.damping:", "got nan"], "--method.damping=nan"),
    settings("34 width", 78, ["network.layers.1: input should be greater than or equal to 1, got 0"],
             "--network.layers=auto-0-auto"),
    settings("34 no layers", 78, ["network.layers"], "--set", "network.layers=[]"),
    settings("34 outputs", 78, ["the data has 2 outputs (classes, or targets), not 7"], "--network.layers=auto-3-7"),
    settings("34 features", 78, ["the data has 3 features, not 9"], "--network.layers=9-3-2"),
    settings("35 zero", 78, ["method.subsample:", "got 0"], "--method.subsample=0"),
    settings("35 share", 78, ["method.subsample:", "got 1.5"], "--method.subsample=1.5"),
    settings("36", 78, ["run.dtype: input should be 'float32', 'float64' or 'tf32', got 'float16'"],
             "--run.dtype=float16"),
    settings("37", 78, ["run.device: input should be 'cpu', 'gpu' or 'auto', got 'cuda'"], "--run.device=cuda"),
    settings("40", 78, ["the run needs ", " GB free:", "--set run.checks=", "ranks would fit"],
             "--network.layers=auto-300000-300000-auto"),
    Row("42", 73, ["holds an earlier run", "run.overwrite=true"], name="good.libsvm", settings=["--run-dir=USED"]),
    Row("42 a file", 73, ["there is a file of that name"], name="good.libsvm", settings=["--run-dir=good.csv"]),
    Row("47", 65, ["has format 99", "update distnewton"], newer_model(), name="bad.safetensors",
        command=["predict", "bad.safetensors", "good.libsvm"]),
    model("48 pickle", pickle.dumps({"a": 1}), "bad.safetensors", "a pickle", "never loaded"),
    model("48 torch", torch_like(), "bad.safetensors", "a torch file", "never loaded"),
    model("48 cut", foreign_safetensors()[:40], "bad.safetensors is not a readable safetensors file"),
    model("48 foreign", foreign_safetensors(), "not a model that distnewton wrote"),
    model("48 empty", b"", "bad.safetensors is not a readable safetensors file"),
    Row("48 missing", 66, ["there is no model file none.safetensors"], command=["predict", "none.safetensors", "x"]),
]  # fmt: skip


def prepare(folder, row):
    row.write(folder)
    (folder / "good.d").mkdir()
    (folder / "USED").mkdir()
    (folder / "USED/metrics.jsonl").write_text("{}\n")
    (folder / "USED/model.safetensors").write_text("kept")


def check(row, folder, code, text):
    assert code == row.code, text
    for words in row.words:
        assert text.count(words) == 1, (words, text)
    assert text.count("distnewton: ") == 1
    assert "Traceback" not in text
    assert 'File "' not in text
    assert "Warning" not in text
    # a run that never began leaves nothing, one that was there is as it was
    assert row.code == 3 or not (folder / "R").exists()
    assert (folder / "USED/model.safetensors").read_text() == "kept"
    assert (folder / "good.csv").read_text() == TABLE


def identifier(row):
    return row.number


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs a command line in this process; returns its code and what it said."""
    monkeypatch.chdir(tmp_path)

    def code_and_words(*arguments):
        done = call(*arguments)
        return done.returncode, done.stderr, done.stdout

    return code_and_words


@pytest.mark.parametrize("row", ROWS, ids=identifier)
def test_bad_input(tmp_path, command, row):
    prepare(tmp_path, row)
    start = time.process_time()
    code, text, _ = command(*row.arguments())
    check(row, tmp_path, code, text)
    assert time.process_time() - start < 2.0


ALONE = {"40"}
"""Rows whose failure one rank finds alone: it ends the job, so that each needs a launch of its own."""


@pytest.mark.mpi(min_size=1, sizes=(4,))
@pytest.mark.parametrize("row", [row for row in ROWS if row.number not in ALONE], ids=identifier)
def test_bad_input_on_ranks(world, folder, row):
    with contextlib.chdir(folder):
        if world.rank == 0:
            prepare(folder, row)
        world.barrier()
        done = call_together(world, *row.arguments())
        check(row, folder, done.returncode, done.stderr)


LAUNCHED = {"1", "40", "48 pickle"}


@pytest.mark.parametrize("row", [row for row in ROWS if row.number in LAUNCHED], ids=identifier)
@launching
def test_bad_input_of_a_launch(tmp_path, row):
    prepare(tmp_path, row)
    done = run([*mpirun(2), *distnewton(*row.arguments())], cwd=tmp_path)
    check(row, tmp_path, done.returncode, done.stderr.replace("\r", ""))


ACCEPTED = {
    "6 endings": (b"1 1:0.5\t2:-1 \r\n2 1:1.5 3:2  \r\n\r\n1 2:0.25\r\n2 1:1", [], []),
    "7 mark": (b"\xef\xbb\xbf" + GOOD.encode(), [], ["a byte-order mark at the beginning was skipped"]),
    "10 suffix": (gzip.compress(GOOD.encode(), mtime=0), [], []),
    "14 sorted": (b"1 3:1 2:1\n2 1:1\n", ["--data.sort_indices=true"], []),
    "18 names": (b"dog 1:0.5\ncat 1:1\ndog 2:1\n", [], ["classes: 0 = cat, 1 = dog"]),
    "20 qid": (b"1 qid:7 1:1 # why\n2 qid:7 2:1\n", [], ["query ids (qid:) were ignored", "comments (# ...) were"]),
    "25 constant": (b"1 1:1 2:5 3:1\n2 1:2 2:5 3:1\n", ["--data.scale=standard"], ["2 features are constant"]),
    "33 C": (GOOD.encode(), ["--method.C=inf"], []),
    "35 large": (GOOD.encode(), ["--method.subsample_min=100"], ["method.subsample_min exceeds the number of samples"]),
}


def accept(folder, content, given, words, command):
    (folder / "in.dat").write_bytes(content)
    code, text, out = command(
        "train", "--data.train=in.dat", "--network.layers=auto-3-auto", "--run.iterations=1", "--run-dir=R", *given
    )
    assert code == 0, text
    assert text == ""
    for word in words:
        assert out.count(word) == 1, out


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_accepted(tmp_path, command, case):
    accept(tmp_path, *ACCEPTED[case], command)


def test_test_data_with_more_features_and_other_labels(tmp_path, command):
    (tmp_path / "train").write_text(GOOD)
    (tmp_path / "test").write_text("1 1:1 7:2\n3 2:1\n2 1:2 8:1\n")
    common = ["train", "--data.train=train", "--data.test=test", "--network.layers=auto-3-auto", "--run.iterations=1"]
    code, text, out = command(*common, "--run-dir=R")
    assert code == 0, text
    assert out.count("test: ignored 2 values of features that the training data does not have") == 1
    assert out.count("test labels that never occur in training count as wrong: '3' (1)") == 1


@pytest.mark.mpi(min_size=4, sizes=(4,))
def test_more_ranks_than_features_and_constant_features(world, folder):
    def code_and_words(*arguments):
        done = call_together(world, *arguments)
        return done.returncode, done.stderr, done.stdout

    words = ["own no variable: these layers cannot use so many ranks", "1 features are constant"]
    given = ["--partition.splits=4-1-1", "--data.scale=standard"]
    with contextlib.chdir(folder):
        accept(folder, b"1 1:1 2:5\n2 1:2 2:5\n", given, words, code_and_words)


def test_ranks_that_disagree_on_the_configuration(world):
    from distnewton.config import make_config
    from distnewton.errors import ConfigError
    from distnewton.runs.consistency import check_same_config

    config = make_config({"method": {"cg_max": 7 if world.rank == world.size - 1 else 9}})
    text = ""
    try:
        check_same_config(world, config)
    except ConfigError as error:
        text = f"{error} {error.collective}"
    last = world.size - 1
    others = "0" if last <= 1 else f"0-{last - 1}"
    expected = f"method.cg_max: 9 on rank {others}; 7 on rank {last} True"
    assert not world.any(not (text.endswith(expected) if last else text == ""))


def test_a_folder_that_only_one_rank_sees(world, folder, monkeypatch):
    from distnewton.errors import CreateError
    from distnewton.launch import shared_folder

    monkeypatch.setattr(shared_folder, "_SECONDS", 0.2)
    shared_folder.check_visible(world, folder)
    with pytest.raises(CreateError, match=r"is not visible on .*: choose a --run-dir on a file system") as caught:
        shared_folder.check_visible(world, folder if world.rank == 0 and world.size > 1 else folder / "no")
    assert caught.value.collective


for function in (test_ranks_that_disagree_on_the_configuration, test_a_folder_that_only_one_rank_sees):
    pytest.mark.mpi(min_size=1)(function)
