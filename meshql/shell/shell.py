"""The shell without its prompt: what a line does, and what stays from one line to the next."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from meshql.config import SHOWN
from meshql.errors import MeshError, UsageError
from meshql.folders import state_folder
from meshql.mesh import Mesh, connect
from meshql.query.engine import LOSSLESS
from meshql.query.result import is_count, result_of_rows
from meshql.query.supervise import abandoned, supervise
from meshql.shell.bookmarks import Bookmarks
from meshql.shell.running import LiveLine
from meshql.shell.script import Command, items
from meshql.shell.show import show_answer
from meshql.shell.state import Answer, Settings
from meshql.shell.target import Targets, rows_said
from meshql.terminal import coloured, note

if TYPE_CHECKING:
    from meshql.output import Written
    from meshql.query.result import Result
    from meshql.query.session import Session
    from meshql.shell.history import PrivateHistory
    from meshql.sql import Statement

__all__ = ["Shell"]

T = TypeVar("T")

DEEPEST = 20
"""Files that read files that read files."""

KEPT_ROWS = 1_000_000
"""Rows of an answer that are kept for `_`, .plot and .open; a longer one is cancelled there, and says so."""

LISTINGS = frozenset({"SHOW TABLES", "SHOW ALL TABLES"})
"""Statements that list tables, which products are not before they are read."""


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
        self._output: str | None = None
        self._targets = Targets()
        self.file_format: str | None = None
        self.once: str | None = None
        self.silent = False
        self.leaving = False
        self._reading = 0
        self.catalog = catalog
        self.bookmarks = Bookmarks(state_folder() / "bookmarks.json")
        self.history: PrivateHistory | None = None
        self.refreshed: Callable[[], None] = lambda: None
        self._engine_settings = engine_settings or {}
        self._opening = threading.Lock()
        self._mesh: Mesh | None = None
        self._session: Session | None = None
        self._lost_work = False

    @property
    def mesh(self) -> Mesh:
        """The mesh, opened when it is first needed; raises CatalogError."""
        with self._opening:
            if self._mesh is None:
                self._mesh = connect(self.catalog, settings=self._engine_settings_all, receipts=True)
            return self._mesh

    @property
    def session(self) -> Session:
        """The session that statements run in."""
        if self._session is None:
            self._session = self.mesh.session()
            if self.answer is not None:
                self._name_last(self.answer)
        return self._session

    @property
    def output(self) -> str | None:
        """The file that results go to, one a file; None is the screen. Naming it anew frees its name."""
        return self._output

    @output.setter
    def output(self, target: str | None) -> None:
        self._output, self._targets = target, Targets()

    @property
    def formats(self) -> Sequence[str]:
        """The formats of results on the screen."""
        return SHOWN

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
            self.deliver(statement)

    def deliver(self, statement: Statement) -> None:
        """Run one statement; its rows go to a file or to the screen."""
        if self.once or self.output:
            self._write(statement)
        else:
            self.take(self.ask(statement))

    def take(self, answer: Answer) -> None:
        """Show an answer and keep it for `_`, .plot and .open."""
        if answer.columns and not answer.changed:
            self.answer = answer
            self._name_last(answer)
        show_answer(answer, self.settings, interactive=self.interactive)
        if not answer.complete:
            note(f"_ holds the first {answer.table.num_rows:,} rows")
        if self.interactive and not answer.table.num_rows and _listing(answer.sql):
            note("this session has no tables; .products lists the products")

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
            return _kept(statement, self.session.run(statement, values), keep, started)

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
                line.clear()
                self._give_up(mesh)
            raise
        finally:
            line.clear()

    def close(self) -> None:
        """Let the mesh go; work that hangs on a store is left behind."""
        if self._mesh is not None:
            self._mesh.close()
            self._mesh = None

    @property
    def left_work(self) -> bool:
        """Whether threads still hang on a store, so that the process has to be left with os._exit."""
        from meshql.doctor.examine import hanging

        return self._lost_work or hanging()

    @property
    def _engine_settings_all(self) -> dict[str, str]:
        return {**LOSSLESS, **self._engine_settings}

    def _give_up(self, hanging: Mesh) -> None:
        """Go on with a new engine over the same catalog; the old one hangs in a read that nothing ends."""
        renewed = Mesh(hanging.catalog, settings=self._engine_settings_all, receipts=True)
        with self._opening:
            self._mesh = renewed
        self._session = None
        self._lost_work = True
        note("a store hangs, so the engine was started anew; temporary tables and settings are gone")

    def _name_last(self, answer: Answer) -> None:
        from meshql.output.plain import unique

        self.session.register("_", answer.table.rename_columns(unique(answer.columns)))

    def _write(self, statement: Statement) -> None:
        """Write the rows of a statement that has some to its file, and show what any other did."""
        started, values = time.perf_counter(), self.values_of(statement)

        def work() -> Answer | tuple[Written, str]:
            result = self.session.run(statement, values)
            if is_count(statement, result):
                return _kept(statement, result, KEPT_ROWS, started)
            with result:
                return self._to_file(result)

        done = self.supervised(work)
        if isinstance(done, Answer):
            self.take(done)
        else:
            written, name = done
            note(f"{rows_said(written.rows)} written to {name}")

    def _to_file(self, result: Result) -> tuple[Written, str]:
        """Write a result to the file that is its turn; .once names one for this result alone."""
        from meshql.output import write

        targets = Targets() if self.once else self._targets
        target, self.once = self.once or self.output or "", None
        targets.count()
        name = targets.claim(target)
        written = write(result, name, null=self.settings.null)
        targets.fill(name)
        return written, name


def _listing(sql: str) -> bool:
    return " ".join(sql.upper().split()) in LISTINGS


def _kept(statement: Statement, result: Result, keep: int, started: float) -> Answer:
    """The first rows of a result, which ends with them."""
    with result:
        table, more = result.head(keep)
        return Answer(
            statement.text,
            result.columns,
            result.types,
            table,
            not more,
            time.perf_counter() - started,
            result.receipt,
            is_count(statement, result),
        )
