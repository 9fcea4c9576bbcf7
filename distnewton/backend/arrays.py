"""The library of an array: its functions, and the few transfers of numbers between host and device.

Numerical code asks an array for its functions, ``xp = namespace(Z)``, and moves numbers only by :func:`to_host`,
:func:`scalar`, :func:`like` and :meth:`Backend.asarray <distnewton.backend.Backend.asarray>`. This makes transfers
to and from a GPU visible, and tests count them. For numpy arrays these functions do no work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Library:
    """An array library and the memory of its arrays; this one is numpy, from which device libraries inherit.

    Attributes
    ----------
    name : str
        Name in messages: ``numpy``, ``cupy``.
    host : bool
        Whether its arrays are in host memory.
    xp : module
        The common array functions.
    """

    name: str = "numpy"
    host: bool = True
    xp: Any = np

    def to_host(self, array: Any) -> Array:
        """Return a numpy array of the same values; on the host the array itself."""
        values: Array = array
        return values

    def to_device(self, values: Array) -> Any:
        """Copy a numpy array to this library, with its dtype; on the host return the array itself."""
        return values

    def scalar(self, value: Any) -> float:
        """Return the number in an array without axes, as reductions produce it."""
        return float(value)

    def dot(self, x: Any, y: Any) -> float:
        """Compute the inner product of two vectors, accumulated in float64."""
        if x.dtype == np.float64:
            return float(np.vdot(x, y))
        return float(np.einsum("i,i->", x, y, dtype=np.float64))

    def vecdot(self, x: Any, y: Any) -> Any:
        """Compute inner products along the last axis."""
        return np.vecdot(x, y)

    def download(self, array: Any, out: Array) -> None:
        """Copy a contiguous array into a numpy array; on return the copy is complete."""
        np.copyto(out, array)

    def upload(self, values: Array, out: Any) -> None:
        """Copy a numpy array into a contiguous array; on return the source may be overwritten."""
        np.copyto(out, values)

    def pinned(self, n_bytes: int) -> Array:
        """Allocate host memory that a device copies to and from at full speed, as uint8."""
        return np.empty(n_bytes, np.uint8)

    def synchronize(self) -> None:
        """Wait until all work on the device is done."""

    def sparse_rows(self, X: Any, start: int, stop: int) -> Any:
        """Return consecutive rows of a sparse array."""
        return X[start:stop]

    def row_offsets(self, X: Any) -> Array:
        """Return the start of each row of a sparse array among its values, on the host."""
        offsets: Array = X.indptr
        return offsets

    def sparse_array(self, values: Any, columns: Any, offsets: Array, n_columns: int) -> Any:
        """Make sparse rows from values, columns (none twice in a row) and row offsets on the host."""
        # imported here: a run on dense data needs no scipy.sparse
        from scipy.sparse import csr_array

        return csr_array((values, columns, offsets), shape=(len(offsets) - 1, n_columns))


class DeviceLibrary(Library, ABC):
    """A library of arrays on a device, where each operation costs a launch and a pass through memory."""

    host = False

    @abstractmethod
    def update(self, target: Any, expression: str, **others: Any) -> Any:
        """Do the work of :func:`update`."""


HOST = Library()
_LIBRARIES: dict[type, DeviceLibrary] = {}


def register(library: DeviceLibrary, *kinds: type) -> None:
    """Assign array types to a library; all other types, including numbers and scipy's arrays, belong to the host.

    Parameters
    ----------
    library : DeviceLibrary
        Library of these arrays.
    *kinds : type
        Types of dense and sparse arrays.
    """
    _LIBRARIES.update(dict.fromkeys(kinds, library))


def library_of(array: Any) -> Library:
    """Return the library of a dense or sparse array."""
    return _LIBRARIES.get(type(array), HOST)


def namespace(array: Any) -> Any:
    """Return the common array functions of an array's library: numpy's for numpy arrays."""
    return _LIBRARIES.get(type(array), HOST).xp


def on_device(array: Any) -> bool:
    """Whether an array is in device memory."""
    return type(array) in _LIBRARIES


def to_host(array: Any) -> Array:
    """Return a numpy array of the same values; a numpy array is returned itself."""
    return _LIBRARIES.get(type(array), HOST).to_host(array)


def scalar(value: Any) -> float:
    """Return the result of a reduction as a number on the host."""
    return _LIBRARIES.get(type(value), HOST).scalar(value)


def like(array: Any, values: Array) -> Any:
    """Move numbers made on the host, such as random ones or indices, to the memory of an array.

    Parameters
    ----------
    array : Array
        Array whose library determines the memory.
    values : Array of numpy
        Numbers to move; their dtype is kept.

    Returns
    -------
    Array
        On the host the values themselves.
    """
    return _LIBRARIES.get(type(array), HOST).to_device(values)


def update(target: Any, expression: str, **others: Any) -> Array:
    """Overwrite an array on a device by an expression, element by element and in one pass.

    Parameters
    ----------
    target : Array on a device
        Array that the expression calls ``x``.
    expression : str
        Text valid in both C++ and Python: operators, ``exp``, ``expm1``, ``log1p``, ``tanh``, ``fabs``, ``fmax``, and
        ``T(1)`` for a number of the array's type; a float64 number makes the whole computation float64.
    **others : Array on the device of the same dtype, or float
        Values of the expression's other names; arrays are broadcast to the target.

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
    """Select rows of a dense or sparse array, by a slice or by numbers on the host."""
    return array[rows] if isinstance(rows, slice) else array[like(array, rows)]


def vecdot(x: Any, y: Any) -> Any:
    """Compute inner products along the last axis."""
    return _LIBRARIES.get(type(x), HOST).vecdot(x, y)


def is_sparse(array: Any) -> bool:
    """Whether an array holds sparse rows, or packed columns instead."""
    return hasattr(array, "indptr") or is_packed(array)


def is_packed(array: Any) -> bool:
    """Whether an array is a :class:`~distnewton.data.packed.PackedColumns`."""
    return hasattr(array, "codes")
