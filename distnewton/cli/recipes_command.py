"""The command ``recipes``."""

from __future__ import annotations

import argparse
from pathlib import Path

from distnewton.cli.command import argument, command
from distnewton.cli.results import write_text
from distnewton.config.recipes import locate_recipe, shipped_recipes, summary
from distnewton.data.formats.spool import STANDARD


@command(
    "recipes",
    "list the recipes that come with the package, or print one",
    argument("name", metavar="NAME", nargs="?", help="recipe to print, as a start for your own"),
    first_rank=True,
)
def recipes(options: argparse.Namespace) -> int:
    """List recipes, or print one."""
    if options.name:
        write_text(Path(STANDARD), locate_recipe(options.name).read_text(encoding="utf-8"))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for name, file in shipped_recipes().items():
        table.add_row(name, summary(file))
    Console(highlight=False, markup=False).print(table)
    return 0
