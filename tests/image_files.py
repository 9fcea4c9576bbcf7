"""Small images, and folders and tar archives of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest
from PIL import Image

from distnewton.data.sources import open_data
from distnewton.errors import DistNewtonError

HEIGHT, WIDTH = 3, 5
PACKERS = {"tar": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def pixels(name, channels=3, height=HEIGHT, width=WIDTH):
    """Values that belong to a name."""
    rng = np.random.default_rng(list(name.encode()))
    return rng.integers(0, 256, (channels, height, width), dtype=np.uint8)


def coded(values, format="PNG", mode=None, **options):
    image = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
    return saved(image.convert(mode) if mode else image, format, **options)


def saved(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pngs(names, channels=3):
    return {name: coded(pixels(name, channels)) for name in names}


def folder_of(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def member(name, **fields):
    header = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(header, key, value)
    return header


def archive_of(path, files, packer="tar", extra=(), format=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.addfile(member(name, size=len(content)), io.BytesIO(content))
        for header in extra:
            archive.addfile(header)
    path.write_bytes(PACKERS[packer](file.getvalue()))
    return path


def stored(tmp_path, kind, files):
    """A folder or archive named set; an archive replaces the one before."""
    return folder_of(tmp_path / "set", files) if kind == "folder" else archive_of(tmp_path / "set", files, kind)


def error_of(*arguments, **options):
    """What opening and describing data raises."""
    with pytest.raises(DistNewtonError) as caught:
        open_data(*arguments, **options).describe()
    return caught.value
