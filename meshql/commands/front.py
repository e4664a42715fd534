"""A script's own state, and the shell's commands that make sense where nobody watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshql.commands.listing import print_rows
from meshql.errors import UsageError, nearest
from meshql.shell import doing
from meshql.shell.state import Front, Settings

__all__ = ["COMMANDS", "ScriptFront", "run_command"]


@dataclass(slots=True)
class ScriptFront:
    """How a script's results go out and what its statements are given; `reader` runs another file."""

    settings: Settings
    reader: Callable[[str], None]
    params: dict[str, Any] = field(default_factory=dict)
    output: str | None = None
    file_format: str | None = None
    once: str | None = None
    silent: bool = False
    leaving: bool = False

    def read(self, file: str) -> None:
        """Run what another file says."""
        self.reader(file)

    def show_rows(self, rows: list[dict[str, str | None]]) -> None:
        """Print rows of text."""
        if rows and not self.silent:
            print_rows(rows, "table")


COMMANDS: dict[str, tuple[Callable[[Front, str], None], str]] = {
    ".mode": (doing.mode, "FORMAT"),
    ".output": (doing.output, "[FILE]"),
    ".once": (doing.once, "FILE"),
    ".param": (doing.param, "[set NAME VALUE|unset NAME]"),
    ".read": (doing.read, "FILE"),
    ".print": (doing.print_, "TEXT"),
    ".echo": (doing.print_, "TEXT"),
    ".timer": (doing.timer, "[on|off]"),
    ".quit": (doing.quit_, ""),
    ".exit": (doing.quit_, ""),
}
"""The commands of scripts, and what each takes."""


def run_command(front: Front, line: str) -> None:
    """Run one command line of a script; raises UsageError for one that is not known or lacks its argument."""
    word, _, argument = line.strip().rstrip(";").partition(" ")
    word = f".{word[1:]}"
    if word not in COMMANDS:
        close = nearest(word, COMMANDS, most=1)
        hint = f"did you mean {close[0]}?" if close else f"in scripts: {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {word}", hint=hint)
    run, takes = COMMANDS[word]
    if not argument.strip() and takes and not takes.startswith("["):
        raise UsageError(f"{word} needs {takes}", hint=f"{word} {takes}")
    run(front, argument.strip())
