"""The command line."""

import gc
import os

# Settings need none of pydantic's plugins, for which each rank would open a file of each installed package.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
_COLLECTOR = gc.get_threshold()
# what a start makes stays to the end, and looking for garbage in it takes a tenth of the start
gc.set_threshold(1_000_000)


def end_start() -> None:
    """Let Python look for garbage as usual, now that a command begins, but not in what the start has made."""
    if gc.get_threshold() != _COLLECTOR:
        gc.freeze()
        gc.set_threshold(*_COLLECTOR)
