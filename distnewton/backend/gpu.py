"""cupy on a GPU. Neither this module nor cupy is imported unless a run asks for a GPU."""

from __future__ import annotations

from dataclasses import field
from functools import cache
from typing import Any

import numpy as np

from distnewton.backend.arrays import Array, DeviceLibrary, Library, is_sparse, on_device, register
from distnewton.backend.device import DeviceBackend
from distnewton.errors import ConfigError, MissingExtraError
from distnewton.frozen import frozen

_FIRST_WITH_TF32 = 80
INSTALL = "pip install 'distnewton[gpu]'"


class CupyLibrary(DeviceLibrary):
    """The library of cupy's arrays.

    Parameters
    ----------
    cupy, cupyx : module
        The imported modules.
    """

    name = "cupy"

    def __init__(self, cupy: Any, cupyx: Any) -> None:
        self.xp, self.cupyx = cupy, cupyx
        self._kernels: dict[str, Any] = {}
        # one kernel, without temporary arrays in float64
        self._dot = cupy.ReductionKernel(
            "T x, T y", "float64 z", "(double)x * (double)y", "a + b", "z = a", "0", "dot64", reduce_type="double"
        )

    def to_host(self, array: Any) -> Array:
        """Return a numpy array of the same values."""
        # keep the memory order, which determines how products round
        result: Array = array.get() if is_sparse(array) else array.get(order="A")
        return result

    def to_device(self, values: Array) -> Any:
        """Return a cupy array with the values of a numpy array."""
        return self.xp.asarray(values)

    def scalar(self, value: Any) -> float:
        """Wait for the result of a reduction and return it."""
        return float(value.get())

    def dot(self, x: Any, y: Any) -> float:
        """Compute the inner product of two vectors, accumulated in float64."""
        return self.scalar(self._dot(x, y))

    def update(self, target: Any, expression: str, **others: Any) -> Any:
        """Overwrite an array by an expression of itself and others, in one kernel."""
        # Python numbers take the type of the arrays
        given = [value if isinstance(value, self.xp.ndarray) else float(value) for value in others.values()]
        return self._kernel(expression, *others)(target, *given, target)

    def vecdot(self, x: Any, y: Any) -> Any:
        """Compute inner products along the last axis."""
        return (x * y).sum(axis=-1)

    def download(self, array: Any, out: Array) -> None:
        """Copy a contiguous array into a numpy array; on return the copy is complete."""
        array.get(out=out)

    def upload(self, values: Array, out: Any) -> None:
        """Copy a numpy array into a contiguous array; on return the source may be overwritten."""
        out.set(values)
        # a copy from pinned memory continues after the call
        self.synchronize()

    def pinned(self, n_bytes: int) -> Array:
        """Allocate page-locked host memory."""
        result: Array = self.cupyx.empty_pinned((n_bytes,), np.uint8)
        return result

    def synchronize(self) -> None:
        """Wait until all work of the current stream is done."""
        self.xp.cuda.get_current_stream().synchronize()

    def sparse_rows(self, X: Any, start: int, stop: int) -> Any:
        """Return consecutive rows; reads the offsets from their host copy."""
        offsets = self.row_offsets(X)
        first, last = (int(offsets[i]) for i in (start, stop))
        parts = X.data[first:last], X.indices[first:last], X.indptr[start : stop + 1] - first
        return self._rows(parts, offsets[start : stop + 1] - first, X.shape[1])

    def row_offsets(self, X: Any) -> Array:
        """Return the start of each row among the values, on the host."""
        if not hasattr(X, "offsets"):
            # rows selected individually, as in a mini-batch, have no host copy yet
            X.offsets = X.indptr.get()
        result: Array = X.offsets
        return result

    def sparse_array(self, values: Any, columns: Any, offsets: Array, n_columns: int) -> Any:
        """Make sparse rows of cupy from values and columns, none twice in a row."""
        # cupy takes the wider of two types, for which cuSPARSE has fewer functions
        fits = offsets[-1] <= np.iinfo(columns.dtype).max
        there = self.to_device(offsets.astype(columns.dtype, copy=False) if fits else offsets)
        return self._rows((values, columns, there), offsets, n_columns)

    def _kernel(self, expression: str, *names: str) -> Any:
        """Return the kernel of an expression of x and other names, made at its first use."""
        if expression not in self._kernels:
            inputs = ", ".join(f"T {name}" for name in ("x", *names))
            name = f"update{len(self._kernels)}"
            self._kernels[expression] = self.xp.ElementwiseKernel(inputs, "T result", f"result = {expression}", name)
        return self._kernels[expression]

    def _rows(self, parts: tuple[Any, Any, Any], offsets: Array, n_columns: int) -> Any:
        """Make sparse rows from values, columns and offsets, with the offsets also on the host."""
        result = self.cupyx.scipy.sparse.csr_matrix(parts, shape=(len(offsets) - 1, n_columns))
        result.offsets = offsets
        # otherwise each product would search for duplicates first
        result.has_canonical_format = True
        return result


@cache
def cupy_library() -> CupyLibrary:
    """Import cupy and register it for :func:`~distnewton.backend.namespace`.

    Returns
    -------
    CupyLibrary

    Raises
    ------
    MissingExtraError
        If cupy is not installed.
    ConfigError
        If cupy is installed but cannot be imported.
    """
    try:
        import cupy
        import cupyx
        import cupyx.scipy.sparse as sparse
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise MissingExtraError("run.device = gpu", "gpu") from None
        # cupy's own message fills a screen; the first error has the cause
        cause: BaseException = error
        while (before := cause.__cause__ or cause.__context__) is not None:
            cause = before
        raise ConfigError(f"cupy is installed, but importing it fails: {' '.join(str(cause).split())}") from None
    library = CupyLibrary(cupy, cupyx)
    kinds = [getattr(sparse, name) for name in ("csr_matrix", "csc_matrix", "coo_matrix")]
    register(library, cupy.ndarray, *kinds)
    return library


def count_gpus() -> tuple[int, str]:
    """Count the GPUs visible to this process, or say why there are none.

    Returns
    -------
    int
        Number of GPUs; 0 also if cupy is missing.
    str
        Reason if there are none, else empty.
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


@frozen
class CupyBackend(DeviceBackend):
    """cupy arrays of one floating-point type, on one GPU.

    Attributes
    ----------
    device : int
        Number of the GPU among those visible to this process.
    pool_bytes : int or None
        GPU memory that arrays may occupy; more raises an error that says so.
    tf32 : bool
        Whether the factors of float32 products are rounded to TF32.
    """

    device: int = 0
    pool_bytes: int | None = None
    tf32: bool = False
    _library: CupyLibrary = field(default_factory=cupy_library, repr=False, compare=False)

    @classmethod
    def on(cls, device: int, dtype: str, share: float, *, tf32: bool) -> CupyBackend:
        """Claim a GPU and a share of its free memory for this process, which makes its arrays there from now on."""
        cupy = cupy_library().xp
        cupy.cuda.Device(device).use()
        _round_factors(cupy, device, tf32=tf32)
        free, _ = cupy.cuda.runtime.memGetInfo()
        backend = cls(np.dtype(dtype), device, int(share * free), tf32)
        cupy.get_default_memory_pool().set_limit(size=backend.pool_bytes)
        return backend

    @property
    def library(self) -> Library:
        """Library of cupy."""
        return self._library

    @property
    def memory_limit(self) -> int | None:
        """Bytes of GPU memory that arrays may occupy."""
        return self.pool_bytes

    @property
    def description(self) -> str:
        """Description of the GPU."""
        properties = self.xp.cuda.runtime.getDeviceProperties(self.device)
        products = ", TF32" if self.tf32 else ""
        return f"GPU {self.device}, {properties['name'].decode()}, cupy {self.xp.__version__}{products}"

    def features(self, X: Any) -> Any:
        """Move dense or sparse features of numpy and scipy to the GPU."""
        if on_device(X):
            return X
        if not is_sparse(X):
            return self.asarray(X)
        X.sum_duplicates()
        values, columns = (self.library.to_device(numbers) for numbers in (X.data, X.indices))
        return self.library.sparse_array(values, columns, X.indptr, X.shape[1])

    def _matmul(self, A: Array, B: Array, out: Array) -> Array:
        # dot writes to out directly, while matmul copies its result there
        if out.flags.c_contiguous and A.dtype == B.dtype == out.dtype:
            self.xp.dot(A, B, out=out)
        else:
            out[...] = A @ B
        return out

    def _cholesky_of(self, A: Array) -> Array | None:
        # otherwise a matrix that is not positive definite would give meaningless numbers
        with self._library.cupyx.errstate(linalg="raise"):
            return super()._cholesky_of(A)

    def _triangular_inverse(self, L: Array) -> Array:
        from cupyx.scipy.linalg import solve_triangular

        result: Array = solve_triangular(L, self.xp.eye(len(L), dtype=L.dtype), lower=True)
        return result

    def solve_triangular(self, L: Array, b: Array, *, transposed: bool) -> Array:
        """Solve L x = b, or L^T x = b."""
        from cupyx.scipy.linalg import solve_triangular

        result: Array = solve_triangular(L, b, trans="T" if transposed else "N", lower=True)
        return result


def _round_factors(cupy: Any, device: int, *, tf32: bool) -> None:
    """Make float32 products use TF32, or leave the choice to cupy, which obeys CUPY_TF32."""
    from cupy._core import _routines_linalg as products

    if tf32 and int(cupy.cuda.Device(device).compute_capability) < _FIRST_WITH_TF32:
        raise ConfigError(f"run.dtype = tf32: GPU {device} has no TF32, which came with compute capability 8.0")
    cupy._core.set_compute_type(np.float32, products.COMPUTE_TYPE_TF32 if tf32 else products.COMPUTE_TYPE_TBD)
