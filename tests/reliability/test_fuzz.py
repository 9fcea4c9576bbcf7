"""Damaged input of every kind: only errors of ours, soon, and in little memory."""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import resource
import tarfile
import tempfile
import time
import tracemalloc
import warnings
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from launched import call, small_data
from scipy import sparse

from distnewton.checkpoint.manifest import (
    FORMAT_VERSION,
    CheckpointManifest,
    Part,
    StateTree,
    _with_hash,
    parse,
    render,
)
from distnewton.cli import main as command_line
from distnewton.cli.settings import overrides
from distnewton.cluster.cluster_file import load_cluster
from distnewton.config import apply_settings, load_config, make_config, to_toml
from distnewton.data.sources import open_data
from distnewton.data.store import MANIFEST_FILE
from distnewton.data.store.convert import convert
from distnewton.data.store.layout_on_disk import _checksum
from distnewton.errors import DistNewtonError
from distnewton.models.model_file import read_header
from distnewton.reporting import run_data
from distnewton.reporting.failure_report import explain_failure

LIBSVM = b"1 1:0.5 3:-2e-3 12:7\n-1 2:1.5 # note\n1 qid:3 1:1 4:2.25\n-1 3:0 5:1e10\n" * 3
TABLE = b'a,b,"the, label"\n' + b"1,2.5,cat\n-3e2,.5,dog\n\n0,+7,cat\n" * 2
RECIPE = to_toml(make_config({"method": {"schedule": "kfac:5"}})).encode()
SETTINGS = b"""method.cg_max=7
network.layers=auto-3-auto
method.C=0.01 l
data.class_weights=a=1,b=2
method.schedule=kfac:5,sgn:2
partition.splits=2-1-2
data.missing_values=NA,-9
run.seed=3
"""
FRAGMENTS = [
    b":", b" ", b"\n", b"\r\n", b"\t", b"#", b"qid:", b",", b'"', b"nan", b"inf", b"1e999", b"-", b"0x", b"\0", b"\xff",
    b"\xef\xbb\xbf", b"9" * 400, b"1:1", b"=", b"[", b"]", b"{", b"}", b"'", b"[method]", b"true", b"2147483648", b".",
    b"\x1f\x8b", b"BZh9", b"PK\x03\x04", b"\x93NUMPY", b"{type = \"conv\"}", b"1979-05-27", b"\xc3", b"e", b"+",
]  # fmt: skip
N_QUICK = 250
N_LONG = int(os.environ.get("DISTNEWTON_FUZZ", "20000"))
"""Inputs of each kind; the largest that were run are in the report of the change that brought this."""


def mutate(rng, seed_text):
    """A text with a few pieces removed, repeated, swapped or replaced."""
    text = bytearray(seed_text)
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(len(text) + 1)), int(rng.integers(12))
        kind = rng.integers(6)
        if kind == 0:
            del text[at : at + length]
        elif kind == 1:
            text[at:at] = text[at : at + length]
        elif kind == 2:
            text[at:at] = FRAGMENTS[rng.integers(len(FRAGMENTS))]
        elif kind == 3 and text:
            text[min(at, len(text) - 1)] = int(rng.integers(256))
        elif kind == 4:
            del text[at:]
        else:
            text[at : at + length] = rng.bytes(length)
    return bytes(text)


def read(path):
    source = open_data(path)
    found = source.describe()
    source.read(0, min(found.n_features, 1000))


def configure(path):
    load_config(path)


def override(path):
    make_config(apply_settings({}, path.read_bytes().decode("latin-1").splitlines()))


def model():
    from safetensors.numpy import save

    header = {
        "format_version": 1, "widths": [2, 3, 1], "activation": "tanh", "task": "binary", "loss": "logistic",
        "classes": {"classes": ["cat", "dog"]}, "dense": True, "dtype": "float32",
        "scaling": {"kind": "minmax", "n_columns": 2, "offset": [0.5, 1e3], "factor": [1.0, 2e-2]},
    }  # fmt: skip
    shapes = {"0.weight": (3, 2), "0.bias": 3, "2.weight": (1, 3), "2.bias": 1}
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return save(tensors, {"distnewton": json.dumps(header)})


def manifest():
    part = Part(name="part-0000.safetensors", n_bytes=5, sha256="0" * 64, blocks=[[1, 0, 2, 0, 2]])
    state = StateTree(numbers={"iteration": 3}, vectors=["params"], factors=[], parts={})
    made = CheckpointManifest(
        format_version=FORMAT_VERSION, writer="x", run="0" * 16, sequence=1, iteration=3, saved_at="now",
        identity={"network": {"layers": [2, 2]}}, config_sha256="0" * 64, dtype="float32", widths=[2, 2], splits=[1, 1],
        rows_per_unit=[1], parts=[part], state=state, record={"iteration": 3}, metric=0.5,
    )  # fmt: skip
    return render(made).encode()


def read_manifest(path):
    parse(path.read_bytes(), "manifest")


def read_sealed_manifest(path):
    """The same with the hash of what the damage has left, where that is JSON: the fields themselves are at fault."""
    text = path.read_bytes()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        # NaN and inf have no canonical form: no hash fits them
        with suppress(ValueError):
            text = _with_hash({key: value for key, value in found.items() if key != "sha256"})
    parse(text, "manifest")


def read_labelled(path):
    """A file of one array, whose first column holds the labels."""
    source = open_data(path, label_column=0)
    source.read(0, min(source.describe().n_features, 1000))


def read_idx(path):
    labels = path.parent / "y"
    labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 6, 0, 1, 0, 1, 0, 1]))
    source = open_data(f"{path},{labels}")
    source.read(0, min(source.describe().n_features, 1000))


def read_sparse(path):
    """A sparse matrix beside its labels."""
    np.save(path.parent / "in_y.npy", np.arange(6) % 2)
    whole = path.with_name("in.npz")
    path.replace(whole)
    source = open_data(whole)
    source.read(0, min(source.describe().n_features, 1000))


def packed(save, *arrays, **named):
    with io.BytesIO() as file:
        save(file, *arrays, **named)
        return file.getvalue()


X = np.arange(24.0).reshape(6, 4) % 5
Y = np.arange(6) % 2


def hdf5():
    import h5py

    def write(file):
        with h5py.File(file, "w") as made:
            made["X"], made["y"] = X, Y

    return packed(write)


def arrow(save):
    import pyarrow as pa

    table = pa.table({"a": X[:, 0], "b": X[:, 1], "c": ["x", "y", None, "x", "y", "x"], "label": Y})
    return packed(lambda file: save(table, file))


def parquet():
    from pyarrow import parquet

    return arrow(parquet.write_table)


def feather():
    from pyarrow import feather

    return arrow(lambda table, file: feather.write_feather(table, file, compression="uncompressed"))


def images():
    from PIL import Image

    def write(file):
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in ("a/1.png", "a/2.bmp", "b/1.png"):
                picture = packed(lambda to, name=name: Image.new("L", (2, 2), len(name)).save(to, name[-3:]))
                member = tarfile.TarInfo(name)
                member.size = len(picture)
                archive.addfile(member, io.BytesIO(picture))

    return packed(write)


def store(folder=None):
    """A store's manifest; with a folder, the store itself."""
    with tempfile.TemporaryDirectory() as made:
        data = Path(made, "x.csv")
        data.write_bytes(TABLE)
        target = Path(folder or made, "store")
        convert(open_data(data), target, files=[data])
        return (target / MANIFEST_FILE).read_bytes()


def read_store(path):
    """A store whose manifest is damaged, and has the checksum of what the damage has left, where that is JSON."""
    folder = path.parent / "store"
    if not folder.exists():
        store(path.parent)
    text = path.read_bytes()
    with suppress(ValueError, RecursionError, TypeError, KeyError):
        tree = json.loads(text)
        tree["checksum"] = _checksum(tree["content"])
        text = json.dumps(tree).encode()
    (folder / MANIFEST_FILE).write_bytes(text)
    read(folder)


def read_store_as_is(path):
    """The same with the checksum as the damage has left it."""
    store(path.parent) if not (path.parent / "store").exists() else None
    (path.parent / "store" / MANIFEST_FILE).write_bytes(path.read_bytes())
    read(path.parent / "store")


CLUSTER = b'''name = "x"
[launch]
nodes = 2
ranks_per_node = 4
scheduler = "slurm"
launcher = "srun"
[environment]
modules = ["gcc/12"]
variables = { OMP_NUM_THREADS = "1" }
[slurm]
time = "1:00:00"
extra = ["--exclusive"]
[network]
latency_us = 1.5
'''
COMMANDS = b"""train
recipe.toml
--set
method.cg_max=7
--network.layers=auto-3-auto
--resume=auto
--quiet
--run-dir
R
--method.C=0.01 l
--data.class_weights=a=1,b=2
--method.schedule=kfac:5,sgn:2
--partition.splits=2-1-2
"""


PARSER = functools.cache(command_line.build_parser)


def parse_command(path):
    arguments = path.read_bytes().decode(errors="surrogateescape").splitlines()
    # a parser has no state: one for all inputs takes a tenth of the time
    with mock.patch.object(command_line, "build_parser", PARSER):
        options = command_line.parse(arguments)
    if options.command in ("train", "plan", "compare"):
        options.recipe = None
        apply_settings({}, overrides(options))
        make_config(apply_settings({}, overrides(options)))


@functools.cache
def trained():
    """A run of two iterations, made once: what each file holds, by name."""
    with tempfile.TemporaryDirectory() as made:
        recipe, run = Path(made, "recipe.toml"), Path(made, "run")
        recipe.write_text(
            f"[data]\ntrain = '{small_data(Path(made))}'\n[run]\niterations = 2\nthreads = 1\n"
            "[method]\ndirection = 'gauss_newton'\n"
        )
        done = call("train", recipe, f"--run-dir={run}")
        assert done.returncode == 0, done.stderr
        files = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
        # without defaults: reading all settings takes most of the time
        files["config.toml"] = recipe.read_bytes()
        return files


def run_folder(folder):
    """A run of two iterations, and a place for the report of a failure."""
    run = folder / "run"
    if not run.exists():
        (run / "errors").mkdir(parents=True)
        for name, content in trained().items():
            (run / name).write_bytes(content)
    return run


FAILURE = json.dumps({
    "time": "now", "launch": "a", "host": "h", "pid": 3, "phase": "cg", "finished_iteration": 3, "rank": 1,
    "exit_code": 70, "message": "no", "traceback": "a\nb", "collective": {"name": "sum", "call": 3, "group": "a",
    "members": [0, 1], "place": "x"}, "recent": [],
}).encode()  # fmt: skip


CONFIG = functools.cache(load_config)


def of_run(name):
    """How a file of a run is damaged: its content, and what reads it."""

    def content():
        if name.startswith("errors/"):
            return FAILURE
        return trained()[name]

    def use(path):
        file = run_folder(path.parent) / name
        # the next input takes its place
        path.replace(file)
        folder = file.parents[name.count("/")]
        problem = None
        # another kind damages the configuration, whose reading takes longer than all else
        with mock.patch.object(run_data, "load_config", CONFIG):
            for reader in (lambda: run_data.read_run(folder, "run"), lambda: list(explain_failure(folder))):
                try:
                    reader()
                except DistNewtonError as error:
                    problem = error
        if problem:
            raise problem

    return content, use


KINDS = {
    "libsvm": (lambda: LIBSVM, read), "table": (lambda: TABLE, read),
    "npy": (lambda: packed(np.save, X), read_labelled),
    "npy.gz": (lambda: gzip.compress(packed(np.save, X)), read_labelled),
    "npz": (lambda: packed(np.savez, X=X, y=Y), read),
    "sparse npz": (lambda: packed(sparse.save_npz, sparse.csr_array(X)), read_sparse),
    "idx": (lambda: bytes([0, 0, 8, 3, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, 2]) + X.astype(np.uint8).tobytes(), read_idx),
    "hdf5": (hdf5, read), "parquet": (parquet, read), "feather": (feather, read), "images": (images, read),
    "store": (store, read_store_as_is), "sealed store": (store, read_store),
    "recipe": (lambda: RECIPE, configure), "setting": (lambda: SETTINGS, override),
    "command": (lambda: COMMANDS, parse_command), "cluster": (lambda: CLUSTER, load_cluster),
    "model": (model, read_header), "manifest": (manifest, read_manifest),
    "sealed manifest": (manifest, read_sealed_manifest),
    "metrics": of_run("metrics.jsonl"), "end": of_run("end.json"), "environment": of_run("environment.json"),
    "predictions": of_run("predictions.json"), "failure": of_run("errors/first.json"),
    "other failure": of_run("errors/rank-0001.json"),
}  # fmt: skip


def fuzz(folder, kind, n, seed):
    """Errors that are none of ours, with what caused them; asserts on time."""
    content, use = KINDS[kind]
    text = content()
    rng = np.random.default_rng([seed, len(kind)])
    path = folder / "in"
    slowest, strange, n_refused, longest = 0.0, [], 0, 0
    path.write_bytes(text)
    use(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(n):
        damaged = mutate(rng, text)
        path.write_bytes(damaged)
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                use(path)
        except DistNewtonError as error:
            n_refused += 1
            longest = max(longest, len(str(error)))
        except Exception as error:
            strange.append((repr(error)[:300], damaged))
        slowest = max(slowest, time.process_time() - start)
    assert not strange, (len(strange), strange[0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # in KiB
    assert slowest < 2.0
    assert longest < 20_000
    # else the damage is too small to test anything
    assert n_refused > 0.02 * n
    return n_refused, slowest


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_gives_only_our_errors(tmp_path, kind):
    fuzz(tmp_path, kind, N_QUICK, 0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_much_damaged_input(tmp_path, kind):
    print(kind, N_LONG, fuzz(tmp_path, kind, N_LONG, 1))


def at(place, value):
    """One byte, by its place or by what stands at its place, is another."""
    return lambda text: text[: place(text)] + bytes([value]) + text[place(text) + 1 :]


def instead(whole):
    return lambda text: whole


def entry(offset):
    """Place in the first entry of an archive's directory."""
    return lambda text: text.index(b"PK\x01\x02") + offset


def behind(piece, offset):
    return lambda text: text.index(piece) + offset


def without(name):
    """Arrays of an archive without one of them."""

    def saved(text):
        with np.load(io.BytesIO(text)) as archive:
            return packed(np.savez, **{key: archive[key] for key in archive if key != name})

    return saved


FOUND = {
    "npz of a later version": ("npz", at(entry(6), 255)), "npz with a password": ("npz", at(entry(8), 1)),
    "npz packed otherwise": ("npz", at(entry(10), 99)), "npz of another name": ("npz", at(entry(46), 255)),
    "npz with an end in front": ("npz", lambda text: text[:-3] + b"\xff" * 3),
    "matrix without indices": ("sparse npz", without("indices")), "without indptr": ("sparse npz", without("indptr")),
    "hdf5 superblock": ("hdf5", at(lambda text: 8, 255)), "hdf5 runtime": ("hdf5", at(lambda text: 16, 255)),
    "hdf5 key": ("hdf5", at(lambda text: 24, 1)), "hdf5 name": ("hdf5", at(lambda text: text.rindex(b"X\0"), 255)),
    "hdf5 type": ("hdf5", at(lambda text: text.rindex(b"X\0") + 1, 255)),
    "hdf5 float": ("hdf5", at(lambda text: text.index(b"\x34\x0b\0\x34"), 0)),
    "feather offset": ("feather", at(behind(np.arange(1, 3, dtype=np.int32).tobytes(), 0), 255)),
    "feather text": ("feather", at(behind(b"xyxyx", 0), 255)),
    "parquet text": ("parquet", at(behind(b"\x01\0\0\0x\x01\0\0\0y", 4), 255)),
    "feather name": ("feather", at(lambda text: text.rindex(b"label"), 255)),
    **{f"failure {text}": ("failure", instead(text)) for text in (b"[]", b"3", b"{}", b'{"rank":"a","exit_code":1}')},
    **{f"another {text}": ("other failure", instead(text)) for text in (b"[]", b"3", b"{}")},
    **{f"end {text}": ("end", instead(text)) for text in (b"[]", b"3", b"null", b"{}", b"{")},
}  # fmt: skip
"""The smallest inputs that ended as bugs, or by a crash, before."""


@pytest.mark.parametrize("case", FOUND)
def test_what_fuzzing_has_found(tmp_path, case):
    kind, damage = FOUND[case]
    content, use = KINDS[kind]
    text = content()
    assert damage(text) != text
    (tmp_path / "in").write_bytes(damage(text))
    with pytest.raises(DistNewtonError):
        use(tmp_path / "in")


@pytest.mark.parametrize("text", [LIBSVM, b"1,2.5,cat\n-3e2,.5,dog\n"])
def test_memory_follows_the_size_of_damaged_input(tmp_path, text):
    use, rng = read, np.random.default_rng(7)
    big = text * (60_000 // len(text))
    (tmp_path / "in").write_bytes(big)
    use(tmp_path / "in")
    tracemalloc.start()
    for _ in range(4):
        (tmp_path / "in").write_bytes(mutate(rng, big))
        try:
            use(tmp_path / "in")
        except DistNewtonError:
            continue
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # a block is parsed with some arrays of its size; none grows with what a damaged number says
    assert peak < 100 * len(big)
