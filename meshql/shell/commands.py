"""The shell's commands: `.name`, and for psql's hands some of its backslash names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshql.errors import UsageError, nearest
from meshql.shell import about, doing

if TYPE_CHECKING:
    from meshql.shell.shell import Shell

__all__ = ["BY_NAME", "COMMANDS", "Command", "named", "run_command"]


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `takes` names its argument, as in help; `twins` are psql's names for it."""

    name: str
    takes: str
    does: str
    run: Callable[[Shell, str], None]
    twins: tuple[str, ...] = ()


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(".help", "[COMMAND]", "Lists commands, or explains one", lambda s, a: help_(a), ("\\?",)),
        Command(".products", "[GLOB]", "Lists products", about.products, ("\\dt",)),
        Command(".domains", "", "Lists domains and how many products each has", about.domains, ("\\dn",)),
        Command(".describe", "NAME", "Owner, location, version, size, columns", about.describe, ("\\d",)),
        Command(".schema", "NAME", "Columns as a CREATE TABLE statement", about.schema),
        Command(".preview", "NAME [ROWS]", "A few rows, without a scan of the table", about.preview),
        Command(".explain", "[SQL]", "Runs SQL, or the last query, and draws its plan", about.explain),
        Command(".plan", "[SQL]", "What SQL, or the last query, would read; runs nothing", about.plan_),
        Command(".doctor", "[NAME ...]", "Who we are on each connection, and what works there", about.doctor),
        Command(".history", "[WORDS]", "Lines typed before, those that hold WORDS", about.history),
        Command(".mode", "FORMAT", "table, vertical, csv, json, markdown ...", doing.mode),
        Command(
            ".output", "[FILE]", "Writes results to FILE; to the screen without one", doing.output, ("\\o",)
        ),
        Command(".once", "FILE", "Writes the next result to FILE", doing.once),
        Command(".read", "FILE", "Runs the SQL and commands of FILE", doing.read, ("\\i",)),
        Command(".edit", "[FILE]", "Opens the last query in $EDITOR, then runs it", doing.edit, ("\\e",)),
        Command(".timer", "[on|off]", "Shows time and bytes below results", doing.timer, ("\\timing",)),
        Command(".types", "[on|off]", "Shows types below column names", doing.types),
        Command(".expanded", "[on|off|auto]", "Shows a record a row", doing.expanded, ("\\x",)),
        Command(".watch", "[SECONDS]", "Repeats the last query until Ctrl-C", doing.watch, ("\\watch",)),
        Command(".param", "[set NAME VALUE|unset NAME]", "Values of $parameters", doing.param),
        Command(".set", "[NAME VALUE]", "Shows or changes the shell's settings", doing.set_, ("\\set",)),
        Command(".refresh", "", "Loads the catalog again, and looks at every store anew", doing.refresh),
        Command(".save", "BOOKMARK", "Keeps the last query as a bookmark, with parameters", doing.save),
        Command(".bookmarks", "", "Lists bookmarks", doing.bookmarks),
        Command(".run", "BOOKMARK [PARAM=VALUE ...]", "Runs a bookmark", doing.run_bookmark),
        Command(".plot", "[bar|line|hist]", "Draws the last result", doing.plot),
        Command(".open", "", "Opens the last result as a page in the browser", doing.open_),
        Command(".print", "TEXT", "Prints TEXT", doing.print_, ("\\echo",)),
        Command(".quit", "", "Leaves; Ctrl-D does too", doing.quit_, ("\\q", ".exit")),
    )
}

BY_NAME = {name: command for command in COMMANDS.values() for name in (command.name, *command.twins)}


def named(word: str) -> Command:
    """Return the command of this name, twin or unambiguous beginning; raises UsageError with the nearest."""
    if word in BY_NAME:
        return BY_NAME[word]
    begun = [name for name in COMMANDS if len(word) > 1 and name.startswith(word)]
    if len(begun) == 1:
        return COMMANDS[begun[0]]
    close = begun or nearest(word, BY_NAME)
    hint = f"did you mean {' or '.join(close)}?" if close else ".help lists the commands"
    raise UsageError(f"unknown command {word}", hint=hint)


def run_command(shell: Shell, line: str) -> None:
    """Run one command line; raises UsageError for one that is not known or lacks its argument."""
    word, _, argument = line.strip().rstrip(";").partition(" ")
    command = named(word)
    argument = argument.strip()
    if not argument and command.takes and not command.takes.startswith("["):
        raise UsageError(f"{command.name} needs {command.takes}", hint=f"{command.name} {command.takes}")
    command.run(shell, argument)


def help_(argument: str) -> None:
    """Print all commands, or one."""
    if argument:
        chosen = [named(argument if argument[0] in ".\\" else f".{argument}")]
    else:
        chosen = list(COMMANDS.values())
    heads = [f"{c.name} {c.takes}".rstrip() for c in chosen]
    width = max(map(len, heads))
    for head, command in zip(heads, chosen, strict=True):
        twins = f"  ({' '.join(command.twins)})" if command.twins else ""
        print(f"{head:<{width}}  {command.does}{twins}")
    if not argument:
        print(
            "\nSQL ends with a semicolon; _ is the last result. Alt-Enter begins a new line, Ctrl-R searches."
        )
