"""Delta tables whose log delta-kernel cannot fetch as this identity: a scan of the files that the log names.

The log is copied to this machine. What it says is read twice, here and by the delta extension, and both have
to agree on the files and on the types before any row is read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from meshql.errors import CatalogError, CorruptError, MeshError
from meshql.formats.delta_log import DataFile, Log
from meshql.formats.delta_schema import Column, columns_of
from meshql.formats.delta_vectors import FILE, ROW
from meshql.formats.files import readable_uri
from meshql.formats.snapshot import File
from meshql.sql import quote_identifier, quote_literal
from meshql.storage.location import Location

__all__ = ["Relation", "agreement", "check", "listed", "relation", "said"]

KNOWN_FEATURES = frozenset(
    {
        "columnMapping",
        "deletionVectors",
        "timestampNtz",
        "typeWidening",
        "typeWidening-preview",
        "v2Checkpoint",
        "vacuumProtocolCheck",
    }
)
"""Features that change how a table is read, and that are read right."""

NEWEST_READER = 3

NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"

FOLDER_NAME = re.compile(r"[\w-]+")
"""Names that stand in paths as they are."""

ABSOLUTE = re.compile(r"/|[A-Za-z][A-Za-z0-9+.-]*:|(.*/)?\.\.(/|$)")

# How DuckDB writes in plans what `_from_path` and `Column.typed` write in SQL, from within outwards.
WRITTEN = (
    re.compile(
        r"array_extract\(str_split\(array_extract\(str_split\(filename, '/([\w-]+)='\), -1\), '/'\), 1\)"
    ),
    re.compile(r"url_decode\(\0([\w-]+)\0\)"),
    re.compile(rf"CASE  WHEN \(\(\0([\w-]+)\0 = '{NULL_FOLDER}'\)\) THEN \(NULL\) ELSE \0\1\0 END"),
    re.compile(r"CAST\(\0([\w-]+)\0 AS [A-Z ]+(?:\(\d+,\d+\))?\)"),
    re.compile(r"make_timestamptz\(epoch_us\(\0([\w-]+)\0\)\)"),
)

HINT = "use an identity that the delta extension takes itself: `auth: {method: hmac, ...}` on this connection"


def check(log: Log, root: Location) -> None:
    """Raise CatalogError for a table that uses what is not read exactly from its files."""
    reader = int(log.protocol.get("minReaderVersion") or 0)
    features = set(log.protocol.get("readerFeatures") or ()) if reader >= NEWEST_READER else set()
    if not log.protocol or not log.metadata:
        raise CorruptError(f"the Delta log names no protocol or no schema: {root}_delta_log/")
    if reader > NEWEST_READER:
        raise _unread(f"the table asks for Delta reader version {reader}")
    if unknown := sorted(features - KNOWN_FEATURES):
        raise _unread(f"the table uses the Delta feature{'s' * (len(unknown) > 1)} {', '.join(unknown)}")
    if outside := next((f.path for f in log.files.values() if ABSOLUTE.match(f.path)), None):
        raise _unread(f"the table names files outside its folder, such as {outside}")


def _unread(what: str) -> MeshError:
    return CatalogError(f"{what}, which cannot be read with an OAuth token", hint=HINT)


@dataclass(frozen=True, slots=True)
class Relation:
    """What goes behind FROM; `parts` are the files of each scan in it, where there are several."""

    sql: str
    parts: tuple[int, ...] = ()


def relation(log: Log, root: Location, deleted: Path | None) -> Relation:
    """Return what reads the rows of the log's version, except those that the file `deleted` lists.

    One scan where every path tells the values of the partition columns as the log has them, and one for
    each partition where not; both leave out the files of partitions that a filter rules out. Files with
    deletion vectors are scanned apart.
    """
    columns = columns_of(log)
    files = list(log.files.values())
    if not files:
        empty = ", ".join(f"CAST(NULL AS {c.type}) AS {c.quoted}" for c in columns)
        return Relation(f"(SELECT {empty} LIMIT 0)")
    split = [c for c in columns if c.partition]
    for column in split:
        for value in {file.partition.get(column.physical) for file in files}:
            column.check(value)
    by_path = {c.physical: _from_path(c, files, root) for c in split}
    told = {name: text for name, text in by_path.items() if text is not None}
    groups: dict[tuple[bool, tuple[str, ...]], list[DataFile]] = {}
    for file in files:
        constants = (_text(file.partition.get(name)) for name in by_path)
        values = tuple(told.values()) if len(told) == len(by_path) else tuple(constants)
        groups.setdefault((bool(file.vector), values), []).append(file)
    scans = [
        _scan(columns, group, root, dict(zip(by_path, values, strict=True)), deleted if vectors else None)
        for (vectors, values), group in groups.items()
    ]
    parts = tuple(map(len, groups.values())) if len(groups) > 1 else ()
    return Relation(f"({' UNION ALL '.join(scans)})", parts)


def _text(value: str | None) -> str:
    return "NULL" if value is None else quote_literal(value)


def _scan(
    columns: Sequence[Column],
    files: Sequence[DataFile],
    root: Location,
    values: Mapping[str, str],
    deleted: Path | None,
) -> str:
    """A SELECT of these files, with the text of partition columns as SQL in `values`."""
    uris = ", ".join(quote_literal(readable_uri(root, root.key + file.path)) for file in files)
    stored = ", ".join(c.entry for c in columns if not c.partition)
    chosen = ", ".join(
        f"{c.typed(values[c.physical]) if c.partition else c.renamed} AS {c.quoted}" for c in columns
    )
    options = f", schema => MAP {{{stored}}}" if stored else ""
    rows = [file.left for file in files]
    if None not in rows:
        options += f", explicit_cardinality => {sum(r or 0 for r in rows)}"
    # DuckDB leaves out files by what a filter makes of this very column, and of none by another name.
    if deleted or any("(filename, " in text for text in values.values()):
        options += ", filename => true"
    scan = f"SELECT {chosen} FROM read_parquet([{uris}]{options}) AS files"
    if deleted is None:
        return scan
    file, row = quote_identifier(FILE), quote_identifier(ROW)
    gone = f"read_parquet({quote_literal(str(deleted))})"
    same = f"files.filename = gone.{file} AND files.file_row_number = gone.{row}"
    return f"{scan} ANTI JOIN {gone} AS gone ON {same}"


def _from_path(column: Column, files: Iterable[DataFile], root: Location) -> str | None:
    """SQL for the text of a partition column in `filename`, or None where not every path has it."""
    if not FOLDER_NAME.fullmatch(column.physical):
        return None
    folders = set[str]()
    for file in files:
        folder = root.at(root.key + file.path).split(f"/{column.physical}=")[-1].split("/")[0]
        value = file.partition.get(column.physical)
        if value == NULL_FOLDER or value != (None if folder == NULL_FOLDER else unquote(folder)):
            return None
        folders.add(folder)
    # Planning takes half the time that it takes with regexp_extract.
    text = f"str_split(str_split(filename, '/{column.physical}=')[-1], '/')[1]"
    if any("%" in folder for folder in folders):
        text = f"url_decode({text})"
    return f"nullif({text}, '{NULL_FOLDER}')" if NULL_FOLDER in folders else text


def listed(log: Log, root: Location) -> list[File]:
    """Return the files of the log's version, with the values of partition columns by their names."""
    names = {c.physical: c.name for c in columns_of(log) if c.partition}
    return [
        File(root.key + f.path, f.size, {name: f.partition.get(key) for key, name in names.items()})
        for f in log.files.values()
    ]


def agreement(log: Log, found: str) -> str:
    """Return SQL that fails unless the delta extension finds the same files, columns and types in the log.

    `found` is what `relation` gave.
    """
    table = f"{quote_literal(str(log.folder))}, version => {log.version}"
    path = f"substr(data_file, {len(str(log.folder)) + 2})"
    vectors = sum(bool(file.vector) for file in log.files.values())
    digest = 0
    for file in log.files.values():
        digest ^= int.from_bytes(hashlib.md5(file.path.encode()).digest(), "little")
    same_files = (
        f"SELECT count(*) = {len(log.files)} AND coalesce(bit_xor(md5_number({path})), 0) = "
        f"{digest}::UHUGEINT AND count(*) FILTER (have_deletes) = {vectors} FROM delta_list_files({table})"
    )
    shape = "SELECT list((column_name, column_type)) FROM (DESCRIBE FROM {})"
    same_columns = f"({shape.format(f'delta_scan({table})')}) = ({shape.format(found)})"
    files = quote_literal("the delta extension finds other files in this version of the Delta log")
    schema = quote_literal("the delta extension finds another schema in this version of the Delta log")
    return (
        f"SELECT CASE WHEN NOT ({same_files}) THEN error({files}) END, "
        f"CASE WHEN NOT ({same_columns}) THEN error({schema}) END"
    )


def said(text: str) -> str:
    """Return DuckDB's words for an expression, with the columns that `relation` takes from paths by name."""
    for written in WRITTEN:
        text = written.sub("\0\\1\0", text)
    return text.replace("\0", "")
