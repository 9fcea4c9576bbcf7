"""A device that is none: arrays of numpy that refuse whatever a GPU's would, or would do behind one's back.

Numbers leave and enter by the library's own ways alone, which are counted by phase of the method. Its functions are
those that cupy has, too, and take cupy's arguments alone (:mod:`cupy_signatures`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from cupy_signatures import signature
from scipy.linalg import cholesky
from scipy.sparse import csr_array

from distnewton.backend import Backend
from distnewton.backend.arrays import is_sparse, on_device, register
from distnewton.backend.device import DeviceBackend
from distnewton.backend.gpu import CupyBackend, count_gpus
from distnewton.frozen import frozen

FUNCTIONS = frozenset({
    "abs", "all", "any", "arange", "argsort", "ascontiguousarray", "broadcast_to", "cbrt", "concatenate", "cumsum",
    "divide", "empty", "empty_like", "exp", "expm1", "eye", "full_like", "greater", "isfinite", "log", "log1p",
    "logaddexp", "matmul", "maximum", "minimum", "multiply", "ones", "ones_like", "repeat", "searchsorted", "sqrt",
    "stack", "sum", "swapaxes", "tanh", "tensordot", "tril", "unique", "vdot", "where", "zeros", "zeros_like",
})  # fmt: skip
METHODS = frozenset({
    "all", "any", "argmax", "argsort", "astype", "copy", "cumsum", "diagonal", "max", "mean", "min", "ravel",
    "reshape", "sum", "transpose", "view",
})  # fmt: skip


class ImplicitTransferError(TypeError):
    """Numbers were about to cross between host and device unseen."""


@dataclass
class Crossings:
    """What has crossed, by way and by phase: number and bytes."""

    phase: object = None
    counts: dict = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(self, way, n_bytes):
        entry = self.counts[way, self.phase() if self.phase else ""]
        entry[0] += 1
        entry[1] += n_bytes

    def take(self):
        taken, self.counts = self.counts, defaultdict(lambda: [0, 0])
        return {key: tuple(value) for key, value in taken.items()}


CROSSINGS = Crossings()


def unwrap(value):
    """The numbers of an array, for use on the device; those of the host are refused."""
    if isinstance(value, StrictArray):
        return value._numbers
    if isinstance(value, tuple | list):
        return type(value)(unwrap(item) for item in value)
    if isinstance(value, np.ndarray) or is_sparse(value):
        raise ImplicitTransferError(f"an array of the host, of shape {value.shape}, meets one of the device")
    return value


def wrap(value):
    if isinstance(value, tuple):
        return tuple(wrap(item) for item in value)
    return StrictArray(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def guarded(function, name):
    """A function of numpy on arrays of the device, with the arguments of cupy's function."""

    def call(*args, out=None, **options):
        signature(name).bind(*args, **options, **({} if out is None else {"out": out}))
        if isinstance(function, np.ufunc) and any(isinstance(value, list | tuple) for value in args):
            raise TypeError(f"{name} takes arrays of the device and numbers, no lists")
        given = {name: value if name == "dtype" else unwrap(value) for name, value in options.items()}
        if out is not None:
            function(*unwrap(args), out=unwrap(out), **given)
            return out
        return wrap(function(*unwrap(args), **given))

    return call


class _Namespace:
    """The functions that numpy and cupy share."""

    def __init__(self, functions, inside, place="cupy"):
        for name in functions:
            setattr(self, name, guarded(getattr(inside, name), f"{place}.{name}"))


def _operator(name):
    def method(self, *others):
        return wrap(getattr(self._numbers, name)(*unwrap(others)))

    return method


def _inplace(name):
    def method(self, other):
        getattr(self._numbers, name)(unwrap(other))
        return self

    return method


def _refuse(name):
    def method(self, *args, **options):
        raise ImplicitTransferError(f"{name} of an array of the device, of shape {self._numbers.shape}")

    return method


class StrictArray:
    """An array of the device."""

    # numpy's functions and operators leave such an array alone
    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, numbers):
        self._numbers = numbers

    def __getattr__(self, name):
        if name not in METHODS:
            raise AttributeError(f"arrays of the device have no {name} here")
        return guarded(getattr(self._numbers, name), f"cupy.ndarray.{name}")

    shape = property(lambda self: self._numbers.shape)
    dtype = property(lambda self: self._numbers.dtype)
    ndim = property(lambda self: self._numbers.ndim)
    size = property(lambda self: self._numbers.size)
    nbytes = property(lambda self: self._numbers.nbytes)
    itemsize = property(lambda self: self._numbers.itemsize)
    strides = property(lambda self: self._numbers.strides)
    flags = property(lambda self: self._numbers.flags)
    T = property(lambda self: StrictArray(self._numbers.T))

    def __len__(self):
        return len(self._numbers)

    def __getitem__(self, key):
        return wrap(self._numbers[unwrap(key)])

    def __setitem__(self, key, value):
        key = unwrap(key)
        indices = [i for i in (key if isinstance(key, tuple) else (key,)) if isinstance(i, np.ndarray)]
        if indices and all(index.dtype.kind in "iu" for index in indices):
            places = np.stack([index.ravel() for index in np.broadcast_arrays(*indices)])
            if len(np.unique(places, axis=1).T) < places.shape[1]:
                raise ValueError("which of several values for one place stays is not known on a GPU")
        self._numbers[key] = unwrap(value)

    def astype(self, dtype, *args, **options):
        kind = np.dtype(dtype).kind
        if kind in "iu" and self.dtype.kind == "f":
            whole = np.isfinite(self._numbers).all() and (kind == "i" or (self._numbers >= 0).all())
            assert whole, "C++ does not say which whole number NaN, infinity or a negative number becomes"
        return guarded(self._numbers.astype, "cupy.ndarray.astype")(dtype, *args, **options)


for _name in ("add", "sub", "mul", "truediv", "matmul", "pow", "mod"):
    for _prefix in ("", "r"):
        setattr(StrictArray, f"__{_prefix}{_name}__", _operator(f"__{_prefix}{_name}__"))
    setattr(StrictArray, f"__i{_name}__", _inplace(f"__i{_name}__"))
for _name in ("abs", "neg", "invert", "eq", "ne", "lt", "le", "gt", "ge", "and", "or"):
    setattr(StrictArray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in (
    "__array__", "__float__", "__int__", "__bool__", "__index__", "__iter__", "__array_function__", "__contains__",
    "item", "tolist", "tobytes", "__buffer__",
):  # fmt: skip
    setattr(StrictArray, _name, _refuse(_name))


class StrictRows:
    """Sparse rows on the device."""

    __array_ufunc__ = None

    def __init__(self, rows):
        self._rows = rows

    data = property(lambda self: StrictArray(self._rows.data))
    indices = property(lambda self: StrictArray(self._rows.indices))
    indptr = property(lambda self: StrictArray(self._rows.indptr))
    shape = property(lambda self: self._rows.shape)
    dtype = property(lambda self: self._rows.dtype)
    ndim = 2
    T = property(lambda self: StrictRows(self._rows.T))

    def __getitem__(self, key):
        return StrictRows(self._rows[unwrap(key)])

    def __matmul__(self, other):
        if isinstance(other, StrictRows):
            return StrictRows(csr_array(self._rows @ other._rows))
        return wrap(self._rows @ unwrap(other))

    def multiply(self, other):
        factors = other._rows if isinstance(other, StrictRows) else unwrap(other)
        return StrictRows(csr_array(self._rows.multiply(factors)))

    def tocsr(self):
        return self

    def toarray(self):
        return StrictArray(self._rows.toarray())


def _cholesky(A):
    """In the precision of the matrices, as on a GPU: numpy's own takes float64 for float32."""
    # what is not finite is factorised into NaN, as there
    factors = [cholesky(matrix, lower=True, check_finite=False) for matrix in A.reshape(-1, *A.shape[-2:])]
    return np.reshape(factors, A.shape)


class StrictLibrary:
    """The ways out and in."""

    name, host = "strict", False

    def __init__(self):
        self.xp = _Namespace(FUNCTIONS, np)
        self.xp.linalg = _Namespace(("eigh", "inv", "norm", "solve"), np.linalg, "cupy.linalg")
        self.xp.linalg.cholesky = guarded(_cholesky, "cupy.linalg.cholesky")
        self.xp.lib, self.xp.nan = self.xp, np.nan
        self.xp.stride_tricks = _Namespace(("as_strided",), np.lib.stride_tricks, "cupy.lib.stride_tricks")
        self.n_pinned = 0

    def to_host(self, array):
        if is_sparse(array):
            raise AssertionError("features never come back")
        CROSSINGS.add("to_host", array.nbytes)
        # as it lies in memory, as cupy's is asked for
        return array._numbers.copy(order="A")

    def to_device(self, values):
        assert isinstance(values, np.ndarray)
        assert values.dtype.names is None, "no records on a device"
        CROSSINGS.add("to_device", values.nbytes)
        return StrictArray(values.copy(order="A"))

    def scalar(self, value):
        assert value.shape == ()
        CROSSINGS.add("scalar", value.nbytes)
        return float(value._numbers)

    def dot(self, x, y):
        return self.scalar(wrap(np.vdot(unwrap(x).astype(np.float64), unwrap(y).astype(np.float64))))

    def update(self, target, expression, **others):
        numbers = {"x": unwrap(target)}
        for name, value in others.items():
            is_array = isinstance(value, StrictArray)
            assert not is_array or value.dtype == target.dtype
            numbers[name] = unwrap(value) if is_array else float(value)
        functions = {name: getattr(np, name) for name in ("exp", "expm1", "fabs", "fmax", "log1p", "tanh")}
        made = eval(expression, {"__builtins__": {}}, numbers | functions | {"T": target.dtype.type})
        assert made.dtype == target.dtype
        # a number that is not T(...) is one of float64 in C++
        assert not re.search(r"\d", re.sub(r"T\([\d.]+\)|[a-z]\w*", "", expression))
        target[...] = wrap(made)
        return target

    def vecdot(self, x, y):
        return (x * y).sum(axis=-1)

    def download(self, array, out):
        assert array.flags.c_contiguous
        assert out.dtype == array.dtype
        CROSSINGS.add("download", out.nbytes)
        np.copyto(out, array._numbers)

    def upload(self, values, out):
        assert out.flags.c_contiguous
        CROSSINGS.add("upload", values.nbytes)
        np.copyto(out._numbers, values)

    def pinned(self, n_bytes):
        self.n_pinned += 1
        return np.empty(n_bytes, np.uint8)

    def synchronize(self):
        pass

    def sparse_rows(self, X, start, stop):
        offsets = self.row_offsets(X)
        made = StrictRows(X._rows[start:stop])
        made.offsets = offsets[start : stop + 1] - offsets[start]
        return made

    def row_offsets(self, X):
        if not hasattr(X, "offsets"):
            X.offsets = self.to_host(X.indptr)
        return X.offsets

    def sparse_array(self, values, columns, offsets, n_columns):
        parts = unwrap((values, columns, self.to_device(offsets)))
        made = StrictRows(csr_array(parts, shape=(len(offsets) - 1, n_columns)))
        made.offsets = offsets
        return made


LIBRARY = StrictLibrary()
register(LIBRARY, StrictArray, StrictRows)


@frozen
class StrictBackend(DeviceBackend):
    """The code for devices on such arrays."""

    memory: int | None = None
    tf32: bool = False

    @property
    def memory_limit(self):
        return self.memory

    @property
    def library(self):
        return LIBRARY

    @property
    def description(self):
        return "strict device" + self.tf32 * ", TF32"

    def features(self, X):
        if on_device(X):
            return X
        if not is_sparse(X):
            return self.asarray(X)
        values, columns = (LIBRARY.to_device(numbers) for numbers in (X.data, X.indices))
        return LIBRARY.sparse_array(values, columns, X.indptr, X.shape[1])


def backend_maker(kind):
    """Makes a backend on the CPU, on the strict device or on the first GPU of a dtype; skips where there is no GPU."""
    if kind == "cupy" and (problem := count_gpus()[1]):
        pytest.skip(problem)
    return {
        "cpu": Backend.of,
        "strict": lambda dtype: StrictBackend(np.dtype(dtype)),
        "cupy": lambda dtype: CupyBackend.on(0, dtype, 0.5, tf32=False),
    }[kind]


class StrictGpus:
    """As many as are said, of which MPI reads none."""

    def __init__(self, n=1, memory=None):
        self.n, self.memory = n, memory

    def count(self):
        return self.n, "" if self.n else "there is none"

    def name(self, number):
        return f"strict{number}"

    def backend(self, number, dtype, n_sharing, *, tf32):
        return StrictBackend(np.dtype(dtype), self.memory, tf32)

    def nccl(self):
        return None, "a strict device has no NCCL"

    def mpi_reads_them(self):
        return False
