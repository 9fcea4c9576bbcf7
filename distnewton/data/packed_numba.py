"""Decode packed columns in one compiled pass; imported only when numba is wanted, since the import takes a second."""

from __future__ import annotations

from typing import Any

import numpy as np

from distnewton.data.formats.libsvm_numba import compiled


def _decode(packed: Any, values: Any, out: Any) -> None:
    """Decode the values of all samples; arguments as for :func:`distnewton.data.packed.decode_by_lookup`."""
    of_byte = np.empty((256, 4), values.dtype)
    for column in range(packed.shape[0]):
        for byte in range(256):
            for k in range(4):
                of_byte[byte, k] = values[column, (byte >> (2 * k)) & 3]
        for j in range(packed.shape[1]):
            byte = packed[column, j]
            for k in range(4):
                out[column, 4 * j + k] = of_byte[byte, k]


decode = compiled(_decode)
