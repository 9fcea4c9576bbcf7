"""Draws the pictures of the pages, each once for light and once for dark pages: `python docs/pictures/draw.py`.

Who owns what comes from the package itself, and what methods reach from `peers.json`, `networks.json` and
`equations.json` in `docs/benchmarks`.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from statistics import median

from distnewton.parallel.partition import Partition

PALETTES = {
    "light": {"ink": "#1b1f24", "dim": "#57606a", "line": "#b8c0c8", "box": "#eef0f3", "on": "#ffffff",
              "ranks": ("#0072b2", "#c75000", "#008060", "#b0478e")},
    "dark": {"ink": "#e8eaed", "dim": "#a3adb8", "line": "#4a535d", "box": "#262b31", "on": "#14171a",
             "ranks": ("#5ab4e8", "#ff9a52", "#33cc9e", "#e79bcb")},
}  # fmt: skip
SUPER, SUB = "⁰¹²³", "₀₁₂₃"
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif"'


class Picture:
    """Shapes on a canvas; lengths in pixels, y downwards."""

    def __init__(self, width: int, height: int, palette: dict[str, object], title: str) -> None:
        self.colors = palette
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'role="img" {FONT}>',
            f"<title>{title}</title>",
        ]

    def color(self, name: str | int) -> str:
        """Color by name, or of a rank."""
        return str(self.colors["ranks"][name] if isinstance(name, int) else self.colors[name])  # type: ignore[index]

    def box(self, x: float, y: float, w: float, h: float, fill: str | int, opacity: float = 1.0) -> None:
        """Filled rectangle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="3" fill="{self.color(fill)}" '
            f'fill-opacity="{opacity:g}"/>'
        )

    def dot(self, x: float, y: float, radius: float, fill: str | int, opacity: float = 1.0) -> None:
        """Filled disc."""
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:g}" r="{radius:g}" fill="{self.color(fill)}" fill-opacity="{opacity:g}"/>'
        )

    def text(self, x: float, y: float, text: str, color: str | int = "ink", size: float = 13, anchor: str = "middle",
             weight: int = 400) -> None:  # fmt: skip
        """Text."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{self.color(color)}" font-size="{size:g}" font-weight="{weight}" '
            f'text-anchor="{anchor}">{text}</text>'
        )

    def line(
        self, points: list[tuple[float, float]], color: str | int = "dim", width: float = 1.5, dash: str = ""
    ) -> None:
        """Polyline."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{self.color(color)}" stroke-width="{width:g}"{extra}/>'
        )

    def cells(self, x: float, y: float, side: float, rows: list[str], fill: str | int) -> None:
        """Square of cells whose digits, 0 to 9, are the strength of a colour; the first row is on top."""
        step = side / len(rows)
        for level in range(1, 10):
            runs = [
                f"M{x + step * run.start():.2f} {y + step * r:.2f}h{step * len(run[0]):.2f}v{step:.2f}"
                f"h{-step * len(run[0]):.2f}z"
                for r, row in enumerate(rows) for run in re.finditer(f"{level}+", row)
            ]  # fmt: skip
            self.parts.append(f'<path d="{"".join(runs)}" fill="{self.color(fill)}" fill-opacity="{level / 9:.2f}"/>')

    def arrow(self, x0: float, y0: float, x1: float, y1: float, color: str | int = "dim") -> None:
        """Line with a head; horizontal or vertical."""
        self.line([(x0, y0), (x1, y1)], color)
        dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        head = [(x1 - 7 * dx - 4 * dy, y1 - 7 * dy - 4 * dx), (x1, y1), (x1 - 7 * dx + 4 * dy, y1 - 7 * dy + 4 * dx)]
        self.line(head, color)

    def finish(self) -> str:
        """The file."""
        return "\n".join([*self.parts, "</svg>", ""])


def blocks(palette: dict[str, object]) -> str:
    """Data and weight matrices of splits 2-2-2-2, with the rank that owns each block."""
    p = Picture(824, 300, palette, "Blocks of a network with splits 2-2-2-2 and the ranks that own them")
    partition = Partition((4, 8, 8, 4), (2, 2, 2, 2))
    owners = {(b.layer, b.i, b.j): rank for rank in range(4) for b in partition.blocks(rank)}
    side, gap, top, left = 132, 60, 88, 232
    p.text(86, 34, "data X", size=15, weight=600)
    p.text(86, 54, "samples × features", "dim", 12)
    for i in range(2):
        p.box(18 + 70 * i, top, 67, side, "box")
        p.text(51 + 70 * i, top + 62, "features", "ink", 12)
        p.text(51 + 70 * i, top + 76, f"group {i}", "ink", 12)
        ranks = sorted({rank for (m, a, _), rank in owners.items() if m == 1 and a == i})
        p.text(51 + 70 * i, top + side + 22, "ranks", "dim", 12)
        p.text(51 + 70 * i, top + side + 38, " ".join(map(str, ranks)), "dim", 12)
    p.arrow(164, top + side / 2, left - 26, top + side / 2)
    for m in range(1, 4):
        x = left + (m - 1) * (side + gap)
        p.text(x + side / 2, 34, f"layer {m}: W{SUPER[m]}", size=15, weight=600)
        p.text(x + side / 2, 54, "inputs × outputs", "dim", 12)
        for j in range(2):
            p.text(x + 33 + 67 * j, top - 8, f"output {j}", "dim", 11)
        for i in range(2):
            p.text(x - 6, top + 38 + 67 * i, f"{i}", "dim", 11, "end")
            for j in range(2):
                rank = owners[m, i, j]
                bx, by = x + 67 * j, top + 67 * i
                p.box(bx, by, 65, 65, rank)
                if i == 0:
                    p.box(bx + 4, by + 4, 57, 12, "on", 0.35)
                    p.text(bx + 32, by + 14, "bias", "on", 10, weight=600)
                p.text(bx + 32, by + 40, f"rank {rank}", "on", 13, weight=600)
                p.text(bx + 32, by + 56, f"block {i}, {j}", "on", 10.5)
        end = x + side + 6
        p.arrow(end, top + side / 2, end + gap - 26, top + side / 2)
        p.text(end + 15, top + side / 2 - 8, "sum", "dim", 11)
    p.text(left + 3 * (side + gap) - 14, top + side / 2 + 5, "Z³", "ink", 15, "start")
    for k, line in enumerate((
        "Block (i, j) takes input group i to output group j. Orientation alternates, so that the",
        "ranks that sum an output group are those that need it as the next layer's input.",
    )):  # fmt: skip
        p.text(left - 10, top + side + 22 + 17 * k, line, "dim", 12, "start")
    return p.finish()


def boundary(palette: dict[str, object]) -> str:
    """One boundary communicator: partial sums forward, partial cotangents backward."""
    p = Picture(800, 380, palette, "The two adjoint sums over a boundary communicator")
    partition = Partition((4, 8, 8, 4), (2, 2, 2, 2))
    owners = {(b.layer, b.i, b.j): rank for rank in range(4) for b in partition.blocks(rank)}
    p.text(150, 26, "layer 1 computes", size=14, weight=600)
    p.text(400, 26, "boundary (1, j)", size=14, weight=600)
    p.text(650, 26, "layer 2 goes on", size=14, weight=600)
    for j in range(2):
        y = 46 + 166 * j
        p.box(330, y, 140, 140, "box")
        p.text(400, y + 40, f"hidden group {j}", size=13, weight=600)
        p.text(400, y + 66, f"S¹{SUB[j]} = sum of parts", size=12.5)
        p.text(400, y + 88, f"Z¹{SUB[j]} = act(S¹{SUB[j]})", size=12.5)
        members = sorted({owners[1, i, j] for i in range(2)} | {owners[2, j, k] for k in range(2)})
        p.text(400, y + 118, f"ranks {members[0]} and {members[1]}", "dim", 12)
        for i in range(2):
            rank, by = owners[1, i, j], y + 72 * i
            p.box(40, by, 220, 64, rank)
            p.text(150, by + 27, f"rank {rank}, block ({i}, {j})", "on", 13, weight=600)
            p.text(150, by + 48, f"Z⁰{SUB[i]} W¹{SUB[i]}{SUB[j]}", "on", 13)
            p.arrow(266, by + 24, 324, by + 24, "ink")
            p.arrow(324, by + 44, 266, by + 44, rank)
        for k in range(2):
            rank, by = owners[2, j, k], y + 72 * k
            p.box(540, by, 220, 64, rank)
            p.text(650, by + 27, f"rank {rank}, block ({j}, {k})", "on", 13, weight=600)
            p.text(650, by + 48, f"Z¹{SUB[j]} W²{SUB[j]}{SUB[k]}", "on", 13)
            p.arrow(476, by + 24, 534, by + 24, "ink")
            p.arrow(534, by + 44, 476, by + 44, rank)
    p.text(40, 368, "→ forward: partial pre-activations are summed.  ← backward: partial cotangents of Z, over "
           "the same ranks.", "dim", 12.5, "start")  # fmt: skip
    return p.finish()


def iteration(palette: dict[str, object]) -> str:
    """Phases of an iteration on four ranks; the direction phase has no messages and ends early."""
    p = Picture(800, 300, palette, "An iteration of block_diagonal on four ranks")
    left, top, row = 78, 62, 46
    phases = (
        ("gradient", 78, 250), ("Jacobian", 256, 356), ("direction", 362, 590), ("combine", 596, 660),
        ("line search", 666, 780),
    )  # fmt: skip
    ends = (500, 462, 572, 566)
    for name, x0, x1 in phases:
        p.text((x0 + x1) / 2, 26, name, size=13.5, weight=600)
        p.line([(x0, 36), (x1, 36)], "line")
    p.text(476, 50, "no messages", "dim", 11.5)
    for rank in range(4):
        y = top + row * rank
        p.text(left - 10, y + 21, f"rank {rank}", "ink", 13, "end")
        for name, x0, x1 in phases:
            end = ends[rank] if name == "direction" else x1
            p.box(x0, y, end - x0, 32, rank, 1.0 if name == "direction" else 0.6)
        p.text(ends[rank] - 8, y + 21, "finished" if rank < 2 else "stopped", "on", 12, "end", 600)
    for x in (120, 164, 207, 250, 289, 322, 356, 593, 660, 704, 742, 780):
        p.line([(x, top - 4), (x, top + 4 * row - 10)], "ink", 1.4, "2 3")
    p.line([(500, top - 6), (500, top + 4 * row - 8)], "ink", 2)
    p.text(500, top + 4 * row + 10, "half have finished: the others end after their CG step", "ink", 12.5)
    note = "Dotted: a sum over a boundary or over all ranks. Steps and times are drawn, not measured."
    p.text(left, 292, note, "dim", 12, "start")
    return p.finish()


def jacobian(palette: dict[str, object]) -> str:
    """The Jacobian of a block is never formed: two thin factors stand for it."""
    p = Picture(800, 264, palette, "A block's Jacobian as two factors")
    p.text(128, 26, "one sample's Jacobian", size=14, weight=600)
    p.text(128, 46, "K outputs × weights: not formed", "dim", 12)
    p.box(28, 66, 200, 120, "box")
    for i in range(1, 5):
        p.line([(28 + 40 * i, 66), (28 + 40 * i, 186)], "line", 1)
    for i in range(1, 3):
        p.line([(28, 66 + 40 * i), (228, 66 + 40 * i)], "line", 1)
    p.text(128, 206, "K × nᵢ nⱼ numbers", "dim", 12)
    p.text(262, 132, "=", size=24)
    p.text(360, 26, "cotangents D", size=14, weight=600)
    p.text(360, 46, "K outputs × output group", "dim", 12)
    p.box(310, 66, 100, 120, 0)
    p.text(360, 206, "K × nⱼ numbers", "dim", 12)
    p.text(446, 132, "⊗", size=22)
    p.text(540, 26, "inputs Z", size=14, weight=600)
    p.text(540, 46, "1 × input group", "dim", 12)
    p.box(480, 110, 120, 30, 1)
    p.text(540, 206, "nᵢ numbers", "dim", 12)
    p.text(640, 92, "J (V, b)", size=14, anchor="start", weight=600)
    p.text(698, 92, "= D (Z V + b)", size=13, anchor="start")
    p.text(640, 124, "Jᵀ u", size=14, anchor="start", weight=600)
    p.text(684, 124, ":  t = u D", size=13, anchor="start")
    p.text(684, 146, "dW = Zᵀ t", size=13, anchor="start")
    p.text(684, 168, "db = t", size=13, anchor="start")
    note = "Both factors are on the rank already after one backward pass; products with them send nothing."
    p.text(28, 246, note, "dim", 12.5, "start")
    return p.finish()


def peers(palette: dict[str, object]) -> str:
    """Test error of each method relative to the best one of its row, from ``docs/benchmarks/peers.json``."""
    table = json.loads((Path(__file__).parents[1] / "benchmarks" / "peers.json").read_text(encoding="utf-8"))
    rows = {name: row["methods"] for name, row in table["sets"].items() if not row["sparse"]}
    kinds = {"distnewton auto": (0, 6, 1.0), "Adam": (1, 5, 0.9), "HistGradientBoosting": (2, 5, 0.9)}
    left, right, top, step, most = 130, 790, 70, 26, 8.0
    p = Picture(824, top + step * len(rows) + 44, palette, "Test error relative to the best method, by data set")

    def place(ratio: float) -> float:
        return left + (right - left) * math.log(min(max(ratio, 1.0), most)) / math.log(most)

    for k, (name, (color, size, _)) in enumerate({**kinds, "others": ("dim", 3, 1.0)}.items()):
        p.dot(left + 8 + 170 * k, 26, size, color)
        p.text(left + 20 + 170 * k, 30, name, size=12.5, anchor="start")
    bottom = top + step * len(rows)
    for ratio in (1, 1.5, 2, 4, 8):
        p.line([(place(ratio), top - 16), (place(ratio), bottom)], "line", 1)
        p.text(place(ratio), bottom + 18, "best" if ratio == 1 else f"{'≥ ' * (ratio == 8)}{ratio:g} times", "dim", 12)
    for k, (name, methods) in enumerate(rows.items()):
        y = top + step * k
        errors = {m: median(r["test"] for r in runs if "test" in r) for m, runs in methods.items() if "test" in runs[0]}
        p.text(left - 12, y + 4, name, size=12.5, anchor="end")
        for method in sorted(errors, key=lambda m: (m in kinds, m == "distnewton auto")):
            color, size, opacity = kinds.get(method, ("dim", 3, 0.7))
            least = min(errors.values())
            ratio = errors[method] / least if least else 1.0 + most * (errors[method] > 0)
            p.dot(place(ratio), y, size, color, opacity)
    return p.finish()


def networks(palette: dict[str, object]) -> str:
    """Test accuracy on news20 by seconds on four hosts at 1 Gbit/s and 1 ms, from ``docs/benchmarks/networks.json``."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from benchmarks.networks_page import NETWORKS, seconds

    table = json.loads((Path(__file__).parents[1] / "benchmarks" / "networks.json").read_text(encoding="utf-8"))
    methods, network = table["problems"]["news20"]["methods"], NETWORKS["1 Gbit/s, 1 ms"]
    left, right, top, bottom, low, high = 90, 790, 60, 330, 0.5, 0.85
    curves = {
        name: [(seconds(p, network), p["accuracy"]) for p in method["points"] if p["accuracy"] >= low]
        for name, method in methods.items()
    }  # fmt: skip
    times = [s for curve in curves.values() for s, _ in curve]
    first, last = min(times) / 1.2, max(times) * 1.2
    p = Picture(824, bottom + 60, palette, "Test accuracy on news20 by seconds at 1 Gbit/s and 1 ms")

    def place(s: float, accuracy: float) -> tuple[float, float]:
        return (
            left + (right - left) * math.log(s / first) / math.log(last / first),
            bottom - (bottom - top) * (accuracy - low) / (high - low),
        )

    kinds = {"distnewton": 0, "DDP, sparse gradients": 1, "DDP, Adam": 3}
    present = [name for name in kinds if any(title.startswith(name) for title in curves)]
    for k, name in enumerate(present):
        color = kinds[name]
        p.dot(left + 8 + 210 * k, 26, 5, color)
        p.text(left + 20 + 210 * k, 30, name, size=12.5, anchor="start")
    for accuracy in (0.5, 0.6, 0.7, 0.8):
        p.line([place(first, accuracy), place(last, accuracy)], "line", 1)
        p.text(left - 12, place(first, accuracy)[1] + 4, f"{100 * accuracy:.0f} %", size=12, anchor="end")
    for s in (1, 3, 10, 30, 100, 300, 1000):
        if first < s < last:
            p.text(place(s, low)[0], bottom + 20, f"{s} s", "dim", 12)
    for name, curve in curves.items():
        color = next(color for kind, color in kinds.items() if name.startswith(kind))
        p.line([place(*point) for point in curve], color)
        for point in curve:
            p.dot(*place(*point), 3.5, color)
    return p.finish()


def equations(palette: dict[str, object]) -> str:
    """Solutions of the examples of residual problems, from ``docs/benchmarks/equations.json``."""
    solutions = json.loads((Path(__file__).parents[1] / "benchmarks" / "equations.json").read_text(encoding="utf-8"))
    side, gap, left, top, columns = 170, 32, 24, 34, 4
    n_rows = math.ceil(len(solutions) / columns)
    p = Picture(824, top + n_rows * (side + 62) - 16, palette, "Solutions of the examples, with their relative errors")
    for k, (name, solution) in enumerate(solutions.items()):
        x, y = left + (side + gap) * (k % columns), top + (side + 62) * (k // columns)
        low, high = solution["low"], solution["high"]
        p.text(x + side / 2, y - 10, name, size=13.5, weight=600)
        p.text(x + side / 2, y + side + 17, f"{low:g} to {high:g}, error {solution['error']:.1e}", "dim", 11.5)
        if "curve" in solution:
            curve, height = solution["curve"], side / (high - low)
            step = side / (len(curve) - 1)
            p.line([(round(x + step * i, 1), round(y + height * (high - u), 1)) for i, u in enumerate(curve)], 0)
        else:
            p.box(x, y, side, side, "box")
            p.cells(x, y, side, solution["levels"], 0)
    return p.finish()


PICTURES = {
    "blocks": blocks, "boundary": boundary, "iteration": iteration, "jacobian": jacobian, "peers": peers,
    "networks": networks, "equations": equations,
}  # fmt: skip


def draw(folder: Path) -> None:
    """Write all pictures."""
    for name, make in PICTURES.items():
        for scheme, palette in PALETTES.items():
            (folder / f"{name}-{scheme}.svg").write_text(make(palette), encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
