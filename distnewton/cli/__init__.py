"""The command line."""

import gc
import os

# Settings need none of pydantic's plugins, for which each rank would open a file of each installed package.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
COLLECTOR = gc.get_threshold()
"""How often Python looks for garbage once a command runs: what a start makes stays, and looking takes a tenth of it."""
gc.set_threshold(1_000_000)
