"""``python -m distnewton.cli`` is the command ``distnewton``."""

from distnewton.cli.main import console

console()
