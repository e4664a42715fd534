"""Commands that do: settings, files, parameters, bookmarks, charts."""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from meshql.catalog.load import load
from meshql.config import SETTINGS, SHOWN, setting_of
from meshql.errors import InterruptedQueryError, QueryError, UsageError, nearest
from meshql.output import format_of
from meshql.shell.bookmarks import Bookmark
from meshql.shell.history import holds_secret
from meshql.shell.programs import run_program, words_of
from meshql.shell.target import file_named
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

SHOWN_FORMATS = list(SHOWN)
"""Formats for the screen."""


def mode(front: Front, argument: str) -> None:
    """Choose the format of results that go to no file."""
    front.settings.mode = one_of(argument, list(front.formats), "format")


def output(front: Front, argument: str) -> None:
    """Send results to a file, or back to the screen."""
    file = file_named(argument)
    if file:
        format_of(file)
    front.output, front.file_format = file or None, None


def once(front: Front, argument: str) -> None:
    """Send the next result to a file."""
    file = file_named(argument)
    format_of(file)
    front.once = file


def read(front: Front, argument: str) -> None:
    """Run a file's SQL and commands."""
    front.read(file_named(argument))


def edit(shell: Shell, argument: str) -> None:
    """Open a file or the last query in the editor; what is saved is run."""
    if argument:
        edited = Path(file_named(argument))
        _run_editor(edited)
        shell.read(str(edited))
        return
    with tempfile.TemporaryDirectory() as folder:
        edited = Path(folder) / "query.sql"
        edited.write_text((shell.last_sql or "") + "\n", encoding="utf-8")
        _run_editor(edited)
        text = _saved(edited)
    if text and text != shell.last_sql:
        print(text)
        shell.run_text(text)


def _run_editor(path: Path) -> None:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = run_program([*words_of(command), str(path)])
    except OSError as error:
        raise UsageError(f"the editor failed: {command}: {error}", hint="export EDITOR=nano") from None
    if code:
        raise UsageError(f"the editor failed: {command}: exit code {code}", hint="export EDITOR=nano")


def _saved(path: Path) -> str:
    """What the editor left; nothing where it took the file away."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"cannot read {path}: it is not UTF-8 text") from None


def timer(front: Front, argument: str) -> None:
    """Show or hide what a result took."""
    front.settings.timing = switch(argument, front.settings.timing)
    if not argument and not front.silent:
        note(f"timer is {'on' if front.settings.timing else 'off'}")


def types(front: Front, argument: str) -> None:
    """Show or hide the types of columns."""
    front.settings.types = switch(argument, front.settings.types)


def expanded(front: Front, argument: str) -> None:
    """Choose whether a row is shown as a record."""
    turned = "off" if front.settings.expanded == "on" else "on"
    front.settings.expanded = one_of(argument or turned, ["on", "off", "auto"], "value")
    if not argument and not front.silent:
        note(f"expanded is {front.settings.expanded}")


def watch(shell: Shell, argument: str) -> None:
    """Run the last query again and again, until Ctrl-C or an error."""
    seconds = number(argument or "2")
    text = last_sql(shell)
    pager, shell.settings.pager = shell.settings.pager, "off"
    try:
        while True:
            if shell.interactive:
                print(f"\x1b[2J\x1b[H{time.strftime('%H:%M:%S')}, every {seconds:g} s", flush=True)
            shell.run_sql(text)
            time.sleep(seconds)
    except (KeyboardInterrupt, InterruptedQueryError):
        say("")
    finally:
        shell.settings.pager = pager


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


def set_(front: Front, argument: str) -> None:
    """Show all settings or one, or change one."""
    known = [f.name for f in fields(front.settings)]
    name, _, text = argument.partition(" ")
    if name and name not in known:
        close = nearest(name, known)
        hint = f"did you mean {close[0]}?" if close else f"settings: {', '.join(known)}"
        raise UsageError(f"unknown setting {name}", hint=hint)
    if text.strip():
        _change(front, name, text.strip())
        return
    shown = [name] if name else known
    front.show_rows([{"setting": n, "value": _written(getattr(front.settings, n))} for n in shown])


def _change(front: Front, name: str, text: str) -> None:
    """Give a setting what the configuration would take; `off` takes away what need not be set at all."""
    if name == "mode":
        mode(front, text)
        return
    if name == "pager":
        words_of(text)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        value = setting_of(name, text[1:-1])
    elif text == "off" and SETTINGS[name].default is None:
        value = None
    else:
        value = setting_of(name, text)
    setattr(front.settings, name, value)


def _written(value: object) -> str | None:
    """A value as .set takes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return None if value is None else str(value)


def refresh(shell: Shell, argument: str) -> None:
    """Load the catalog again and forget what the stores said."""
    shell.mesh.reload(load(shell.catalog))
    shell.refreshed()
    note(f"{len(shell.mesh.products())} products")


def save(shell: Shell, name: str) -> None:
    """Keep the last query, with the values of its parameters."""
    sql = last_sql(shell)
    if holds_secret(sql):
        raise UsageError("the last query holds a secret, and is not kept", hint="use a $parameter for it")
    named = {p for statement in shell.session.parse(sql) for p in statement.parameters}
    params = {n: v for n, v in shell.params.items() if n in named}
    shell.bookmarks.save(name, Bookmark(sql, params))
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
    name, *given = words_of(argument) or [""]
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
    if value <= 0 or not math.isfinite(value):
        raise UsageError(f"not a positive number: {text}")
    return value


def one_of(text: str, allowed: list[str], what: str) -> str:
    """Return `text` if it is allowed; raises UsageError with the nearest if not."""
    if text not in allowed:
        close: list[str] = nearest(text, allowed)
        hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(allowed)}"
        raise UsageError(f"unknown {what} {text}", hint=hint)
    return text
