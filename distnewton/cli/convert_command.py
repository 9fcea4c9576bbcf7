"""The command ``convert``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distnewton.cli.command import READING_SET, argument, command
from distnewton.cli.settings import check_reading, is_here, overrides
from distnewton.cli.streams import results_go_to_files
from distnewton.config import load_config
from distnewton.errors import ConfigError
from distnewton.reporting.terminal import make_console

if TYPE_CHECKING:
    from distnewton.data.store.convert import OnProgress
    from distnewton.data.store.layout_on_disk import StoreManifest

_MEGABYTE = 1e6
_SECONDS_APART = 0.2


@command(
    "convert",
    "write data as a store, from which each rank reads only its features",
    argument("source", metavar="SOURCE", help="data, as for train; without TARGET, a store to verify"),
    argument("target", metavar="TARGET", nargs="?", help="folder to create"),
    READING_SET,
    argument(
        "--dtype", choices=("exact", "float32"), default="exact",
        help="exact: each number as in the text (default); float32: rounded, at most half the size",
    ),
    argument("--overwrite", action="store_true", help="replace a store of that name"),
    argument("--verify", action="store_true", help="read all data again and compare the checksums"),
    usage="SOURCE TARGET [OPTION ...], or distnewton convert STORE --verify",
    without_mpirun="one process reads the text",
    setting_flags=True,
)  # fmt: skip
def convert(options: argparse.Namespace) -> int:
    """Convert a data set, or check a store, in this process alone."""
    from distnewton.config.opening import opener
    from distnewton.data.sources import source_files
    from distnewton.data.store import convert as conversion
    from distnewton.data.store.reader import StoreSource
    from distnewton.data.store.writer import check_target

    if options.target is None:
        if not options.verify:
            raise ConfigError("convert needs a TARGET, the folder to create; --verify alone checks a store")
        _verify(StoreSource(Path(options.source)))
        return 0
    check_reading(options.set, also=("data.n_features", "data.directory"))
    check_target(Path(options.target), overwrite=options.overwrite)
    data = load_config(None, overrides(options)).data
    if is_here(options.source):
        # a path that exists as typed is that file
        data = data.model_copy(update={"directory": ""})
    source = opener(data, None, options.source)()
    results_go_to_files()
    start = time.perf_counter()
    with _progress() as on_progress:
        manifest = conversion.convert(
            source,
            Path(options.target),
            files=source_files(options.source, data.directory or None),
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
    """Describe what was converted."""
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
    print(f"verified: {store.name}, {n_bytes / _MEGABYTE:.1f} MB match their checksums")


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """Show the progress of the conversion in a line on a terminal, and nothing in a log."""
    if not sys.stdout.isatty():
        yield lambda *_: None
        return
    started = told = time.perf_counter()
    with make_console().status("converting") as status:

        def on_progress(n_samples: int, n_bytes: int) -> None:
            nonlocal told
            now = time.perf_counter()
            if now - told >= _SECONDS_APART:
                told = now
                rate = n_samples / (now - started)
                status.update(f"converting: {n_samples:,} samples ({rate:,.0f}/s), {n_bytes / _MEGABYTE:,.0f} MB")

        yield on_progress
