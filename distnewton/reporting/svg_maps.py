"""Pictures that are no curves: heat maps, bars of parts, and who owns which block."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from distnewton.parallel.partition import Partition
from distnewton.reporting.svg import N_COLOURS, label, legend, picture, text

Matrix = Sequence[Sequence[float | None]]
_LABEL_LETTER, _TITLE_LETTER = 6.6, 8.0
_MOST_CELLS = 96


def heat_map(
    title: str,
    values: Matrix,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    row_label: str,
    column_label: str,
    marks: Sequence[Sequence[bool]] = (),
    number: str = "",
    tips: Sequence[Sequence[str]] = (),
    square: bool = False,
    root: bool = False,
) -> str:
    """Values as the strength of a colour.

    Parameters
    ----------
    title : str
        What is shown, with its unit.
    values : sequence of sequence of float or None
        By row and column; None stays empty.
    rows, columns : sequence of str
        Their names; so many are shown as there is room for.
    row_label, column_label : str
        What rows and columns are.
    marks : sequence of sequence of bool
        Cells that get a dot.
    number : str
        How values are written into cells that have room for them; those that are 0 then are not.
    tips : sequence of sequence of str
        What the pointer shows over a cell.
    square : bool
        Whether cells are as high as they are wide.
    root : bool
        Whether the strength is the root of the value, so that small ones are seen.

    Returns
    -------
    str
        SVG.
    """
    n_rows, n_columns = len(values), len(columns)
    shown = [_short(name, 24) for name in rows]
    left = 26 + max([*(_LABEL_LETTER * len(name) for name in shown), 12.0])
    cell = min(34.0, max(4.0, 760.0 / n_columns))
    cell_height = cell if square else min(24.0, max(5.0, 380.0 / n_rows))
    width, top = max(300.0, left + cell * n_columns + 74, _TITLE_LETTER * len(title)), 34.0
    names_below = _short_all(columns)
    slanted = any(_LABEL_LETTER * len(name) > cell * _stride(names_below, cell) for name in names_below)
    below = 14 + (0.75 * _LABEL_LETTER * max(map(len, names_below)) if slanted else 12)
    height = top + cell_height * n_rows + below + 14
    most = max((value for row in values for value in row if value is not None), default=0.0)
    parts = []
    for i, row in enumerate(values):
        y = top + i * cell_height
        for j, value in enumerate(row):
            if value is None:
                continue
            x, strength = left + j * cell, 0.0 if most <= 0 else (value / most) ** (0.5 if root else 1.0)
            tip = tips[i][j] if tips else f"{row_label} {rows[i]}, {column_label} {columns[j]}: {label(value)}"
            parts.append(
                f'<rect class="heat" x="{x:.1f}" y="{y:.1f}" width="{cell - 0.6:.1f}" height="{cell_height - 0.6:.1f}" '
                f'fill-opacity="{0.04 + 0.96 * strength:.3f}"><title>{escape(tip)}</title></rect>'
            )
            content = number.format(value) if number else ""
            if content.strip("0.") and cell >= 14 and 5.6 * len(content) <= cell:
                kind = "cell strong" if strength > 0.5 else "cell"
                parts.append(text(x + cell / 2 - 0.3, y + cell_height / 2 + 3.4, content, kind, "middle"))
            if marks and marks[i][j]:
                radius = max(1.2, min(3.0, 0.2 * min(cell, cell_height)))
                kind = "mark strong" if strength > 0.5 else "mark"
                centre = f'cx="{x + cell / 2:.1f}" cy="{y + cell_height / 2:.1f}"'
                parts.append(f'<circle class="{kind}" {centre} r="{radius:.1f}"/>')
    stride = max(1, math.ceil(12 / cell_height))
    for i in range(0, n_rows, stride):
        parts.append(text(left - 5, top + (i + 0.5) * cell_height + 4, shown[i], "tick", "end"))
    bottom = top + n_rows * cell_height
    stride = 1 if slanted and cell >= 11 else _stride(names_below, cell) if not slanted else math.ceil(12 / cell)
    for j in range(0, n_columns, stride):
        x = left + (j + 0.5) * cell
        if slanted:
            parts.append(
                f'<text class="tick" text-anchor="end" '
                f'transform="translate({x + 4:.1f} {bottom + 11:.1f}) rotate(-50)">'
                f"{escape(names_below[j])}</text>"
            )
        else:
            parts.append(text(x, bottom + 14, names_below[j], "tick", "middle"))
    parts.append(text(left + cell * n_columns / 2, bottom + below + 8, column_label, "tick", "middle"))
    middle = top + n_rows * cell_height / 2
    parts.append(
        f'<text class="tick" text-anchor="middle" transform="translate(11 {middle:.1f}) rotate(-90)">'
        f"{escape(row_label)}</text>"
    )
    parts.append(_scale(left + cell * n_columns + 14, top, max(40.0, min(120.0, n_rows * cell_height)), most, root))
    return picture(width, max(height, top + 70), title, parts)


def _scale(x: float, top: float, height: float, most: float, root: bool) -> str:
    """What the strength of the colour means."""
    steps = 12
    boxes = "".join(
        f'<rect class="heat" x="{x:.1f}" y="{top + height * k / steps:.1f}" width="10" height="{height / steps:.1f}" '
        f'fill-opacity="{0.04 + 0.96 * (1 - (k + 0.5) / steps):.3f}"/>'
        for k in range(steps)
    )
    half = text(x + 14, top + height / 2 + 5, label(most / 4), "tick") if root else ""
    return boxes + text(x + 14, top + 10, label(most), "tick") + half + text(x + 14, top + height, "0", "tick")


def bars(title: str, names: Sequence[str], kinds: Sequence[str], values: Matrix, unit: str) -> str:
    """A bar a name, divided into kinds.

    Parameters
    ----------
    title : str
        What is shown, with its unit.
    names : sequence of str
        Of the bars.
    kinds : sequence of str
        Of the parts, at most twelve.
    values : sequence of sequence of float or None
        By name and kind.
    unit : str
        Of the values, for what the pointer shows.

    Returns
    -------
    str
        SVG.
    """
    width, height = 480.0, 20.0 if len(names) <= 8 else 11.0
    shown = [_short(name, 26) for name in names]
    left = 8 + max(_LABEL_LETTER * len(name) for name in shown)
    most = max(sum(value or 0.0 for value in row) for row in values) or 1.0
    scale = (width - left - 76) / most
    rows, room = legend([(kind, _swatch(k)) for k, kind in enumerate(kinds)], 16, width)
    top = 34 + room
    parts = [rows]
    for i, row in enumerate(values):
        x, y = left, top + i * (height + 4)
        parts.append(text(left - 5, y + height / 2 + 4, shown[i], "tick", "end"))
        for k, value in enumerate(row):
            size = scale * (value or 0.0)
            if size > 0.0:
                tip = escape(f"{names[i]}, {kinds[k]}: {value:.4g} {unit}")
                parts.append(
                    f'<rect class="f{k % N_COLOURS}{" second" if k >= N_COLOURS else ""}" x="{x:.1f}" y="{y:.1f}" '
                    f'width="{max(0.3, size - 0.8):.1f}" height="{height:.0f}"><title>{tip}</title></rect>'
                )
            x += size
        parts.append(text(x + 5, y + height / 2 + 4, f"{label(sum(v or 0.0 for v in row))} {unit}", "tick"))
    return picture(width, top + len(values) * (height + 4) + 6, title, parts)


def _swatch(k: int) -> Callable[[float, float], str]:
    kind = f'f{k % N_COLOURS}{" second" if k >= N_COLOURS else ""}'
    return lambda x, y: f'<rect class="{kind}" x="{x:.1f}" y="{y - 10:.1f}" width="11" height="11"/>'


def process_grid(title: str, partition: Partition, ranks: Sequence[str]) -> str:
    """Each layer's weight matrix, cut into blocks with the rank that owns each.

    Parameters
    ----------
    title : str
        What is shown.
    partition : Partition
        Who owns what.
    ranks : sequence of str
        What is known of each rank, for the pointer.

    Returns
    -------
    str
        SVG; empty where a layer has too many blocks to be drawn.
    """
    if max(partition.splits) > _MOST_CELLS:
        return ""
    side = 150.0
    x, top, parts, height = 8.0, 62.0, [], 0.0
    for layer in range(1, partition.n_layers + 1):
        n_in, n_out = partition.grid_shape(layer)
        names = [_range(partition.group(layer - 1, i)) for i in range(n_in)]
        left = x + 8 + max(_LABEL_LETTER * len(name) for name in names)
        # groups have names where their boxes are high and wide enough
        cell_width, cell_height = max(side, min(360.0, 58.0 * n_out)) / n_out, max(side, min(420.0, 16.0 * n_in)) / n_in
        widths = f"layer {layer}: {partition.widths[layer - 1]:,} → {partition.widths[layer]:,}"
        parts.append(text(left, top - 22, widths, "strong-tick"))
        for i in range(n_in):
            y = top + i * cell_height
            if cell_height >= 11:
                parts.append(text(left - 5, y + cell_height / 2 + 4, names[i], "tick", "end"))
            for j in range(n_out):
                rank = partition.owner(layer, i, j)
                block = partition.block(layer, rank)
                n_params = 0 if block is None else block.n_params
                tip = f"layer {layer}, block ({i}, {j}): rank {rank}, {n_params:,} variables. {ranks[rank]}"
                bx = left + j * cell_width
                parts.append(
                    f'<rect class="block f{rank % N_COLOURS}{" second" if rank // N_COLOURS % 2 else ""}" '
                    f'x="{bx:.1f}" y="{y:.1f}" width="{cell_width - 1.5:.1f}" height="{cell_height - 1.5:.1f}">'
                    f"<title>{escape(tip)}</title></rect>"
                )
                name = f"rank {rank}" if cell_width >= 44 else str(rank)
                if cell_height >= 12 and cell_width >= _LABEL_LETTER * len(name):
                    kind = "owner inked" if rank // N_COLOURS % 2 else "owner"
                    parts.append(text(bx + cell_width / 2, y + cell_height / 2 + 4, name, kind, "middle"))
        for j in range(n_out):
            name = _range(partition.group(layer, j))
            if _LABEL_LETTER * len(name) <= cell_width + 2:
                parts.append(text(left + (j + 0.5) * cell_width, top - 6, name, "tick", "middle"))
        height = max(height, top + n_in * cell_height)
        x = max(left + n_out * cell_width, left + 150) + 24
    return picture(max(x, _TITLE_LETTER * len(title)), height + 10, title, parts)


def _range(span: tuple[int, int]) -> str:
    """Units of a group, counted from 0, as 0-149; a dash for none."""
    start, stop = span
    return "none" if start == stop else f"{start}" if stop == start + 1 else f"{start}-{stop - 1}"


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _short_all(names: Sequence[str]) -> list[str]:
    return [_short(name) for name in names]


def _stride(names: Sequence[str], cell: float) -> int:
    """Every so manieth name has room beside the next; numbers that go up are thinned out."""
    if not all(name.replace("-", "").isdigit() for name in names):
        return 1
    return max(1, math.ceil((_LABEL_LETTER * max(map(len, names)) + 4) / cell))
