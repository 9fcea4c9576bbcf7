"""Base class of all tables of settings, of the configuration and of components."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A table of settings that refuses unknown keys and silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True, defer_build=True)
