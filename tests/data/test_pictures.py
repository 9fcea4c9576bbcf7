"""One image: kinds of files, what is converted, what is refused, what is damaged."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from image_files import HEIGHT, WIDTH, coded, error_of, folder_of, pixels, pngs, saved, stored
from PIL import Image

from distnewton.data.formats import stored_files
from distnewton.data.formats.pictures import decode
from distnewton.data.sources import open_data
from distnewton.errors import DataError


@pytest.mark.parametrize(("extension", "format", "channels", "options"), [
    ("png", "PNG", 1, {}), ("PNG", "PNG", 3, {}), ("bmp", "BMP", 1, {}), ("bmp", "BMP", 3, {}), ("pgm", "PPM", 1, {}),
    ("ppm", "PPM", 3, {}), ("TIF", "TIFF", 1, {}), ("tiff", "TIFF", 3, {"compression": "tiff_lzw"}),
    ("webp", "WEBP", 3, {"lossless": True}), ("png", "BMP", 3, {}),
])  # fmt: skip
def test_kinds_of_files(tmp_path, extension, format, channels, options):
    names = [f"{label}/1.{extension}" for label in "ab"]
    path = folder_of(tmp_path / "set", {name: coded(pixels(name, channels), format, **options) for name in names})
    source = open_data(path)
    assert source.describe().image_shape == (channels, HEIGHT, WIDTH)
    np.testing.assert_array_equal(source.read(0, channels * 15), [pixels(name, channels).ravel() for name in names])


@pytest.mark.parametrize("extension", ["jpg", "JPEG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_values_are_near(tmp_path, extension, channels):
    rows, columns = np.mgrid[:16, :24]
    values = np.stack([4 * rows + 3 * columns, 200 - 5 * columns, 90 + 2 * rows][:channels]).astype(np.uint8)
    options = {"quality": 95} | ({"subsampling": 0} if channels == 3 else {})
    path = folder_of(tmp_path / "set", {f"a/1.{extension}": coded(values, "JPEG", **options)})
    source = open_data(path)
    assert source.describe().image_shape == (channels, 16, 24)
    read = source.read(0, values.size).reshape(values.shape)
    assert np.abs(read - values).max() <= 8
    assert np.abs(read - values).mean() < 2


def palette_image(**options):
    image = Image.fromarray(np.arange(15, dtype=np.uint8).reshape(3, 5) % 3, "L").convert("P")
    image.putpalette([255, 0, 7, 1, 2, 3, 9, 8, 250])
    return saved(image, **options)


def test_what_is_converted_without_loss():
    colours = np.array([[255, 0, 7], [1, 2, 3], [9, 8, 250]])[np.arange(15) % 3].T.reshape(3, 3, 5)
    for options in ({"format": "PNG"}, {"format": "GIF"}, {"format": "BMP"}, {"format": "TIFF"}):
        np.testing.assert_array_equal(decode("x", palette_image(**options)), colours)
    for gray in (pixels("x", 1), np.arange(256, dtype=np.uint8).reshape(1, 16, 16)):  # Pillow reads these as P, as L
        np.testing.assert_array_equal(decode("x", coded(gray, "GIF")), gray.repeat(3, axis=0))
    bits = np.arange(15).reshape(1, 3, 5) % 2 == 1
    for format in ("PNG", "PPM", "TIFF", "BMP"):
        np.testing.assert_array_equal(decode("x", saved(Image.fromarray(bits[0]), format)), 255 * bits)
    for text in (b"P2 3 1 255 0 100 255", b"P2 3 1 51 0 20 51", b"P5 3 1 51 \x00\x14\x33"):
        np.testing.assert_array_equal(decode("x", text), [[[0, 100, 255]]])


def png16():
    values = np.zeros((3, 5, 3), dtype=">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 5, 3, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def frames(format):
    first, second = (Image.fromarray(pixels(name, 1)[0]) for name in "ab")
    return saved(first, format, save_all=True, append_images=[second])


@pytest.mark.parametrize(("content", "message"), [
    (lambda: coded(pixels("x", 4)), "has transparency (mode RGBA)"),
    (lambda: coded(pixels("x", 4), "WEBP", lossless=True), "has transparency (mode RGBA)"),
    (lambda: coded(pixels("x", 1), mode="LA"), "has transparency (mode LA)"),
    (lambda: palette_image(transparency=0), "has transparency (mode P)"),
    (lambda: palette_image(format="GIF", transparency=0), "has transparency (mode P)"),
    (lambda: coded(pixels("x"), transparency=(1, 2, 3)), "has transparency (mode RGB)"),
    (lambda: coded(pixels("x"), "JPEG", mode="CMYK"), "has mode CMYK, expected 8-bit gray (L) or RGB; save it as"),
    (lambda: saved(Image.fromarray(pixels("x", 1)[0].astype("u2"))), "has mode I;16, expected 8-bit"),
    (lambda: saved(Image.fromarray(pixels("x", 1)[0].astype("i4")), "TIFF"), "has mode I, expected 8-bit"),
    (lambda: saved(Image.fromarray(pixels("x", 1)[0].astype("f4")), "TIFF"), "has mode F, expected 8-bit"),
    (png16, "has 16 bits per value, expected 8"),
    (lambda: b"P6 1 1 65535 \0\0\0\0\0\0", "has 16 bits per value, expected 8"),
    (lambda: b"P3 1 1 511 1 2 3", "has 9 bits per value, expected 8"),
    (lambda: frames("GIF"), "has 2 frames or pages, expected one"),
    (lambda: frames("TIFF"), "has 2 frames or pages, expected one"),
    (lambda: frames("PNG"), "has 2 frames or pages, expected one"),
])  # fmt: skip
def test_what_would_lose_something_is_refused(tmp_path, content, message):
    path = folder_of(tmp_path / "set", {"a/1.png": content()})
    error = error_of(path)
    assert isinstance(error, DataError)
    assert f"{path}/a/1.png: {message}" in str(error)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
def test_damaged_images_are_named(tmp_path, format):
    whole = coded(pixels("x", 3, 40, 40), format)
    assert decode("x", whole).shape == (3, 40, 40)
    for n_bytes in {0, 1, 5, 20, len(whole) // 3, len(whole) // 2, len(whole) - len(whole) // 8}:
        path = folder_of(tmp_path / "set", {"a/1.png": whole[:n_bytes]})
        message = str(error_of(path))
        assert f"{path}/a/1.png: " in message
        assert "copy or download it again, or remove it" in message


def test_what_an_extension_hides(tmp_path):
    for content in (b"a text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", b"<svg/>", b"P7\nWIDTH 1\n"):
        message = str(error_of(folder_of(tmp_path / "set", {"a/1.png": content})))
        assert "is damaged, or not an image that can be read (JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP)" in message


@pytest.mark.parametrize("max_pixels", [7, 14])  # Pillow raises above twice its limit, and warns above it
@pytest.mark.parametrize("kind", ["folder", "xz"])
def test_images_that_would_fill_the_memory(tmp_path, monkeypatch, kind, max_pixels):
    path = stored(tmp_path, kind, pngs(["a/1.png"]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", max_pixels)
    error = error_of(path)
    assert isinstance(error, DataError)
    assert "a/1.png: image is too large to be decoded" in str(error)
    monkeypatch.setattr(stored_files, "MAX_FILE_BYTES", 20)
    assert "bytes, but an image may have at most 20" in str(error_of(path))
