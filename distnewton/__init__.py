"""Distributed Newton methods for neural networks on MPI.

Training
    :func:`train`, :class:`Result`, :class:`RunSummary`, :class:`IterationRecord`
Cross validation
    :func:`cross_validate`, :class:`CrossValidation`
Settings
    :class:`Config`, :func:`make_config`, :func:`load_config`
User-defined components
    :func:`register`
Data
    :class:`ArraySource`, :func:`open_data`
Models
    :class:`Model`, :func:`load_model`
Curvature of a model
    :func:`curvature_operator`
Errors
    :class:`DistNewtonError`
Modules that need the extra of the same name
    :mod:`distnewton.sklearn`, :mod:`distnewton.torch`, :mod:`distnewton.onnx`

Names are imported at first use: importing the package starts no MPI and loads no library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distnewton.components import register
    from distnewton.config import Config, load_config, make_config
    from distnewton.data.in_memory import ArraySource
    from distnewton.data.sources import open_data
    from distnewton.errors import DistNewtonError
    from distnewton.method.records import IterationRecord
    from distnewton.models.curvature_operator import curvature_operator
    from distnewton.models.loading import load_model
    from distnewton.models.model import Model
    from distnewton.runs.cross_validation import CrossValidation, cross_validate
    from distnewton.runs.session import Result, RunSummary, train

_HOMES = {
    "train": "distnewton.runs.session",
    "cross_validate": "distnewton.runs.cross_validation",
    "CrossValidation": "distnewton.runs.cross_validation",
    "Result": "distnewton.runs.session",
    "RunSummary": "distnewton.runs.session",
    "IterationRecord": "distnewton.method.records",
    "register": "distnewton.components",
    "Config": "distnewton.config",
    "make_config": "distnewton.config",
    "load_config": "distnewton.config",
    "ArraySource": "distnewton.data.in_memory",
    "open_data": "distnewton.data.sources",
    "Model": "distnewton.models.model",
    "curvature_operator": "distnewton.models.curvature_operator",
    "load_model": "distnewton.models.loading",
    "DistNewtonError": "distnewton.errors",
}

__all__ = [
    "ArraySource",
    "Config",
    "CrossValidation",
    "DistNewtonError",
    "IterationRecord",
    "Model",
    "Result",
    "RunSummary",
    "cross_validate",
    "curvature_operator",
    "load_config",
    "load_model",
    "make_config",
    "open_data",
    "register",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'distnewton' has no attribute {name!r}")
