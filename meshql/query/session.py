"""Statements run one after the other on one cursor, so that temporary tables and settings stay."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import duckdb

from meshql.errors import DeadlineError, MeshError, QueryError, UnknownProductError, nearest
from meshql.formats.snapshot import Snapshot
from meshql.query.engine import Engine
from meshql.query.failure import failure
from meshql.query.plan import Plan, plan_of
from meshql.query.profile import Operator, Sources, measured, planned, planning, refuse_explain
from meshql.query.receipt import Receipt, read_of, watch
from meshql.query.resolve import Resolution, Resolver
from meshql.query.result import Result
from meshql.query.scans import traffic
from meshql.sql import Statement, at_line, parse

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Parameters", "Session"]

Parameters = Mapping[str, Any] | Sequence[Any] | None

NO_TABLE = re.compile(r"Table with name \"?([^\"\s]+)\"? does not exist")


PROGRESS = (
    # Without all three, query_progress stays at -1.
    "SET enable_progress_bar = true",
    "SET enable_progress_bar_print = false",
    "SET progress_bar_time = 0",
)


class Session:
    """A cursor of the engine; one statement of it runs at a time, and a new one closes the last result."""

    def __init__(self, engine: Engine, resolver: Resolver, *, receipts: bool = False) -> None:
        self._engine = engine
        self._resolver = resolver
        self._receipts = receipts
        self._cursor = engine.cursor()
        self._watched = watch(self._cursor) if receipts else 0
        for setting in PROGRESS:
            self._cursor.execute(setting)
        self._result: Result | None = None
        self._in_transaction = False
        self._interrupted = False

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
        values = _bound(statement, params)
        run = _Run(statement, _Deadline(timeout, self._cursor), on_end)
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
        values = _bound(statement, params)
        run = _Run(statement if analyze else planning(statement), _Deadline(timeout, self._cursor), None)
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
        values = _bound(statement, params)
        # DuckDB counts the line of its EXPLAIN too.
        run = _Run(replace(statement, line=statement.line - 1), _Deadline(timeout, self._cursor), None)
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

    def _start(self, run: _Run, values: Parameters, account: Callable[[int], Receipt | None]) -> Result:
        """Begin to run a statement; `account` is called with the number of its rows, at its end."""
        self._interrupted = False
        try:
            self._pin(run)
            run.deadline.check()
            self._cursor.execute(run.statement.text, values or None)
            if self._watched and not run.statement.reads:
                # It is done, and its profile is gone once its rows are fetched.
                run.profile = self._cursor.get_profiling_information(format="json")
        except BaseException as error:
            self._end(run, ok=False)
            raise self._translated(error, run) from None
        self._follow_transaction(run.statement)
        self._result = Result(
            self._cursor,
            translate=lambda error: self._translated(error, run),
            account=account,
            end=lambda ok: self._end(run, ok=ok),
            interrupt=self.interrupt,
        )
        if not run.statement.reads:
            self._result.prefetch()
        return self._result

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
        """Close the last result and let the cursor go."""
        self._end_last()
        self._cursor.close()

    def _end_last(self) -> None:
        if self._result is not None:
            self._result.close()
            self._result = None

    def _pin(self, run: _Run) -> None:
        """Resolve the statement's products and fix their views for its cursor."""
        exact = run.statement.exact
        products = self._resolver.products(run.statement, self._cursor)
        if not products:
            return
        run.resolution = self._resolver.resolve(products)
        if exact:
            run.resolution.raise_first()
        run.used = run.resolution.snapshots
        with self._engine.using(run.used):
            within = self._cursor if self._in_transaction else None
            run.resolution = self._resolver.mount(run.resolution, within)
            if exact:
                run.resolution.raise_first()
            if run.used and not self._in_transaction:
                self._engine.begin(self._cursor)
                run.pinned = True

    def _end(self, run: _Run, *, ok: bool) -> None:
        """End the statement's transaction; whatever it was, its snapshots are free again."""
        run.deadline.cancel()
        if not self._engine.closed:
            if run.pinned:
                self._leave_transaction(ok)
            self._engine.release(run.used)
        if run.on_end:
            run.on_end()

    def _leave_transaction(self, ok: bool) -> None:
        if ok:
            self._cursor.execute("COMMIT")
            return
        # What went wrong before is what the user has to see.
        with suppress(duckdb.Error, RuntimeError):
            self._cursor.execute("ROLLBACK")

    def _follow_transaction(self, statement: Statement) -> None:
        if statement.kind == "TRANSACTION":
            self._in_transaction = statement.text.split()[0].upper() in {"BEGIN", "START"}

    def _translated(self, error: BaseException, run: _Run) -> BaseException:
        """The error for the user: the deadline, the product that could not be had, or DuckDB's words."""
        if run.deadline.expired:
            return DeadlineError(f"the query was not done within {run.deadline.seconds:g} s")
        if isinstance(error, RuntimeError) and str(error) == "Query interrupted":
            # What DuckDB makes of a Ctrl-C in the main thread; the query goes on all the same.
            error = KeyboardInterrupt()
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            self._cursor.interrupt()
            return error
        if run.resolution.failures:
            return next(iter(run.resolution.failures.values()))
        if isinstance(error, duckdb.CatalogException) and (found := NO_TABLE.search(str(error))):
            return self._unknown(found[1].rpartition(".")[2], str(error), run.statement)
        translated = failure(error, run.resolution.snapshots)
        if isinstance(error, duckdb.InterruptException) and not self._interrupted:
            # With several threads, DuckDB now and then forgets why a streamed query failed.
            translated = QueryError("the query failed, and DuckDB does not say why", hint="run it again")
        translated.message = at_line(translated.message, run.statement.line)
        return translated

    def _unknown(self, table: str, words: str, statement: Statement) -> MeshError:
        """The error for a table that is neither a product nor a table of the engine."""
        for name in statement.names:
            if name.table.casefold() == table.casefold() and name.schema:
                return UnknownProductError.from_names(str(name), self._resolver.catalog.products)
        tables = {p.table: p.name for p in self._resolver.catalog.products.values()}
        close = [tables[t] for t in nearest(table, tables)]
        hint = f"products are named domain.product: did you mean {' or '.join(close)}?" if close else None
        return QueryError(at_line(words, statement.line), hint=hint)

    def _receipt(self, run: _Run, rows: int) -> Receipt:
        seconds = time.perf_counter() - run.started
        resolution = run.resolution
        ids = [self._watched, *resolution.watched]
        log = self._engine.cursor()
        reads = read_of(self._profiled(run), log, ids, resolution.snapshots, self._resolver.catalog)
        return Receipt(run.statement.text, self._resolver.catalog.digest, reads, rows, seconds)

    def _profile(self, run: _Run, rows: int) -> Operator:
        seconds = time.perf_counter() - run.started
        sources = self._sources(run)
        ids = [self._watched, *run.resolution.watched]
        sources.traffic = traffic(self._engine.cursor(), ids, sources.snapshots)
        return measured(self._profiled(run), sources, rows=rows, seconds=seconds)

    def _profiled(self, run: _Run) -> str:
        return run.profile or self._cursor.get_profiling_information(format="json")

    def _sources(self, run: _Run) -> Sources:
        return Sources(run.resolution.snapshots, self._resolver.catalog, self._engine.columns)


@dataclass(slots=True)
class _Run:
    """One statement under way."""

    statement: Statement
    deadline: _Deadline
    on_end: Callable[[], None] | None
    resolution: Resolution = field(default_factory=lambda: Resolution(()))
    used: tuple[Snapshot, ...] = ()
    pinned: bool = False
    profile: str | None = None
    started: float = field(default_factory=time.perf_counter)


class _Deadline:
    """Interrupts a cursor once `seconds` have gone by; None never does."""

    def __init__(self, seconds: float | None, cursor: duckdb.DuckDBPyConnection) -> None:
        self.seconds = seconds or 0.0
        self.expired = False
        self._cursor = cursor
        self._timer = threading.Timer(seconds, self._expire) if seconds is not None else None
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        self.expired = True
        self._cursor.interrupt()

    def check(self) -> None:
        """Raise when the time is over; for the work that an interrupt does not reach."""
        if self.expired:
            raise DeadlineError(f"the query was not done within {self.seconds:g} s")

    def cancel(self) -> None:
        """Interrupt no more."""
        if self._timer:
            self._timer.cancel()


def _bound(statement: Statement, params: Parameters) -> Parameters:
    """The parameters that this statement names; raises QueryError for one that has no value."""
    if not isinstance(params, Mapping):
        return params
    missing = sorted(statement.parameters - params.keys())
    if missing:
        names = ", ".join(f"${name}" for name in missing)
        raise QueryError(
            f"no value for parameter {names}",
            hint=f"give one: --param {missing[0]}=..., or params={{'{missing[0]}': ...}} in Python",
        )
    return {name: params[name] for name in statement.parameters}
