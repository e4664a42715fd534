"""What a statement read: which version of each product, from where, how much, in how many requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from meshql.catalog.model import Catalog
from meshql.formats.snapshot import Snapshot
from meshql.query.scans import Traffic, files_of, scanned, traffic
from meshql.redact import redact

__all__ = ["Read", "Receipt", "read_of", "watch"]


@dataclass(frozen=True, slots=True)
class Read:
    """What was read of one product: files scanned of the files there are, rows scanned, bytes, requests.

    `files_total` is None where the scan does not tell it. Bytes and requests are those of DuckDB's own
    readers, this statement's look at the schema included; local files need no request.
    """

    product: str
    format: str
    version: str
    cloud: str
    region: str | None
    location: str
    files: int
    files_total: int | None
    rows: int
    bytes: int
    requests: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A statement's account of itself."""

    sql: str
    catalog: str
    reads: tuple[Read, ...]
    rows: int
    seconds: float
    duckdb: str = duckdb.__version__

    def json(self) -> str:
        """Return the receipt as one line of JSON."""
        return json.dumps(asdict(self), default=str)


def watch(cursor: duckdb.DuckDBPyConnection) -> int:
    """Let DuckDB keep account of what `cursor` does; returns the cursor's id in that account."""
    cursor.execute("SET enable_profiling = 'no_output'")
    row = cursor.execute("SELECT current_connection_id()").fetchone()
    assert row is not None
    return int(row[0])


def read_of(
    profile: str,
    log: duckdb.DuckDBPyConnection,
    ids: Sequence[int],
    snapshots: Sequence[Snapshot],
    catalog: Catalog,
) -> tuple[Read, ...]:
    """Return what a statement with this profile, in JSON, read of each snapshot.

    `ids` are those that `watch` gave for the cursors that worked for this statement; `log` is a cursor to
    read DuckDB's HTTP log with.
    """
    scans = list(_scans(json.loads(profile)))
    fetched = traffic(log, ids, snapshots)
    return tuple(_read(s, scans, fetched.get(s.key, Traffic()), snapshots, catalog) for s in snapshots)


def _read(
    snapshot: Snapshot,
    scans: list[dict[str, Any]],
    fetched: Traffic,
    snapshots: Sequence[Snapshot],
    catalog: Catalog,
) -> Read:
    mine = [s for s in scans if scanned(s["extra_info"], snapshots) == [snapshot]]
    files = [files_of(s["extra_info"]) for s in mine]
    connection = catalog.connection_of(snapshot.product)
    return Read(
        product=snapshot.product.name,
        format=snapshot.product.format,
        version=snapshot.version,
        cloud=connection.cloud,
        region=getattr(connection, "region", None),
        location=redact(snapshot.location.plain),
        files=_files_read(snapshot, [read for read, _ in files]),
        files_total=max((total for _, total in files if total is not None), default=snapshot.files),
        rows=sum(int(s.get("operator_cardinality") or 0) for s in mine),
        bytes=fetched.bytes,
        requests=fetched.requests,
    )


def _files_read(snapshot: Snapshot, counts: Sequence[int]) -> int:
    """How many files were read, of which each scan says how many were its."""
    if len(snapshot.parts) > 1 and snapshot.files is not None:
        return min(sum(counts), snapshot.files)
    return max(counts, default=0)


def _scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if node.get("operator_type") == "TABLE_SCAN":
        yield node
    for child in node.get("children", ()):
        yield from _scans(child)
