"""Sphinx extension: formulas as MathML, which browsers show by themselves: no script, no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.errors import SphinxError


def setup(app: Any) -> dict[str, bool]:
    """Register as a renderer of formulas."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True}


def inline(writer: Any, node: nodes.math) -> None:
    """A formula in a line."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    """A formula on lines of its own."""
    writer.body.append(f'<div class="math">{convert(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def convert(tex: str, *, as_block: bool = False) -> str:
    """MathML of a formula; one that cannot be converted is an error."""
    # sizes of brackets are the browser's business
    plain = re.sub(r"\\mathrel\{(.)\}", r"\1", re.sub(r"\\[Bb]ig(?![a-z])", "", tex))
    if "\\\\" in plain and "\\begin" not in plain:
        plain = f"\\begin{{aligned}}{plain}\\end{{aligned}}"
    try:
        return latex2mathml.tex2mathml(plain, as_block=as_block)
    except MathError as error:
        raise SphinxError(f"a formula cannot be written as MathML: {error}: {tex}") from None
