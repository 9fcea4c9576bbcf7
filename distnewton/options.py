"""The base of all tables of settings, of the configuration and of components."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A table of settings: unknown keys are errors, and values are not converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True, defer_build=True)
