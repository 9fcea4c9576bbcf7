"""Decoding of one image to gray or RGB values."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distnewton.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".webp")
MODES = {1: "gray", 3: "RGB"}
"""Names of the kinds of images, by number of channels."""
# no other formats: some decoders of Pillow start programs (EPS) or open further files
_CODECS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_ADVICE = "save it as 8-bit gray or RGB"


def require_pillow(name: str) -> None:
    """Raise unless Pillow is installed.

    Parameters
    ----------
    name : str
        Name of the data, for the message.

    Raises
    ------
    MissingExtraError
        With the command that installs it.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise MissingExtraError(f"reading images ({name})", "images") from None


def decode(name: str, data: bytes) -> NDArray[np.uint8]:
    """Decode the stored values of an image, without applying EXIF rotation or colour profiles.

    Parameters
    ----------
    name : str
        Path of the image, for messages.
    data : bytes
        The whole file; its content determines the format, not its extension.

    Returns
    -------
    ndarray of uint8 of shape (channels, height, width)
        One channel for gray and two-colour images, three for RGB and palettes (all GIF).

    Raises
    ------
    DataError
        If the image is damaged, or its values are not 8-bit gray or RGB.

    Notes
    -----
    JPEG has no checksum, so damage inside its data may go unnoticed.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_CODECS) as image:
                _refuse_what_would_be_lost(name, image)
                values = np.asarray(_as_gray_or_rgb(image), dtype=np.uint8)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: image is too large to be decoded ({error}); make it smaller") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{name}: is damaged, or not an image that can be read ({', '.join(_CODECS)}); "
            "copy or download it again, or remove it"
        ) from None
    except Exception as error:  # for damaged data decoders raise nearly anything, including SyntaxError
        raise DataError(
            f"{name}: image is damaged ({type(error).__name__}: {error}); copy or download it again, or remove it"
        ) from None
    return np.ascontiguousarray(values[np.newaxis] if values.ndim == 2 else values.transpose(2, 0, 1))


def _refuse_what_would_be_lost(name: str, image: Image) -> None:
    """Refuse several frames, transparency and more than 8 bits, which Pillow would silently reduce."""
    if (n_frames := getattr(image, "n_frames", 1)) > 1:
        raise DataError(f"{name}: has {n_frames} frames or pages, expected one; save each as a separate image")
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if has_alpha or (image.palette is not None and image.palette.mode == "RGBA"):
        raise DataError(f"{name}: has transparency (mode {image.mode}), which cannot be a feature; {_ADVICE}")
    if image.mode not in ("1", "L", "P", "RGB"):
        raise DataError(f"{name}: has mode {image.mode}, expected 8-bit gray (L) or RGB; {_ADVICE}")
    if (depth := _stored_bits(image)) > 8:
        raise DataError(f"{name}: has {depth} bits per value, expected 8; {_ADVICE}")


def _stored_bits(image: Image) -> int:
    """Bits of a value in the file; Pillow reduces 16-bit RGB to 8 bits and reports it as RGB."""
    bits = 8
    for codec, _, _, arguments in getattr(image, "tile", []):
        if image.format in ("PNG", "TIFF") and ";16" in str(arguments):
            bits = 16
        if image.format == "PPM" and codec.startswith("ppm") and isinstance(arguments, tuple):
            bits = max(bits, int(arguments[-1]).bit_length())  # the largest value that the header allows
    return bits


def _as_gray_or_rgb(image: Image) -> Image:
    """Convert without loss: two colours to gray, a palette to RGB."""
    if image.mode == "P" or image.format == "GIF":  # GIF has a palette even if Pillow reports gray
        return image.convert("RGB")
    return image.convert("L") if image.mode == "1" else image
