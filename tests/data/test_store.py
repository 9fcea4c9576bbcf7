"""Stores: the same numbers to the last bit, only the bytes of one's own features, damage and half-written ones seen."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import distnewton
from distnewton.data.sources import open_data, source_files
from distnewton.data.store import MANIFEST_FILE
from distnewton.data.store import layout_on_disk as store_format
from distnewton.data.store.convert import convert
from distnewton.data.store.layout_on_disk import FEATURES_FILE, LABELS_FILE
from distnewton.data.store.reader import StoreSource
from distnewton.data.store.rows_of_blocks import DenseRows, SparseRows
from distnewton.data.store.writer import StoreWriter, by_columns
from distnewton.errors import ConfigError, CreateError, DataError, WriteError

N_FLIPS = int(os.environ.get("DISTNEWTON_FLIPS", "100"))
"""Bits to flip; by hand: ``DISTNEWTON_FLIPS=1000 python -m pytest tests/data/test_store.py -k flipped``."""
mpi = pytest.mark.mpi(min_size=1, sizes=(3,))


def bits(X):
    """All that makes an array what it is."""
    if isinstance(X, np.ndarray):
        return X.shape, X.dtype, X.tobytes()
    assert X.has_canonical_format
    return X.shape, X.dtype, X.indptr.tobytes(), X.indices.dtype, X.indices.tobytes(), X.data.tobytes()


def libsvm_text(n=57, n_features=40, names=(1, 2, 3), seed=0):
    """Sparse rows, some empty, with explicit zeros, a feature beyond all others and numbers of many digits."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(n):
        found = np.flatnonzero(rng.random(n_features) < 0.2) + 1 if i % 9 else []
        values = [repr(float(v)) for v in rng.standard_normal(len(found))]
        values = ["0" if i % 5 == 0 else "-0.0" if i % 7 == 0 else v for v in values]
        pairs = [f"{j}:{v}" for j, v in zip(found, values, strict=True)]
        lines.append(" ".join([str(names[i % len(names)]), *pairs]))
    lines[3] += f" {n_features + 1000000}:0.5"
    return "\n".join(lines) + "\n# a comment\n"


def csv_text(n=57, n_features=7, kind=float, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, n_features)) * 10.0 ** rng.integers(-40, 38, (n, n_features))
    if kind is int:
        rows = rng.integers(256, size=(n, n_features))
    return "".join(",".join([*(repr(kind(v)) for v in row), "ab"[i % 2]]) + "\n" for i, row in enumerate(rows))


def npy(path, X):
    np.save(path / "X.npy", X)
    np.save(path / "y.npy", np.arange(len(X)) % 3)
    return path / "X.npy"


def text(path, content, name="data.txt"):
    (path / name).write_text(content)
    return path / name


SOURCES = {
    "libsvm": lambda path: text(path, libsvm_text()),
    "libsvm with text labels": lambda path: text(path, libsvm_text(names=("ä", "bcd", "7"))),
    "csv": lambda path: text(path, csv_text()),
    "csv of small whole numbers": lambda path: text(path, csv_text(kind=int)),
    "npy": lambda path: npy(path, np.random.default_rng(0).standard_normal((57, 7)).astype("float32")),
    "npy in Fortran order": lambda path: npy(path, np.asfortranarray(np.random.default_rng(0).random((57, 7)))),
    "images": lambda path: npy(path, np.random.default_rng(0).integers(256, size=(57, 2, 4, 3), dtype=np.uint8)),
}


def make(tmp_path, monkeypatch, kind="libsvm", **options):
    """A source, and a store of it in many small blocks."""
    monkeypatch.setattr(DenseRows.__init__, "__defaults__", (40,))
    monkeypatch.setattr(SparseRows.__init__, "__defaults__", (60, 10))
    monkeypatch.setattr("distnewton.data.store.convert.GROUP_BYTES", 57 * 8 * 3)
    monkeypatch.setattr("distnewton.data.store.convert.BLOCK_VALUES", 50)
    path = SOURCES[kind](tmp_path)
    convert(open_data(path), tmp_path / "store", files=source_files(path), **options)
    return open_data(path), tmp_path / "store"


@pytest.mark.parametrize("kind", SOURCES)
def test_a_store_holds_the_same_to_the_last_bit(tmp_path, monkeypatch, kind):
    source, path = make(tmp_path, monkeypatch, kind)
    store = open_data(path)
    assert isinstance(store, StoreSource)
    assert len(store.manifest.blocks) > 3
    expected, found = source.describe(), store.describe()
    assert (found.name, found.format) == (str(path), "store")
    for key in set(vars(expected)) - {"name", "format", "labels"}:
        assert getattr(found, key) == getattr(expected, key), key
    assert found.labels.dtype == expected.labels.dtype
    np.testing.assert_array_equal(found.labels, expected.labels)
    n = expected.n_features
    for start, stop in [(0, n), (0, 1), (2, 5), (3, 3), (n - 1, n), (n // 3, n)]:
        for dtype in ("float32", "float64"):
            assert bits(store.read(start, stop, dtype)) == bits(source.read(start, stop, dtype)), (start, stop, dtype)
    assert sum(store.verify()) > 0
    assert store.manifest.source_files[0].n_bytes == Path(source.name).stat().st_size


@pytest.mark.parametrize(("kind", "types"), [
    ("csv of small whole numbers", {"uint8"}), ("images", {"uint8"}), ("npy", {"float32"}), ("csv", {"float64"}),
])  # fmt: skip
def test_values_take_no_more_room_than_they_need(tmp_path, monkeypatch, kind, types):
    _, path = make(tmp_path, monkeypatch, kind)
    store = StoreSource(path)
    assert {block.dtype for block in store.manifest.blocks} == types


@given(st.lists(st.one_of(
    st.integers(0, 300).map(float), st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False), st.just(-0.0), st.just(5e-324),
), min_size=1, max_size=9))  # fmt: skip
def test_any_finite_number_survives(values):
    import tempfile

    X = np.array(values)[:, None]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "data.npz", X=X, y=np.arange(len(X)))
        convert(open_data(Path(folder) / "data.npz"), Path(folder) / "store", files=[])
        assert open_data(Path(folder) / "store").read(0, 1).tobytes() == X.tobytes()


def test_float32_is_said_and_rounds_once(tmp_path, monkeypatch):
    source, path = make(tmp_path, monkeypatch, "libsvm", float32=True)
    store = StoreSource(path)
    n = source.describe().n_features
    assert bits(store.read(0, n, "float32")) == bits(source.read(0, n, "float32"))
    assert store.read(0, n, "float64").data.tobytes() == source.read(0, n, "float32").data.astype("f8").tobytes()
    assert any("rounded to float32" in note for note in store.describe().notes)
    big = text(tmp_path, "1e300,1\n1,2\n", "big.csv")
    with pytest.raises(WriteError, match="too large for float32"):
        convert(open_data(big), tmp_path / "big", files=[], float32=True)
    assert not list(tmp_path.glob("big*part"))


@pytest.mark.parametrize("kind", ["libsvm", "csv", "images"])
def test_ranks_read_their_own_bytes_and_no_others(tmp_path, monkeypatch, kind):
    _, path = make(tmp_path, monkeypatch, kind)
    store = StoreSource(path)
    reads = []
    numbers = StoreSource._numbers

    def watched(self, file, offset, dtype, n):
        found = numbers(self, file, offset, dtype, n)
        reads.append((offset, offset + found.nbytes))
        return found

    monkeypatch.setattr(StoreSource, "_numbers", watched)
    n = store.describe().n_features
    cuts = [0, n // 4, n // 2, n]
    seen = []
    for start, stop in itertools.pairwise(cuts):
        reads.clear()
        store.read(start, stop)
        seen.append(sorted(reads))
    total = sum(end - begin for part in seen for begin, end in part)
    if kind == "libsvm":
        # all once, and a rank and block one more start of a column, and the columns on either side
        most = sum(block.n_bytes + 4 * (2 + 4) for block in store.manifest.sparse_blocks)
    else:
        most = sum(block.n_bytes for block in store.manifest.blocks)
        flat = sorted(span for part in seen for span in part)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(flat))
    assert total <= most
    assert all(part for part in seen)


def test_describing_reads_no_features(tmp_path, monkeypatch):
    _, path = make(tmp_path, monkeypatch)
    store = StoreSource(path)

    def fail(self):
        raise AssertionError("features were opened")

    monkeypatch.setattr(StoreSource, "_opened", fail)
    assert store.describe().n_samples == 57


def test_features_asked_for(tmp_path, monkeypatch):
    source, path = make(tmp_path, monkeypatch)
    n = source.describe().n_features
    wider = open_data(path, n_features=n + 10)
    assert wider.describe().n_features == n + 10
    assert wider.read(n - 1, n + 10).shape == (57, 11)
    with pytest.raises(DataError, match=f"has {n} features, expected 20"):
        open_data(path, n_features=20)
    for kind in ("libsvm", "csv"):
        (tmp_path / kind).mkdir()
        source, path = make(tmp_path / kind, monkeypatch, kind)
        cut = {"n_features": 5, "ignore_extra_features": True}
        name = source.name
        expected, found = open_data(name, **cut).describe(), open_data(path, **cut).describe()
        assert (found.n_features, found.n_nonzeros, found.n_ignored_values) == (
            5, expected.n_nonzeros, expected.n_ignored_values)  # fmt: skip
        assert len(found.notes) == len(expected.notes)
        assert bits(open_data(path, **cut).read(1, 5)) == bits(open_data(name, **cut).read(1, 5))
    with pytest.raises(DataError, match="has 7 features, expected 8"):
        open_data(path, n_features=8)
    with pytest.raises(ConfigError, match="give label_column to distnewton convert"):
        open_data(path, label_column=0)
    with pytest.raises(ValueError, match="features 0 to 9 were requested"):
        open_data(path).read(0, 9)


def test_by_columns_of_wide_data_agrees_with_that_of_narrow():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 5, 30)
    near = np.concatenate([np.sort(rng.choice(50, n, replace=False)) for n in lengths]).astype(np.int32)
    values = rng.random(len(near))
    columns, *rest = by_columns(lengths, near, values)
    far_columns, *far = by_columns(lengths, near * 40_000_000, values)
    np.testing.assert_array_equal(far_columns, columns * 40_000_000)
    assert all(np.array_equal(a, b) for a, b in zip(rest, far, strict=True))
    dense = np.zeros((30, 50))
    dense[np.repeat(np.arange(30), lengths), near] = values
    starts, rows, ordered = rest
    for k, column in enumerate(columns):
        part = slice(starts[k], starts[k + 1])
        np.testing.assert_array_equal(dense[rows[part], column], ordered[part])


def tamper(path, change):
    """Change the manifest's content and give it the right checksum again."""
    tree = json.loads((path / MANIFEST_FILE).read_text())
    change(tree["content"])
    tree["checksum"] = store_format._checksum(tree["content"])
    (path / MANIFEST_FILE).write_text(json.dumps(tree))


def first_block(content):
    return (content["sparse_blocks"] or content["dense_blocks"])[0]


CONTRADICTIONS = {
    "unknown": (lambda c: c.update(more=1), "more: Extra inputs"),
    "missing": (lambda c: c.pop("notes"), "notes: Field required"),
    "type": (lambda c: c.update(n_samples="57"), "n_samples: Input should be a valid integer"),
    "negative": (lambda c: first_block(c).update(offset=-8), "offset"),
    "gap": (lambda c: first_block(c).update(offset=8), "a block begins at byte 8"),
    "size": (lambda c: c.update(features_bytes=c["features_bytes"] - 8), "the blocks take"),
    "rows": (lambda c: first_block(c).update(first_row=1), "a block begins at 1, expected 0"),
    "sums": (lambda c: c.update(sums_bytes=444), "the sums take 444 bytes"),
    "samples": (lambda c: c.update(n_samples=58), "the blocks reach to 57 of 58"),
    "kind": (lambda c: c.update(sparse=not c["sparse"]), "features have"),
}


@pytest.mark.parametrize("kind", ["libsvm", "csv"])
@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_manifests_that_contradict_themselves(tmp_path, monkeypatch, kind, case):
    _, path = make(tmp_path, monkeypatch, kind)
    change, message = CONTRADICTIONS[case]
    tamper(path, change)
    with pytest.raises(DataError, match=message) as caught:
        open_data(path)
    assert str(path / MANIFEST_FILE) in str(caught.value)


def test_a_store_of_a_newer_version(tmp_path, monkeypatch):
    _, path = make(tmp_path, monkeypatch)
    tree = json.loads((path / MANIFEST_FILE).read_text())
    (path / MANIFEST_FILE).write_text(json.dumps(tree | {"version": 4}))
    with pytest.raises(DataError, match="version 4, this program reads up to 3; update distnewton"):
        open_data(path)


@pytest.mark.parametrize("name", [FEATURES_FILE, LABELS_FILE])
@pytest.mark.parametrize("change", ["cut", "longer", "missing"])
def test_files_of_another_size(tmp_path, monkeypatch, name, change):
    _, path = make(tmp_path, monkeypatch)
    content = (path / name).read_bytes()
    (path / name).unlink()
    if change != "missing":
        (path / name).write_bytes(content[:-1] if change == "cut" else content + b"\0")
    with pytest.raises(DataError, match="is missing" if change == "missing" else "were written"):
        open_data(path)


@pytest.mark.parametrize("kind", ["libsvm", "csv"])
def test_every_flipped_bit_is_found(tmp_path, monkeypatch, kind):
    _, path = make(tmp_path, monkeypatch, kind)
    rng = np.random.default_rng(0)
    padding = np.ones((path / FEATURES_FILE).stat().st_size, bool)
    for block in StoreSource(path).manifest.blocks:
        padding[block.offset : block.offset + block.n_bytes] = False
    n_found = 0
    for name, n in ((MANIFEST_FILE, 150), (FEATURES_FILE, 150), (LABELS_FILE, 30)):
        whole = (path / name).read_bytes()
        for _ in range(n):
            at = int(rng.integers(len(whole)))
            if name == FEATURES_FILE and padding[at]:
                continue
            flipped = bytearray(whole)
            flipped[at] ^= 1 << int(rng.integers(8))
            (path / name).write_bytes(flipped)
            with pytest.raises(DataError, match=str(path)):
                list(StoreSource(path).verify())
            n_found += 1
        (path / name).write_bytes(whole)
    assert n_found > 250
    list(StoreSource(path).verify())


@pytest.mark.parametrize("kind", ["libsvm", "csv", "images"])
def test_every_flipped_bit_is_told_at_reading(tmp_path, monkeypatch, kind):
    _, path = make(tmp_path, monkeypatch, kind)
    rng = np.random.default_rng(0)
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    sizes = [8 * len(content) for content in files.values()]
    shares = np.divide(sizes, sum(sizes))
    for name, bit in itertools.chain(
        # as many in each file as in all together by their sizes, since the features are the largest
        ((name, bit) for name, n in zip(files, sizes, strict=True) for bit in rng.integers(n, size=N_FLIPS // 10)),
        ((list(files)[k], int(rng.integers(sizes[k]))) for k in rng.choice(len(sizes), N_FLIPS, p=shares)),
    ):
        flipped = bytearray(files[name])
        flipped[bit // 8] ^= 1 << (bit % 8)
        (path / name).write_bytes(flipped)
        with pytest.raises(DataError, match=str(path)):
            read_all(path)
        (path / name).write_bytes(files[name])
    read_all(path)


def read_all(path):
    """Features and labels as three ranks read them."""
    store = open_data(path)
    n = store.describe().n_features
    for start, stop in itertools.pairwise([0, n // 4, n // 2, n]):
        store.read(start, stop)


@mpi
def test_all_ranks_are_told_of_a_flipped_bit(world, folder):
    if world.rank == 0:
        np.save(folder / "X.npy", np.random.default_rng(0).standard_normal((90, 7)))
        np.save(folder / "y.npy", np.arange(90) % 3)
        convert(open_data(f"{folder / 'X.npy'},{folder / 'y.npy'}"), folder / "store", files=[])
        content = bytearray((folder / "store" / FEATURES_FILE).read_bytes())
        content[-9] ^= 4
        (folder / "store" / FEATURES_FILE).write_bytes(content)
    world.barrier()
    config = distnewton.make_config({"data": {"train": str(folder / "store")}, "run": {"iterations": 0}})
    with pytest.raises(DataError, match=r"features\.bin: was changed or damaged") as caught:
        distnewton.train(config, world)
    assert not world.any(not caught.value.collective)


def test_stores_without_sums_are_read(tmp_path, monkeypatch):
    source, path = make(tmp_path, monkeypatch)
    n = source.describe().n_features
    expected = bits(open_data(path).read(0, n))
    tamper(path, lambda content: content.pop("sums_bytes"))
    with pytest.raises(DataError, match="was changed or damaged"):
        open_data(path)
    tree = json.loads((path / MANIFEST_FILE).read_text())
    (path / MANIFEST_FILE).write_text(json.dumps(tree | {"version": 2}))
    (path / "sums.bin").unlink()
    assert bits(open_data(path).read(0, n)) == expected


def test_damaged_numbers_never_lead_outside_of_an_array(tmp_path, monkeypatch):
    source, path = make(tmp_path, monkeypatch)
    n = source.describe().n_features
    whole = (path / FEATURES_FILE).read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=20):
            damaged[at] = int(rng.integers(256))
        (path / FEATURES_FILE).write_bytes(damaged)
        try:
            store = StoreSource(path)
            store._sums = None  # as of a store of an older version
            X = store.read(0, n)
        except DataError:
            continue
        assert len(X.indices) == 0 or (X.indices.min() >= 0 and X.indices.max() < n)


def test_names_that_are_taken(tmp_path, monkeypatch):
    source, path = make(tmp_path, monkeypatch)
    before = (path / MANIFEST_FILE).read_text()
    with pytest.raises(CreateError, match="exists; --overwrite replaces it"):
        convert(source, path, files=[])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(CreateError, match="it is not a store: choose another name"):
            convert(source, tmp_path / "mine", files=[], overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    (path / "notes.txt").write_text("mine, too")
    with pytest.raises(CreateError, match="it is not a store"):
        convert(source, path, files=[], overwrite=True)
    (path / "notes.txt").unlink()
    (tmp_path / "store.part").mkdir()
    with pytest.raises(CreateError, match="exists; --overwrite"):
        convert(source, path, files=[])
    (tmp_path / "new.part").mkdir()
    with pytest.raises(CreateError, match="another conversion is running or was cut off"):
        convert(source, tmp_path / "new", files=[])
    convert(source, path, files=[], overwrite=True)
    assert (path / MANIFEST_FILE).read_text() != before  # this one names no source files
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data.txt", "mine", "new.part", "store"]


def test_bad_data_leave_nothing(tmp_path):
    path = text(tmp_path, "1 1:2\n2 1:3\n1 1:x\n")
    with pytest.raises(DataError, match=r"data\.txt:3"):
        convert(open_data(path), tmp_path / "store", files=[])
    empty = text(tmp_path, "1\n2\n", "empty.txt")
    with pytest.raises(DataError, match="no sample has a feature"):
        convert(open_data(empty, format="libsvm"), tmp_path / "store", files=[])
    assert not list(tmp_path.glob("store*"))


def test_a_full_disk_is_said_and_leaves_the_old_store(tmp_path, monkeypatch):
    source, path = make(tmp_path, monkeypatch)
    before = (path / MANIFEST_FILE).read_bytes()
    steps = {"write": "distnewton.data.store.writer._sync", "labels": "numpy.save"}
    steps["folder"] = "distnewton.data.store.writer.sync_folder"
    for target in steps.values():
        with monkeypatch.context() as patch:

            def full(*_, **__):
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(target, full)
            with pytest.raises(WriteError, match=r"No space left on device; free some space"):
                convert(source, path, files=[], overwrite=True)
        assert (path / MANIFEST_FILE).read_bytes() == before
        assert not (tmp_path / "store.part").exists()
    list(StoreSource(path).verify())


def test_a_cut_off_conversion_is_no_store(tmp_path):
    writer = StoreWriter(tmp_path / "store")
    writer.write_dense(0, 0, np.ones((3, 2)))
    writer._file.close()
    with pytest.raises(DataError, match=r"is an incomplete store: store\.json"):
        open_data(tmp_path / "store.part")


def test_a_store_is_not_converted_again(tmp_path, monkeypatch):
    _, path = make(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="is a store already; copy its folder"):
        convert(open_data(path), tmp_path / "again", files=[])


MEMORY = """
import sys
from pathlib import Path
from distnewton.data.store.convert import convert
from distnewton.data.sources import open_data
def peak():  # ru_maxrss is the parent's where that was larger at the fork
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
for path in sys.argv[1:]:
    convert(open_data(path), Path(path + ".store"), files=[])
    print(peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read there")
@pytest.mark.parametrize(("kind", "n_small"), [("libsvm", 7), ("csv", 72)])
def test_memory_does_not_grow_with_the_file(tmp_path, kind, n_small):
    """The small file fills all blocks, and has the parser of the large one: numba's from 16 MB on."""
    content = (libsvm_text(3000, 300) if kind == "libsvm" else csv_text(3000, 20, int)).encode()
    paths = []
    for n in (n_small, 5 * n_small):
        paths.append(tmp_path / f"{n}.txt")
        with paths[-1].open("wb") as file:
            for _ in range(n):
                file.write(content)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *paths], capture_output=True, text=True, check=False, timeout=100,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    small, large = map(float, done.stdout.split())
    more = 4 * n_small * len(content) / 2**20
    assert large - small < 0.5 * more + 8, (small, large, more)


@mpi
def test_training_from_a_store_is_training_from_its_text(world, folder):
    import distnewton

    if world.rank == 0:
        text(folder, libsvm_text(60, 30).replace(" 1000030:0.5", " 31:0.5"))
        convert(open_data(folder / "data.txt"), folder / "store", files=[])
    world.barrier()
    runs = []
    for name in ("data.txt", "store"):
        settings = {
            "data": {"train": str(folder / name)},
            "network": {"layers": ["auto", 8, "auto"]},
            "run": {"iterations": 3, "deterministic": True, "dtype": "float64"},
        }
        result = distnewton.train(distnewton.make_config(settings), world)
        runs.append([(record.objective, record.gradient_norm) for record in result.history])
        result.model.grid.free()
    assert not world.any(runs[0] != runs[1] or len(runs[0]) != 4)


@mpi
def test_a_store_that_differs_on_a_host_is_told(world, folder):
    from distnewton.runs.consistency import check_same_file

    # as if each rank had a disk of its own
    mine = folder / str(world.rank)
    mine.mkdir()
    last = world.rank == world.size - 1
    convert(open_data(text(mine, libsvm_text(seed=int(last)))), mine / "store", files=[])
    if world.size == 1:
        check_same_file(world, "store", str(mine))
        return
    with pytest.raises(DataError, match="store is another file on"):
        check_same_file(world, "store", str(mine))
    alike = folder / "alike"
    if world.rank == 0:
        alike.mkdir()
        convert(open_data(text(alike, libsvm_text())), alike / "store", files=[])
    world.barrier()
    check_same_file(world, "store", str(alike))
