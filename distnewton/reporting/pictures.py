"""The kinds of pictures: curves, points, bars, heat maps, and blocks with their owners."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distnewton.frozen import frozen
from distnewton.parallel.partition import Partition
from distnewton.reporting.drawing import N_COLOURS, Tip, clean
from distnewton.reporting.style import LIGHT

_WIDTH, _HEIGHT = 480.0, 270.0
_ROW = 16.0
_LETTER = 6.6
_DASHES = ("-", (0, (7, 3)), (0, (2, 3)), (0, (9, 3, 2, 3)))
_MAX_POINTS = 800
_MAX_TIPS = 150
_MOST_CELLS = 96
_STEPS = 12
_STRONG = 0.55
"""Strength of a colour above which texts in it are as light as the page."""


def colour(k: int) -> str:
    """Return the k-th colour of the palette, which repeats after the last one."""
    return LIGHT[f"c{k % N_COLOURS}"]


def label(value: float, _position: int | None = None) -> str:
    """Write a number as briefly as possible."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def numbers(axis: Any) -> None:
    """Label the ticks of an axis with brief numbers; place a few even within a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(label))


def legend_columns(names: Sequence[str], width: float) -> int:
    """Count the columns of a legend that fit a width in pixels."""
    return max(1, min(len(names), int(width / (44 + _LETTER * max(map(len, names))))))


@frozen
class Curve:
    """A curve of a chart.

    Attributes
    ----------
    name : str
        Name in the legend; empty for none.
    x, y : sequence of float or None
        Points; the curve has a gap where one is None or not finite.
    colour : int
        Number of its colour; dashes differ where colours repeat.
    kind : str
        ``line``; ``faint``, for a line behind others that the legend leaves out; or ``mark``, for points.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    colour: int = 0
    kind: str = "line"

    def points(self, *, log: bool) -> np.ndarray:
        """Return the points as columns, with NaN in gaps, thinned out if they are more than the pixels."""
        points = np.array([self.x, self.y], dtype=float).reshape(2, -1)
        points[1][~np.isfinite(points).all(axis=0) | (log & ~(points[1] > 0.0))] = math.nan
        stride = max(1, points.shape[1] // _MAX_POINTS)
        n = points.shape[1]
        return points[:, sorted({*range(0, n, stride), n - 1} if n else ())]


@frozen
class Chart:
    """Curves over a common axis.

    Attributes
    ----------
    title : str
        What the values are, with their unit.
    x_label : str
        Quantity on the horizontal axis.
    curves : sequence of Curve
        The curves; those without any value are left out.
    log : bool
        Whether the scale of the values is logarithmic; values that are not positive are then left out.
    zero : bool
        Whether the range includes 0.
    linear_x : float or None
        Value above which the horizontal axis is logarithmic; None for a linear axis.
    nought : float or None
        Where values of 0 stand on a logarithmic scale; None for nowhere.
    """

    title: str
    x_label: str
    curves: Sequence[Curve]
    log: bool = False
    zero: bool = False
    linear_x: float | None = None
    nought: float | None = None

    def __bool__(self) -> bool:
        """Whether there is a value to draw."""
        return any(np.isfinite(curve.points(log=self.log)[1]).any() for curve in self.curves)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        names = [curve.name for curve in self.curves if curve.name and curve.kind != "faint"]
        rows = math.ceil(len(names) / legend_columns(names, _WIDTH)) if names else 0
        return _WIDTH, _HEIGHT + _ROW * rows

    def table(self) -> Iterator[Sequence[Any]]:
        """The points of all curves."""
        yield "curve", self.x_label, self.title
        for curve in self.curves:
            yield from ((curve.name, x, y) for x, y in zip(curve.x, curve.y, strict=True))

    def draw(self, figure: Any) -> list[Tip]:
        """Draw the curves, with a legend above them."""
        axes = figure.subplots()
        tips = self.draw_on(axes)
        add_legend(figure, axes, _WIDTH)
        return tips

    def draw_on(self, axes: Any) -> list[Tip]:
        """Draw the curves into axes."""
        tips = [tip for curve in self.curves for tip in self._draw_curve(axes, curve)]
        self._scale(axes)
        axes.set_xlabel(self.x_label)
        return tips

    def _draw_curve(self, axes: Any, curve: Curve) -> list[Tip]:
        x, y = curve.points(log=self.log)
        there = np.isfinite(y)
        if not there.any():
            return []
        # a point between gaps would make no line
        alone = there & ~np.r_[False, there[:-1]] & ~np.r_[there[1:], False]
        styles: dict[str, dict[str, Any]] = {
            "line": {"ls": _DASHES[curve.colour // N_COLOURS % len(_DASHES)]},
            "faint": {"lw": 1.0, "alpha": 0.4},
            "mark": {"ls": "none", "marker": "o", "ms": 7.0, "mfc": "none", "mew": 1.6},
        }
        name = "" if curve.kind == "faint" else clean(curve.name, 44)
        axes.plot(x, y, c=colour(curve.colour), label=name or None, **styles[curve.kind])
        if curve.kind == "line":
            axes.plot(x[alone], y[alone], "o", c=colour(curve.colour), ms=3.5)
        if there.sum() > _MAX_TIPS:
            return []
        start = f"{curve.name}: " if curve.name else ""
        points = zip(x[there].tolist(), y[there].tolist(), strict=True)
        return [Tip(axes, (a, a), (b, b), f"{start}{b:.6g} at {a:.6g}") for a, b in points]

    def _scale(self, axes: Any) -> None:
        """Set the scales and labels of both axes."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        low, high = axes.dataLim.intervaly
        if self.log and 0.0 < low <= high:
            self._scale_by_decades(axes, low, high)
        elif self.zero:
            axes.update_datalim([(axes.dataLim.x0, 0.0)])
            axes.autoscale_view()
        if self.linear_x is None:
            whole = self.x_label.startswith("iteration")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole, steps=[1, 2, 5, 10]))
        else:
            axes.set_xscale("symlog", linthresh=self.linear_x)
        axes.xaxis.set_major_formatter(FuncFormatter(label))
        axes.yaxis.set_major_formatter(FuncFormatter(self._label_value))

    def _scale_by_decades(self, axes: Any, low: float, high: float) -> None:
        """Set a logarithmic scale with a few ticks; within two decades, powers of ten alone would be too few."""
        from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

        axes.set_yscale("log")
        fine = LogLocator(subs=(1.0, 2.0, 5.0), numticks=9) if high < 100 * low else LogLocator(numticks=7)
        # around a single value the axis spans two decades
        locator: Any = MaxNLocator(5) if low < high < 5 * low else fine
        if self.nought is not None:
            above = [tick for tick in locator.tick_values(low, high) if tick > 1.5 * self.nought]
            locator = FixedLocator([self.nought, *above])
        axes.yaxis.set_major_locator(locator)
        axes.yaxis.set_minor_locator(NullLocator())

    def _label_value(self, value: float, _position: int | None = None) -> str:
        """A value as text; what stands for 0 is called so."""
        return "0" if self.nought is not None and math.isclose(value, self.nought) else label(value)


@frozen
class Panels:
    """Charts in rows of two under a common title, with the legend of the last one.

    Attributes
    ----------
    title : str
        What they show.
    charts : sequence of Chart
        The charts, by row.
    size : tuple of float
        Width and height in pixels.
    """

    title: str
    charts: Sequence[Chart]
    size: tuple[float, float] = (680.0, 480.0)

    def table(self) -> Iterator[Sequence[Any]]:
        """The points of all charts."""
        for chart in self.charts:
            yield from chart.table()

    def draw(self, figure: Any) -> list[Tip]:
        """Draw the charts."""
        for axis, chart in zip(figure.subplots(len(self.charts) // 2, 2).flat, self.charts, strict=True):
            chart.draw_on(axis)
            axis.set_title(clean(chart.title), loc="left")
        if any(curve.name for curve in self.charts[-1].curves):
            axis.legend(fontsize="small")
        return []


def add_legend(figure: Any, axes: Any, width: float) -> None:
    """Add the names of curves above the axes, if there are names."""
    handles, names = axes.get_legend_handles_labels()
    if names:
        # order the names by rows, since matplotlib fills columns
        n = legend_columns(names, width)
        order = [i for column in range(n) for i in range(column, len(names), n)]
        handles, names = [handles[i] for i in order], [names[i] for i in order]
        figure.legend(handles, names, loc="outside upper left", ncols=n, borderpad=0.0, handlelength=1.8)


@frozen
class Scatter:
    """Points over two axes, with the line on which they should lie.

    Attributes
    ----------
    title, x_label : str
        What the values are, and the quantity on the horizontal axis.
    x, y : sequence of float
        Points.
    diagonal : bool
        Whether the line is the diagonal; otherwise it is at 0.
    """

    title: str
    x_label: str
    x: Sequence[float]
    y: Sequence[float]
    diagonal: bool
    size: tuple[float, float] = (_WIDTH, _HEIGHT)

    def table(self) -> Iterator[Sequence[Any]]:
        """The points."""
        yield self.x_label, self.title
        yield from zip(self.x, self.y, strict=True)

    def draw(self, figure: Any) -> list[Tip]:
        """Draw the points and the line."""
        axes = figure.subplots()
        axes.plot(self.x, self.y, "o", ms=4, mec="none", c=colour(0), alpha=0.45)
        if self.diagonal:
            ends = min(*self.x, *self.y), max(*self.x, *self.y)
            axes.plot(ends, ends, "--", c=LIGHT["ink"], lw=1)
        else:
            axes.axhline(0.0, ls="--", c=LIGHT["ink"], lw=1)
        axes.set_xlabel(self.x_label)
        return []


@frozen
class Bars:
    """A bar for each name, divided into kinds.

    Attributes
    ----------
    title : str
        What is shown, with its unit.
    names : sequence of str
        Names of the bars.
    kinds : sequence of str
        Names of the parts.
    values : sequence of sequence of float
        Values by name and kind.
    unit : str
        Unit of the values.
    colours : sequence of str
        Names of the kinds' colours in the style.
    """

    title: str
    names: Sequence[str]
    kinds: Sequence[str]
    values: Sequence[Sequence[float]]
    unit: str
    colours: Sequence[str]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        rows = math.ceil(len(self.kinds) / legend_columns(self.kinds, _WIDTH))
        return _WIDTH, 24 + _ROW * rows + len(self.names) * (26.0 if len(self.names) <= 8 else 15.0)

    def table(self) -> Iterator[Sequence[Any]]:
        """Return a row for each bar."""
        yield f"{self.title} ({self.unit})", *self.kinds
        yield from ((name, *row) for name, row in zip(self.names, self.values, strict=True))

    def draw(self, figure: Any) -> list[Tip]:
        """Draw the bars, with numbers in the parts that have room, and sums at the ends."""
        axes = figure.subplots()
        tips = []
        # the bars take some three quarters of the width
        pixels = 0.75 * _WIDTH / (max(map(sum, self.values)) or 1.0)
        for k, kind in enumerate(self.kinds):
            for i, row in enumerate(self.values):
                start, end = sum(row[:k]), sum(row[: k + 1])
                axes.barh(i, row[k], left=start, color=LIGHT[self.colours[k]], label=None if i else kind)
                number = f"{row[k]:.3g}"
                if pixels * row[k] > _LETTER * (len(number) + 1):
                    ink = LIGHT["ink" if self.colours[k] == "line" else "owner"]
                    axes.text((start + end) / 2, i, number, color=ink, ha="center", va="center_baseline")
                if row[k] > 0.0:
                    text = f"{self.names[i]}, {kind}: {row[k]:.4g} {self.unit}"
                    tips.append(Tip(axes, (start, end), (i - 0.4, i + 0.4), text))
        for i, row in enumerate(self.values):
            total = f"{label(sum(row))} {self.unit}"
            axes.annotate(total, (sum(row), i), (5, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(self.names)), [clean(name, 26) for name in self.names])
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.margins(x=0.16)
        axes.grid(visible=False)
        axes.spines[["bottom"]].set_visible(False)
        add_legend(figure, axes, _WIDTH)
        return tips


@frozen
class Field:
    """Values over a plane, shown by steps in the strength of a colour.

    Attributes
    ----------
    title : str
        What the values are.
    x, y : sequence of float
        Coordinates to the right and upwards.
    values : Array of shape (len(x), len(y))
        Values at these coordinates.
    """

    title: str
    x: Sequence[float]
    y: Sequence[float]
    values: np.ndarray
    size: tuple[float, float] = (_WIDTH, _HEIGHT)

    def table(self) -> Iterator[Sequence[Any]]:
        """Return a row for each place."""
        yield "x[0]", "x[1]", self.title
        yield from ((self.x[i], self.y[j], value) for (i, j), value in np.ndenumerate(self.values))

    def draw(self, figure: Any) -> list[Tip]:
        """Draw the steps and the key to their colours."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        axes = figure.subplots()
        filled = axes.contourf(
            self.x, self.y, self.values.T, locator=MaxNLocator(_STEPS), cmap=_shades(256), antialiased=True
        )
        bar = figure.colorbar(filled, ax=axes, aspect=18, pad=0.02, format=FuncFormatter(label))
        bar.outline.set_visible(False)
        axes.set(xlabel="x[0]", ylabel="x[1]")
        axes.grid(visible=False)
        return []


def _shades(n: int) -> Any:
    """Make shades of one colour, which read the same on a light and on a dark background."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    weak, strong = ((*to_rgb(LIGHT["heat"]), alpha) for alpha in (0.04, 1.0))
    return LinearSegmentedColormap.from_list("heat", [weak, strong], n)


@frozen
class HeatMap:
    """Values shown by the strength of a colour.

    Attributes
    ----------
    title : str
        What is shown, with its unit.
    values : sequence of sequence of float or None
        Values by row and column; None leaves a cell empty.
    rows, columns : sequence of str
        Their names.
    axes : tuple of str
        What rows and columns are.
    marks : sequence of sequence of bool
        Cells with a dot.
    number : str
        Format of the values in cells that have room; values that would show as 0 are left out.
    tips : sequence of sequence of str
        Texts that appear when the pointer is over a cell.
    square : bool
        Whether cells are square and the strength is the root of the value: in a confusion matrix the values off the
        diagonal are small.
    most : float
        Value of the strongest colour; 0 means the largest value.
    """

    title: str
    values: Sequence[Sequence[float | None]]
    rows: Sequence[str]
    columns: Sequence[str]
    axes: tuple[str, str]
    marks: Sequence[Sequence[bool]] = ()
    number: str = ""
    tips: Sequence[Sequence[str]] = ()
    square: bool = False
    most: float = 0.0

    @property
    def _cell(self) -> tuple[float, float]:
        """Width and height of a cell in pixels."""
        # wide pictures become small on narrow pages
        width = min(34.0 if self.square else 20.0, max(4.0, 760.0 / len(self.columns)))
        return width, width if self.square else min(24.0, max(5.0, 380.0 / len(self.rows)))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        (width, height), rows = self._cell, [clean(name, 24) for name in self.rows]
        left, bottom = 110 + _LETTER * max(map(len, rows)), 44 + (0 if self._flat else self._longest * _LETTER * 0.8)
        return max(300.0, left + width * len(self.columns)), max(110.0, bottom + height * len(self.rows))

    @property
    def _longest(self) -> int:
        return max(len(clean(name, 14)) for name in self.columns)

    @property
    def _flat(self) -> bool:
        """Whether the names of columns are horizontal: short ones, or numbers, which may be thinned out."""
        numbers = all(name.replace("-", "").isdigit() for name in self.columns)
        return numbers or _LETTER * self._longest <= self._cell[0]

    def table(self) -> Iterator[Sequence[Any]]:
        """The cells."""
        yield " / ".join(self.axes), *self.columns
        yield from ((name, *row) for name, row in zip(self.rows, self.values, strict=True))

    def draw(self, figure: Any) -> list[Tip]:
        """Draw the cells and the key to their colours."""
        from matplotlib.colors import PowerNorm
        from matplotlib.ticker import FuncFormatter

        axes = figure.subplots()
        table = np.array(self.values, dtype=float)
        most = self.most or float(np.nanmax(table, initial=0.0)) or 1.0
        norm = PowerNorm(0.5 if self.square else 1.0, 0.0, most)
        # a colour bar of fifty shades would be an image
        cells = axes.pcolormesh(table, cmap=_shades(48), norm=norm, linewidth=0)
        shrink = min(1.0, 120 / self.size[1])
        bar = figure.colorbar(cells, ax=axes, shrink=shrink, aspect=10, anchor=(0.0, 1.0), pad=0.02)
        bar.set_ticks([0.0, most / 4, most] if self.square else [0.0, most], minor=False)
        bar.formatter = FuncFormatter(label)
        bar.outline.set_visible(False)
        self._mark(axes, table, norm(table) > _STRONG)
        self._name(axes)
        return [
            Tip(axes, (j, j + 1), (i, i + 1), self.tips[i][j] if self.tips else self._tip(i, j, value))
            for (i, j), value in np.ndenumerate(table) if math.isfinite(value)
        ]  # fmt: skip

    def _tip(self, i: int, j: int, value: float) -> str:
        return f"{self.axes[0]} {self.rows[i]}, {self.axes[1]} {self.columns[j]}: {label(value)}"

    def _mark(self, axes: Any, table: np.ndarray, strong: np.ndarray) -> None:
        """Draw dots and numbers in cells, in a colour that contrasts with the cell's."""
        width, height = self._cell
        for kind, ink in ((False, LIGHT["ink"]), (True, LIGHT["owner"])):
            if len(self.marks):
                rows, columns = np.nonzero(np.array(self.marks) & np.isfinite(table) & (strong == kind))
                size = max(2.0, min(5.0, 0.35 * min(width, height)))
                axes.plot(columns + 0.5, rows + 0.5, "o", c=ink, ms=size, mec="none")
            for i, j in np.argwhere(np.isfinite(table) & (strong == kind)) if self.number and width >= 14 else ():
                content = self.number.format(table[i, j])
                if content.strip("0.") and 5.6 * len(content) <= width:
                    axes.text(j + 0.5, i + 0.5, content, ha="center", va="center_baseline", size=9.5, color=ink)

    def _name(self, axes: Any) -> None:
        """Write as many names of rows and columns as there is room for."""
        width, height = self._cell
        below = math.ceil(((_LETTER * self._longest + 4) if self._flat else 12) / width)
        if self._flat and not all(name.replace("-", "").isdigit() for name in self.columns):
            below = 1
        beside = math.ceil(12 / height)
        columns, rows = range(0, len(self.columns), below), range(0, len(self.rows), beside)
        turned = {} if self._flat else {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks([j + 0.5 for j in columns], [clean(self.columns[j], 14) for j in columns], **turned)
        axes.set_yticks([i + 0.5 for i in rows], [clean(self.rows[i], 24) for i in rows])
        axes.invert_yaxis()
        axes.set(ylabel=self.axes[0], xlabel=self.axes[1])
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)


@frozen
class BlockMap:
    """The weight matrix of each layer, divided into blocks, with the rank that owns each block.

    Attributes
    ----------
    title : str
        What is shown.
    partition : Partition
        Who owns what.
    ranks : sequence of str
        Text on each rank, for the tips.
    """

    title: str
    partition: Partition
    ranks: Sequence[str]

    def __bool__(self) -> bool:
        """Whether the blocks are few enough to be drawn."""
        return max(self.partition.splits) <= _MOST_CELLS

    def _box(self, layer: int) -> tuple[float, float]:
        """Return width and height of a layer's matrix in pixels."""
        n_in, n_out = self.partition.grid_shape(layer)
        return max(150.0, min(360.0, 58.0 * n_out)), max(150.0, min(420.0, 16.0 * n_in))

    def _spans(self, layer: int) -> list[str]:
        groups = (self.partition.group(layer, i) for i in range(self.partition.splits[layer]))
        return [span(start, stop - 1) for start, stop in groups]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        layers = range(1, self.partition.n_layers + 1)
        names = sum(30 + _LETTER * max(map(len, self._spans(layer - 1))) for layer in layers)
        return names + sum(self._box(layer)[0] for layer in layers), 56 + max(self._box(layer)[1] for layer in layers)

    def table(self) -> Iterator[Sequence[Any]]:
        """Return a row for each block."""
        yield "layer", "inputs", "outputs", "rank"
        for layer in range(1, self.partition.n_layers + 1):
            inputs, outputs = self._spans(layer - 1), self._spans(layer)
            for i, j in np.ndindex(*self.partition.grid_shape(layer)):
                yield layer, inputs[i], outputs[j], self.partition.owner(layer, i, j)

    def draw(self, figure: Any) -> list[Tip]:
        """Draw the matrices side by side."""
        layers = range(1, self.partition.n_layers + 1)
        ratios = [self._box(layer)[0] for layer in layers]
        axes = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        return [tip for layer in layers for tip in self._draw_layer(axes[layer - 1], layer)]

    def _draw_layer(self, axes: Any, layer: int) -> list[Tip]:
        n_in, n_out = self.partition.grid_shape(layer)
        width, height = self._box(layer)[0] / n_out, self._box(layer)[1] / n_in
        tips = [self._draw_block(axes, layer, i, j, width, height) for i, j in np.ndindex(n_in, n_out)]
        above, beside = self._spans(layer), self._spans(layer - 1)
        axes.set(xlim=(0, n_out), ylim=(n_in, 0))
        axes.set_xticks(np.arange(n_out) + 0.5, [name if _LETTER * len(name) <= width + 2 else "" for name in above])
        axes.set_yticks(np.arange(n_in) + 0.5, beside if height >= 11 else [""] * n_in)
        axes.xaxis.tick_top()
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        widths = f"layer {layer}: {self.partition.widths[layer - 1]:,} → {self.partition.widths[layer]:,}"
        axes.set_title(widths, loc="left", weight="bold")
        return tips

    def _draw_block(self, axes: Any, layer: int, i: int, j: int, width: float, height: float) -> Tip:
        """Draw a block in its owner's shade, with the owner's name if these pixels have room."""
        from matplotlib.patches import Rectangle

        rank = self.partition.owner(layer, i, j)
        # a shade for each rank, since the other colours of a page mean runs, sets and phases
        shade = 0.15 + 0.85 * rank / max(1, self.partition.n_ranks - 1)
        axes.add_patch(Rectangle((j, i), 1, 1, fc=(LIGHT["heat"], shade), ec=LIGHT["box"], lw=1.5))
        name = f"rank {rank}" if width >= 48 else str(rank)
        if height >= 12 and width >= _LETTER * len(name):
            ink = LIGHT["owner" if shade > _STRONG else "ink"]
            axes.text(j + 0.5, i + 0.5, name, color=ink, ha="center", va="center_baseline", weight="bold")
        block = self.partition.block(layer, rank)
        n_params = 0 if block is None else block.n_params
        text = f"layer {layer}, block ({i}, {j}): rank {rank}, {n_params:,} variables. {self.ranks[rank]}"
        return Tip(axes, (j, j + 1), (i, i + 1), text)


def span(first: int, last: int) -> str:
    """Write a range of numbers as 0-149, or ``none``."""
    return "none" if first > last else f"{first}" if first == last else f"{first}-{last}"
