"""The shell without its prompt: what a line does, and what stays from one line to the next."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from meshql.errors import MeshError, UsageError
from meshql.folders import state_folder
from meshql.mesh import Mesh, connect
from meshql.query.engine import LOSSLESS
from meshql.query.result import result_of_rows
from meshql.query.supervise import abandoned, supervise
from meshql.shell.bookmarks import Bookmarks
from meshql.shell.running import LiveLine
from meshql.shell.script import Command, items
from meshql.shell.show import show_answer
from meshql.shell.state import Answer, Settings
from meshql.terminal import coloured, note, report

if TYPE_CHECKING:
    from meshql.query.session import Session
    from meshql.shell.history import PrivateHistory
    from meshql.sql import Statement

__all__ = ["Shell"]

T = TypeVar("T")

DEEPEST = 20
"""Files that read files that read files."""

KEPT_ROWS = 1_000_000
"""Rows of an answer that are kept for `_`, .plot and .open; a longer one is cancelled there, and says so."""

ROWS_SHOWN_ALWAYS = frozenset({"EXPLAIN", "CALL", "PRAGMA"})
"""Kinds of statements that give rows though they cannot stand in a FROM clause."""


class Shell:
    """One user's session over a catalog. `interactive` is false where nobody watches: scripts."""

    def __init__(
        self,
        catalog: Path,
        *,
        run_command: Callable[[Shell, str], None],
        settings: Settings | None = None,
        engine_settings: Mapping[str, str] | None = None,
        interactive: bool = True,
    ) -> None:
        self.settings = settings or Settings()
        self._run_command = run_command
        self.interactive = interactive
        self.params: dict[str, Any] = {}
        self.answer: Answer | None = None
        self.last_sql: str | None = None
        self.output: str | None = None
        self.file_format: str | None = None
        self.once: str | None = None
        self.silent = False
        self.leaving = False
        self.code = 0
        self._reading = 0
        self.catalog = catalog
        self.bookmarks = Bookmarks(state_folder() / "bookmarks.json")
        self.history: PrivateHistory | None = None
        self.refreshed: Callable[[], None] = lambda: None
        self._engine_settings = engine_settings or {}
        self._mesh: Mesh | None = None
        self._session: Session | None = None
        self._lost_work = False

    @property
    def mesh(self) -> Mesh:
        """The mesh, opened when it is first needed; raises CatalogError."""
        if self._mesh is None:
            self._mesh = connect(self.catalog, settings={**LOSSLESS, **self._engine_settings}, receipts=True)
        return self._mesh

    @property
    def session(self) -> Session:
        """The session that statements run in."""
        if self._session is None:
            self._session = self.mesh.session()
        return self._session

    @property
    def width(self) -> int:
        """The columns of the terminal."""
        return shutil.get_terminal_size().columns

    @property
    def height(self) -> int:
        """The lines of the terminal."""
        return shutil.get_terminal_size().lines

    @property
    def colour(self) -> bool:
        """Whether what goes to stdout may be coloured."""
        return coloured(sys.stdout)

    def run(self, text: str) -> None:
        """Do what `text` says; an error is said, and ends the text."""
        try:
            self.run_text(text)
        except MeshError as error:
            self.fail(error)

    def run_text(self, text: str) -> None:
        """Do the commands and statements of `text` in turn; raises what the first failing one raises."""
        for item in items(text):
            if self.leaving:
                return
            if isinstance(item, Command):
                self._run_command(self, item.text)
            else:
                self.run_sql(item.text)

    def read(self, file: str) -> None:
        """Run a file's commands and SQL; raises UsageError when it cannot be read, or reads itself."""
        path = Path(file).expanduser()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UsageError(f"cannot read {path}: {reason}") from None
        self._reading += 1
        try:
            if self._reading > DEEPEST:
                raise UsageError(f"{path} reads itself, through {DEEPEST} files")
            self.run_text(text)
        finally:
            self._reading -= 1

    def run_sql(self, text: str) -> None:
        """Run the statements of `text` and show their rows."""
        for statement in self.session.parse(text):
            self.last_sql = statement.text
            target = self.once or self.output
            self.once = None
            if target and statement.reads:
                self._write(statement, target)
            else:
                self.take(self.ask(statement))

    def take(self, answer: Answer) -> None:
        """Show an answer and keep it for `_`, .plot and .open."""
        if answer.columns and not answer.changed:
            self.answer = answer
            self._name_last(answer)
        show_answer(answer, self.settings, interactive=self.interactive)

    def show_rows(self, rows: list[dict[str, str | None]]) -> None:
        """Show rows of text as results are shown; nothing for no rows."""
        if rows:
            result = result_of_rows(rows)
            table = result.arrow()
            answer = Answer("", result.columns, result.types, table, True, 0.0, None)
            show_answer(answer, replace(self.settings, timing=False, row_limit=len(rows)), interactive=False)

    def values_of(self, statement: Statement) -> dict[str, Any]:
        """Return the values that this statement's parameters have."""
        return {n: self.params[n] for n in statement.parameters if n in self.params}

    def ask(self, statement: Statement, *, keep: int = KEPT_ROWS) -> Answer:
        """Run one statement and return its rows; Ctrl-C, the deadline and a hung store all end it."""
        started, values = time.perf_counter(), self.values_of(statement)

        def work() -> Answer:
            with self.session.run(statement, values) as result:
                rows = statement.reads or statement.kind in ROWS_SHOWN_ALWAYS
                table, more = result.head(keep)
                seconds = time.perf_counter() - started
                return Answer(
                    statement.text,
                    result.columns,
                    result.types,
                    table,
                    not more,
                    seconds,
                    result.receipt,
                    not rows,
                )

        return self.supervised(work)

    def supervised(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; a live line shows that it goes on, and Ctrl-C ends it."""
        line = LiveLine(shown=self.interactive and sys.stderr.isatty() and os.environ.get("TERM") != "dumb")
        mesh, session = self.mesh, self.session
        try:
            return supervise(
                work,
                mesh.interrupt,
                timeout=self.settings.timeout,
                tick=lambda: line.tick(session.progress()),
            )
        except MeshError as error:
            if abandoned(error):
                self._give_up()
            raise
        finally:
            line.clear()

    def fail(self, error: MeshError) -> None:
        """Say what failed, and remember it for the exit code."""
        report(error)
        self.code = self.code or error.exit_code

    def close(self) -> None:
        """Let the mesh go; work that hangs on a store is left behind."""
        if self._mesh is not None:
            self._mesh.close()
            self._mesh = None

    @property
    def left_work(self) -> bool:
        """Whether threads still hang on a store, so that the process has to be left with os._exit."""
        return self._lost_work

    def _give_up(self) -> None:
        """Go on with a new engine; the old one hangs in a read that nothing interrupts."""
        self._mesh = self._session = None
        self._lost_work = True
        note("a store hangs, so the engine was started anew; temporary tables and settings are gone")

    def _name_last(self, answer: Answer) -> None:
        from meshql.output.plain import unique

        self.session.register("_", answer.table.rename_columns(unique(answer.columns)))

    def _write(self, statement: Statement, target: str) -> None:
        from meshql.output import Written, write

        def work() -> Written:
            return write(self.session.run(statement, self.values_of(statement)), target)

        written = self.supervised(work)
        note(f"{written.rows:,} rows written to {target}")
