"""The measured tables of README and docs: one file, which this command renews together with the pages.

``python -m benchmarks.cited [--data DATA] [NAME ...]`` (``PYTHONPATH=tests``, in the repository's folder) runs the
commands of the named entries of ``docs/benchmarks/cited.json``, keeps the table that each prints, or writes into a
Markdown file in ``OUT``, and writes all tables into the pages; without a name it only writes the pages. ``DATA`` in a
command stands for a folder with the public files that the recipes name, ``OUT`` for an empty folder. A page marks the
place::

    <!-- measured: NAME -->
    <!-- end -->

An entry has a command; the machine, version and date of its measurement; and ``rows``, the first of which is the
header. It may have the ``columns`` to show, and a ``note`` for the reader, which a new measurement removes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers import machine
from distnewton.packages import version

FILE = Path("docs/benchmarks/cited.json")
PLACE = re.compile(r"(<!-- measured: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def pages() -> list[Path]:
    """Pages that may show a table."""
    return [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]


def first_table(text: str) -> list[list[str]]:
    """Cells of the first Markdown table of a text, its header first; ValueError if there is none."""
    lines = iter(text.splitlines())
    header = next((line for line in lines if line.startswith("| ")), None)
    if header is None:
        raise ValueError(f"there is no table in what the command printed:\n{text[-2000:]}")
    next(lines, None)
    rows = [header]
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(line)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def shown(entry: Mapping[str, Any]) -> str:
    """An entry as Markdown: its table, and how it was measured."""
    header, *rows = entry["rows"]
    columns = [header.index(name) for name in entry["columns"]] if "columns" in entry else range(len(header))
    lines = [[row[k] for k in columns] for row in [header, *rows]]
    lines.insert(1, ["---"] * len(columns))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = f" {entry['note']}" if "note" in entry else ""
    origin = f"{entry['date']}, distnewton {entry['version']}, {entry['machine']}."
    return f"{table}\n\n```sh\n{entry['command']}\n```\n\n{origin}{note}\n"


def page_with_tables(text: str, entries: Mapping[str, Any]) -> str:
    """A page whose marked places show their entries; KeyError for a name without an entry."""
    return PLACE.sub(lambda place: f"{place[1]}{shown(entries[place[2]])}{place[3]}", text)


def measured(entry: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """An entry with what its command prints now."""
    with tempfile.TemporaryDirectory() as out:
        words = {"DATA": str(data.resolve()), "OUT": out}
        command = re.sub(r"\b(DATA|OUT)\b", lambda found: words[found[0]], entry["command"])
        run = subprocess.run(["bash", "-c", command], check=True, stdout=subprocess.PIPE, text=True)
        written = [path.read_text(encoding="utf-8") for path in sorted(Path(out).glob("*.md"))]
    where = machine()
    described = f"{where['processor']}, {where['cores']} cores, Python {platform.python_version()}"
    kept = {key: entry[key] for key in ("command", "columns") if key in entry}
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return kept | {
        "machine": described,
        "version": version("distnewton"),
        "date": today,
        "rows": first_table("\n".join([run.stdout, *written])),
    }


def renewed(names: list[str], data: Path) -> Iterator[str]:
    """Measure entries one by one, and write file and pages after each; yields their names."""
    for name in names:
        entries = json.loads(FILE.read_text(encoding="utf-8"))
        entries[name] = measured(entries[name], data)
        FILE.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        yield name


def write_pages() -> None:
    """Write the tables of the file into the pages."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (new := page_with_tables(text, entries)) != text:
            path.write_text(new, encoding="utf-8")


def main() -> None:
    """Renew the named entries, and the pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries to measure again")
    parser.add_argument("--data", type=Path, default=Path("DATA"), help="folder with the public files")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(json.loads(FILE.read_text(encoding="utf-8"))):
        parser.error(f"{FILE} has no entry {', '.join(sorted(unknown))}")
    write_pages()
    for name in renewed(arguments.names, arguments.data):
        write_pages()
        print(f"{name}: measured", flush=True)


if __name__ == "__main__":
    main()
