"""What a command line gives to a script: its text, and values for its parameters."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshql.errors import UsageError, nearest
from meshql.shell.values import values_of

__all__ = ["Source", "read_params", "read_source"]

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a script; `name` is what errors call it, None for a line on the command line."""

    text: str
    name: str | None = None

    def place(self, line: int) -> str:
        """Return what stands in front of an error at a line: `report.sql:12: `."""
        return f"{self.name}:{line}: " if self.name else ""


def read_source(file: str) -> Source:
    """Return the script in a file, or in stdin for `-`; raises UsageError when it cannot be read."""
    if file == STDIN:
        return Source(sys.stdin.read(), "stdin")
    return Source(_text(file, "*.sql", "SQL itself goes behind -c"), file)


def read_params(file: str | None, given: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """Return the values of parameters, and the names of those that were typed.

    A file is TOML, or JSON by its suffix, and flat; `given` are `name=value` arguments, which win. Raises
    UsageError for a file that is neither, and for an argument that is no such pair.
    """
    typed = values_of(given)
    return {**(_in_file(file) if file else {}), **typed}, set(typed)


def _in_file(file: str) -> dict[str, Any]:
    suffix = Path(file).suffix.casefold()
    if suffix not in {".toml", ".json"}:
        raise UsageError(f"{file}: parameters stand in TOML or JSON", hint="name the file .toml or .json")
    text = _text(file, f"*{suffix}", "the file holds one `name = value` a line")
    try:
        values = json.loads(text) if suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{file}: not an object of names and values", hint='write {"name": value}')
    return _flat(file, values)


def _flat(file: str, values: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if not name.isidentifier():
            raise UsageError(f"{file}: {name} is no name of a parameter", hint="letters, digits and _ only")
        if isinstance(value, dict):
            raise UsageError(
                f"{file}: {name} holds further names", hint="a parameter has one value, or a list"
            )
    return dict(values)


def _text(file: str, pattern: str, otherwise: str) -> str:
    path = Path(file)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.glob(pattern)] if path.parent.is_dir() else []
        close = nearest(path.name, beside, most=1)
        hint = f"did you mean {path.with_name(close[0])}?" if close else otherwise
        raise UsageError(f"no file {file}", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read {file}: {reason}") from None
