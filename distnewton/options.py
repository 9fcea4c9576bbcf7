"""Base class of all tables: settings of the configuration and of components, and the heads of files."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 hash in hexadecimal digits."""


class Options(BaseModel):
    """A table of settings, or of a file of this package, that refuses unknown keys and silent conversions.

    Modules of many tables do without ``from __future__ import annotations``: pydantic compiles each annotation that is
    a text, once for every class.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True, defer_build=True)
