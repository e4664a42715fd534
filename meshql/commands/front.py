"""A script's own state, and the shell's commands that make sense where nobody watches."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from meshql.commands.listing import print_rows
from meshql.errors import UsageError, nearest
from meshql.output import FORMATS
from meshql.shell import about, doing
from meshql.shell.commands import COMMANDS as ALL
from meshql.shell.state import Front, Settings
from meshql.terminal import coloured

if TYPE_CHECKING:
    from meshql.mesh import Mesh
    from meshql.query.session import Session
    from meshql.sql import Statement

__all__ = ["COMMANDS", "ScriptFront", "known", "run_command"]

T = TypeVar("T")


@dataclass(slots=True)
class ScriptFront:
    """How a script's results go out and what its statements are given.

    `reader` runs another file, and `runner` a statement.
    """

    settings: Settings
    mesh: Mesh
    session: Session
    reader: Callable[[str], None]
    runner: Callable[[Statement], object]
    params: dict[str, Any] = field(default_factory=dict)
    output: str | None = None
    file_format: str | None = None
    once: str | None = None
    silent: bool = False
    leaving: bool = False
    last_sql: str | None = None
    formats: Sequence[str] = FORMATS

    @property
    def width(self) -> int:
        """The columns of the terminal."""
        return shutil.get_terminal_size().columns

    @property
    def colour(self) -> bool:
        """Whether what goes to stdout may be coloured."""
        return coloured(sys.stdout)

    def read(self, file: str) -> None:
        """Run what another file says."""
        self.reader(file)

    def values_of(self, statement: Statement) -> dict[str, Any]:
        """Return the values that this statement's parameters have."""
        return {n: self.params[n] for n in statement.parameters if n in self.params}

    def supervised(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; the whole script is supervised already."""
        return work()

    def deliver(self, statement: Statement) -> None:
        """Run one statement; its rows go where results go."""
        self.runner(statement)

    def show_rows(self, rows: list[dict[str, str | None]]) -> None:
        """Print rows of text."""
        if rows and not self.silent:
            print_rows(rows, "table")


Does = Callable[[Front, str], None]

COMMANDS: dict[str, tuple[Does, str]] = {
    ".mode": (doing.mode, "FORMAT"),
    ".output": (doing.output, "[FILE]"),
    ".once": (doing.once, "FILE"),
    ".param": (doing.param, "[set NAME VALUE|unset NAME]"),
    ".read": (doing.read, "FILE"),
    ".print": (doing.print_, "TEXT"),
    ".echo": (doing.print_, "TEXT"),
    ".timer": (doing.timer, "[on|off]"),
    ".expanded": (doing.expanded, "[on|off|auto]"),
    ".set": (doing.set_, "[NAME VALUE]"),
    ".quit": (doing.quit_, ""),
    ".exit": (doing.quit_, ""),
}
"""The commands of scripts, and what each takes."""

LOOKING: dict[str, tuple[Does, str]] = {
    ".products": (about.products, "[GLOB]"),
    ".domains": (about.domains, ""),
    ".describe": (about.describe, "NAME"),
    ".schema": (about.schema, "NAME"),
    ".preview": (about.preview, "NAME [ROWS]"),
    ".explain": (about.explain, "[SQL]"),
    ".plan": (about.plan_, "[SQL]"),
    ".doctor": (about.doctor, "[NAME ...]"),
}
"""Those that look at the catalog and the stores; a dry run leaves them out."""

KNOWN = COMMANDS | LOOKING

TWINS = {twin: command.name for command in ALL.values() for twin in command.twins}


def known(line: str) -> tuple[str, Does, str]:
    """Return the name of a command line, what does it, and its argument.

    Raises UsageError for one that is not known or lacks its argument.
    """
    word, _, argument = line.strip().rstrip(";").partition(" ")
    word = TWINS.get(word, f".{word[1:]}")
    if word not in KNOWN:
        close = nearest(word, KNOWN, most=1)
        hint = f"did you mean {close[0]}?" if close else f"in scripts: {', '.join(KNOWN)}"
        raise UsageError(f"unknown command {word}", hint=hint)
    run, takes = KNOWN[word]
    if not argument.strip() and takes and not takes.startswith("["):
        raise UsageError(f"{word} needs {takes}", hint=f"{word} {takes}")
    return word, run, argument.strip()


def run_command(front: Front, line: str) -> None:
    """Run one command line of a script; raises UsageError for one that is wrong."""
    word, run, argument = known(line)
    if not (front.silent and word in LOOKING):
        run(front, argument)
