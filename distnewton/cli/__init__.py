"""The command line."""

import gc
import os

# pydantic's plugins are not needed; to find them, each rank would open a file of every installed package
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
_COLLECTOR = gc.get_threshold()
# objects made at the start live to the end; collecting garbage among them would take a tenth of the start-up time
gc.set_threshold(1_000_000)


def end_start() -> None:
    """Turn garbage collection back on as a command begins, except for objects made at the start."""
    if gc.get_threshold() != _COLLECTOR:
        gc.freeze()
        gc.set_threshold(*_COLLECTOR)
