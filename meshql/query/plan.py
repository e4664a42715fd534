"""What a statement would read, told without running it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from meshql.formats.snapshot import File, Snapshot
from meshql.query.engine import Engine
from meshql.query.pruning import OPTIONAL, Kept, Log, file_filters, kept, read_log, texts_of
from meshql.query.resolve import Resolver
from meshql.query.scans import scanned
from meshql.sql import Statement, quote_name
from meshql.terminal import size

__all__ = ["Plan", "PlannedRead", "explainable", "plan_of"]

PLANNED_KINDS = frozenset({"SELECT", "CREATE", "INSERT", "UPDATE", "DELETE", "COPY", "MERGE_INTO", "CALL"})

UNTOLD_KINDS = frozenset({"EXECUTE", "EXPORT", "COPY_DATABASE", "PREPARE"})
"""Kinds of statements that may read, and that DuckDB has no plan of."""

EXPLAIN = re.compile(r"EXPLAIN\s*(\([^)]*\))?\s*(ANALYZE\b)?", re.IGNORECASE)

Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlannedRead:
    """What a statement would read of one product, at most; None where that cannot be told.

    `bytes` are those of the files, each once for each scan of it: of Parquet, only the columns in use are
    fetched. `rows` is DuckDB's estimate behind `filters`, those of each scan. Metadata comes on top.
    """

    product: str
    format: str
    version: str
    cloud: str
    region: str | None
    location: str
    scans: int | None
    files: int
    files_total: int
    bytes: int | None
    bytes_total: int | None
    rows: int | None
    columns: tuple[str, ...]
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a statement would read; `unplanned` says why nothing is known of how much, where that is so."""

    sql: str
    reads: tuple[PlannedRead, ...]
    unplanned: str | None = None

    @property
    def bytes(self) -> int | None:
        """The bytes of all products at most, or None where those of one cannot be told."""
        known = [r.bytes for r in self.reads if r.bytes is not None]
        return sum(known) if len(known) == len(self.reads) and not self.unplanned else None

    def json(self) -> str:
        """Return the plan as one line of JSON."""
        return json.dumps(asdict(self) | {"bytes": self.bytes})

    def text(self) -> str:
        """Return one aligned line for each product, and one for all of them."""
        if not self.reads:
            return f"not planned: {self.unplanned}" if self.unplanned else "reads no product"
        cells = [_cells(read) for read in self.reads]
        files, total = sum(r.files for r in self.reads), sum(r.files_total for r in self.reads)
        cells.append(("total", "", "", _files(files, total), _at_most(self.bytes), "", ""))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        return "\n".join([*lines, *([f"not planned: {self.unplanned}"] if self.unplanned else [])])


def _cells(read: PlannedRead) -> tuple[str, ...]:
    """The words of a line: product, place, version, files, bytes, rows, filters."""
    return (
        read.product,
        " ".join(filter(None, (read.cloud, read.region))),
        f"{read.format} {read.version[:12]}",
        _files(read.files, read.files_total),
        _at_most(read.bytes),
        _about(read),
        "; ".join(read.filters),
    )


def _about(read: PlannedRead) -> str:
    # A server that keeps no statistics of a table guesses 0.
    unknown = read.rows is None or not read.files or (read.rows == 0 and read.bytes is None)
    return "" if unknown else f"about {read.rows:,} row{'' if read.rows == 1 else 's'}"


def _files(count: int, total: int) -> str:
    return f"{count:,} of {total:,} file{'' if total == 1 else 's'}"


def _at_most(count: int | None) -> str:
    return "bytes unknown" if count is None else f"at most {size(count)}" if count else "nothing"


def explainable(statement: Statement, cursor: duckdb.DuckDBPyConnection) -> tuple[str | None, str | None]:
    """Return the SQL whose plan tells what a statement reads; or None, and why it cannot be had, if so."""
    if statement.kind == "EXPLAIN":
        found = EXPLAIN.match(statement.text)
        analyzes = found and (found[2] or "analyze" in (found[1] or "").casefold())
        return (statement.text[found.end() :], None) if found and analyzes else (None, None)
    if statement.kind in UNTOLD_KINDS:
        return None, f"DuckDB has no plan of {statement.kind.replace('_', ' ')}"
    if statement.kind not in PLANNED_KINDS:
        return None, None
    if len(cursor.extract_statements(statement.text)) > 1:
        return None, "the values of PIVOT are not listed, so that they have to be read first"
    return statement.text, None


def plan_of(
    statement: Statement,
    cursor: duckdb.DuckDBPyConnection,
    values: Any,
    snapshots: Sequence[Snapshot],
    resolver: Resolver,
    engine: Engine,
) -> Plan:
    """Return the plan of a statement whose products are mounted as these snapshots; nothing is run.

    Raises what DuckDB raises where the statement does not bind.
    """
    text, reason = explainable(statement, cursor)
    asked = _Asked(snapshots, resolver, engine)
    if text is None:
        return Plan(statement.text, asked.whole(reason), reason)
    engine.log_pruning()
    row = cursor.execute("SELECT current_connection_id()").fetchone()
    since = time.time_ns() // 1000
    rows = cursor.execute(f"EXPLAIN (FORMAT json)\n{text}", values or None).fetchall()
    log = read_log(engine.cursor(), int(row[0]) if row else 0, since)
    scans = [node["extra_info"] for root in json.loads(rows[0][1]) for node in _leaves(root)]
    return Plan(statement.text, tuple(asked.read(s, scans, log) for s in snapshots))


def _leaves(node: Node) -> Iterator[Node]:
    """The operators that read something by themselves."""
    if not node["children"]:
        yield node
    for child in node["children"]:
        yield from _leaves(child)


def _narrowed(info: Mapping[str, Any]) -> str:
    """The filters that a scan applies while it reads, or tries to."""
    texts = [*file_filters(info), *texts_of(info, "Filters")]
    bare = (text.removeprefix(OPTIONAL) for text in texts)
    return " AND ".join(text for text in dict.fromkeys(bare) if not text.startswith("Dynamic Filter"))


class _Asked:
    """Puts together what is read of each snapshot, from what DuckDB and the stores say."""

    def __init__(self, snapshots: Sequence[Snapshot], resolver: Resolver, engine: Engine) -> None:
        self._snapshots = snapshots
        self._resolver = resolver
        self._engine = engine
        self._types: dict[str, Mapping[str, str]] = {}

    def whole(self, reason: str | None) -> tuple[PlannedRead, ...]:
        """The reads of a statement without a plan: every file, unless it is known to read nothing."""
        none = Kept(0, 0)
        return tuple(
            self._planned(s, self._files(s), [] if reason is None else None, none) for s in self._snapshots
        )

    def read(self, snapshot: Snapshot, scans: Sequence[Mapping[str, Any]], log: Log) -> PlannedRead:
        """What these scans read of a snapshot; one that may be of several products counts for each."""
        files = self._files(snapshot)
        mine = [info for info in scans if self._may_read(info, snapshot)]
        parts = [
            kept(snapshot, files, info, log, lambda: self._columns(snapshot), self._engine.ask)
            for info in mine
        ]
        sizes = [part.bytes for part in parts]
        data = sum(not f.deletes for f in files)
        total = Kept(
            min(sum(part.files for part in parts), data),
            None if None in sizes else sum(size or 0 for size in sizes),
        )
        return self._planned(snapshot, files, mine, total)

    def _planned(
        self,
        snapshot: Snapshot,
        files: Sequence[File],
        scans: Sequence[Mapping[str, Any]] | None,
        total: Kept,
    ) -> PlannedRead:
        product = snapshot.product
        connection = self._resolver.catalog.connection_of(product)
        data = sum(not f.deletes for f in files)
        sizes = [f.bytes for f in files]
        infos = scans or ()
        estimates = [int(i["Estimated Cardinality"]) for i in infos if "Estimated Cardinality" in i]
        columns = (text for i in infos for text in texts_of(i, "Projections"))
        filters = map(_narrowed, infos)
        return PlannedRead(
            product=product.name,
            format=product.format,
            version=snapshot.version,
            cloud=connection.cloud,
            region=getattr(connection, "region", None),
            location=snapshot.location.plain,
            scans=None if scans is None else len(scans),
            files=data if scans is None else total.files,
            files_total=data,
            bytes=None if scans is None else total.bytes,
            bytes_total=None if None in sizes else sum(s or 0 for s in sizes),
            rows=sum(estimates) if estimates else None,
            columns=tuple(dict.fromkeys(columns)),
            filters=tuple(dict.fromkeys(filter(None, filters))),
        )

    def _may_read(self, info: Mapping[str, Any], snapshot: Snapshot) -> bool:
        """Whether a scan may be of the snapshot: the plan names functions, and not always products."""
        candidates = scanned(info, self._snapshots)
        if len(candidates) > 1:
            columns = {text.partition(".")[0] for text in texts_of(info, "Projections")}
            having = [s for s in candidates if columns <= self._columns(s).keys()]
            candidates = having or candidates
        return snapshot in candidates

    def _files(self, snapshot: Snapshot) -> list[File]:
        return self._resolver.contents(snapshot)

    def _columns(self, snapshot: Snapshot) -> Mapping[str, str]:
        if snapshot.key not in self._types:
            view = quote_name(snapshot.product.domain, snapshot.product.table)
            self._types[snapshot.key] = {str(r[0]): str(r[1]) for r in self._engine.ask(f"DESCRIBE {view}")}
        return self._types[snapshot.key]
