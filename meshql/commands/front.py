"""What a script's own commands change: how results go out, and the values of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from meshql.errors import UsageError, nearest
from meshql.output import format_of
from meshql.output.formats import known_format
from meshql.shell.values import value_of

__all__ = ["COMMANDS", "Front", "RunCommand", "run_command"]


@dataclass(slots=True)
class Front:
    """How results go out and what statements are given.

    `format` is that of stdout. `output`, and `once` for the next result only, name a file, which takes
    `file_format` or what its suffix says. `read` runs another file's script.
    """

    format: str
    read: Callable[[str], None]
    output: str | None = None
    file_format: str | None = None
    once: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    timer: bool = False
    silent: bool = False
    leaving: bool = False


class RunCommand(Protocol):
    """Runs one command line, such as `.mode csv`."""

    def __call__(self, front: Front, line: str) -> None:
        """Do what `line` says; raises UsageError for one that is not known or lacks its argument."""


def run_command(front: Front, line: str) -> None:
    """Run one command line of a script; raises UsageError for one that is not known or lacks its argument."""
    word, _, argument = line.strip().rstrip(";").partition(" ")
    word = f".{word[1:]}"
    if word not in COMMANDS:
        close = nearest(word, COMMANDS, most=1)
        hint = f"did you mean {close[0]}?" if close else f"in scripts: {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {word}", hint=hint)
    COMMANDS[word](front, argument.strip())


def _mode(front: Front, argument: str) -> None:
    front.format = known_format(argument)


def _output(front: Front, argument: str) -> None:
    if argument:
        format_of(argument)
    front.output, front.file_format = argument or None, None


def _once(front: Front, argument: str) -> None:
    format_of(_given(argument, ".once FILE"))
    front.once = argument


def _param(front: Front, argument: str) -> None:
    words = argument.split(maxsplit=2)
    if len(words) != 3 or words[0] != "set" or not words[1].removeprefix("$").isidentifier():
        raise UsageError(f"not a parameter: {argument}", hint=".param set NAME VALUE")
    front.params[words[1].removeprefix("$")] = value_of(words[2])


def _read(front: Front, argument: str) -> None:
    front.read(_given(argument, ".read FILE").strip("'\""))


def _print(front: Front, argument: str) -> None:
    if not front.silent:
        print(argument, flush=True)


def _timer(front: Front, argument: str) -> None:
    if argument not in {"on", "off"}:
        raise UsageError(
            f"unknown value {argument}" if argument else ".timer needs a value", hint=".timer on"
        )
    front.timer = argument == "on"


def _quit(front: Front, _: str) -> None:
    front.leaving = True


def _given(argument: str, usage: str) -> str:
    if not argument:
        raise UsageError(f"{usage.partition(' ')[0]} needs an argument", hint=usage)
    return argument


COMMANDS: dict[str, Callable[[Front, str], None]] = {
    ".mode": _mode,
    ".output": _output,
    ".once": _once,
    ".param": _param,
    ".read": _read,
    ".print": _print,
    ".echo": _print,
    ".timer": _timer,
    ".quit": _quit,
    ".exit": _quit,
}
"""The commands that make sense where nobody watches."""
