"""Scans of a profile or plan, matched to the snapshots that they read, and the requests that they made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from meshql.formats.delta_vectors import ROW
from meshql.formats.snapshot import Snapshot

__all__ = ["Traffic", "files_of", "scanned", "traffic"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that came from a store, and the requests that they took."""

    bytes: int = 0
    requests: int = 0


def scanned(info: Mapping[str, Any], snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Return the snapshots that a scan with this `extra_info` may read: one, unless it opened no file."""
    if ROW in (info.get("Projections") or ()):
        # A copy of deletion vectors on this machine.
        return []
    named = [s for s in snapshots if s.key == info.get("Table")]
    if named:
        return named
    first = str(info.get("Filename(s)", "")).partition(", ")[0]
    if first:
        holding = [s for s in snapshots if s.function and _holds(s, first)]
        return sorted(holding, key=lambda s: len(s.location.key))[-1:]
    tables = [s for s in snapshots if s.shares and s.location.key.partition(".")[2] == info.get("Table")]
    if tables:
        return tables
    # A scan that opened no file names none; its function tells, where one product only is read with it.
    return [s for s in snapshots if s.function and s.function == info.get("Function")]


def files_of(info: Mapping[str, Any]) -> tuple[int, int | None]:
    """Return how many files a scan opened, or means to, and of how many; None where it does not tell."""
    scanning = str(info.get("Scanning Files", ""))
    read, _, total = scanning.partition("/")
    opened = str(info.get("Total Files Read", read or "0"))
    return int(opened), int(total) if total else None


def traffic(
    log: duckdb.DuckDBPyConnection, ids: Sequence[int], snapshots: Sequence[Snapshot]
) -> dict[str, Traffic]:
    """Return what was fetched of each snapshot, by its key, as DuckDB's HTTP log tells.

    `ids` are those of the cursors that worked for the statement; `log` is a cursor to read the log with.
    """
    found: dict[str, Traffic] = {}
    for url, size in _requests(log, ids):
        owner = _owner(url, snapshots)
        if owner:
            before = found.get(owner.key, Traffic())
            found[owner.key] = Traffic(before.bytes + size, before.requests + 1)
    return found


def _holds(snapshot: Snapshot, uri: str) -> bool:
    if snapshot.product.format == "iceberg":
        return snapshot.location.key.rstrip("/") in uri
    if snapshot.log is not None:
        return uri.startswith(str(snapshot.location))
    keys = (proof.partition("\0")[0] for proof in snapshot.proof)
    return any(uri == snapshot.location.at(key) for key in keys)


def _requests(log: duckdb.DuckDBPyConnection, ids: Sequence[int]) -> list[tuple[str, int]]:
    """The URL of each request of these cursors, and the bytes that came with its answer."""
    # httpfs keeps the case that the store gave its headers, azure's client lowers it.
    rows = log.execute(
        f"""
        SELECT url, CASE verb WHEN 'HEAD' THEN 0 ELSE coalesce(try_cast(length AS BIGINT), 0) END
        FROM (
            SELECT request.url AS url, request.type AS verb, connection_id,
                coalesce(response.headers['Content-Length'], response.headers['content-length']) AS length
            FROM duckdb_logs_parsed('HTTP')
        )
        WHERE connection_id IN ({", ".join(map(str, ids)) or "NULL"})
        """
    )
    return [(str(url), int(size)) for url, size in rows.fetchall()]


def _owner(url: str, snapshots: Sequence[Snapshot]) -> Snapshot | None:
    holding = [s for s in snapshots if s.location.holds(url)]
    return max(holding, key=lambda s: len(s.location.key), default=None)
