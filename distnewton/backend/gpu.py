"""cupy on a GPU. Nothing here is imported, nor is cupy, unless a run asks for a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from distnewton.backend.arrays import Array, DeviceLibrary, Library, is_sparse, on_device, register
from distnewton.backend.device import DeviceBackend
from distnewton.errors import ConfigError, MissingExtraError

_FIRST_WITH_TF32 = 80
INSTALL = "pip install 'distnewton[gpu]'"


class CupyLibrary(DeviceLibrary):
    """cupy's arrays.

    Parameters
    ----------
    cupy, cupyx : module
        As imported.
    """

    name = "cupy"

    def __init__(self, cupy: Any, cupyx: Any) -> None:
        self.xp, self.cupyx = cupy, cupyx
        self._kernels: dict[str, Any] = {}
        # one kernel, without arrays in float64 in between
        self._dot = cupy.ReductionKernel(
            "T x, T y", "float64 z", "(double)x * (double)y", "a + b", "z = a", "0", "dot64", reduce_type="double"
        )

    def to_host(self, array: Any) -> Array:
        """A numpy array of the same values."""
        # as it lies in memory: the order decides how products round
        result: Array = array.get() if is_sparse(array) else array.get(order="A")
        return result

    def to_device(self, values: Array) -> Any:
        """An array of cupy with the values of one of numpy."""
        return self.xp.asarray(values)

    def scalar(self, value: Any) -> float:
        """A number that a reduction has left; waits for it."""
        return float(value.get())

    def dot(self, x: Any, y: Any) -> float:
        """Inner product of two vectors, accumulated in float64."""
        return self.scalar(self._dot(x, y))

    def update(self, target: Any, expression: str, **others: Any) -> Any:
        """Overwrite an array by an expression of itself and others, in one kernel."""
        # Python's own numbers take the type of the arrays
        given = [value if isinstance(value, self.xp.ndarray) else float(value) for value in others.values()]
        return self._kernel(expression, *others)(target, *given, target)

    def vecdot(self, x: Any, y: Any) -> Any:
        """Inner products along the last axis."""
        return (x * y).sum(axis=-1)

    def download(self, array: Any, out: Array) -> None:
        """Copy a contiguous array into one of numpy; on return the values are there."""
        array.get(out=out)

    def upload(self, values: Array, out: Any) -> None:
        """Copy an array of numpy into a contiguous array; on return the values may be overwritten."""
        out.set(values)
        # from pinned memory the copy runs on behind the call
        self.synchronize()

    def pinned(self, n_bytes: int) -> Array:
        """Page-locked host memory."""
        result: Array = self.cupyx.empty_pinned((n_bytes,), np.uint8)
        return result

    def synchronize(self) -> None:
        """Return when all work of the current stream is done."""
        self.xp.cuda.get_current_stream().synchronize()

    def sparse_rows(self, X: Any, start: int, stop: int) -> Any:
        """Some consecutive rows; the offsets are read from their copy on the host."""
        offsets = self.row_offsets(X)
        first, last = (int(offsets[i]) for i in (start, stop))
        parts = X.data[first:last], X.indices[first:last], X.indptr[start : stop + 1] - first
        return self._rows(parts, offsets[start : stop + 1] - first, X.shape[1])

    def row_offsets(self, X: Any) -> Array:
        """Where the rows begin among the values, on the host."""
        if not hasattr(X, "offsets"):
            # of rows that were chosen one by one, as those of a mini-batch
            X.offsets = X.indptr.get()
        result: Array = X.offsets
        return result

    def sparse_array(self, values: Any, columns: Any, offsets: Array, n_columns: int) -> Any:
        """Sparse rows of cupy from their values and columns, of which no row has one twice."""
        # of two types cupy takes the wider one, for which cuSPARSE has fewer functions
        fits = offsets[-1] <= np.iinfo(columns.dtype).max
        there = self.to_device(offsets.astype(columns.dtype, copy=False) if fits else offsets)
        return self._rows((values, columns, there), offsets, n_columns)

    def _kernel(self, expression: str, *names: str) -> Any:
        """The kernel of an expression of x and other names, made at its first use."""
        if expression not in self._kernels:
            inputs = ", ".join(f"T {name}" for name in ("x", *names))
            name = f"update{len(self._kernels)}"
            self._kernels[expression] = self.xp.ElementwiseKernel(inputs, "T result", f"result = {expression}", name)
        return self._kernels[expression]

    def _rows(self, parts: tuple[Any, Any, Any], offsets: Array, n_columns: int) -> Any:
        """Sparse rows from values, columns and offsets, these also on the host."""
        result = self.cupyx.scipy.sparse.csr_matrix(parts, shape=(len(offsets) - 1, n_columns))
        result.offsets = offsets
        # else each product would look for duplicates first
        result.has_canonical_format = True
        return result


@cache
def cupy_library() -> CupyLibrary:
    """cupy, imported and known to :func:`~distnewton.backend.namespace`.

    Returns
    -------
    CupyLibrary

    Raises
    ------
    MissingExtraError
        If there is no cupy.
    ConfigError
        If there is one that cannot be imported.
    """
    try:
        import cupy
        import cupyx
        import cupyx.scipy.sparse as sparse
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise MissingExtraError("run.device = gpu", "gpu") from None
        # its own message fills a screen; what went wrong was said first
        cause: BaseException = error
        while (before := cause.__cause__ or cause.__context__) is not None:
            cause = before
        raise ConfigError(f"cupy is installed, but importing it fails: {' '.join(str(cause).split())}") from None
    library = CupyLibrary(cupy, cupyx)
    kinds = [getattr(sparse, name) for name in ("csr_matrix", "csc_matrix", "coo_matrix")]
    register(library, cupy.ndarray, *kinds)
    return library


def count_gpus() -> tuple[int, str]:
    """GPUs that this process sees, and why there are none.

    Returns
    -------
    int
        Their number; 0 also where there is no cupy.
    str
        Empty where there are some.
    """
    try:
        cupy = cupy_library().xp
    except MissingExtraError:
        return 0, f"cupy is not installed ({INSTALL})"
    except ConfigError as error:
        return 0, str(error)
    try:
        n = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return 0, f"cupy finds no GPU: {error}"
    return n, "" if n else "cupy finds no GPU"


@dataclass(frozen=True)
class CupyBackend(DeviceBackend):
    """cupy's arrays of one floating-point type, on one GPU.

    Attributes
    ----------
    device : int
        Number of the GPU among those that this process sees.
    pool_bytes : int or None
        What arrays may take there; more is an error that says so.
    tf32 : bool
        Whether factors of float32 products are rounded to TF32.
    """

    device: int = 0
    pool_bytes: int | None = None
    tf32: bool = False
    _library: CupyLibrary = field(default_factory=cupy_library, repr=False, compare=False)

    @classmethod
    def on(cls, device: int, dtype: str, share: float, *, tf32: bool) -> CupyBackend:
        """Make a GPU, and a share of its free memory, this process's own; its arrays are made there from now on."""
        cupy = cupy_library().xp
        cupy.cuda.Device(device).use()
        _round_factors(cupy, device, tf32=tf32)
        free, _ = cupy.cuda.runtime.memGetInfo()
        backend = cls(np.dtype(dtype), device, int(share * free), tf32)
        cupy.get_default_memory_pool().set_limit(size=backend.pool_bytes)
        return backend

    @property
    def library(self) -> Library:
        """That of cupy."""
        return self._library

    @property
    def memory_limit(self) -> int | None:
        """Bytes of the GPU that arrays may take."""
        return self.pool_bytes

    @property
    def description(self) -> str:
        """The GPU in words."""
        properties = self.xp.cuda.runtime.getDeviceProperties(self.device)
        products = ", TF32" if self.tf32 else ""
        return f"GPU {self.device}, {properties['name'].decode()}, cupy {self.xp.__version__}{products}"

    def features(self, X: Any) -> Any:
        """Dense or sparse features of numpy and scipy, moved to the GPU."""
        if on_device(X):
            return X
        if not is_sparse(X):
            return self.asarray(X)
        X.sum_duplicates()
        values, columns = (self.library.to_device(numbers) for numbers in (X.data, X.indices))
        return self.library.sparse_array(values, columns, X.indptr, X.shape[1])

    def _matmul(self, A: Array, B: Array, out: Array) -> Array:
        # dot writes where it is told to, while matmul copies its result there
        if out.flags.c_contiguous and A.dtype == B.dtype == out.dtype:
            self.xp.dot(A, B, out=out)
        else:
            out[...] = A @ B
        return out

    def _cholesky_of(self, A: Array) -> Array | None:
        # without this a matrix that is not positive definite would give numbers that mean nothing
        with self._library.cupyx.errstate(linalg="raise"):
            return super()._cholesky_of(A)

    def _triangular_inverse(self, L: Array) -> Array:
        from cupyx.scipy.linalg import solve_triangular

        result: Array = solve_triangular(L, self.xp.eye(len(L), dtype=L.dtype), lower=True)
        return result

    def solve_triangular(self, L: Array, b: Array, *, transposed: bool) -> Array:
        """Solution of L x = b, or of its transpose."""
        from cupyx.scipy.linalg import solve_triangular

        result: Array = solve_triangular(L, b, trans="T" if transposed else "N", lower=True)
        return result


def _round_factors(cupy: Any, device: int, *, tf32: bool) -> None:
    """Let products of float32 take TF32, or leave that to cupy, whose CUPY_TF32 may ask for it."""
    from cupy._core import _routines_linalg as products

    if tf32 and int(cupy.cuda.Device(device).compute_capability) < _FIRST_WITH_TF32:
        raise ConfigError(f"run.dtype = tf32: GPU {device} has no TF32, which came with compute capability 8.0")
    cupy._core.set_compute_type(np.float32, products.COMPUTE_TYPE_TF32 if tf32 else products.COMPUTE_TYPE_TBD)
