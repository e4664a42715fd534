"""Settings of the user: each declared once here, read from a TOML file, the environment and flags.

A flag beats the environment, which beats the file, which beats the default; every value knows where it
came from.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshql.errors import UsageError, nearest
from meshql.folders import config_folder

__all__ = ["FORMATS", "Config", "config_path", "load_config", "setting_of"]

FORMATS = ("table", "csv", "tsv", "json", "jsonl", "markdown", "vertical", "parquet", "arrow")

SHOWN = tuple(name for name in FORMATS if name not in {"parquet", "arrow"})
"""Formats that a terminal can show."""

PREFIX = "MESHQL_"

PATH_VARIABLE = "MESHQL_CONFIG"

FILE = "config.toml"

DEFAULT = "default"

MEMORY = r"\d+(\.\d+)? ?([KMGT]i?B|bytes)"

TRUTHS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}

EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _setting(
    default: Any,
    description: str,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    pattern: str | None = None,
    like: str = "",
) -> Any:
    """A field of Config; `pattern` is what its text has to match, and `like` an example of that."""
    rules = {
        "description": description,
        "choices": choices,
        "least": least,
        "pattern": pattern,
        "like": like,
    }
    return dataclasses.field(default=default, metadata=rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting with its value; `origins` says where each that is not a default came from."""

    catalog: str | None = _setting(None, "Folder or file of the catalog")
    format: str = _setting("table", "How `meshql query` writes rows", choices=FORMATS)
    mode: str = _setting("table", "How the shell shows rows", choices=SHOWN)
    null: str | None = _setting(
        None, "What stands for NULL in text; by default NULL, and nothing in csv and tsv"
    )
    row_limit: int = _setting(40, "Rows of a result that the shell shows at most", least=1)
    expanded: str = _setting(
        "auto", "Whether the shell shows a row as a block of lines", choices=("auto", "on", "off")
    )
    pager: str = _setting("auto", "What shows long results in the shell: auto, off, or a command")
    timing: bool = _setting(True, "Whether the shell says how long a statement took")
    types: bool = _setting(False, "Whether the shell shows the types of columns")
    editing_mode: str = _setting("emacs", "Keys of the shell", choices=("emacs", "vi"))
    complete_while_typing: bool = _setting(True, "Whether the shell suggests without Tab")
    memory_limit: str | None = _setting(
        None, "Memory that the engine may take, such as 4GB", pattern=MEMORY, like="4GB"
    )
    threads: int | None = _setting(None, "Threads that the engine may use", least=1)
    timeout: float | None = _setting(None, "Seconds that a query may take", least=0.001)
    prompt: str = _setting("meshql> ", "What the shell prints in front of a statement")
    keep_history: bool = _setting(True, "Whether the shell remembers statements in a file")
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)

    def origin(self, name: str) -> str:
        """Return where a value came from: `default`, `config.toml:3`, `environment MESHQL_X` or `--flag`."""
        return self.origins.get(name, DEFAULT)

    def engine(self) -> dict[str, str]:
        """Return the settings that are DuckDB's, as it takes them."""
        values = {"memory_limit": self.memory_limit, "threads": self.threads}
        return {name: str(value) for name, value in values.items() if value is not None}

    def rows(self) -> Iterator[tuple[str, Any, str, str]]:
        """Yield name, value, origin and description of each setting."""
        for name, field in SETTINGS.items():
            yield name, getattr(self, name), self.origin(name), field.metadata["description"]


SETTINGS = {field.name: field for field in dataclasses.fields(Config) if field.name != "origins"}


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the configuration file is looked for: $MESHQL_CONFIG, else the user's folder."""
    environ = os.environ if environ is None else environ
    if named := environ.get(PATH_VARIABLE):
        return Path(named).expanduser()
    return config_folder(environ) / FILE


def load_config(environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """Return the settings that hold; `flags` are those that somebody typed, by the names of settings.

    Raises UsageError, with every mistake of the file and the environment at once. A file that
    $MESHQL_CONFIG names has to be there.
    """
    environ = os.environ if environ is None else environ
    mistakes: list[str] = []
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value, origin in [
        *_in_file(config_path(environ), environ, mistakes),
        *_in_environ(environ, mistakes),
    ]:
        values[name], origins[name] = value, origin
    for name, value in (flags or {}).items():
        values[name], origins[name] = value, f"--{name.replace('_', '-')}"
    if mistakes:
        raise UsageError("\n".join(mistakes), hint="meshql config --path tells where the file is")
    return Config(**values, origins=origins)


def setting_of(name: str, text: str) -> Any:
    """Return the value that a text gives to a setting; raises UsageError for one that it cannot have."""
    value = _parsed(name, text)
    if mistake := _mistake(name, value):
        raise UsageError(f"{name} = {text}: {mistake}")
    return _typed(name, value)


def _in_file(path: Path, environ: Mapping[str, str], mistakes: list[str]) -> Iterator[tuple[str, Any, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if environ.get(PATH_VARIABLE):
            mistakes.append(f"no file {path}, which ${PATH_VARIABLE} names")
        return
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        mistakes.append(f"cannot read {path}: {reason}")
        return
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        mistakes.append(_syntax(path, text, error))
        return
    for name, value, line in _entries(text):
        place = f"{path}:{line}"
        if name not in SETTINGS:
            mistakes.append(f"{place}: {_unknown(name, value)}")
        elif mistake := _mistake(name, value):
            mistakes.append(f"{place}: {name} = {_written(value)}: {mistake}")
        else:
            yield name, _placed(name, _typed(name, value), path.parent), f"{path.name}:{line}"


def _entries(text: str) -> Iterator[tuple[str, Any, int]]:
    """Each key at the top of a valid TOML text, its value, and the line where it stands."""
    lines = text.splitlines(keepends=True)
    start = 0
    while start < len(lines):
        end, found = _entry(lines, start)
        if lines[start].lstrip().startswith("["):
            yield lines[start].strip(), found, start + 1
            return
        yield from ((name, value, start + 1) for name, value in found.items())
        start = end


def _entry(lines: list[str], start: int) -> tuple[int, dict[str, Any]]:
    """The entry that begins on a line, and the line behind it: the least that parses by itself."""
    for end in range(start + 1, len(lines) + 1):
        try:
            return end, tomllib.loads("".join(lines[start:end]))
        except tomllib.TOMLDecodeError:
            continue
    raise AssertionError(f"line {start + 1} of valid TOML does not parse")


def _syntax(path: Path, text: str, error: tomllib.TOMLDecodeError) -> str:
    found = re.search(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
    if not found:
        return f"{path}: {error}"
    line, column = found[2] or len(text.splitlines()) or 1, found[3] or 1
    return f"{path}:{line}:{column}: {found[1]}"


def _unknown(name: str, value: Any) -> str:
    if name.startswith("[") or isinstance(value, dict):
        return f"unknown table {name}: settings stand in no table"
    close = nearest(name, SETTINGS)
    meant = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(SETTINGS)}"
    return f"unknown setting {name}: {meant}"


def _in_environ(environ: Mapping[str, str], mistakes: list[str]) -> Iterator[tuple[str, Any, str]]:
    for name in SETTINGS:
        variable = PREFIX + name.upper()
        text = environ.get(variable)
        if not text:
            continue
        value = _parsed(name, text)
        if mistake := _mistake(name, value):
            mistakes.append(f"environment {variable}={text}: {mistake}")
        else:
            yield name, _typed(name, value), f"environment {variable}"


def _parsed(name: str, text: str) -> Any:
    """The value that a variable's text stands for; the text itself when it stands for none."""
    kind = _kind(name)
    if kind is bool:
        return TRUTHS.get(text.casefold(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def _kind(name: str) -> type:
    """The type of a setting, which its annotation names."""
    kinds = {"str": str, "int": int, "float": float, "bool": bool}
    return kinds[str(SETTINGS[name].type).partition(" ")[0]]


def _mistake(name: str, value: Any) -> str | None:
    """What is expected, when `value` is not it."""
    kind, rules = _kind(name), SETTINGS[name].metadata
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        return f"expected {EXPECTED[kind]}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"expected {EXPECTED[kind]}"
    if rules["choices"] and value not in rules["choices"]:
        close = nearest(str(value), rules["choices"], most=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        return f"expected one of {', '.join(rules['choices'])}{meant}"
    if rules["least"] is not None and not value >= rules["least"]:
        return f"expected {EXPECTED[kind]} of at least {rules['least']:g}"
    if rules["pattern"] and not re.fullmatch(rules["pattern"], str(value), re.IGNORECASE):
        return f"expected something like {rules['like']}"
    return None


def _typed(name: str, value: Any) -> Any:
    return float(value) if _kind(name) is float else value


def _placed(name: str, value: Any, folder: Path) -> Any:
    """A catalog named in a file is found from the file, wherever meshql runs."""
    return str(folder / Path(value).expanduser()) if name == "catalog" else value


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
