"""Commands that do: settings, files, parameters, bookmarks, charts."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshql.catalog.load import load
from meshql.errors import InterruptedQueryError, QueryError, UsageError, nearest
from meshql.output import FORMATS, format_of
from meshql.shell.bookmarks import Bookmark
from meshql.shell.values import value_of, values_of
from meshql.terminal import note, say

if TYPE_CHECKING:
    from meshql.shell.shell import Shell
    from meshql.shell.state import Answer, Front

__all__ = [
    "SHOWN_FORMATS",
    "bookmarks",
    "edit",
    "expanded",
    "mode",
    "once",
    "open_",
    "output",
    "param",
    "plot",
    "print_",
    "quit_",
    "read",
    "refresh",
    "run_bookmark",
    "save",
    "set_",
    "timer",
    "types",
    "watch",
]

SHOWN_FORMATS = [f for f in FORMATS if f not in {"parquet", "arrow"}]
"""Formats for the screen."""


def mode(front: Front, argument: str) -> None:
    """Choose the format of results on the screen."""
    front.settings.mode = one_of(argument, SHOWN_FORMATS, "format")


def output(front: Front, argument: str) -> None:
    """Send results to a file, or back to the screen."""
    if argument:
        format_of(argument)
    front.output, front.file_format = argument or None, None


def once(front: Front, argument: str) -> None:
    """Send the next result to a file."""
    format_of(argument)
    front.once = argument


def read(front: Front, argument: str) -> None:
    """Run a file's SQL and commands."""
    front.read(argument.strip("'\""))


def edit(shell: Shell, argument: str) -> None:
    """Open a file or the last query in the editor; what is saved is run."""
    if argument:
        edited = Path(argument).expanduser()
        _run_editor(edited)
        shell.run_text(edited.read_text(encoding="utf-8"))
        return
    with tempfile.TemporaryDirectory() as folder:
        edited = Path(folder) / "query.sql"
        edited.write_text((shell.last_sql or "") + "\n", encoding="utf-8")
        _run_editor(edited)
        text = edited.read_text(encoding="utf-8").strip()
    if text and text != shell.last_sql:
        print(text)
        shell.run_text(text)


def _run_editor(path: Path) -> None:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        subprocess.run([*shlex.split(command), str(path)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"the editor failed: {command}: {error}", hint="export EDITOR=nano") from None


def timer(front: Front, argument: str) -> None:
    """Show or hide what a result took."""
    front.settings.timing = switch(argument, front.settings.timing)
    if not argument and not front.silent:
        note(f"timer is {'on' if front.settings.timing else 'off'}")


def types(front: Front, argument: str) -> None:
    """Show or hide the types of columns."""
    front.settings.types = switch(argument, front.settings.types)


def expanded(shell: Shell, argument: str) -> None:
    """Choose whether a row is shown as a record."""
    turned = "off" if shell.settings.expanded == "on" else "on"
    shell.settings.expanded = one_of(argument or turned, ["on", "off", "auto"], "value")
    note(f"expanded is {shell.settings.expanded}")


def watch(shell: Shell, argument: str) -> None:
    """Run the last query again and again, until Ctrl-C or an error."""
    seconds = number(argument or "2")
    text = last_sql(shell)
    try:
        while True:
            if shell.interactive:
                print(f"\x1b[2J\x1b[H{time.strftime('%H:%M:%S')}, every {seconds:g} s", flush=True)
            shell.run_sql(text)
            time.sleep(seconds)
    except (KeyboardInterrupt, InterruptedQueryError):
        say("")


def param(front: Front, argument: str) -> None:
    """Show, set or unset the values of parameters."""
    words = argument.split(maxsplit=2)
    if not words:
        front.show_rows([{"parameter": f"${k}", "value": repr(v)} for k, v in front.params.items()])
    elif words[0] == "set" and len(words) == 3 and words[1].removeprefix("$").isidentifier():
        front.params[words[1].removeprefix("$")] = value_of(words[2])
    elif words[0] == "unset" and len(words) == 2:
        front.params.pop(words[1].removeprefix("$"), None)
    else:
        raise UsageError(f"not a parameter: {argument}", hint=".param set NAME VALUE, or .param unset NAME")


def set_(shell: Shell, argument: str) -> None:
    """Show all settings, or change one."""
    known = {f.name: f for f in fields(shell.settings)}
    name, _, text = argument.partition(" ")
    if not name:
        values = {n: getattr(shell.settings, n) for n in known}
        shell.show_rows([{"setting": n, "value": str(v)} for n, v in values.items()])
        return
    if name not in known:
        close = nearest(name, known)
        hint = f"did you mean {close[0]}?" if close else f"settings: {', '.join(known)}"
        raise UsageError(f"unknown setting {name}", hint=hint)
    setattr(shell.settings, name, typed(text.strip(), getattr(shell.settings, name), name))


def typed(text: str, like: Any, name: str) -> Any:
    """Return `text` as a value of the type that the setting has."""
    if name == "mode":
        return one_of(text, SHOWN_FORMATS, "format")
    if isinstance(like, bool):
        return switch(text, like)
    if isinstance(like, int):
        return int(number(text))
    if name == "timeout":
        return None if text in {"", "off"} else number(text)
    if name == "editing_mode":
        return one_of(text, ["emacs", "vi"], "value")
    return text


def refresh(shell: Shell, argument: str) -> None:
    """Load the catalog again and forget what the stores said."""
    shell.mesh.reload(load(shell.catalog))
    shell.refreshed()
    note(f"{len(shell.mesh.products())} products")


def save(shell: Shell, name: str) -> None:
    """Keep the last query, with the values of its parameters."""
    shell.bookmarks.save(name, Bookmark(last_sql(shell), dict(shell.params)))
    note(f"kept; .run {name} runs it")


def bookmarks(shell: Shell, argument: str) -> None:
    """List bookmarks."""
    kept = shell.bookmarks.all()
    if not kept:
        note("no bookmarks yet; .save NAME keeps the last query")
        return
    shell.show_rows([{"bookmark": n, "query": " ".join(b.sql.split())} for n, b in sorted(kept.items())])


def run_bookmark(shell: Shell, argument: str) -> None:
    """Run a bookmark, with other values of its parameters where they are given."""
    name, *given = shlex.split(argument)
    bookmark = shell.bookmarks.get(name)
    before = shell.params
    shell.params = before | bookmark.params | values_of(given)
    try:
        shell.run_sql(bookmark.sql)
    finally:
        shell.params = before


def plot(shell: Shell, argument: str) -> None:
    """Draw the last result as a chart."""
    from meshql.shell.plot import plot as drawn

    answer = last_answer(shell)
    kind = one_of(argument, ["bar", "line", "hist"], "chart") if argument else None
    height = min(max(shell.height - 4, 12), 30)
    print(drawn(answer.table, kind, width=shell.width, height=height, colour=shell.colour))


def open_(shell: Shell, argument: str) -> None:
    """Open the last result in the browser."""
    from meshql.shell.page import open_page, page

    a = last_answer(shell)
    path = open_page(page(a.columns, a.types, a.table, sql=a.sql, receipt=a.receipt, more=not a.complete))
    note(f"the page is {path}")


def print_(front: Front, argument: str) -> None:
    """Print a text."""
    if not front.silent:
        print(argument, flush=True)


def quit_(front: Front, argument: str) -> None:
    """Leave."""
    front.leaving = True


def last_sql(shell: Shell) -> str:
    """Return the last query; raises QueryError when there is none."""
    if not shell.last_sql:
        raise QueryError("there is no query yet", hint="run one first")
    return shell.last_sql


def last_answer(shell: Shell) -> Answer:
    """Return the last result; raises QueryError when there is none."""
    if shell.answer is None:
        raise QueryError("there is no result yet", hint="run a query first")
    return shell.answer


def switch(text: str, now: bool) -> bool:
    """Return what on or off says; the opposite of `now` for nothing."""
    return one_of(text, ["on", "off", "true", "false"], "value") in {"on", "true"} if text else not now


def number(text: str) -> float:
    """Return a positive number; raises UsageError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value <= 0:
        raise UsageError(f"not a positive number: {text}")
    return value


def one_of(text: str, allowed: list[str], what: str) -> str:
    """Return `text` if it is allowed; raises UsageError with the nearest if not."""
    if text not in allowed:
        close: list[str] = nearest(text, allowed)
        hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(allowed)}"
        raise UsageError(f"unknown {what} {text}", hint=hint)
    return text
