"""The command ``convert``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.cli.command import argument, command
from distnewton.cli.settings import DATA_VARIABLE
from distnewton.cli.streams import results_go_to_files
from distnewton.errors import ConfigError

if TYPE_CHECKING:
    from distnewton.data.store.convert import OnProgress
    from distnewton.data.store.layout_on_disk import StoreManifest

_MEGABYTE = 1e6
_SECONDS_APART = 0.2


@command(
    "convert",
    "write data as a store, from which each rank reads only its features",
    argument("source", metavar="SOURCE", help="data as train takes it; with --verify alone, a store"),
    argument("target", metavar="TARGET", nargs="?", help="folder to create"),
    argument("--data-dir", metavar="DIR", help=f"folder of a relative SOURCE (default {DATA_VARIABLE})"),
    argument("--format", default="auto", help="format of SOURCE (default: by its content)"),
    argument("--label-column", metavar="COLUMN", help="label column, by number from 0 or by name"),
    argument(
        "--ignore-columns", metavar="LIST", default="", help="columns to leave out, as id,name; by number or name"
    ),
    argument("--n-features", type=int, metavar="N", help="number of features, if more than the file shows"),
    argument("--zero-based", action="store_true", help="LIBSVM: indices start at 0"),
    argument(
        "--dtype", choices=("exact", "float32"), default="exact",
        help="exact: each number as the text has it (default); float32: rounded, at most half as large",
    ),
    argument("--overwrite", action="store_true", help="replace a store of that name"),
    argument("--verify", action="store_true", help="read all data again and compare the checksums"),
    usage="SOURCE TARGET [OPTION ...], or distnewton convert STORE --verify",
    without_mpirun="one process reads the text",
)  # fmt: skip
def convert(options: argparse.Namespace) -> int:
    """Convert a data set, or check a store, in this process alone."""
    from distnewton.data.sources import open_data, source_files
    from distnewton.data.store import convert as conversion
    from distnewton.data.store.reader import StoreSource

    if options.target is None:
        if not options.verify:
            raise ConfigError("convert needs a TARGET, the folder to make; a store alone is checked with --verify")
        _verify(StoreSource(Path(options.source)))
        return 0
    directory = options.data_dir or os.environ.get(DATA_VARIABLE) or None
    if Path(options.source).exists():
        # a path that exists as it is typed is that file
        directory = None
    source = open_data(
        options.source,
        data_dir=directory,
        format=options.format,
        label_column=options.label_column,
        ignore_columns=[column.strip() for column in options.ignore_columns.split(",") if column.strip()],
        n_features=options.n_features,
        zero_based=options.zero_based,
    )
    results_go_to_files()
    start = time.perf_counter()
    with _progress() as on_progress:
        manifest = conversion.convert(
            source,
            Path(options.target),
            files=source_files(options.source, directory),
            float32=options.dtype == "float32",
            overwrite=options.overwrite,
            on_progress=on_progress,
        )
    for line in _told(manifest, time.perf_counter() - start):
        print(line)
    if options.verify:
        _verify(StoreSource(Path(options.target)))
    print(f"store: {options.target}")
    return 0


def _told(manifest: StoreManifest, seconds: float) -> Iterator[str]:
    """What was converted."""
    kind = f"sparse, {manifest.n_nonzeros:,} values" if manifest.sparse else "dense"
    yield f"{manifest.name}: {manifest.n_samples:,} samples, {manifest.n_features:,} features ({kind})"
    for note in manifest.notes:
        yield f"note: {note}"
    types = ", ".join(dict.fromkeys(block.dtype for block in manifest.blocks))
    how = "rounded to float32" if manifest.rounded_to_float32 else "to the last bit"
    size = manifest.features_bytes / _MEGABYTE
    yield f"{size:.1f} MB as {types}, {how}, in {len(manifest.blocks)} blocks; {seconds:.1f} s"


def _verify(store: Any) -> None:
    """Compare a store with its checksums."""
    n_bytes = sum(store.verify())
    print(f"verified: {store.name}, {n_bytes / _MEGABYTE:.1f} MB are what was written")


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """A line that follows the conversion on a terminal; nothing in a log."""
    if not sys.stdout.isatty():
        yield lambda *_: None
        return
    from rich.console import Console

    started = told = time.perf_counter()
    with Console().status("converting") as status:

        def on_progress(n_samples: int, n_bytes: int) -> None:
            nonlocal told
            now = time.perf_counter()
            if now - told >= _SECONDS_APART:
                told = now
                rate = n_samples / (now - started)
                status.update(f"converting: {n_samples:,} samples ({rate:,.0f}/s), {n_bytes / _MEGABYTE:,.0f} MB")

        yield on_progress
