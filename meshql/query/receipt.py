"""What a statement read: which version of each product, from where, how much, in how many requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import duckdb

from meshql.catalog.model import Catalog
from meshql.formats.snapshot import Snapshot

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
    cursor: duckdb.DuckDBPyConnection,
    log: duckdb.DuckDBPyConnection,
    ids: Sequence[int],
    snapshots: Sequence[Snapshot],
    catalog: Catalog,
) -> tuple[Read, ...]:
    """Return what the last statement of `cursor` read of each snapshot.

    `ids` are those that `watch` gave for the cursors that worked for this statement; `log` is a cursor to
    read DuckDB's HTTP log with.
    """
    scans = list(_scans(json.loads(cursor.get_profiling_information(format="json"))))
    requests = _requests(log, ids)
    return tuple(_read(s, scans, requests, snapshots, catalog) for s in snapshots)


def _read(
    snapshot: Snapshot,
    scans: list[dict[str, Any]],
    requests: list[tuple[str, int]],
    snapshots: Sequence[Snapshot],
    catalog: Catalog,
) -> Read:
    mine = [s for s in scans if _scans_snapshot(s, snapshot, snapshots)]
    sizes = [size for url, size in requests if _owner(url, snapshots) is snapshot]
    files = [_files(s["extra_info"]) for s in mine]
    connection = catalog.connection_of(snapshot.product)
    return Read(
        product=snapshot.product.name,
        format=snapshot.product.format,
        version=snapshot.version,
        cloud=connection.cloud,
        region=getattr(connection, "region", None),
        location=str(snapshot.location),
        files=max((read for read, _ in files), default=0),
        files_total=max((total for _, total in files if total is not None), default=snapshot.files),
        rows=sum(int(s.get("operator_cardinality") or 0) for s in mine),
        bytes=sum(sizes),
        requests=len(sizes),
    )


def _scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if node.get("operator_type") == "TABLE_SCAN":
        yield node
    for child in node.get("children", ()):
        yield from _scans(child)


def _scans_snapshot(scan: dict[str, Any], snapshot: Snapshot, snapshots: Sequence[Snapshot]) -> bool:
    info = scan["extra_info"]
    if info.get("Table") == snapshot.key:
        return True
    first = str(info.get("Filename(s)", "")).partition(", ")[0]
    if first:
        return _longest(snapshots, first) is snapshot
    # A scan that opened no file names none; its function tells, where one product only is read with it.
    alike = [s for s in snapshots if s.relation.partition("(")[0].upper() == info.get("Function")]
    return alike == [snapshot]


def _longest(snapshots: Sequence[Snapshot], uri: str) -> Snapshot | None:
    holding = [s for s in snapshots if not s.attach and _holds(s, uri)]
    return max(holding, key=lambda s: len(s.location.key), default=None)


def _holds(snapshot: Snapshot, uri: str) -> bool:
    if snapshot.product.format == "iceberg":
        return snapshot.location.key.rstrip("/") in uri
    keys = (proof.partition("\0")[0] for proof in snapshot.proof)
    return any(uri == snapshot.location.at(key) for key in keys)


def _files(info: dict[str, Any]) -> tuple[int, int | None]:
    scanning = str(info.get("Scanning Files", ""))
    read, _, total = scanning.partition("/")
    opened = str(info.get("Total Files Read", read or "0"))
    return int(opened), int(total) if total else None


def _requests(log: duckdb.DuckDBPyConnection, ids: Sequence[int]) -> list[tuple[str, int]]:
    """The URL of each request of these cursors, and the bytes that came with its answer."""
    # httpfs keeps the case that the store gave its headers, azure's client lowers it.
    rows = log.execute(
        """
        SELECT url, CASE verb WHEN 'HEAD' THEN 0 ELSE coalesce(try_cast(length AS BIGINT), 0) END
        FROM (
            SELECT request.url AS url, request.type AS verb, connection_id,
                coalesce(response.headers['Content-Length'], response.headers['content-length']) AS length
            FROM duckdb_logs_parsed('HTTP')
        )
        WHERE list_contains(?, connection_id)
        """,
        [list(ids)],
    )
    return [(str(url), int(size)) for url, size in rows.fetchall()]


def _owner(url: str, snapshots: Sequence[Snapshot]) -> Snapshot | None:
    parts = urlsplit(url)
    path = unquote(parts.path)
    holding = [
        s
        for s in snapshots
        if f"/{s.location.key.rstrip('/')}" in path and s.location.bucket in f"{parts.netloc}{path}"
    ]
    return max(holding, key=lambda s: len(s.location.key), default=None)
