"""What no sane program writes, and files hold all the same: told with the name of the file, by a code of ours, soon."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import struct
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from launched import call, distnewton, run, several

import distnewton as package
from distnewton.data.formats import delimited, streams
from distnewton.errors import DataError, DistNewtonError

GOOD = "1 1:0.5 2:-1\n2 1:1.5 3:2\n1 2:0.25 3:-2\n2 1:1 2:0.5\n"
TABLE = "".join(f"{x},{-x},{'ab'[x % 2]}\n" for x in range(8))
DIGITS = "9" * 1_000_000


def npy(shape, descr="'<f8'"):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + bytes(480)


def idx(*shape, kind=8):
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(480)


SHAPES = ["(-20, 3)", "(20, -3)", "(-1, -60)", "(True, 3)", "(20, True)", f"({2**70}, 3)", f"(20, {2**70})",
          f"({2**32}, {2**32})", f"({2**32}, {2**32}, {2**32})", "(3, 10000000000)", "(10000000000, 3)",
          f"({2**62}, 0)", "(20, 0)", "(20.0, 3)", "20", "(" + "(" * 900 + ")" * 901, "1" * 4400]  # fmt: skip
FILES = {
    **{f"npy {shape[:30]}": ("x.npy", npy(shape), ["--data.label_column=-1"]) for shape in SHAPES},
    **{f"npy.gz {shape[:30]}": ("x.npy", gzip.compress(npy(shape)), ["--data.label_column=0"])
       for shape in SHAPES},
    "npy type": ("x.npy", npy("(20, 3)", "()"), ["--data.label_column=0"]),
    "npy text": ("x.npy", b"\x93NUMPY\1\0\x70\x00{'descr':1,\n'a':" + bytes(200), ["--data.label_column=0"]),
    **{f"idx {shape}": ("images-idx3-ubyte", idx(*shape), [])
       for shape in [(20, 0), (20, 2**32 - 1), (20, 2**31, 2**31), (20, *(65536,) * 7)]},
    "libsvm value": ("x", f"{GOOD}1 1:{DIGITS}\n", []),
    "libsvm index": ("x", f"{GOOD}1 {DIGITS}:1\n", []),
    "libsvm label": ("x", f"{GOOD}{DIGITS} 1:1\n", []),
    "libsvm class": ("x", f"{GOOD}{'a' * len(DIGITS)} 1:1\n", []),
    "libsvm pairs": ("x", f"{GOOD}{'1 ' * len(DIGITS)}\n", []),
    "csv value": ("x", f"{TABLE}{DIGITS},1,a\n", []),
    "csv label": ("x", f"{TABLE}1,1,{DIGITS}\n", []),
    "csv class": ("x", f"{TABLE}1,1,{'a' * len(DIGITS)}\n", []),
    "csv name": ("x", f"{'a' * len(DIGITS)},y,z\n{TABLE}", []),
    "csv numbers": ("x", f"{DIGITS},1,2\n1,2,3\n4,5,6\n", []),
}  # fmt: skip


def train_on(name, *settings):
    fixed = ["--network.layers=auto-3-auto", "--run.iterations=1", "--run-dir=R", "--run.overwrite=true"]
    return ["train", f"--data.train={name}", *fixed, *settings]


def check(done, words, codes=(65,)):
    assert done.returncode in codes, done.stderr
    assert words in done.stderr
    assert len(done.stderr) < 9000
    assert "Traceback" not in done.stderr
    assert 'File "' not in done.stderr


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").write_text(GOOD)
    np.save("y.npy", np.arange(20) % 2)
    (tmp_path / "labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 20]) + bytes([0, 1] * 10))
    return tmp_path


@pytest.mark.parametrize("case", FILES)
def test_files(here, case):
    name, content, settings = FILES[case]
    (here / name).write_bytes(content.encode() if isinstance(content, str) else content)
    start = time.process_time()
    check(call(*train_on(name, *settings)), name)
    assert time.process_time() - start < 5.0
    with pytest.raises(DistNewtonError) as caught:
        package.open_data(here / name, label_column=0 if settings else None).describe()
    assert name in str(caught.value)


def test_zeros_in_front_of_an_index(here):
    (here / "x").write_text(GOOD + f"1 {'0' * 5000}3:7\n")
    assert package.open_data(here / "x").read(2, 3).toarray().tolist()[-1] == [7]


NAMES = ["a\0b", "~nosuchuser/x", "x" * 1000, "a/" * 2048, "circle", "circle/x", "good/x", "no\nsuch", "\ud800"]


@pytest.mark.parametrize("name", NAMES)
def test_names(here, name):
    (here / "circle").symlink_to("circle")
    for command in [
        train_on(name), train_on("good", f"--data.test={name}"), train_on("good", f"--network.start={name}"),
        train_on("good", f"--data.directory={name}"), ["train", name], ["predict", name, "good"],
        ["predict", "good", name], ["convert", name, "s"], ["report", name], ["train", "--resume", name],
        ["plan", name], ["why", name], ["submit", "good", "--cluster", name], ["export", name, "x.onnx"],
    ]:  # fmt: skip
        check(call(*command), "", (2, 65, 66, 73, 78))
    with pytest.raises(DistNewtonError):
        package.open_data(name)


def test_disks_that_cannot_be_read(here, monkeypatch):
    done = call(*train_on("good"))
    assert done.returncode == 0, done.stderr
    opened = Path.open

    def broken(path, mode="r", *arguments, **options):
        if path.name == name and "r" in mode:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", broken)
    for name, command in {
        "good": train_on("good", "--run-dir=S"), "r.toml": ["train", "r.toml"],
        "metrics.jsonl": ["report", "R"], "config.toml": ["report", "R"],
    }.items():
        (here / "r.toml").write_text('[data]\ntrain = "good"\n')
        done = call(*command)
        check(done, name, (65, 66))
        assert "nput/output error" in done.stderr


@pytest.mark.parametrize("text", [
    "a = " + "[" * 5000 + "]" * 5000, "a = " + "{a=" * 5000 + "1" + "}" * 5000, "." * 5000, "a." * 5000 + "a = 1",
    "[" + "a." * 5000 + "a]", "[method]\nC = " + "1" * 100_000, "[method]\nC = 0x" + "f" * 100_000,
    "[method]\ncg_max = " + "1" * 4000, "\0", "[data]\ntrain = \"" + "x" * 1000 + '"',
    "#" * (1 << 24) + "\n",
])  # fmt: skip
def test_recipes(here, text):
    (here / "r.toml").write_text(text)
    cluster = ["submit", "good", "--cluster=r.toml"]
    for command in (["train", "r.toml"], ["plan", "r.toml"], cluster):
        done = call(*command)
        check(done, "", (66, 78))


@pytest.mark.parametrize("value", ["1" * 100_000, "1" * 4000, "-" + "1" * 4000, "[" * 5000, "1e" + "9" * 5000, "²",
                                   "0x" + "f" * 5000, "\ud800"])  # fmt: skip
@pytest.mark.parametrize("setting", ["method.C", "method.cg_max", "network.layers", "run.iterations", "run.memory_mb",
                                     "partition.splits", "run.seed", "data.label_column", "method.schedule",
                                     "data.class_weights", "run.dtype"])  # fmt: skip
def test_settings(here, setting, value):
    done = call(*train_on("good"), f"--{setting}={value}")
    if setting != "data.label_column" and (setting, value[:2]) != ("method.C", "1e"):
        check(done, setting.partition(".")[2], (78,))


@pytest.mark.parametrize("flag", ["--ranks", "--top"])
@pytest.mark.parametrize("value", ["1" * 5000, "²", "-1", "1e3", "", "[" * 5000])
def test_numbers_of_flags(here, flag, value):
    check(call("plan", f"{flag}={value}"), "", (2,))


def test_labels_in_a_locale_without_them(here):
    (here / "x.csv").write_text("größe,é\n" + "".join(f"{i},{'äö'[i % 2]}\n" for i in range(9)), encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = run(several(train_on("x.csv"), ["report", "R"], ["evaluate", "R", "x.csv"], ["predict", "R", "x.csv"]),
               cwd=here, **ascii_only)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    wrong = run(distnewton(*train_on("é.csv", "--run-dir=S")), cwd=here, **ascii_only)
    check(wrong, "data.train: is not UTF-8 text", (78,))


LONG_LINES = {
    "csv": (b"1,2,a\n2,3,b\n", b"1,"), "csv names": (b"", b"ab,"), "csv text": (b"1,2,a\n2,3,b\n", b"a"),
    "libsvm": (GOOD.encode(), b"1 "), "blanks": (GOOD.encode(), b" "),
}  # fmt: skip


@pytest.mark.parametrize("case", LONG_LINES)
@pytest.mark.parametrize("packer", [gzip, bz2, lzma], ids=lambda packer: packer.__name__)
def test_long_lines_in_small_compressed_files(here, packer, case):
    """The line is told before it is held."""
    head, piece = LONG_LINES[case]
    if packer is not gzip and case != "csv":
        pytest.skip("bytes take the same way from all decompressors")
    # in many streams: bzip2 takes long for a text that repeats itself
    (here / "x").write_bytes(packer.compress(head) + packer.compress(piece * ((1 << 20) // len(piece))) * 40)
    check(call(*train_on("x")), f"x:{head.count(10) + 1}: a line has more than 32 MiB")


def test_long_rows_in_small_compressed_arrays(here):
    import h5py

    np.savez_compressed("x.npz", X=np.zeros((2, 5_000_000), np.int8), y=np.arange(2))
    with h5py.File("x.h5", "w") as file:
        file["y"] = np.arange(2)
        file.create_dataset("X", (2, 10**12), np.float32, chunks=(1, 1000))
    for name in ("x.npz", "x.h5"):
        check(call(*train_on(name)), f"{name}")
        check(call(*train_on(name)), "a line has more than 32 MiB")


def grown(here, case):
    """A small file that becomes very large: its name."""
    import h5py
    from pyarrow import feather, parquet

    n = 50_000
    if case == "hdf5":
        with h5py.File("x", "w") as file:
            file.create_dataset("X", (10**9, 2), np.int8, chunks=(1000, 2))
            file["y"] = np.arange(2)
    elif case in ("parquet", "feather"):
        table = pa.table({"a": np.zeros(n), "label": np.zeros(n, np.int8)})
        write = parquet.write_table if case == "parquet" else partial(feather.write_feather, compression="zstd")
        write(table, "x")
    elif case in ("npy", "npz"):
        with io.BytesIO() as file:
            np.savez_compressed(file, X=np.zeros((n, 2)), y=np.arange(n) % 2)
            packed = file.getvalue()
        with io.BytesIO() as file:
            np.save(file, np.zeros((n, 2)))
            (here / "x").write_bytes(gzip.compress(file.getvalue()) if case == "npy" else packed)
    else:
        head, line = {"csv": (b"1,a\n2,b\n", b"3,a\n"), "libsvm": (GOOD.encode(), b"1\n")}[case.partition(" ")[0]]
        line = (line.strip() + b" " * 16 + b"\n") if "blanks" in case else line
        (here / "x").write_bytes(gzip.compress(head + line * n))
    return "x"


@pytest.mark.parametrize("case", ["csv", "libsvm", "csv blanks", "npy", "npz", "hdf5", "parquet", "feather"])
def test_small_files_that_become_very_large(here, monkeypatch, case):
    """Many short lines, and numbers that are all alike or were never written, are told before they are held."""
    name = grown(here, case)
    options = {"label_column": 0} if case == "npy" else {}
    if case != "hdf5":
        package.open_data(name, **options).describe()
        monkeypatch.setattr(streams, "_GROWN_BYTES", 300_000)
        monkeypatch.setattr(streams, "_GROWN_SAMPLES", 30_000)
        monkeypatch.setattr(streams, "_MOST_GROWTH", 64)
    with pytest.raises(DataError, match=r"for each byte of its file") as told:
        package.open_data(name, **options).describe()
    assert "store it without compression" in str(told.value)


def test_long_lines_that_are_right(here):
    """What a table holds may be compressed well: its lines are as long as the limit allows."""
    line = b"0," * 400_000 + b"1\n"
    (here / "x").write_bytes(gzip.compress(line + line.replace(b"1\n", b"2\n")))
    assert (here / "x").stat().st_size < len(line) // 64
    assert package.open_data(here / "x").describe().n_features == 400_000


def test_tables_wider_than_what_arrow_reads_at_once(here, monkeypatch):
    (here / "x.csv").write_text('a,b,c,d,label\n1,,3,"x",u\n4,5,6,y,v\n-1e3,.5,0,x,u\n')

    def features():
        source = package.open_data("x.csv")
        return source.read(0, source.describe().n_features)

    expected = features()
    monkeypatch.setattr(delimited, "_MOST_AT_ONCE", 2)
    np.testing.assert_array_equal(features(), expected)
