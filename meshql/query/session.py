"""Statements run one after the other on one cursor, so that temporary tables and settings stay."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import duckdb

from meshql.errors import (
    CredentialsError,
    DeadlineError,
    InterruptedQueryError,
    MeshError,
    QueryError,
    UnknownProductError,
    nearest,
)
from meshql.formats.snapshot import Snapshot
from meshql.query.engine import Engine
from meshql.query.failure import failure
from meshql.query.plan import Plan, plan_of
from meshql.query.profile import Operator, Sources, measured, planned, planning, refuse_explain
from meshql.query.receipt import Receipt, read_of, watch
from meshql.query.resolve import Resolver
from meshql.query.result import Result
from meshql.query.run import Deadline, Parameters, Run, bound, refuse_log
from meshql.query.scans import traffic
from meshql.redact import redact, scrub
from meshql.sql import Statement, at_line, parse

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Parameters", "Session"]

SEARCH_PATH = re.compile(r"\s*(USE|SET\s+(SESSION\s+)?(schema|search_path))\b", re.IGNORECASE)

NO_TABLE = re.compile(r"Table with name \"?([^\"\s]+)\"? does not exist")


PROGRESS = (
    # Without all three, query_progress stays at -1.
    "SET enable_progress_bar = true",
    "SET enable_progress_bar_print = false",
    "SET progress_bar_time = 0",
)


class Session:
    """A cursor of the engine; one statement of it runs at a time, and a new one closes the last result."""

    def __init__(
        self,
        engine: Engine,
        resolver: Resolver,
        *,
        receipts: bool = False,
        on_close: Callable[[Session], None] | None = None,
    ) -> None:
        self._engine = engine
        self._resolver = resolver
        self._receipts = receipts
        self._cursor = engine.cursor()
        self._watched = watch(self._cursor) if receipts else 0
        for setting in PROGRESS:
            self._cursor.execute(setting)
        # The result holds the session, so that one that is dropped unread can end its statement.
        self._result: weakref.ref[Result] | None = None
        self._in_transaction = False
        self._held: tuple[Snapshot, ...] = ()
        self._schemas: tuple[str, ...] = ()
        self._interrupted = False
        self._on_close = on_close

    def parse(self, text: str) -> list[Statement]:
        """Return the statements of `text`; raises QueryError where it does not parse."""
        return parse(text, self._cursor)

    def run(
        self,
        statement: Statement,
        params: Parameters = None,
        *,
        timeout: float | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Result:
        """Run one statement with parameters bound, and return its rows as they come.

        `timeout` is in seconds until the last row is read; past it DeadlineError is raised. Each product is
        seen at one version, that of the statement's start, until the result is read or closed; `on_end` is
        called then.
        """
        self._end_last()
        values = bound(statement, params)
        run = self._begin(statement, timeout, on_end)
        return self._start(run, values, lambda rows: self._receipt(run, rows) if self._receipts else None)

    def explain(
        self,
        statement: Statement,
        params: Parameters = None,
        *,
        analyze: bool = True,
        timeout: float | None = None,
    ) -> Operator:
        """Run one statement to its end, drop its rows, and return its plan with what was measured.

        Without `analyze` it does not run, and rows are estimates. Raises what `run` raises, and UsageError
        for a statement that is an EXPLAIN itself.
        """
        self._end_last()
        refuse_explain(statement)
        values = bound(statement, params)
        run = self._begin(statement if analyze else planning(statement), timeout)
        if not analyze:
            plan = self._start(run, values, lambda _: None).fetchall()
            return planned(plan, self._sources(run))
        self._engine.account()
        self._watched = self._watched or watch(self._cursor)
        found: list[Operator] = []
        for _ in self._start(run, values, lambda rows: found.append(self._profile(run, rows))):
            pass
        return found[0]

    def plan(self, statement: Statement, params: Parameters = None, *, timeout: float | None = None) -> Plan:
        """Return what one statement would read, and run nothing.

        The newest version of each product is looked up. Raises what `run` raises before its first row.
        """
        self._end_last()
        values = bound(statement, params)
        # DuckDB counts the line of its EXPLAIN too.
        run = self._begin(replace(statement, line=statement.line - 1), timeout)
        try:
            self._pin(run)
            run.deadline.check()
            found = plan_of(
                statement, self._cursor, values, run.resolution.snapshots, self._resolver, self._engine
            )
        except BaseException as error:
            self._end(run, ok=False)
            raise self._translated(error, run) from None
        self._end(run, ok=True)
        return found

    def _begin(
        self, statement: Statement, timeout: float | None, on_end: Callable[[], None] | None = None
    ) -> Run:
        self._interrupted = False
        return Run(statement, Deadline(timeout, self._cursor), on_end, self._resolver.catalog)

    def _start(self, run: Run, values: Parameters, account: Callable[[int], Receipt | None]) -> Result:
        """Begin to run a statement; `account` is called with the number of its rows, at its end."""
        try:
            self._execute(run, values)
        except BaseException as first:
            if error := self._again(run, values, first):
                self._end(run, ok=False)
                raise self._translated(error, run) from None
        result = Result(
            self._cursor,
            translate=lambda error: self._translated(error, run),
            account=account,
            end=lambda ok: self._end(run, ok=ok),
            interrupt=self.interrupt,
            again=lambda error: self._again(run, values, error),
        )
        self._result = weakref.ref(result)
        if not run.statement.reads:
            result.prefetch()
        self._follow(run)
        return result

    def _execute(self, run: Run, values: Parameters) -> None:
        self._pin(run)
        run.deadline.check()
        self._check_interrupted()
        refuse_log(run.statement, values)
        run.begun = True
        self._cursor.execute(run.statement.text, values or None)
        if self._watched and not run.statement.reads:
            # It is done, and its profile is gone once its rows are fetched.
            run.profile = self._cursor.get_profiling_information(format="json")

    def _again(self, run: Run, values: Parameters, error: BaseException) -> BaseException | None:
        """Run the statement once more with fresh credentials, when a store refused those it had.

        Returns the error that remains: `error` where that cannot help, or that of the second run. A
        transaction of the user's cannot be run again, nor what may have written files.
        """
        refused = isinstance(run.failure(error), CredentialsError)
        if not refused or run.renewed or self._in_transaction or not run.used:
            return error
        run.renewed = True
        if not self._resolver.renew(run.resolution) or (run.begun and run.statement.leaves_files):
            return error
        self._let_go(run, ok=False)
        run.pinned, run.used = False, ()
        try:
            self._execute(run, values)
        except BaseException as second:
            return second
        return None

    def register(self, name: str, table: pyarrow.Table) -> None:
        """Let statements of this session read `table` under `name`."""
        self._cursor.register(name, table)

    def progress(self) -> float:
        """Return how far the running statement is, in percent; -1 as long as DuckDB does not know."""
        return float(self._cursor.query_progress())

    def interrupt(self) -> None:
        """Cancel the running statement; for another thread to call."""
        self._interrupted = True
        self._cursor.interrupt()

    def close(self) -> None:
        """Close the last result and let the cursor go; closing twice does nothing."""
        self._end_last()
        if not self._engine.closed:
            self._cursor.close()
        if self._on_close:
            self._on_close(self)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _end_last(self) -> None:
        result = self._result() if self._result else None
        if result is not None:
            result.close()
        self._result = None

    def _pin(self, run: Run) -> None:
        """Resolve what the statement names and what it may reach, and fix the views for its cursor."""
        with self._resolver.gate.passing():
            self._pin_now(run)

    def _pin_now(self, run: Run) -> None:
        certain = self._resolver.named(run.statement, self._schemas)
        sure = [p.name for p in certain] if run.statement.exact or self._in_transaction else []
        products = {p.name: p for p in (*certain, *self._resolver.reachable(run.statement))}
        if not products:
            return
        run.resolution = self._resolver.resolve(products.values())
        self._fail_or_unmount(run, sure)
        run.used = run.resolution.snapshots
        with self._engine.using(run.used):
            run.resolution = self._resolver.mount(run.resolution)
            run.resolution.raise_first(sure)
            if self._in_transaction:
                self._see(run)
            elif run.used:
                self._engine.begin(self._cursor)
                run.pinned = True
        self._fail_or_unmount(run, sure)

    def _fail_or_unmount(self, run: Run, sure: Sequence[str]) -> None:
        """Raise for a product that is named for sure; of another, see that no old version answers."""
        run.resolution.raise_first(sure)
        for name in run.resolution.failures:
            self._engine.unmount(name)

    def _see(self, run: Run) -> None:
        """See that a transaction of the user's has the views; those made after its first look it has not."""
        shown = {
            (schema.casefold(), view.casefold())
            for schema, view in self._cursor.execute(
                "SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal"
            ).fetchall()
        }
        for product in (s.product for s in run.used):
            if (product.domain.casefold(), product.table.casefold()) not in shown:
                raise QueryError(
                    f"{product.name} is read for the first time in the midst of a transaction",
                    hint="read it once before BEGIN, or COMMIT first",
                )

    def _end(self, run: Run, *, ok: bool | None) -> None:
        """End the statement's transaction, and let its snapshots go; `ok` is None when a store hangs."""
        run.deadline.cancel()
        try:
            self._let_go(run, ok=ok)
        finally:
            if run.on_end:
                run.on_end()

    def _let_go(self, run: Run, *, ok: bool | None) -> None:
        try:
            if run.pinned and ok is not None and not self._engine.closed:
                self._leave_transaction(run, ok)
        finally:
            if self._in_transaction:
                self._held += run.used
            elif not self._engine.closed:
                self._engine.release((*run.used, *self._held))
                self._held = ()

    def _leave_transaction(self, run: Run, ok: bool) -> None:
        if ok:
            try:
                self._cursor.execute("COMMIT")
            except duckdb.Error as error:
                # A database that is gone cannot end its part.
                raise failure(error, run.used) from None
            return
        # What went wrong before is what the user has to see.
        with suppress(duckdb.Error, RuntimeError):
            self._cursor.execute("ROLLBACK")

    def _follow(self, run: Run) -> None:
        """Take notice of what a statement changes for those behind it."""
        statement = run.statement
        if statement.makes_names:
            self._engine.derived |= {s.product.name for s in run.used}
        if statement.kind == "TRANSACTION":
            self._in_transaction = statement.text[:5].upper() in {"BEGIN", "START"}
        if SEARCH_PATH.match(statement.text):
            row = self._cursor.execute("SELECT current_schemas(false)").fetchone()
            self._schemas = tuple(row[0]) if row else ()

    def _translated(self, error: BaseException, run: Run) -> BaseException:
        """The error for the user: the deadline, the product that could not be had, or DuckDB's words."""
        scrub(error)
        if run.deadline.expired:
            return DeadlineError(f"the query was not done within {run.deadline.seconds:g} s")
        if isinstance(error, RuntimeError) and str(error) == "Query interrupted":
            # What DuckDB makes of a Ctrl-C in the main thread; the query goes on all the same.
            error = KeyboardInterrupt()
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            self._cursor.interrupt()
            return error
        if isinstance(error, duckdb.CatalogException) and (found := NO_TABLE.search(str(error))):
            table = found[1].rpartition(".")[2]
            return run.missing(table) or self._unknown(table, str(error), run.statement)
        translated = run.failure(error)
        if isinstance(error, duckdb.InterruptException) and not self._interrupted:
            # With several threads, DuckDB now and then forgets why a streamed query failed.
            translated = QueryError("the query failed, and DuckDB does not say why", hint="run it again")
        translated.message = at_line(translated.message, run.statement.line)
        return translated

    def _check_interrupted(self) -> None:
        """Raise when somebody cancelled while stores were looked at: DuckDB knows nothing of that."""
        if self._interrupted:
            raise InterruptedQueryError("the query was cancelled")

    def _unknown(self, table: str, words: str, statement: Statement) -> MeshError:
        """The error for a table that is neither a product nor a table of the engine."""
        for name in statement.names:
            if name.table.casefold() == table.casefold() and name.schema:
                trouble = self._resolver.mounts.trouble(name.schema)
                return trouble or UnknownProductError.from_names(str(name), self._resolver.listed().products)
        tables = {p.table: p.name for p in self._resolver.listed().products.values()}
        close = [tables[t] for t in nearest(table, tables)]
        hint = f"products are named domain.product: did you mean {' or '.join(close)}?" if close else None
        return QueryError(at_line(words, statement.line), hint=hint)

    def _receipt(self, run: Run, rows: int) -> Receipt:
        seconds = time.perf_counter() - run.started
        resolution = run.resolution
        ids = [self._watched, *resolution.watched]
        log = self._engine.cursor()
        reads = read_of(self._profiled(run), log, ids, resolution.snapshots, run.catalog)
        return Receipt(redact(run.statement.text), run.catalog.digest, reads, rows, seconds)

    def _profile(self, run: Run, rows: int) -> Operator:
        seconds = time.perf_counter() - run.started
        sources = self._sources(run)
        ids = [self._watched, *run.resolution.watched]
        sources.traffic = traffic(self._engine.cursor(), ids, sources.snapshots)
        return measured(self._profiled(run), sources, rows=rows, seconds=seconds)

    def _profiled(self, run: Run) -> str:
        return run.profile or self._cursor.get_profiling_information(format="json")

    def _sources(self, run: Run) -> Sources:
        return Sources(run.resolution.snapshots, run.catalog, self._engine.columns)
