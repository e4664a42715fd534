"""How many files and bytes a scan will read, by what DuckDB itself says that it leaves out.

Delta logs how many files its filters leave, Iceberg each file that a filter rules out, and the scan of plain
files how many folders match. Where nothing is said, or it cannot be told which scan it is said of, a scan
counts as reading every file: the numbers may be too high, never too low.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from meshql.formats.delta_files import said
from meshql.formats.snapshot import Ask, File, Snapshot
from meshql.query.scans import files_of
from meshql.sql import quote_identifier, quote_literal

__all__ = ["OPTIONAL", "Kept", "Log", "file_filters", "kept", "read_log", "texts_of"]

PUSHED = (
    'STRUCT(path VARCHAR, "type" VARCHAR, filters_before VARCHAR[], filters_after VARCHAR[],'
    " files_before BIGINT, files_after BIGINT)"
)

SKIPPED = re.compile(
    r"skipped '(manifest|data)_file': '(.*?)', .* (?:did|does) not match filter: (.*)", re.DOTALL
)

COMPARED = re.compile(r'\(?"?(\w+)"? ?[<>=]')

APART = re.compile(r"(?<=\))(?=\((?:[^']*'[^']*')*[^']*$)")
"""Between two conditions, but within no quotes."""

OPTIONAL = "optional: "
"""In front of filters that a scan may apply or not."""

Types = Callable[[], Mapping[str, str]]
"""The columns of a product with their types; asked only where they matter."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """The filters that a Delta scan was given, and how many files are left with them."""

    path: str
    filters: frozenset[str]
    files: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A data file, or all files of a manifest, that an Iceberg scan with this filter does not read."""

    path: str
    filter: str


@dataclass(frozen=True, slots=True)
class Log:
    """What DuckDB said while it planned a statement."""

    pushed: tuple[Pushed, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """What a scan will read at most; `bytes` is None where the size of a file is not known."""

    files: int
    bytes: int | None


def read_log(log: duckdb.DuckDBPyConnection, connection: int, since: int) -> Log:
    """Return what was logged for a connection since a time in microseconds; `log` is any other cursor."""
    chosen = f"FROM duckdb_logs WHERE connection_id = {connection:d} AND epoch_us(timestamp) >= {since:d}"
    pushed = log.execute(
        f"SELECT TRY_CAST(message AS {PUSHED}) {chosen} AND type = 'delta.FilterPushdown'"
    ).fetchall()
    messages = log.execute(f"SELECT message {chosen} AND type = 'Iceberg'").fetchall()
    skipped = (SKIPPED.search(str(message)) for (message,) in messages)
    return Log(
        tuple(Pushed(p["path"], _filters(p), p["files_after"]) for (p,) in pushed if p),
        tuple(Skipped(found[2], found[3]) for found in skipped if found),
    )


def _filters(pushed: Mapping[str, Any]) -> frozenset[str]:
    return frozenset([*(pushed["filters_before"] or ()), *(pushed["filters_after"] or ())])


def kept(
    snapshot: Snapshot, files: Sequence[File], info: Mapping[str, Any], log: Log, types: Types, ask: Ask
) -> Kept:
    """Return what a scan with this `extra_info` reads at most of a snapshot that has these files."""
    data: Sequence[File] = [f for f in files if not f.deletes]
    left: Sequence[File]
    filters = texts_of(info, "Filters")
    match snapshot.product.format:
        case "iceberg":
            ruled_out = {s.path for s in log.skipped if s.filter in filters}
            left = [f for f in data if not _names(ruled_out, f.key, f.manifest)]
            count = len(left)
        case "delta" if snapshot.log is None:
            count = min((p.files for p in log.pushed if _said_of(p, snapshot, filters)), default=len(data))
            sure = [f for f in filters if not f.startswith(OPTIONAL)]
            left = data if count == len(data) else _matching(data, sure, types, ask)
        case _:
            opened, total = files_of(info)
            # Which share of the files a scan has is not said: the biggest may be.
            count = opened if total is not None else max(snapshot.parts, default=len(data))
            left = data if total is None else _matching(data, file_filters(info), types, ask)
            left = left if len(left) == count else data
    left = left if len(left) >= count else data
    # Which of those left are read is not said: the biggest may be.
    return _largest(left, count, [f for f in files if f.deletes] if count else [])


def texts_of(info: Mapping[str, Any], key: str) -> list[str]:
    """Return the texts under a key of `extra_info`, which has one as it is and several as a list."""
    given = info.get(key) or []
    return [said(str(text)) for text in ([given] if isinstance(given, str) else given)]


def file_filters(info: Mapping[str, Any]) -> list[str]:
    """Return the filters that leave out whole files, which come as one text: `(a = 1)(b = 2)`."""
    return [part for text in texts_of(info, "File Filters") for part in APART.split(text)]


def _names(paths: Iterable[str], *keys: str | None) -> bool:
    return any(key is not None and path.endswith(f"/{key}") for path in paths for key in keys)


def _said_of(pushed: Pushed, snapshot: Snapshot, filters: Sequence[str]) -> bool:
    """Whether the files left hold for a scan of the snapshot with these filters, or some more."""
    same = pushed.path.removeprefix("file://").strip("/") == str(snapshot.location).strip("/")
    return same and pushed.filters <= set(filters)


def _matching(files: Sequence[File], filters: Sequence[str], types: Types, ask: Ask) -> Sequence[File]:
    """The files whose partitions match those of the filters that compare partition columns."""
    names = sorted({name for f in files for name in f.partition})
    compared = [f for f in filters if (found := COMPARED.match(f)) and found[1] in names]
    if not compared:
        return files
    known = types()
    columns = ", ".join(
        f"CAST({quote_identifier(n)} AS {known.get(n, 'VARCHAR')}) AS {quote_identifier(n)}" for n in names
    )
    rows = ", ".join(
        f"({i}, {', '.join(_value(f.partition.get(n)) for n in names)})" for i, f in enumerate(files)
    )
    listed = ", ".join(quote_identifier(n) for n in names)
    try:
        matching = ask(
            f"SELECT i FROM (SELECT i, {columns} FROM (VALUES {rows}) v(i, {listed})) "
            f"WHERE {' AND '.join(f'({c})' for c in compared)}"
        )
    except duckdb.Error:
        # A filter that cannot be read here leaves out nothing.
        return files
    return [files[row[0]] for row in matching]


def _value(text: str | None) -> str:
    return "NULL" if text is None else quote_literal(text)


def _largest(files: Sequence[File], count: int, always: Sequence[File]) -> Kept:
    sizes = [f.bytes for f in (*files, *always)]
    if None in sizes:
        return Kept(count, None)
    largest = sorted((f.bytes or 0 for f in files), reverse=True)[:count]
    return Kept(count, sum(largest) + sum(f.bytes or 0 for f in always))
