"""Pictures as SVG text that takes its colours from the page: curves with axes, readable in light and dark.

Colours are CSS variables and classes (:mod:`~distnewton.reporting.style`), so that one picture serves both. Everything
that is shown is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 34, 46
N_COLOURS = 6
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_MAX_POINTS = 800
_MAX_TIPS = 150
_LEGEND_ROW, _LETTER = 18, 6.4


@dataclass(frozen=True)
class Curve:
    """A curve of a chart.

    Attributes
    ----------
    name : str
        In the legend; empty for none.
    x, y : sequence of float or None
        Points; the curve is broken where one is None or not finite.
    colour : int
        Number of its colour, from 0; dashes differ where colours repeat.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    colour: int = 0


@dataclass(frozen=True)
class Axis:
    """A range of values on a range of pixels.

    Attributes
    ----------
    low, high : float
        Values at its ends; logarithms to base 10 where it is logarithmic.
    start, stop : float
        Pixels there.
    log : bool
        Whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Values at which lines are drawn."""
        if not self.log:
            return linear_ticks(self.low, self.high)
        first, last = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
        if last - first >= 3:
            step = max(1, math.ceil((last - first) / 6))
            return [10.0**k for k in range(first, last + 1, step)]
        if self.high - self.low > 0.9:
            # of few decades their powers alone say little
            found = [10.0**k * factor for k in range(first - 1, last + 1) for factor in (1, 2, 5)]
            return [tick for tick in found if self.low <= math.log10(tick) <= self.high]
        # within a decade powers of ten say little
        decade = 10.0 ** math.floor(self.low)
        found = [decade * k for k in (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30)]
        return [tick for tick in found if self.low - 1e-9 <= math.log10(tick) <= self.high + 1e-9]


def linear_ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Round values in a range, about n of them.

    Parameters
    ----------
    low, high : float
        The range.
    n : int
        How many are wanted.

    Returns
    -------
    list of float
    """
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / n))
    step = next(k * power for k in (1, 2, 2.5, 5, 10) if span / (k * power) <= n + 1)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def label(value: float) -> str:
    """A number as short as it can be."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2g}".split("e") if "e" in f"{value:.2g}" else f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A whole picture with its title, which is also what readers of screens say.

    Parameters
    ----------
    width, height : float
        Pixels, before the page scales it.
    title : str
        What it shows, with units.
    parts : sequence of str
        SVG elements.

    Returns
    -------
    str
    """
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width * 1.35:.0f}px">{text(2, 16, title, "title")}{"".join(parts)}</svg>'
    )


def chart(title: str, x_label: str, curves: Sequence[Curve], *, log: bool = False, zero: bool = False) -> str:
    """Curves over a common axis.

    Parameters
    ----------
    title : str
        What the values are, with their unit.
    x_label : str
        What they are shown against.
    curves : sequence of Curve
        The curves; those without a single value are left out.
    log : bool
        Whether values are on a logarithmic scale; ones that are not positive are left out.
    zero : bool
        Whether 0 is in the range.

    Returns
    -------
    str
        SVG; empty where there is no value at all.
    """
    drawn = [(curve, _segments(curve, log=log)) for curve in curves]
    drawn = [(curve, segments) for curve, segments in drawn if segments]
    if not drawn:
        return ""
    points = [point for _, segments in drawn for segment in segments for point in segment]
    legend = _legend([curve for curve, _ in drawn])
    top = _TOP + legend[1]
    height = HEIGHT + legend[1]
    x = _axis([p[0] for p in points], _LEFT, WIDTH - _RIGHT, log=False)
    y = _axis([p[1] for p in points] + ([0.0] if zero else []), height - _BOTTOM, top, log=log)
    parts = [legend[0], *_frame(x, y, x_label, height, top)]
    for curve, segments in drawn:
        parts += _drawn(curve, segments, x, y)
    return picture(WIDTH, height, title, parts)


def scatter(title: str, x_label: str, xs: Sequence[float], ys: Sequence[float], line: str) -> str:
    """Points over two axes.

    Parameters
    ----------
    title, x_label : str
        What the values are, and against what.
    xs, ys : sequence of float
        Points.
    line : {"diagonal", "zero"}
        What is right: the same value, or 0.

    Returns
    -------
    str
        SVG.
    """
    both = [*xs, *ys] if line == "diagonal" else [*xs]
    x = _axis(both, _LEFT, WIDTH - _RIGHT, log=False)
    y = _axis(both if line == "diagonal" else [*ys, 0.0], HEIGHT - _BOTTOM, _TOP, log=False)
    dots = "".join(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.2"/>' for a, b in zip(xs, ys, strict=True))
    ends = (y(x.low), y(x.high)) if line == "diagonal" else (y(0.0), y(0.0))
    right = f'<path class="right" d="M{x.start:.1f} {ends[0]:.1f} L{x.stop:.1f} {ends[1]:.1f}"/>'
    return picture(WIDTH, HEIGHT, title, [*_frame(x, y, x_label, HEIGHT, _TOP), f'<g class="dots">{dots}</g>', right])


def _segments(curve: Curve, *, log: bool) -> list[list[tuple[float, float]]]:
    """Unbroken parts of a curve, thinned out where there are more points than pixels."""
    stride = max(1, len(curve.x) // _MAX_POINTS)
    pairs = list(zip(curve.x, curve.y, strict=True))
    pairs = [*pairs[::stride], *(pairs[-1:] if (len(pairs) - 1) % stride else [])]
    segments: list[list[tuple[float, float]]] = [[]]
    for a, b in pairs:
        if a is None or b is None or not math.isfinite(a) or not math.isfinite(b) or (log and b <= 0.0):
            segments.append([])
        else:
            segments[-1].append((a, b))
    return [segment for segment in segments if segment]


def _axis(values: Sequence[float], start: float, stop: float, *, log: bool) -> Axis:
    """An axis that holds all values, with a margin."""
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = 0.5 if log else max(1e-9, 0.5 * abs(high), 0.5 if high == 0 else 0.0)
        low, high = low - margin, high + margin
    margin = 0.03 * (high - low)
    return Axis(low - margin, high + margin, start, stop, log)


def _frame(x: Axis, y: Axis, x_label: str, height: float, top: float) -> list[str]:
    """Lines, their values, and what the axis is."""
    parts = []
    for tick in y.ticks():
        at = y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f} H{WIDTH - _RIGHT}"/>')
        parts.append(text(_LEFT - 6, at + 4, label(tick), "tick", "end"))
    for tick in x.ticks():
        at = x(tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {top} V{height - _BOTTOM}"/>')
        parts.append(text(at, height - _BOTTOM + 16, label(tick), "tick", "middle"))
    parts.append(f'<path class="axis" d="M{_LEFT} {top} V{height - _BOTTOM} H{WIDTH - _RIGHT}"/>')
    parts.append(text((_LEFT + WIDTH - _RIGHT) / 2, height - 10, x_label, "tick", "middle"))
    return parts


def _stroke(colour: int) -> str:
    dashes = _DASHES[colour // N_COLOURS % len(_DASHES)]
    return f'class="c{colour % N_COLOURS}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def _drawn(curve: Curve, segments: list[list[tuple[float, float]]], x: Axis, y: Axis) -> list[str]:
    """A curve, with its values under the pointer where they are few."""
    parts = []
    for segment in segments:
        path = " L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in segment)
        parts.append(f'<path {_stroke(curve.colour)} fill="none" d="M{path}"/>')
    points = [point for segment in segments for point in segment]
    alone = [segment[0] for segment in segments if len(segment) == 1]
    parts += [f'<circle {_stroke(curve.colour)} cx="{x(a):.1f}" cy="{y(b):.1f}" r="2"/>' for a, b in alone]
    if len(points) <= _MAX_TIPS:
        name = f"{curve.name}: " if curve.name else ""
        for a, b in points:
            tip = escape(f"{name}{b:.6g} at {a:.6g}")
            parts.append(f'<circle class="tip" cx="{x(a):.1f}" cy="{y(b):.1f}" r="5"><title>{tip}</title></circle>')
    return parts


def _legend(curves: Sequence[Curve]) -> tuple[str, float]:
    """Names of the curves under the title, in as many rows as they need, and the room that they take."""
    named = [curve for curve in curves if curve.name]
    if not named:
        return "", 0.0
    return legend([(curve.name, _line(curve)) for curve in named], 28, WIDTH)


def _line(curve: Curve) -> Callable[[float, float], str]:
    """What draws a piece of a curve."""
    return lambda x, y: f'<path {_stroke(curve.colour)} d="M{x:.1f} {y - 4:.1f} h22"/>'


def legend(
    entries: Sequence[tuple[str, Callable[[float, float], str]]], indent: float, width: float
) -> tuple[str, float]:
    """Names with their marks in rows.

    Parameters
    ----------
    entries : sequence of (str, callable)
        Name, and what draws its mark at (x, y).
    indent : float
        Pixels that a mark takes.
    width : float
        Of a row.

    Returns
    -------
    parts : str
        SVG elements, from y = 24 on.
    height : float
        Pixels that all rows take.
    """
    parts: list[str] = []
    x, row = 4.0, 0
    for name, mark in entries:
        shown = name if len(name) <= 44 else f"{name[:43]}…"
        needed = indent + _LETTER * len(shown) + 14
        if x > 4.0 and x + needed > width:
            x, row = 4.0, row + 1
        y = 34 + row * _LEGEND_ROW
        parts += [mark(x, y), text(x + indent, y, shown, "tick")]
        x += needed
    return "".join(parts), (row + 1) * _LEGEND_ROW - 8.0
