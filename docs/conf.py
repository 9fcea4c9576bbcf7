"""Settings of Sphinx: `sphinx-build -W -b html docs build/docs`."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "distnewton"
author = copyright = "The distnewton developers"
version = release = installed_version("distnewton")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "reference_pages"]
exclude_patterns = ["_ext", "examples", "pictures"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
# attributes of several classes have the same name; nothing refers to them by it
suppress_warnings = ["ref.python"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
smartquotes = False  # flags begin with two hyphens

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"distnewton {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False


def setup(app: Any) -> None:
    """Docstrings write |S| for a number of samples; outside of formulas that would be a substitution."""
    app.connect("autodoc-process-docstring", _escape_bars)


def _escape_bars(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = [line if "\\" in line else line.replace("|S|", "\\|S\\|") for line in lines]
