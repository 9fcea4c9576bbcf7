"""A page on one or several runs: a single file without scripts that loads nothing from a network."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from itertools import chain
from pathlib import Path

from distnewton.cluster.quoting import for_shell
from distnewton.errors import ConfigError
from distnewton.models.metrics import metric_text
from distnewton.outputs import write_output
from distnewton.packages import version
from distnewton.parallel.partition import Partition, splits_title
from distnewton.reporting import report_pictures as pictures
from distnewton.reporting.drawing import Picture, draw, drawing
from distnewton.reporting.headline import headline
from distnewton.reporting.run_data import Predictions, Run, data_line, read_runs
from distnewton.reporting.style import STYLE
from distnewton.reporting.totals import Totals
from distnewton.runs.run_folder import CONFIG_FILE

_MOST_MISTAKEN, _MOST_NOTES = 12, 200
_SETS = ("train", "validation", "test")


def report_page(runs: Sequence[Run]) -> str:
    """Write the page.

    Parameters
    ----------
    runs : sequence of Run
        At least one.

    Returns
    -------
    str
        HTML, in which all text from files is escaped.
    """
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    alone = len(runs) == 1
    parts = [
        f"<h1>{escape(title)}</h1>",
        _paragraph("dim", f"distnewton {version('distnewton')}, written {now}"),
        _paragraph("lead", headline(runs)),
        _paragraph("bad", no_pictures()),
        *_remarks(runs),
        _summary(runs),
        _paragraph("dim", "" if any(run.lines for run in runs) else "nothing was recorded"),
        _section("h2", "Convergence", _figures(pictures.convergence(runs))),
        _section("h2", "Time and traffic", _figures(pictures.costs(runs))),
        _section("h2", "Damping and steps", _figures(pictures.damping_and_steps(runs))),
        *(_of_run(run, "h2") if alone else _section("h2", f"Run {run.name}", _of_run(run, "h3")) for run in runs),
    ]
    content = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # nothing is loaded or executed, even if a file has smuggled something in
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{content}\n</body>\n</html>\n"
    )


def no_pictures() -> str:
    """Say why pictures cannot be drawn; empty if they can."""
    try:
        with drawing("the report draws its pictures with matplotlib and"):
            return ""
    except ConfigError as error:
        return str(error)


def _section(heading: str, title: str, *contents: str) -> str:
    """Write a heading with its contents; empty without contents."""
    content = "\n".join(filter(None, contents))
    return f"<{heading}>{escape(title)}</{heading}>\n{content}" if content else ""


def _details(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _paragraph(kind: str, text: str) -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def _remarks(runs: Sequence[Run]) -> Iterator[str]:
    """Yield remarks on runs that did not end as wished, and on ranks that cost time."""
    for run in runs:
        slowest = [] if run.slowest is None else [run.slowest.text(run.environment.hosts)]
        for remark in [*run.remarks, *slowest]:
            yield _paragraph("bad", remark if len(runs) == 1 else f"{run.name}: {remark}")


def _summary(runs: Sequence[Run]) -> str:
    """Make a row for each run, or a list on a single run, without what is empty for all runs."""
    parts = [[part(run) for run in runs] for part in (_about, _reached, _measured, _spent)]
    columns = {name: [row.get(name, "") for row in rows] for rows in parts for name in chain(*rows)}
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    if len(runs) == 1:
        facts = (f"<div><dt>{escape(name)}</dt><dd>{escape(cells[0])}</dd></div>" for name, cells in columns.items())
        return f'<dl class="facts">{"".join(facts)}</dl>'
    return _table(list(columns), list(zip(*columns.values(), strict=True)), left=(1,), kind="cards")


def _about(run: Run) -> dict[str, str]:
    """Describe the run, by column."""
    facts = run.environment
    # the splits of a single rank divide nothing
    splits = (splits_title(facts.splits, facts.replicas, facts.blocks) or "?") if facts.ranks > 1 else ""
    return {"run": run.name, "method": run.config.method.title, "ranks": f"{facts.ranks}", "splits": splits}


def _reached(run: Run) -> dict[str, str]:
    """Say how far the run came, by column."""
    if not run.lines:
        return {"iterations": "none"}
    last, model = run.lines[-1], run.model_line
    return {
        "iterations": run.config.run.of_iterations(last.iteration),
        "seconds": f"{Totals.of(run.lines).seconds:.2f}",
        "objective": f"{last.objective:.6g}",
        "best iteration": f"{model.iteration}" if model.validation else "",
    }


def _measured(run: Run) -> dict[str, str]:
    """Return the metrics of the run's model, by column."""
    if not run.lines:
        return {}
    metrics = {which: getattr(run.model_line, which) for which in _SETS}
    return {f"{which} {name}": metric_text(name, values[name])
            for name in metrics["train"] for which, values in metrics.items() if name in values}  # fmt: skip


def _spent(run: Run) -> dict[str, str]:
    """Return the waiting and the traffic of the ranks, by column."""
    # a single rank neither sends nor waits
    if not run.lines or run.environment.ranks == 1:
        return {}
    totals = Totals.of(run.lines)
    return {
        "waiting in MPI": totals.waiting,
        "sent": totals.traffic,
        "ended early": f"{totals.n_early} of {totals.n_directions}",
    }


def _of_run(run: Run, heading: str) -> str:
    """Write the sections on a single run."""
    notes = [[f"{line.iteration}", line.note] for line in run.lines if line.note]
    sections = [
        _section(heading, "CG steps", _figures(pictures.cg_steps(run), wide=True)),
        # for a single run, this picture stands beside those of its phases
        _section(heading, "Ranks", _figures(pictures.rank_times(run))) if heading == "h3" else "",
        _section(heading, "Who owns what", _figures(pictures.ownership(run), wide=True), _owners(run)),
        _section(heading, "Solution", _figures(pictures.solution(run.predictions))) if run.predictions else "",
        # for the solution of an equation, a picture says more than predictions against targets
        _section(heading, "Predictions at the end", *_predictions(run.predictions))
        if run.predictions and not run.predictions.values
        else "",
        _section(heading, "Settings and environment", _environment(run)),
        _details("config.toml", f"<pre>{escape(run.config_text)}</pre>"),
    ]
    if notes:
        table = _table(["iteration", "note"], notes[:_MOST_NOTES], left=(1,))
        sections.append(_details(f"{len(notes)} iterations with notes", table))
    return "\n".join(filter(None, sections))


def _owned(partition: Partition, rank: int, host: str) -> list[str]:
    """Make the row of a rank."""
    blocks, size = partition.blocks(rank), partition.features_per_unit
    first = next((block.inputs for block in blocks if block.layer == 1), None)
    features = f"{first[0] * size:,} to {first[1] * size - 1:,}" if first else "none"
    share = 100.0 * partition.n_params(rank) / max(1, sum(map(partition.n_params, range(partition.n_ranks))))
    own = ", ".join(f"{block.layer}: ({block.i}, {block.j})" for block in blocks) or "none"
    return [f"{rank}", host, f"{partition.n_params(rank):,}", f"{share:.1f} %", features, own]


def _owners(run: Run) -> str:
    """Make a table with a row for each rank: host, variables, features."""
    partition = run.environment.partition
    if partition is None or partition.n_ranks == 1:
        return ""
    hosts = [*run.environment.hosts, *["?"] * partition.n_ranks]
    # ranks of further replicas own the same variables, with other samples
    rows = [_owned(partition, rank, hosts[rank]) for rank in range(partition.n_ranks)]
    header = ["rank", "host", "variables", "share", "features", "block of each layer"]
    table = _table(header, rows, left=(1, 5), kind="cards")
    return table if len(rows) <= 16 else _details(f"{len(rows)} ranks", table)


def _predictions(found: Predictions) -> list[str]:
    """Show confusion or residuals, and the most frequent mistakes."""
    unknown = f"{found.n_unknown:,} samples have labels that training did not have" if found.n_unknown else ""
    confused = [(i, j, n) for i, row in enumerate(found.confusion) for j, n in enumerate(row) if i != j and n]
    pairs = sorted(confused or found.mistaken, key=lambda pair: -pair[2])[:_MOST_MISTAKEN]
    rows = [
        [found.classes[i], found.classes[j], f"{n:,}", f"{100.0 * n / max(1, found.n_of[i]):.1f} %"]
        for i, j, n in pairs
    ]
    header = ["true class", "taken for", "samples", "of the class"]
    return [
        _figures(pictures.predictions(found), wide=not found.targets),
        _paragraph("bad", unknown),
        _section("h3", "Most frequent mistakes", _table(header, rows, left=(1,))) if rows else "",
    ]


def _environment(run: Run) -> str:
    """List what the results of the run depend on."""
    facts, software, data, network = run.environment, run.software, run.config.data, run.config.network
    hosts = list(dict.fromkeys(facts.hosts))
    shown = ", ".join(hosts[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else "")
    repeat = f"distnewton train {for_shell(str(run.path / CONFIG_FILE))} --run-dir NEW"
    cores = f", {facts.cores} core(s) in all" if facts.cores else ""
    rows = [
        ["folder", str(run.path)],
        ["data", data_line(data)],
        ["scaling", data.scale],
        ["network", f"{facts.network or network.title}, {network.activation}, {network.loss}"],
        ["ranks", f"{facts.ranks} with {facts.threads_per_rank} BLAS thread(s) each, on {shown or '?'}{cores}"],
        ["MPI", software.mpi_library or "none"],
        ["platform", f"{software.platform}, Python {software.python}"],
        ["packages", ", ".join(f"{name} {number}" for name, number in software.packages.items())],
        ["seed, dtype", f"{run.config.run.seed}, {run.config.run.dtype}"],
        *[[name, value] for name, value in facts.slurm.items()],
    ]
    launcher = f"mpirun -n {facts.ranks} " if facts.ranks > 1 else ""
    return _table([], rows, left=(1,)) + f"<p>Train it again:</p><pre>{escape(launcher + repeat)}</pre>"


def _figures(found: Sequence[Picture], *, wide: bool = False) -> str:
    """Place pictures side by side, without empty ones; none if pictures cannot be drawn."""
    kind = ' class="wide"' if wide else ""
    try:
        figures = [_figure(picture, kind) for picture in found if picture]
    except ConfigError:
        return ""
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _figure(picture: Picture, kind: str) -> str:
    """Write a picture with its title, and links that save it and its numbers."""
    drawn = draw(picture)
    name = re.sub(r"[^a-z0-9]+", "-", picture.title.lower()).strip("-")[:60]
    types = {"svg": "image/svg+xml", "png": "image/png", "csv": "text/csv"}
    links = " ".join(
        f'<a download="{name}.{suffix}" href="data:{types[suffix]};base64,{b64encode(content).decode()}">{suffix}</a>'
        for suffix, content in drawn.files.items()
    )
    caption = f'<figcaption>{escape(picture.title)} <span class="save">{links}</span></figcaption>'
    return f"<figure{kind}>{caption}{drawn.element}</figure>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (), kind: str = "") -> str:
    """Write a table; the kind ``cards`` shows each row as a list of names and values where the page is narrow."""

    def cell(tag: str, i: int, content: str) -> str:
        place = ' class="left"' if i in left else ""
        name = f' data-name="{escape(header[i])}"' if kind == "cards" else ""
        return f"<{tag}{place}{name}>{escape(content)}</{tag}>"

    head = "".join(cell("th", i, name) for i, name in enumerate(header))
    body = "".join("<tr>" + "".join(cell("td", i, value) for i, value in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll {kind}"><table><tr>{head}</tr>{body}</table></div>'


def write_report(paths: Sequence[Path], target: Path, picture: Path | None = None) -> tuple[str, str]:
    """Write the page on run folders to a file.

    Parameters
    ----------
    paths : sequence of Path
        Run folders.
    target : Path
        File to write.
    picture : Path or None
        PNG file for the convergence of the first run, if pictures can be drawn.

    Returns
    -------
    headline, missing : str
        The sentence at the top of the page, and the reason why it has no pictures; empty if it has them.

    Raises
    ------
    MissingInputError, DataError
        If a folder is not a run folder, or is damaged.
    WriteError, CreateError
        If the file cannot be written.
    """
    runs = read_runs(list(paths))
    write_output(target, report_page(runs))
    missing = no_pictures()
    if picture is not None and not missing:
        pictures.save_convergence(runs[0], picture)
    return headline(runs), missing
