"""Starting from text against starting from a store.

``python -m benchmarks.convert FILE [COPIES]`` converts a file (or so many copies of a text file, one behind
the other and decompressed) and prints, for the first of 1, 2 and 4 parts of the features, the seconds that a rank
takes to describe and read them from the text and from the store, the best of three, and their ratio. The conversion
runs in a process of its own, whose address space ``--memory-mb`` limits; its peak memory is printed with the size of
the text. Beside the ranks' own ranges stand two other layouts of sparse data, to show what blocks by columns are good
for: all samples by columns in one piece (CSC), and rows (CSR), of which each rank has to read all.

Environment: the files are in the system's cache when they are read, as on a second start; run it twice.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distnewton.data.formats.libsvm import LibsvmSource, pick_parser
from distnewton.data.formats.streams import open_stream
from distnewton.data.sources import open_data
from distnewton.data.store.convert import convert
from distnewton.parallel.partition import bounds

_REPEATS = 3
_MEGABYTE = 2**20


def best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of three calls."""
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def start_up(path: Path, label_column: str | None, n_parts: int) -> None:
    """What a rank does before it trains: the first one describes, all read their features."""
    source = open_data(path, label_column=label_column)
    source.read(*bounds(source.describe().n_features, n_parts, 0), "float32")


def copies(source: Path, target: Path, n: int) -> None:
    """Write the text of a file several times, decompressed."""
    with target.open("wb") as file:
        for _ in range(n):
            with open_stream(source) as stream:
                while block := stream.read(1 << 20):
                    file.write(block)


def converted(path: Path, target: Path, label_column: str | None, memory_mb: int) -> None:
    """Convert in this process, under a limit of its address space, and print what that took."""
    import scipy.sparse

    # libraries, and what they compile, are not the conversion's cost
    scipy.sparse.csr_array((1, 1))
    source = open_data(path, label_column=label_column)
    if isinstance(source, LibsvmSource):
        pick_parser(path)(b"1 1:2\n", source.rules, 0, 3)
    if memory_mb:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + memory_mb * _MEGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    manifest = convert(source, target, files=[path])
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{path.stat().st_size / _MEGABYTE:.1f} MiB of text, {manifest.n_samples:,} samples, "
        f"{manifest.n_features:,} features, converted in {time.perf_counter() - start:.2f} s to "
        f"{manifest.features_bytes / _MEGABYTE:.1f} MiB; peak memory +{peak:.1f} MiB"
        + (f", limited to +{memory_mb} MiB" if memory_mb else "")
    )


def other_layouts(store: Path, folder: Path, n_parts: int) -> tuple[float, float]:
    """Seconds to read a part of the features from one CSC, and from one CSR.

    Parameters
    ----------
    store : Path
        Sparse data.
    folder : Path
        Where the other layouts are written.
    n_parts : int
        The features' parts, of which the first is read.

    Returns
    -------
    tuple of float
    """
    from scipy import sparse

    source = open_data(store)
    n_features = source.describe().n_features
    rows: Any = source.read(0, n_features, "float32")
    start, stop = bounds(n_features, n_parts, 0)
    for name, matrix in (("csc", rows.tocsc()), ("csr", rows)):
        for key in ("data", "indices", "indptr"):
            np.save(folder / f"{name}-{key}.npy", getattr(matrix, key))

    def load(name: str, key: str) -> Any:
        return np.load(folder / f"{name}-{key}.npy", mmap_mode="r")

    def from_csc() -> Any:
        pointers = np.array(load("csc", "indptr")[start : stop + 1])
        own = slice(int(pointers[0]), int(pointers[-1]))
        parts = np.array(load("csc", "data")[own]), np.array(load("csc", "indices")[own]), pointers - pointers[0]
        return sparse.csc_array(parts, shape=(rows.shape[0], stop - start)).tocsr()

    def from_csr() -> Any:
        parts = [np.array(load("csr", key)) for key in ("data", "indices", "indptr")]
        return sparse.csr_array(tuple(parts), shape=rows.shape)[:, start:stop]

    return best(from_csc), best(from_csr)


def main() -> None:
    """Convert in a process of its own, then measure here."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("copies", type=int, nargs="?", default=0)
    parser.add_argument("--label-column")
    parser.add_argument("--memory-mb", type=int, default=0)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into:
        converted(options.file, options.into, options.label_column, options.memory_mb)
        return
    with tempfile.TemporaryDirectory() as name:
        text, store = options.file, Path(name) / "store"
        if options.copies:
            text = Path(name) / "text"
            copies(options.file, text, options.copies)
        command = [sys.executable, "-m", __spec__.name, str(text), "--into", str(store)]
        command += ["--memory-mb", str(options.memory_mb)]
        command += ["--set", f"data.label_column={options.label_column}"] if options.label_column else []
        subprocess.run(command, check=True)
        is_sparse = open_data(store).describe().sparse_format
        for n_parts in (1, 2, 4):
            parsed = best(lambda n=n_parts: start_up(text, options.label_column, n))  # type: ignore[misc]
            stored = best(lambda n=n_parts: start_up(store, None, n))  # type: ignore[misc]
            line = f"1/{n_parts} of the features: text {parsed:.4f} s, store {stored:.4f} s, {parsed / stored:.1f} x"
            if is_sparse:
                line += "; reading alone from one CSC {:.4f} s, from CSR {:.4f} s".format(
                    *other_layouts(store, Path(name), n_parts)
                )
            print(line, flush=True)


if __name__ == "__main__":
    main()
