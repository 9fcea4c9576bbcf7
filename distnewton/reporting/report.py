"""One page on a run, or on several: a single file without scripts, that needs nothing from a network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from importlib.metadata import version
from pathlib import Path

from distnewton.errors import CreateError, WriteError
from distnewton.parallel.partition import splits_title
from distnewton.reporting import report_pictures as pictures
from distnewton.reporting.run_data import Predictions, Run, held_out, read_runs
from distnewton.reporting.style import STYLE

_MEGABYTE = 1e6
_MOST_MISTAKEN = 12
_SETS = ("train", "validation", "test")


def report_page(runs: Sequence[Run]) -> str:
    """The page.

    Parameters
    ----------
    runs : sequence of Run
        At least one.

    Returns
    -------
    str
        HTML; everything that comes from files is escaped.
    """
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="dim">distnewton {escape(version("distnewton"))}, written {now}</p>',
        _remarks(runs),
        _summary(runs),
        "<h2>Convergence</h2>",
        _pictures(pictures.convergence(runs)),
        "<h2>Time and traffic</h2>",
        _pictures([
            pictures.times(runs), pictures.waits(runs), pictures.traffic(runs),
            pictures.rank_times(runs[0]) if len(runs) == 1 else "",
        ]),
        "<h2>Damping and steps</h2>",
        _pictures(pictures.damping_and_steps(runs)),
    ]
    for run in runs:
        parts += _of_run(run, alone=len(runs) == 1)
    content = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # nothing is loaded and nothing runs, whatever a file has smuggled in
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{content}\n</body>\n</html>\n"
    )


def _remarks(runs: Sequence[Run]) -> str:
    """How runs ended where that is not as wished, and ranks that cost time."""
    lines = []
    for run in runs:
        start = "" if len(runs) == 1 else f"{run.name}: "
        lines += [f'<p class="bad">{escape(start + remark)}</p>' for remark in run.remarks]
        if run.slowest is not None:
            lines.append(f'<p class="bad">{escape(start + run.slowest.text(run.environment.hosts))}</p>')
    return "\n".join(lines)


def _summary(runs: Sequence[Run]) -> str:
    """A row a run."""
    lines = [run.lines[-1] for run in runs if run.lines]
    metrics = list(dict.fromkeys(name for line in lines for name in [*line.train, *line.test]))
    sets = [which for which in _SETS if which != "validation" or any(line.validation for line in lines)]
    header = ["run", "method", "ranks", "splits", "iterations", "seconds", "objective"]
    header += ["model of"] if "validation" in sets else []
    header += [f"{which} {name}" for name in metrics for which in sets]
    header += ["waiting in MPI", "sent", "ended early"]
    return _table(header, [_summary_row(run, metrics, sets) for run in runs], left=(1,))


def _summary_row(run: Run, metrics: Sequence[str], sets: Sequence[str]) -> list[str]:
    facts, n = run.environment, max(0, len(run.lines) - 1)
    row = [run.name, run.config.method.title, f"{facts.ranks}", splits_title(facts.splits, facts.replicas) or "?"]
    if not run.lines:
        return [*row, "none", *[""] * (2 + ("validation" in sets) + len(sets) * len(metrics) + 3)]
    last = run.lines[-1]
    row += [f"{last.iteration} of {run.config.run.iterations}", f"{last.training_seconds:.2f}", _number(last.objective)]
    model = run.model_line
    row += [f"iteration {model.iteration}"] if "validation" in sets else []
    row += [_number(getattr(model, which).get(name)) for name in metrics for which in sets]
    waited = sum(sum(line.wait_seconds) for line in run.lines) / max(1, facts.ranks)
    share = f" ({100 * waited / last.training_seconds:.0f} %)" if last.training_seconds > 0 else ""
    early = sum(line.direction.stopped_early for line in run.lines if line.direction)
    phases = [line.sent_bytes for line in run.lines]
    sent = sum(n for sent_bytes in phases for phase, n in sent_bytes.items() if phase != "evaluation") / _MEGABYTE
    size = f"{sent:,.1f} MB" if sent < 1e4 else f"{sent / 1e3:,.1f} GB"
    return [*row, f"{waited:.2f} s{share}", size, f"{early} of {n}"]


def _of_run(run: Run, *, alone: bool) -> list[str]:
    """What is shown of each run by itself."""
    parts = [] if alone else [f"<h2>Run {escape(run.name)}</h2>"]
    heading = "h2" if alone else "h3"
    if picture := pictures.cg_steps(run):
        parts += [f"<{heading}>CG steps and early termination</{heading}>", _pictures([picture], wide=True)]
    if not alone and (picture := pictures.rank_times(run)):
        parts += [f"<{heading}>Ranks</{heading}>", _pictures([picture])]
    if run.partition is not None:
        picture = pictures.grid(run)
        parts.append(f"<{heading}>Who owns what</{heading}>")
        parts += [_pictures([picture], wide=True) if picture else "", _owners(run)]
    if run.predictions is not None:
        parts += [f"<{heading}>Predictions at the end</{heading}>", *_predictions(run.predictions)]
    parts += [f"<{heading}>Settings and environment</{heading}>", _environment(run)]
    parts.append(f"<details><summary>config.toml</summary><pre>{escape(run.config_text)}</pre></details>")
    notes = [line for line in run.lines if line.note]
    if notes:
        rows = [[f"{line.iteration}", line.note] for line in notes[:200]]
        table = _table(["iteration", "note"], rows, left=(1,))
        parts.append(f"<details><summary>{len(notes)} iterations with notes</summary>{table}</details>")
    return parts


def _owners(run: Run) -> str:
    """A row a rank: host, variables, features."""
    partition = run.partition
    if partition is None:
        return ""
    rows = []
    # ranks of further replicas of the grid own the same, with other samples
    for rank in range(partition.n_ranks):
        blocks = partition.blocks(rank)
        first = next((block for block in blocks if block.layer == 1), None)
        features = "none"
        if first is not None:
            size = partition.features_per_unit
            features = f"{first.inputs[0] * size:,} to {first.inputs[1] * size - 1:,}"
        host = run.environment.hosts[rank] if rank < len(run.environment.hosts) else "?"
        share = 100.0 * partition.n_params(rank) / max(1, sum(map(partition.n_params, range(partition.n_ranks))))
        own = ", ".join(f"{block.layer}: ({block.i}, {block.j})" for block in blocks) or "none"
        rows.append([f"{rank}", host, f"{partition.n_params(rank):,}", f"{share:.1f} %", features, own])
    header = ["rank", "host", "variables", "share", "features", "block of each layer"]
    table = _table(header, rows, left=(1, 5))
    return table if len(rows) <= 16 else f"<details><summary>{len(rows)} ranks</summary>{table}</details>"


def _predictions(found: Predictions) -> list[str]:
    """Confusion or residuals, and the classes that fare worst."""
    parts = [_pictures(pictures.predictions(found), wide=not found.targets)]
    if found.n_unknown:
        parts.append(f'<p class="bad">{found.n_unknown:,} samples have labels that training did not have</p>')
    if not found.classes:
        return parts
    if found.confusion:
        pairs = [(i, j, n) for i, row in enumerate(found.confusion) for j, n in enumerate(row) if i != j and n]
    else:
        pairs = list(found.mistaken)
    pairs = sorted(pairs, key=lambda pair: -pair[2])[:_MOST_MISTAKEN]
    if pairs:
        rows = []
        for i, j, n in pairs:
            share = 100.0 * n / max(1, found.n_of[i])
            rows.append([found.classes[i], found.classes[j], f"{n:,}", f"{share:.1f} %"])
        parts.append("<h3>Most frequent mistakes</h3>")
        parts.append(_table(["true class", "taken for", "samples", "of the class"], rows, left=(1,)))
    return parts


def _environment(run: Run) -> str:
    """What the run's numbers depended on."""
    facts, data, network = run.environment, run.config.data, run.config.network
    hosts = list(dict.fromkeys(facts.hosts))
    shown = ", ".join(hosts[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else "")
    rows = [
        ["folder", str(run.path)],
        ["data", ", ".join([data.train, *held_out(data)])],
        ["scaling", data.scale],
        ["network", f"{facts.network or network.title}, {network.activation}, {network.loss}"],
        ["ranks", f"{facts.ranks} with {facts.threads_per_rank} BLAS thread(s) each, on {shown or '?'}"],
        ["MPI", facts.mpi_library or "none"],
        ["platform", f"{facts.platform}, Python {facts.python}"],
        ["packages", ", ".join(f"{name} {number}" for name, number in facts.packages.items())],
        ["seed, dtype", f"{run.config.run.seed}, {run.config.run.dtype}"],
        *[[name, value] for name, value in facts.slurm.items()],
    ]
    cells = (f'<td>{escape(name)}</td><td class="left wrap">{escape(value)}</td>' for name, value in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f'<div class="scroll"><table>{body}</table></div>'


def _pictures(found: Sequence[str], *, wide: bool = False) -> str:
    """Pictures side by side; those that have nothing to show are left out."""
    kind = ' class="wide"' if wide else ""
    figures = "\n".join(f"<figure{kind}>{picture}</figure>" for picture in found if picture)
    return f'<div class="pictures">{figures}</div>' if figures else '<p class="dim">nothing was recorded</p>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    def cell(tag: str, i: int, content: str) -> str:
        kind = ' class="left"' if i in left else ""
        return f"<{tag}{kind}>{escape(content)}</{tag}>"

    head = "".join(cell("th", i, name) for i, name in enumerate(header))
    body = "".join("<tr>" + "".join(cell("td", i, value) for i, value in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def write_report(paths: Sequence[Path], target: Path) -> None:
    """Write the page on run folders.

    Parameters
    ----------
    paths : sequence of Path
        Run folders.
    target : Path
        The file.

    Raises
    ------
    MissingInputError, DataError
        If a folder is none of a run, or damaged.
    WriteError, CreateError
        If the file cannot be written.
    """
    write_text(target, report_page(read_runs(list(paths))))


def write_text(path: Path, text: str) -> None:
    """Write a file of results.

    Parameters
    ----------
    path : Path
        The file; its folder is made.
    text : str
        Its content.

    Raises
    ------
    CreateError
        If the folder cannot be made.
    WriteError
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CreateError(f"cannot create {path.parent}: {error.strerror or error}") from None
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from None
