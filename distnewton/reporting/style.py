"""The look of a report: light or dark as the reader's system is, in colours that colour-blind readers can distinguish.

The six colours follow Okabe and Ito's set, darkened on white and lightened on black until each has a contrast of 3:1 or
more to its ground. Phases, computing and waiting have their own colours, so no colour of a page has two meanings. Heat
maps show the value by the strength of one colour, and read the same in both modes.
"""

LIGHT = {
    "ground": "#ffffff", "box": "#f6f7f9", "ink": "#1b1f24", "dim": "#57606a", "line": "#d9dee3", "c0": "#0072b2",
    "c1": "#c75000", "c2": "#008060", "c3": "#b0478e", "c4": "#9a6a00", "c5": "#3f4d5c", "heat": "#00558c",
    "p0": "#4a3fa0", "p1": "#1f8278", "p2": "#77700f", "p3": "#b3405f", "p4": "#7d3c98", "work": "#2d6f8f",
    "wait": "#7b848e", "owner": "#fefefe", "bad": "#b42318",
}  # fmt: skip
"""Colours on white, by their names in the page; all differ, so a picture's colours can be mapped to names."""
_DARK = {
    "ground": "#14171a", "box": "#1d2126", "ink": "#e8eaed", "dim": "#a3adb8", "line": "#353c44", "c0": "#5ab4e8",
    "c1": "#ff9a52", "c2": "#33cc9e", "c3": "#e79bcb", "c4": "#f0c84e", "c5": "#c0cbd6", "heat": "#6cc0f2",
    "p0": "#9d93ee", "p1": "#5fc9bd", "p2": "#cdc55c", "p3": "#f08ba3", "p4": "#c992e2", "work": "#7fb9d4",
    "wait": "#8b949e", "owner": "#14171a", "bad": "#ff8d80",
}  # fmt: skip


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


STYLE = (
    f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(_DARK)} }} }}"
    """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1.5rem 4rem; max-width: 1180px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0.4rem 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; } p { margin: 0.3rem 0; max-width: 75ch; }
.lead { font-size: 1.08rem; margin: 0.6rem 0; }
.dim { color: var(--dim); } .bad { color: var(--bad); font-weight: 600; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 14px; }
figure { margin: 0; padding: 10px 12px; background: var(--box); border-radius: 8px; overflow-x: auto; }
figure.wide { grid-column: 1 / -1; } figcaption { font-size: 0.87rem; font-weight: 600; margin-bottom: 6px; }
.save { float: right; font-weight: 400; font-size: 0.75rem; } .save a { color: var(--dim); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.84rem; }
th, td { padding: 3px 10px 3px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top; }
th { font-weight: 600; color: var(--dim); white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child, td.left, th.left { text-align: left; }
td.left { white-space: normal; min-width: 7.2rem; }
@media (max-width: 700px) {
  .cards tr { display: flex; flex-wrap: wrap; gap: 8px 26px; padding: 8px 0; border-bottom: 1px solid var(--line); }
  .cards tr:first-child, .cards td:empty { display: none; }
  .cards td { padding: 0; border: 0; min-width: 0; text-align: left; font-size: 0.9rem; }
  .cards td::before { content: attr(data-name); display: block; color: var(--dim); font-size: 0.8rem; } }
.facts { display: flex; flex-wrap: wrap; gap: 8px 26px; margin: 0.8rem 0; font-size: 0.9rem; }
dt { color: var(--dim); font-size: 0.8rem; } dd { margin: 0; max-width: 16rem; }
details { margin: 0.5rem 0; } summary { cursor: pointer; color: var(--dim); }
pre { background: var(--box); padding: 10px 12px; border-radius: 8px; overflow-x: auto; font-size: 0.82rem; }
svg { width: 100%; height: auto; display: block; stroke-linejoin: round; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
svg .tip { fill: transparent; stroke: none; } svg .tip:hover { fill: var(--ink); fill-opacity: 0.35; }
@media print { figure { break-inside: avoid; } .save { display: none; } }
"""
)
