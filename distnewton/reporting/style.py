"""The look of a report: light and dark as the reader's system has it, colours that colour-blind readers tell apart.

The six colours follow Okabe and Ito's set, darkened on white and lightened on black until each has a contrast of 3:1 or
more to its ground. Heat maps have one colour, whose strength is the value, so that they read the same in both.
"""

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --box: #f6f7f9; --ink: #1b1f24; --dim: #57606a; --line: #d9dee3;
  --c0: #0072b2; --c1: #c75000; --c2: #008060; --c3: #b0478e; --c4: #9a6a00; --c5: #3f4d5c; --heat: #00558c;
  --owner: #ffffff; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --box: #1d2126; --ink: #e8eaed; --dim: #a3adb8;
  --line: #353c44; --c0: #5ab4e8; --c1: #ff9a52; --c2: #33cc9e; --c3: #e79bcb; --c4: #f0c84e; --c5: #c0cbd6;
  --heat: #6cc0f2; --owner: #14171a; --bad: #ff8d80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1.5rem 4rem; max-width: 1180px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0.4rem 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; } p { margin: 0.3rem 0; max-width: 75ch; }
.dim, figcaption { color: var(--dim); } .bad { color: var(--bad); font-weight: 600; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 14px; }
figure { margin: 0; padding: 10px 12px; background: var(--box); border-radius: 8px; overflow-x: auto; }
figure.wide { grid-column: 1 / -1; } figcaption { font-size: 0.82rem; margin-top: 2px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.84rem; }
th, td { padding: 3px 10px 3px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top; }
th { font-weight: 600; color: var(--dim); white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child, td.left, th.left { text-align: left; }
td.left { white-space: normal; min-width: 7.2rem; } td.wrap { min-width: 16rem; }
details { margin: 0.5rem 0; } summary { cursor: pointer; color: var(--dim); }
pre { background: var(--box); padding: 10px 12px; border-radius: 8px; overflow-x: auto; font-size: 0.82rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11.5px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); }
svg .title { font-size: 13px; font-weight: 600; } svg .tick { fill: var(--dim); font-size: 11px; }
svg .strong-tick { font-weight: 600; } svg .owner { fill: var(--owner); font-size: 11px; font-weight: 600; }
svg .inked { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .axis { stroke: var(--dim); fill: none; }
svg .right { stroke: var(--ink); stroke-dasharray: 5 4; }
svg .c0 { stroke: var(--c0); } svg .c1 { stroke: var(--c1); } svg .c2 { stroke: var(--c2); }
svg .c3 { stroke: var(--c3); } svg .c4 { stroke: var(--c4); } svg .c5 { stroke: var(--c5); }
svg path[class^="c"] { stroke-width: 1.8; stroke-linejoin: round; } svg circle[class^="c"] { fill: var(--ground); }
svg .f0 { fill: var(--c0); } svg .f1 { fill: var(--c1); } svg .f2 { fill: var(--c2); }
svg .f3 { fill: var(--c3); } svg .f4 { fill: var(--c4); } svg .f5 { fill: var(--c5); }
svg .second { fill-opacity: 0.62; }
svg .heat { fill: var(--heat); } svg .cell { font-size: 9.5px; } svg .cell.strong { fill: var(--owner); }
svg .mark { fill: var(--ink); } svg .mark.strong { fill: var(--owner); }
svg .dots circle { fill: var(--c0); fill-opacity: 0.45; } svg .tip { fill: transparent; stroke: none; }
svg .tip:hover { fill: var(--ink); fill-opacity: 0.35; }
@media print { figure { break-inside: avoid; } }
"""
