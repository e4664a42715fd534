"""The columns of a Delta table: what they are called in SQL and in its files, and their types in DuckDB."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshql.errors import CatalogError, CorruptError
from meshql.formats.delta_log import Log
from meshql.sql import quote_identifier, quote_literal

__all__ = ["Column", "columns_of"]

TYPES = {
    "string": "VARCHAR",
    "long": "BIGINT",
    "integer": "INTEGER",
    "short": "SMALLINT",
    "byte": "TINYINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
    "binary": "BLOB",
    "date": "DATE",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "timestamp_ntz": "TIMESTAMP",
}

DECIMAL = re.compile(r"decimal\((\d+), ?(\d+)\)")

WHOLE = r"[+-]?\d+"
REAL = r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?|NaN|-?Infinity"
INSTANT = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?"

TEXTS = {
    "VARCHAR": r"(?s).*",
    "BIGINT": WHOLE,
    "INTEGER": WHOLE,
    "SMALLINT": WHOLE,
    "TINYINT": WHOLE,
    "FLOAT": REAL,
    "DOUBLE": REAL,
    "BOOLEAN": r"true|false",
    "DATE": r"\d{4}-\d\d-\d\d",
    "TIMESTAMP": INSTANT,
    "TIMESTAMP WITH TIME ZONE": f"({INSTANT})Z?",
}
"""What the log writes for the value of a partition column, by its type in DuckDB."""

PHYSICAL = "delta.columnMapping.physicalName"
FIELD_ID = "delta.columnMapping.id"

Field = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name in SQL and `physical`, its name in files and in the log's partition values.

    `stored` is the type that files are read as, in which fields of structs have their physical names.
    `field_id` is set where files are read by it. `renamed` is the column as SQL, behind the scan.
    """

    name: str
    physical: str
    type: str
    stored: str
    partition: bool
    field_id: int | None
    renamed: str

    @property
    def quoted(self) -> str:
        """The name as SQL."""
        return quote_identifier(self.name)

    @property
    def entry(self) -> str:
        """The column as an entry of read_parquet's `schema`."""
        key = quote_literal(self.physical) if self.field_id is None else str(self.field_id)
        name, stored = quote_literal(_scanned(self.name)), quote_literal(self.stored)
        return f"{key}: {{'name': {name}, 'type': {stored}, 'default_value': NULL}}"

    def typed(self, text: str) -> str:
        """Return SQL for the value of a partition column whose text is the SQL `text`."""
        if self.type == "TIMESTAMP WITH TIME ZONE":
            # Times without a zone are UTC's in the log, and the session's for DuckDB.
            return f"make_timestamptz(epoch_us(CAST({text} AS TIMESTAMP)))"
        return f"CAST({text} AS {self.type})" if self.type != "VARCHAR" or text == "NULL" else text

    def check(self, value: str | None) -> None:
        """Raise CorruptError for the value of a partition column that is none of its type's."""
        pattern = TEXTS.get(self.type, WHOLE.replace(r"\d+", r"\d+(\.\d+)?"))
        if value is not None and not re.fullmatch(pattern, value):
            raise CorruptError(f"a file's value of partition column {self.name} is no {self.type}: {value}")


def columns_of(log: Log) -> tuple[Column, ...]:
    """Return the columns that the table has at the log's version.

    Raises CatalogError for types and column mappings that are not read exactly from files.
    """
    mode = _mapping(log)
    partitions = set(log.metadata["partitionColumns"] or ())
    fields = json.loads(log.metadata["schemaString"])["fields"]
    return tuple(_column(f, f["name"] in partitions, mode) for f in fields)


def _mapping(log: Log) -> str:
    """How columns are found in files: `none`, by `name` or by `id`."""
    reader, features = log.protocol["minReaderVersion"], log.protocol.get("readerFeatures") or ()
    if reader < 2 or (reader > 2 and "columnMapping" not in features):
        return "none"
    mode = dict(log.metadata.get("configuration") or ()).get("delta.columnMapping.mode", "none")
    if mode not in ("none", "name", "id"):
        raise CatalogError(f"the table maps columns by {mode}, which cannot be read with an OAuth token")
    return str(mode)


def _column(field: Field, partition: bool, mode: str) -> Column:
    kind = field["type"]
    nested = not isinstance(kind, str)
    if mode == "id" and nested:
        raise _unread(field, "is nested in a table that maps columns by id")
    if partition and (nested or kind == "binary"):
        raise _unread(field, "is a partition column of a type that paths do not tell")
    return Column(
        name=field["name"],
        physical=_physical(field, mode),
        type=_type(kind, "none", field),
        stored=_type(kind, mode, field),
        partition=partition,
        field_id=int(field["metadata"][FIELD_ID]) if mode == "id" else None,
        renamed=_renamed(quote_identifier(_scanned(field["name"])), kind, mode),
    )


def _unread(field: Field, what: str) -> CatalogError:
    return CatalogError(f"column {field['name']} {what}, which cannot be read with an OAuth token")


def _scanned(name: str) -> str:
    """The name of a column within the scan, which has some columns of its own."""
    return f"{name} in file" if name.casefold() in ("filename", "file_row_number") else name


def _physical(field: Field, mode: str) -> str:
    return str(field["name"] if mode == "none" else (field.get("metadata") or {})[PHYSICAL])


def _type(kind: Any, mode: str, column: Field) -> str:
    """The type in DuckDB, with the names that fields of structs have under `mode`."""
    if isinstance(kind, str):
        if decimal := DECIMAL.fullmatch(kind):
            return f"DECIMAL({decimal[1]},{decimal[2]})"
        if kind not in TYPES:
            raise _unread(column, f"is of type {kind}")
        return TYPES[kind]
    match kind["type"]:
        case "array":
            return f"{_type(kind['elementType'], mode, column)}[]"
        case "map":
            key, value = _type(kind["keyType"], mode, column), _type(kind["valueType"], mode, column)
            return f"MAP({key}, {value})"
        case "struct":
            inner = (
                f"{quote_identifier(_physical(f, mode))} {_type(f['type'], mode, column)}"
                for f in kind["fields"]
            )
            return f"STRUCT({', '.join(inner)})"
    raise _unread(column, f"is of type {kind['type']}")


def _renamed(value: str, kind: Any, mode: str, depth: int = 0) -> str:
    """SQL for `value`, whose fields have physical names, with the names of the schema."""
    if isinstance(kind, str) or not _renames(kind, mode):
        return value
    each = f"e{depth}"
    match kind["type"]:
        case "array":
            element = _renamed(each, kind["elementType"], mode, depth + 1)
            return f"list_transform({value}, lambda {each}: {element})"
        case "map":
            key = _renamed(f"{each}.key", kind["keyType"], mode, depth + 1)
            inside = _renamed(f"{each}.value", kind["valueType"], mode, depth + 1)
            entry = f"struct_pack(key := {key}, value := {inside})"
            return f"map_from_entries(list_transform(map_entries({value}), lambda {each}: {entry}))"
    fields = (
        f"{quote_identifier(f['name'])} := "
        + _renamed(f"struct_extract({value}, {quote_literal(_physical(f, mode))})", f["type"], mode, depth)
        for f in kind["fields"]
    )
    return f"CASE WHEN {value} IS NULL THEN NULL ELSE struct_pack({', '.join(fields)}) END"


def _renames(kind: Any, mode: str) -> bool:
    """Whether a field somewhere in this type has another name in files."""
    if isinstance(kind, str):
        return False
    if kind["type"] == "struct":
        return any(_physical(f, mode) != f["name"] or _renames(f["type"], mode) for f in kind["fields"])
    return any(_renames(kind[part], mode) for part in ("elementType", "keyType", "valueType") if part in kind)
