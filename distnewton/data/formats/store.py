"""The format of stores, which ``distnewton convert`` writes."""

from __future__ import annotations

from pathlib import Path

from distnewton.data.columns import Wanted
from distnewton.data.formats.base import Format, Location
from distnewton.data.store import MANIFEST_FILE
from distnewton.data.store.layout_on_disk import FEATURES_FILE
from distnewton.data.store.reader import StoreSource
from distnewton.errors import ConfigError


class Store(Format):
    """Folders that ``distnewton convert`` wrote."""

    name = "store"
    help = "stores of distnewton convert"
    has_folders = True

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a folder holds a file of a store; without a manifest, opening it reports an incomplete store."""
        return any((path / name).exists() for name in (MANIFEST_FILE, FEATURES_FILE))

    def open(self, location: Location, wanted: Wanted) -> StoreSource:
        """Open a store; a label column may be given as in the recipe of the converted data."""
        store = StoreSource(location.path, wanted)
        columns = store.manifest.columns
        same_column = wanted.label_column is None or (columns is not None and wanted.label_column == columns.label)
        if location.labels_path is not None or not same_column:
            raise ConfigError(f"{location.path}: a store contains its labels; give label_column to distnewton convert")
        return store
