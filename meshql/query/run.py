"""One statement under way: its deadline, what it was resolved to, and what it may not be given."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from meshql.catalog.model import Catalog
from meshql.errors import DeadlineError, MeshError, PolicyError, QueryError
from meshql.formats.snapshot import Snapshot
from meshql.query.failure import failure
from meshql.query.resolve import Resolution
from meshql.sql import Statement

__all__ = ["Deadline", "Parameters", "Run", "bound", "refuse_log"]

Parameters = Mapping[str, Any] | Sequence[Any] | None

LOG = re.compile(r"\bduckdb_log|\benable_(http_)?logging\b", re.IGNORECASE)
"""Words that lead to DuckDB's log: of requests, whose headers hold tokens, and of every CREATE SECRET."""

LOG_SETTING = re.compile(
    r"\b(enabled_log_types|http_logging_output|log_query_path|logging_level|logging_mode|logging_storage)\b",
    re.IGNORECASE,
)
"""Settings of that log, and good names for columns too."""


@dataclass(slots=True)
class Run:
    """One statement under way."""

    statement: Statement
    deadline: Deadline
    on_end: Callable[[], None] | None
    catalog: Catalog
    resolution: Resolution = field(default_factory=lambda: Resolution(()))
    used: tuple[Snapshot, ...] = ()
    pinned: bool = False
    renewed: bool = False
    begun: bool = False
    profile: str | None = None
    started: float = field(default_factory=time.perf_counter)

    def failure(self, error: BaseException) -> MeshError:
        """Return the error that `error`, met while the statement ran, amounts to."""
        # What the resolver raises names its product already, which has no snapshot here.
        return failure(error, () if isinstance(error, MeshError) else self.resolution.snapshots)

    def missing(self, table: str) -> MeshError | None:
        """Return the error of the product whose view is not there because it could not be had."""
        for name, error in self.resolution.failures.items():
            if name.rpartition(".")[2].casefold() == table.casefold():
                return error
        return None


class Deadline:
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


def refuse_log(statement: Statement, values: Parameters) -> None:
    """Keep DuckDB's log from SQL, and from names of tables that are given as values."""
    given = values.values() if isinstance(values, Mapping) else values or ()
    sets = not statement.reads and LOG_SETTING.search(statement.text)
    if sets or LOG.search(statement.text) or any(isinstance(v, str) and LOG.search(v) for v in given):
        raise PolicyError("DuckDB's log holds credentials", hint="the receipt tells what was read")


def bound(statement: Statement, params: Parameters) -> Parameters:
    """Return the parameters that this statement names; raises QueryError for one that has no value."""
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
