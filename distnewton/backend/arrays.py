"""Whose an array is: its library's functions, and the few places where numbers cross between host and device.

Numerical code asks an array for its functions, ``xp = namespace(Z)``, and moves numbers by :func:`to_host`,
:func:`scalar`, :func:`like` and :meth:`Backend.asarray <distnewton.backend.Backend.asarray>` alone: what crosses
to a GPU and back is then seen, and counted in tests. For arrays of numpy all of these are no work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Library:
    """An array library and the memory that its arrays lie in: numpy's, which those of devices inherit from.

    Attributes
    ----------
    name : str
        Its name in messages: ``numpy``, ``cupy``.
    host : bool
        Whether its arrays lie in the host's memory.
    xp : module
        The common array functions.
    """

    name: str = "numpy"
    host: bool = True
    xp: Any = np

    def to_host(self, array: Any) -> Array:
        """A numpy array of the same values; on the host the array itself."""
        values: Array = array
        return values

    def to_device(self, values: Array) -> Any:
        """An array of this library with the values, and the dtype, of one of numpy; on the host that itself."""
        return values

    def scalar(self, value: Any) -> float:
        """A number that a reduction has left in an array without axes."""
        return float(value)

    def dot(self, x: Any, y: Any) -> float:
        """Inner product of two vectors, accumulated in float64."""
        if x.dtype == np.float64:
            return float(np.vdot(x, y))
        return float(np.einsum("i,i->", x, y, dtype=np.float64))

    def vecdot(self, x: Any, y: Any) -> Any:
        """Inner products along the last axis."""
        return np.vecdot(x, y)

    def download(self, array: Any, out: Array) -> None:
        """Copy a contiguous array into one of numpy; on return the values are there."""
        np.copyto(out, array)

    def upload(self, values: Array, out: Any) -> None:
        """Copy an array of numpy into a contiguous array; on return the values may be overwritten."""
        np.copyto(out, values)

    def pinned(self, n_bytes: int) -> Array:
        """Host memory that a device copies from and to at full speed, as uint8."""
        return np.empty(n_bytes, np.uint8)

    def synchronize(self) -> None:
        """Return when all work on the device is done."""

    def sparse_rows(self, X: Any, start: int, stop: int) -> Any:
        """Some consecutive rows of a sparse array."""
        return X[start:stop]

    def row_offsets(self, X: Any) -> Array:
        """Where the rows of a sparse array begin among its values, on the host."""
        offsets: Array = X.indptr
        return offsets

    def sparse_array(self, values: Any, columns: Any, offsets: Array, n_columns: int) -> Any:
        """Sparse rows from their values and columns, of which no row has one twice, and from offsets on the host."""
        # imported here: a run on dense data needs no scipy.sparse
        from scipy.sparse import csr_array

        return csr_array((values, columns, offsets), shape=(len(offsets) - 1, n_columns))


class DeviceLibrary(Library, ABC):
    """A library of arrays on a device, where each operation is a launch and a way through its memory."""

    host = False

    @abstractmethod
    def update(self, target: Any, expression: str, **others: Any) -> Any:
        """As :func:`update`."""


HOST = Library()
_LIBRARIES: dict[type, DeviceLibrary] = {}


def register(library: DeviceLibrary, *kinds: type) -> None:
    """Say whose arrays of some types are; those of all other types, numbers and scipy's among them, are the host's.

    Parameters
    ----------
    library : DeviceLibrary
        Whose they are.
    *kinds : type
        Dense and sparse arrays.
    """
    _LIBRARIES.update(dict.fromkeys(kinds, library))


def library_of(array: Any) -> Library:
    """The library of a dense or sparse array."""
    return _LIBRARIES.get(type(array), HOST)


def namespace(array: Any) -> Any:
    """The common array functions of an array's library: numpy's for arrays of numpy."""
    return _LIBRARIES.get(type(array), HOST).xp


def on_device(array: Any) -> bool:
    """Whether an array lies in the memory of a device."""
    return type(array) in _LIBRARIES


def to_host(array: Any) -> Array:
    """A numpy array of the same values; of numpy's the array itself."""
    return _LIBRARIES.get(type(array), HOST).to_host(array)


def scalar(value: Any) -> float:
    """A number that a reduction has left, on the host."""
    return _LIBRARIES.get(type(value), HOST).scalar(value)


def like(array: Any, values: Array) -> Any:
    """Numbers made on the host, say random ones or indices, where an array is.

    Parameters
    ----------
    array : Array
        Decides where.
    values : Array of numpy
        Their dtype is kept.

    Returns
    -------
    Array
        The values themselves on the host.
    """
    return _LIBRARIES.get(type(array), HOST).to_device(values)


def update(target: Any, expression: str, **others: Any) -> Array:
    """Overwrite an array on a device by an expression, element by element and in one pass.

    Parameters
    ----------
    target : Array on a device
        ``x`` of the expression.
    expression : str
        In what C++ and Python have in common: operators, ``exp``, ``expm1``, ``log1p``, ``tanh``, ``fabs``, ``fmax``,
        and ``T(1)`` for a number of the array's type; one of float64 has all of it computed in float64.
    **others : Array on the device of the same dtype, or float
        Its other names; arrays are broadcast to the target.

    Returns
    -------
    Array
        The target.
    """
    result: Array = _LIBRARIES[type(target)].update(target, expression, **others)
    return result


def add_scaled(y: Any, a: float, v: Any) -> None:
    """Add a v to y, in place; on a device in one pass."""
    if on_device(y):
        update(y, "x + a * v", a=a, v=v)
    else:
        y += a * v


def scale_and_add(y: Any, a: float, v: Any) -> None:
    """Replace y by a y + v, in place; on a device in one pass."""
    if on_device(y):
        update(y, "a * x + v", a=a, v=v)
    else:
        y *= a
        y += v


def take_rows(array: Any, rows: Any) -> Any:
    """Rows of a dense or sparse array, by a slice or by numbers that lie on the host."""
    return array[rows] if isinstance(rows, slice) else array[like(array, rows)]


def vecdot(x: Any, y: Any) -> Any:
    """Inner products along the last axis."""
    return _LIBRARIES.get(type(x), HOST).vecdot(x, y)


def is_sparse(array: Any) -> bool:
    """Whether an array holds sparse rows, or packed columns in their place."""
    return hasattr(array, "indptr") or is_packed(array)


def is_packed(array: Any) -> bool:
    """Whether an array is a :class:`~distnewton.data.packed.PackedColumns`."""
    return hasattr(array, "codes")
