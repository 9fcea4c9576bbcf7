"""Help on the settings, read from the configuration's models: key, meaning, choices, default, users."""

from __future__ import annotations

import math
import re
import shutil
import textwrap
from collections.abc import Iterable
from functools import cache

from pydantic.fields import FieldInfo

from distnewton.cli.parsing import SHORT_FLAGS
from distnewton.frozen import frozen

COMMON = (
    "data.train", "data.test", "data.validation_fraction", "data.scale", "data.label_column",
    "network.layers", "network.activation", "network.loss", "partition.splits",
    "method.direction", "method.C", "method.subsample", "method.damping", "method.batch", "method.learning_rate",
    "run.iterations", "run.seconds", "run.patience", "run.seed", "run.dtype",
)  # fmt: skip
"""Settings that most runs need, which the short help shows."""
_INDENT = 24


@frozen
class Setting:
    """A setting of a recipe."""

    name: str  # ``section.key``
    field: FieldInfo  # its declaration in the configuration's model
    choices: tuple[str, ...]  # names that it takes; empty if it takes other values
    # directions that use it in some composition; empty if it is not an option of directions
    users: tuple[str, ...]

    @property
    def default(self) -> str:
        """The default as a recipe writes it; empty if there is none."""
        value = self.field.get_default(call_default_factory=True)
        if value in ("", None, []):
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return "inf" if math.isinf(value) else f"{value:.4g}"
        return "-".join(map(str, value)) if isinstance(value, list) else str(value)

    @property
    def clause(self) -> str:
        """The first clause of the description."""
        return re.split("[;:,]" if self.choices else "[;:]", self.field.description or "")[0].strip()

    def meaning(self, *, brief: bool) -> str:
        """Return the description, or its first clause, with choices and default."""
        text = self.clause if brief else self.field.description or ""
        if not self.choices:
            return f"{text} [{self.default}]" if self.default else text
        return f"{text}: {', '.join(f'[{name}]' if name == self.default else name for name in self.choices)}"


@cache
def settings() -> dict[str, Setting]:
    """Return all settings by name, in the order of the configuration."""
    from distnewton.config import Config, choices_of, settings_of
    from distnewton.config.method import users_of_options

    users = {f"method.{key}": tuple(names) for key, names in users_of_options().items()}
    known = {}
    for section in Config.model_fields:
        for key, field in settings_of(section).items():
            name = f"{section}.{key}"
            known[name] = Setting(name, field, choices_of(key, field), users.get(name, ()))
    return known


def settings_text(complete: bool) -> str:
    """Write the settings for the help of a command: all by table and users, or those that most runs need."""
    if complete:
        listed = [s for s in settings().values() if s.name not in SHORT_FLAGS.values()]
        groups: dict[str, list[Setting]] = {}
        for setting in listed:
            groups.setdefault(_title(setting), []).append(setting)
        return "\n".join(f"{title}\n{_lines(group, brief=False)}" for title, group in groups.items())
    known = settings()
    return (
        "settings that most runs need; [x] is the default:\n"
        f"{_lines((known[name] for name in COMMON if name in known), brief=True)}\n"
        "All settings: --help-all. They are keys of a recipe; --print-config writes one.\n"
    )


def _title(setting: Setting) -> str:
    section = setting.name.partition(".")[0]
    return f"[{section}], used by {', '.join(setting.users)}" if setting.users else f"[{section}]"


def _lines(group: Iterable[Setting], *, brief: bool) -> str:
    """Write a line for each setting, wrapped to the width of the terminal."""
    width = min(shutil.get_terminal_size().columns, 120)
    text = ""
    for setting in group:
        head = f"  --{setting.name} ".ljust(_INDENT)
        body = setting.meaning(brief=brief)
        wrapped = textwrap.fill(head + body, width, subsequent_indent=" " * _INDENT, break_on_hyphens=False)
        text += f"{wrapped}\n"
    return text
