"""Sphinx extension: pages on settings, commands and records, from the program itself, so that they cannot disagree.

Also a script: ``python docs/_ext/reference_pages.py FOLDER`` writes the pages.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

PAGES = ("configuration", "commands", "cluster_files", "metrics")


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for its sources."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / "reference" / "generated"))
    return {"parallel_read_safe": True}


def write_pages(folder: Path) -> None:
    """Write all pages; one that has not changed keeps its time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        text, path = globals()[f"{name}_page"](), folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def configuration_page() -> str:
    """Each setting with its values, default and meaning."""
    from distnewton.config import Config, settings_of
    from distnewton.config.method import MethodConfig, users_of_options
    from distnewton.directions.registry import DIRECTIONS
    from distnewton.network.layer_tables import LAYERS

    parts = [_header("Settings", "every key of a recipe, which is also a flag: `--method.subsample 0.1`")]
    for section in Config.model_fields:
        fields = settings_of(section)
        parts += [f"## [{section}]", ""]
        if section != "method":
            parts += [_settings_table(fields), ""]
            continue
        parts += [_settings_table({name: fields[name] for name in MethodConfig.model_fields}), ""]
        parts += ["Options belong to directions; one that has no effect is refused.", ""]
        users = users_of_options()
        parts += [_settings_table({name: fields[name] for name in users}, users), ""]
        parts += ["| direction | what it is | defaults of its own |", "|---|---|---|"]
        for direction in DIRECTIONS.available():
            presets = direction.presets.get("direction", {}).items()
            defaults = ", ".join(f"`{key} = {_value(value)}`" for key, value in presets)
            parts.append(f"| `{direction.name}` | {direction.help} | {defaults} |")
        parts.append("")
    parts += ["## Layers", "", "Tables of `network.layers`, for images.", ""]
    for table in LAYERS.available():
        parts += [f"**`{table.name}`**: {table.__doc__}", ""]
        if rest := {name: field for name, field in table.model_fields.items() if name != "type"}:
            parts += [_settings_table(rest), ""]
    return "\n".join(parts)


def cluster_files_page() -> str:
    """Each key of a cluster file, from the package's table."""
    text = (Path(__file__).parents[2] / "cluster_configs" / "README.md").read_text(encoding="utf-8")
    return f"<!-- from cluster_configs/README.md -->\n{text}"


def commands_page() -> str:
    """Each command with its arguments; settings are left to their own page."""
    from distnewton.cli.main import build_parser

    os.environ["COLUMNS"] = "100"
    parser = build_parser()
    parts = [_header("Commands", "what each command takes; `distnewton COMMAND --help` shows it, too")]
    parts += ["Commands with `--set` take all [settings](configuration.md), `train` and `compare` as flags, too.", ""]
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        helps = {choice.dest: choice.help for choice in action._choices_actions}
        for name, command in action.choices.items():
            parts += [f"## distnewton {name}", "", f"{_sentence(helps[name] or '')}", ""]
            parts += ["```text", command.format_usage().strip().removeprefix("usage: "), "```", ""]
            rows = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
            parts += ["| argument | meaning |", "|---|---|"]
            parts += [f"| {_argument(a)} | {_cell(a.help or '')} |" for a in rows]
            parts += ["", *([_escape(command.epilog), ""] if command.epilog else [])]
    return "\n".join(parts)


def metrics_page() -> str:
    """The keys of ``metrics.jsonl``."""
    from distnewton.method.records import DirectionRecord, IterationRecord

    parts = [_header("metrics.jsonl", "a JSON object a line, one an iteration; iteration 0 is the start")]
    for kind, title in ((IterationRecord, "An iteration"), (DirectionRecord, "Its `direction`")):
        described = _attributes(kind.__doc__ or "")
        parts += [f"## {title}", "", "| key | what |", "|---|---|"]
        parts += [f"| `{field.name}` | {_cell(described[field.name])} |" for field in fields(kind)]
        parts.append("")
    return "\n".join(parts)


def _header(title: str, what: str) -> str:
    return f"# {title}\n\nGenerated from the program: {what}.\n"


def _attributes(docstring: str) -> dict[str, str]:
    """Descriptions of a class's attributes; several may share one."""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in docstring.partition("----------\n")[2].splitlines():
        text = line.strip()
        if match := re.fullmatch(r"([a-z_, ]+) : .*", text):
            names = [name.strip() for name in match[1].split(",")]
        else:
            for name in names:
                found.setdefault(name, []).append(text)
    return {name: " ".join(lines).strip() for name, lines in found.items()}


def _settings_table(settings: dict[str, Any], users: dict[str, list[str]] | None = None) -> str:
    """A table of settings."""
    titles = ["key", "values", "default", "meaning", *(["used by"] if users else [])]
    rows = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, field in settings.items():
        default = "required" if field.is_required() else f"`{_value(field.get_default(call_default_factory=True))}`"
        row = f"| `{name}` | {_kind(name, field)} | {default} | {_cell(field.description or '')} |"
        rows.append(row + (f" {', '.join(f'`{d}`' for d in users[name])} |" if users else ""))
    return "\n".join(rows)


def _value(value: Any) -> str:
    """A default as a recipe writes it."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "inf" if math.isinf(value) else f"{value:.4g}"
    return f'"{value}"' if isinstance(value, str) else str(value).replace("'", '"')


def _kind(key: str, field: Any) -> str:
    """What may be given: literal values, or the kind with its limits."""
    from distnewton.config import choices_of

    if names := choices_of(key, field):
        return _cell(", ".join(f"`{name}`" for name in names))
    limits = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    words = [
        f"{word} {getattr(item, key):g}"
        for item in field.metadata
        for key, word in limits.items()
        if getattr(item, key, None) is not None and abs(getattr(item, key)) < 2**62
    ]
    # a name of a component: those that the registry has
    names = [f"`{name}`" for item in field.metadata for name in getattr(item, "choices", ())]
    kinds = names or [" or ".join(dict.fromkeys(_kinds(field.annotation)))]
    return _cell(", ".join([*kinds, *words]))


def _kinds(annotation: Any) -> list[str]:
    """Names of the kinds of a union, or a literal's values."""
    names = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "nothing"}
    if annotation in names:
        return [] if annotation is type(None) else [names[annotation]]
    origin = getattr(annotation, "__origin__", None)
    if origin is list:
        return [f"list of {' or '.join(dict.fromkeys(_kinds(get_args(annotation)[0])))}"]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return ["tables"]
    inner = get_args(annotation)
    if all(isinstance(value, str | int) for value in inner):
        return [", ".join(f"`{value}`" for value in inner)]
    # of Annotated only the first argument is a type
    return [kind for part in (inner[:1] if hasattr(annotation, "__metadata__") else inner) for kind in _kinds(part)]


def _argument(action: argparse.Action) -> str:
    """An argument as the usage line writes it."""
    takes = "" if action.nargs == 0 else f" {action.metavar or (action.dest if not action.option_strings else 'VALUE')}"
    if action.choices:
        takes = f" {', '.join(map(str, action.choices))}"
    return f"`{(action.option_strings or [''])[0]}{takes}`".replace("` ", "`")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _cell(text: str) -> str:
    return _escape(" ".join(text.replace("%%", "%").split())).replace("|", "\\|")


def _escape(text: str) -> str:
    """Text in which nothing is Markdown but code that was marked as such."""
    pieces = re.split(r"(`+[^`]*`+)", text)
    codes = [re.sub(r"`+", "`", piece) for piece in pieces]
    texts = [re.sub(r"([*_<>\[\]$])", r"\\\1", piece) for piece in pieces]
    return "".join(codes[k] if k % 2 else texts[k] for k in range(len(pieces)))


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
