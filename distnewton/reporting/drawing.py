"""Drawing with matplotlib, for the report's page and for files, independent of the user's matplotlib settings."""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

from distnewton.errors import ConfigError, MissingExtraError
from distnewton.frozen import frozen
from distnewton.outputs import whole
from distnewton.reporting.style import LIGHT

N_COLOURS = 6
_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_UNUSED = {"id", "clip-path", _HREF}
_DPI = 72
"""Dots per inch of SVG, at which a point is one pixel of the page."""
_NAMES = {colour: name for name, colour in LIGHT.items()}
_SETTINGS: dict[str, Any] = {
    # keep text as text, and do not let a dollar sign in the name of a run start a formula
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 11.0,
    "axes.labelsize": 11.0, "axes.titlesize": 11.0, "legend.fontsize": 11.0, "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5, "text.color": LIGHT["ink"], "axes.labelcolor": LIGHT["dim"], "xtick.color": LIGHT["dim"],
    "ytick.color": LIGHT["dim"], "axes.edgecolor": LIGHT["dim"], "grid.color": LIGHT["line"], "axes.grid": True,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "xtick.bottom": False, "ytick.left": False, "lines.linewidth": 1.7, "figure.facecolor": "none",
    "axes.facecolor": "none", "savefig.facecolor": "auto",
}  # fmt: skip


@frozen
class Tip:
    """Text that appears when the pointer is over a box of a picture.

    Attributes
    ----------
    axes : matplotlib.axes.Axes
        The axes that the box lies in.
    x, y : tuple of float
        Ends of the box in the axes' coordinates; equal ends mean a point.
    text : str
        The text.
    """

    axes: Any
    x: tuple[float, float]
    y: tuple[float, float]
    text: str


class Picture(Protocol):
    """An object that can be drawn."""

    @property
    def title(self) -> str:
        """What the picture shows, with units."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""

    def draw(self, figure: Any) -> Sequence[Tip]:
        """Draw into an empty figure."""

    def table(self) -> Iterator[Sequence[Any]]:
        """Return the numbers of the picture, with a header first."""


@contextmanager
def drawing(purpose: str) -> Iterator[Any]:
    """Provide the module ``matplotlib.figure``, under matplotlib's default settings and this module's.

    Parameters
    ----------
    purpose : str
        What is drawn, for the message if matplotlib is missing.

    Yields
    ------
    module

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    ConfigError
        If matplotlib cannot be loaded.
    """
    # without a window system the import would fail, and no code here opens a window
    window_system = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.figure
    except ImportError:
        raise MissingExtraError(purpose, "plot") from None
    except Exception as error:  # a settings file that is not text ends the import with an error of its own
        raise ConfigError(f"{purpose} cannot be drawn, since matplotlib does not load: {error}") from None
    finally:
        if window_system is not None:
            os.environ["MPLBACKEND"] = window_system
    defaults: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with warnings.catch_warnings(), matplotlib.rc_context(defaults | _SETTINGS):
        # the browser draws letters that matplotlib's own font lacks
        warnings.simplefilter("ignore")
        yield matplotlib.figure


def clean(text: str, most: int = 60) -> str:
    """Convert a text to one line of limited length that XML can hold."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


@frozen
class Drawn:
    """A picture for a page.

    Attributes
    ----------
    element : str
        An ``svg`` element that refers to nothing outside; the page gives it colours and a font.
    files : dict of str to bytes
        The picture and its numbers as files, by their suffix.
    """

    element: str
    files: dict[str, bytes]


def draw(picture: Picture) -> Drawn:
    """Draw a picture for a page."""
    width, height = picture.size
    with drawing("the pictures of a report") as library:
        figure = library.Figure((width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
        tips = picture.draw(figure)
        svg, png, numbers = io.BytesIO(), io.BytesIO(), io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        boxes = [_tip(tip, height) for tip in tips]
        # the layout takes most of the time, and is shared
        figure.set_layout_engine("none")
        figure.savefig(png, format="png", dpi=2 * _DPI, facecolor="white")
    csv.writer(numbers, lineterminator="\n").writerows(picture.table())
    files = {"svg": svg.getvalue(), "png": png.getvalue(), "csv": numbers.getvalue().encode()}
    return Drawn(_element(picture, files["svg"], boxes), files)


def _element(picture: Picture, svg: bytes, boxes: Sequence[ElementTree.Element]) -> str:
    width, height = picture.size
    root = _plain(ElementTree.fromstring(svg))  # noqa: S314 (matplotlib wrote it)
    root.attrib = {
        "viewBox": f"0 0 {width:.0f} {height:.0f}", "role": "img", "aria-label": clean(picture.title, 200),
        "style": f"max-width:{1.35 * width:.0f}px",
    }  # fmt: skip
    root.extend(boxes)
    return ElementTree.tostring(root, encoding="unicode")


def save(picture: Picture, path: Path, purpose: str) -> None:
    """Draw a picture, with its title above it, into a file.

    Parameters
    ----------
    picture : Picture
        The picture.
    path : Path
        PNG or SVG file to write.
    purpose : str
        What is drawn, for the message if matplotlib is missing.
    """
    width, height = picture.size
    with drawing(purpose) as library:
        figure = library.Figure((width / _DPI, height / _DPI), layout="constrained", facecolor="white")
        picture.draw(figure)
        figure.suptitle(clean(picture.title, 160), fontsize="medium")
        with whole(path) as part:
            figure.savefig(part, dpi=130, format=path.suffix.removeprefix("."))


def _plain(root: ElementTree.Element) -> ElementTree.Element:
    """Strip matplotlib's SVG of names, definitions and links, and take its colours from the page."""
    shapes = {element.get("id"): element for element in root.iter(f"{_SVG}path") if element.get("id")}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{_SVG}defs", f"{_SVG}metadata"}:
                parent.remove(child)
    for element in root.iter():
        element.tail = None
        element.tag = element.tag.removeprefix(_SVG)
        if element.tag == "use":
            shape = shapes[element.get(_HREF, "#")[1:]]
            place = f"translate({element.attrib.pop('x')} {element.attrib.pop('y')})"
            element.tag = "path"
            element.attrib |= {"d": shape.get("d", ""), "transform": place}
        element.attrib = {name: _for_page(name, v) for name, v in element.attrib.items() if name not in _UNUSED}
    return root


def _for_page(name: str, value: str) -> str:
    """Rewrite a style with the page's colours and font, or lengths with few digits."""
    if name == "style":
        return re.sub(r"#[0-9a-f]{6}", _page_colour, re.sub(r"font-family: [^;]*(; )?", "", value))
    return re.sub(r"-?\d+\.\d+", _short_number, value).replace("\n", " ")


def _short_number(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").removesuffix(".")


def _page_colour(match: re.Match[str]) -> str:
    name = _NAMES.get(match[0])
    return f"var(--{name})" if name else match[0]


def _tip(tip: Tip, height: float) -> ElementTree.Element:
    """Make an invisible box, or a disc around a point, that carries the text of a tip."""
    transform = tip.axes.transData.transform
    (x0, y0), (x1, y1) = (transform((x, y)) for x, y in zip(tip.x, tip.y, strict=True))
    left, top = min(x0, x1), height - max(y0, y1)
    if tip.x[0] == tip.x[1]:
        shape = ElementTree.Element("circle", {"class": "tip", "cx": f"{left:.1f}", "cy": f"{top:.1f}", "r": "5"})
    else:
        places = {"x": left, "y": top, "width": abs(x1 - x0), "height": abs(y1 - y0)}
        shape = ElementTree.Element("rect", {"class": "tip"} | {name: f"{v:.1f}" for name, v in places.items()})
    ElementTree.SubElement(shape, "title").text = clean(tip.text, 300)
    return shape
