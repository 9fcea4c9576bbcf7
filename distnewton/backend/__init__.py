"""One interface to all array libraries: numerical code names none of them.

:class:`Backend` uses numpy on the CPU; a GPU's backend has the same interface (:mod:`~distnewton.backend.gpu`).
"""

from distnewton.backend.arrays import (
    Array,
    add_scaled,
    is_packed,
    is_sparse,
    library_of,
    like,
    namespace,
    on_device,
    scalar,
    scale_and_add,
    take_rows,
    to_host,
    update,
    vecdot,
)
from distnewton.backend.cpu import SYSTEM_ADVICE, Backend, load_lapack

__all__ = [
    "SYSTEM_ADVICE",
    "Array",
    "Backend",
    "add_scaled",
    "is_packed",
    "is_sparse",
    "library_of",
    "like",
    "load_lapack",
    "namespace",
    "on_device",
    "scalar",
    "scale_and_add",
    "take_rows",
    "to_host",
    "update",
    "vecdot",
]
