"""The log of runs, `meshql.runs`: a Delta table with one row for each step of each build."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from meshql.build import delta
from meshql.build.step import Commit, Counts
from meshql.catalog.derived import RUNS
from meshql.errors import MeshError, StorageError
from meshql.mesh import Mesh

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Record", "RunLog", "Status", "recovered"]

Status = Literal["built", "unchanged", "failed", "blocked", "cancelled", "killed", "recovered"]
"""How a step ended. `blocked` had a parent that failed; `killed` ended without a word, before it committed
anything; `recovered` did commit before that, and its own table told."""

WAITS = (0.05, 0.2, 0.5, 1.0)
"""Seconds between tries."""

CONFIGURATION = {"delta.setTransactionRetentionDuration": "interval 30 days"}
"""Every writer keeps a number in the table, which tells whether its last commit landed."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of the log: what one step of one run did."""

    run: str
    product: str
    kind: str
    status: Status
    started_at: datetime
    ended_at: datetime
    commits: int = 0
    counts: Counts = field(default_factory=Counts)
    rows_total: int | None = None
    version: str | None = None
    watermark: str | None = None
    definition: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    failed_checks: tuple[str, ...] = ()
    error: str | None = None
    host: str | None = None

    def row(self) -> dict[str, Any]:
        """Return it as a row of the log's table."""
        said = {name: getattr(self, name) for name in self.__slots__ if name != "counts"}
        return {
            **said,
            **asdict(self.counts),
            "inputs": list(self.inputs.items()),
            **{name: list(said[name]) for name in ("changes", "notes", "failed_checks")},
            "seconds": (self.ended_at - self.started_at).total_seconds(),
        }


class RunLog:
    """The log as a mesh sees it; nothing is read before it is asked."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._lock = threading.Lock()
        self._writer, self._written = f"meshql-{secrets.token_hex(8)}", 0

    def append(self, records: Sequence[Record]) -> None:
        """Add rows in one commit, once, whatever becomes of its answer; raises StorageError."""
        import pyarrow as pa

        rows = pa.Table.from_pylist([record.row() for record in records], schema=_schema())
        with self._lock:
            self._written += 1
            for wait in WAITS:
                try:
                    return self._append(rows.to_reader())
                except StorageError:
                    # Another build writes at the same moment, or the store failed: perhaps after the commit.
                    time.sleep(wait)
            self._append(rows.to_reader())

    def _append(self, rows: pyarrow.RecordBatchReader) -> None:
        table = delta.opened(self._mesh, self._mesh.find(RUNS))
        said = delta.properties(None, {self._writer: self._written})
        if table.handle is None:
            delta.create(table, rows.schema, delta.properties(None, {}), configuration=CONFIGURATION)
        if table.transaction(self._writer) != self._written:
            delta.append(table, rows, said)

    def rows(self, condition: str = "true", order: str = "started_at, product") -> list[dict[str, Any]]:
        """Return rows of the log that keep a SQL condition; none where nothing was ever built."""
        if self._mesh.snapshot(self._mesh.find(RUNS)) is None:
            return []
        with self._mesh.sql(f"FROM {RUNS} WHERE {condition} ORDER BY {order}") as result:
            return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]

    def last_built(self) -> dict[str, dict[str, Any]]:
        """Return the newest row of each product in which something was committed, by name."""
        rows = self.rows("commits > 0", "ended_at")
        return {row["product"]: row for row in rows}

    def known(self) -> dict[str, list[str]]:
        """Return, for each product, the runs whose commits the log has told of."""
        if self._mesh.snapshot(self._mesh.find(RUNS)) is None:
            return {}
        sql = f"SELECT product, list(DISTINCT run) FROM {RUNS} WHERE commits > 0 GROUP BY product"
        with self._mesh.sql(sql) as result:
            return dict(result.fetchall())

    def known_runs(self, product: str) -> set[str]:
        """Return the runs that the log has told of, for one product."""
        return set(self.known().get(product, ()))


def recovered(product: str, kind: str, commits: Iterable[Commit], known: set[str]) -> list[Record]:
    """Return records of runs that committed and could not tell the log any more, oldest first."""
    by_run: dict[str, list[Commit]] = {}
    for commit in commits:
        if commit.run in known:
            break
        by_run.setdefault(commit.run, []).append(commit)
    return [_recovered(product, kind, made) for made in reversed(by_run.values())]


def _recovered(product: str, kind: str, newest_first: list[Commit]) -> Record:
    last = newest_first[0]
    return Record(
        run=last.run,
        product=product,
        kind=kind,
        status="recovered",
        started_at=newest_first[-1].at,
        ended_at=last.at,
        commits=len(newest_first),
        counts=sum((c.counts for c in newest_first), Counts()),
        version=last.version,
        watermark=last.watermark,
        definition=last.definition,
        inputs=last.inputs,
        changes=tuple(change for c in reversed(newest_first) for change in c.changes),
    )


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    text, number, instant = pa.string(), pa.int64(), pa.timestamp("us", tz="UTC")
    texts = pa.list_(text)
    return pa.schema(
        [
            ("run", text),
            ("product", text),
            ("kind", text),
            ("status", text),
            ("started_at", instant),
            ("ended_at", instant),
            ("seconds", pa.float64()),
            ("commits", number),
            *((name, number) for name in Counts.__slots__),
            ("rows_total", number),
            ("version", text),
            ("watermark", text),
            ("definition", text),
            ("inputs", pa.map_(text, text)),
            ("changes", texts),
            ("notes", texts),
            ("failed_checks", texts),
            ("error", text),
            ("host", text),
        ]
    )


def failed(error: MeshError) -> str:
    """Return an error as the log has it: its message and its hint."""
    return f"{error.message}\nhint: {error.hint}" if error.hint else error.message
