"""A text taken apart into commands, on lines of their own, and SQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meshql.shell.completion.tokens import read

__all__ = ["Command", "Sql", "is_bare", "is_command", "is_open", "items"]

BARE = frozenset({"help", "quit", "exit"})
"""Commands that people type without their dot."""


@dataclass(frozen=True, slots=True)
class Command:
    """A shell command, with its leading dot or backslash; `line` is 1-based."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Sql:
    """SQL, of one statement or several; `line` is where it starts."""

    text: str
    line: int


def items(text: str) -> Iterator[Command | Sql]:
    """Yield the commands and the SQL of `text` in order.

    A line that begins with a dot or a backslash is a command where no statement has begun; inside one it is
    part of it. SQL before a command is yielded as a whole.
    """
    pending: list[str] = []
    begun = 1
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if is_command(line) and not is_open("".join(pending)):
            yield from _sql(pending, begun)
            pending = []
            yield Command(line.strip(), number)
        else:
            begun = begun if pending else number
            pending.append(line)
    yield from _sql(pending, begun)


def is_command(line: str) -> bool:
    """Whether a line reads as a command: `.tables` or `\\d`, but not `.5`."""
    word = line.lstrip()
    return word[:1] in {".", "\\"} and not word[1:2].isdigit()


def is_bare(text: str) -> bool:
    """Whether all that is typed is a command that needs no dot."""
    return text.strip().rstrip(";").rstrip().casefold() in BARE


def is_open(text: str) -> bool:
    """Whether a statement of `text` has begun and no semicolon has ended it."""
    tokens = read(text)
    if tokens and not tokens[-1].closed:
        return True
    words = [t for t in tokens if t.kind != "comment"]
    return bool(words) and not words[-1].value.endswith(";")


def _sql(lines: list[str], begun: int) -> Iterator[Sql]:
    text = "".join(lines)
    if text.strip():
        yield Sql(text, begun)
