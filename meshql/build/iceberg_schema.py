"""The columns of a query as Iceberg has them: types, field ids, and the casts that lead there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from duckdb.sqltypes import DuckDBPyType
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)

from meshql.errors import UsageError
from meshql.sql import quote_identifier, quote_literal

__all__ = ["Column", "columns_of", "evolved", "field_ids", "schema_of", "sql_type"]

SIMPLE: dict[str, tuple[str, IcebergType]] = {
    "boolean": ("BOOLEAN", BooleanType()),
    "tinyint": ("INTEGER", IntegerType()),
    "smallint": ("INTEGER", IntegerType()),
    "integer": ("INTEGER", IntegerType()),
    "utinyint": ("INTEGER", IntegerType()),
    "usmallint": ("INTEGER", IntegerType()),
    "bigint": ("BIGINT", LongType()),
    "uinteger": ("BIGINT", LongType()),
    "ubigint": ("DECIMAL(20,0)", DecimalType(20, 0)),
    # A sum of integers is a HUGEINT, and none that is met in practice has more digits than fit.
    "hugeint": ("DECIMAL(38,0)", DecimalType(38, 0)),
    "float": ("FLOAT", FloatType()),
    "double": ("DOUBLE", DoubleType()),
    "varchar": ("VARCHAR", StringType()),
    "enum": ("VARCHAR", StringType()),
    "blob": ("BLOB", BinaryType()),
    "uuid": ("UUID", UUIDType()),
    "date": ("DATE", DateType()),
    "time": ("TIME", TimeType()),
    "timestamp": ("TIMESTAMP", TimestampType()),
    "timestamp_s": ("TIMESTAMP", TimestampType()),
    "timestamp_ms": ("TIMESTAMP", TimestampType()),
    "timestamp with time zone": ("TIMESTAMP WITH TIME ZONE", TimestamptzType()),
}
"""For DuckDB's types that Iceberg can hold every value of, the type to cast to, and Iceberg's."""

NESTED = ("list", "array", "map", "struct")

CASTS = {
    "timestamp_ns": "TIMESTAMP",
    "uhugeint": "DECIMAL(38,0)",
    "bignum": "DECIMAL(38,0)",
    "time with time zone": "TIME",
    "time_ns": "TIME",
}
"""For types that it cannot, what somebody may want instead; VARCHAR for all others."""


def sql_type(kind: IcebergType) -> str:
    """Return what DuckDB calls a type of Iceberg's that is not nested."""
    if isinstance(kind, DecimalType):
        return f"DECIMAL({kind.precision},{kind.scale})"
    return next((sql for sql, iceberg in SIMPLE.values() if iceberg == kind), "BLOB")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a query: `type` is the SQL type that it is stored at, `iceberg` what that is there."""

    name: str
    source: str
    type: str
    iceberg: IcebergType

    @property
    def quoted(self) -> str:
        """The name, to stand in SQL."""
        return quote_identifier(self.name)

    @property
    def stored(self) -> str:
        """The SELECT item that gives the column at the type that it is stored at."""
        if self.source == self.type:
            return self.quoted
        return f"CAST({self.quoted} AS {self.type}) AS {self.quoted}"


def columns_of(product: str, names: Sequence[str], types: Sequence[DuckDBPyType]) -> list[Column]:
    """Return the columns of a query; raises UsageError for what Iceberg has no place for, with the cast."""
    if not names:
        raise UsageError(f"{product}: its SQL gives no column")
    folded: dict[str, str] = {}
    for name in names:
        if name.casefold() in folded:
            raise UsageError(
                f"{product}: its SQL gives two columns by the name {name}",
                hint=f"name one of them otherwise: ... AS {name}_2",
            )
        folded[name.casefold()] = name
    return [_column(product, name, kind) for name, kind in zip(names, types, strict=True)]


def _column(product: str, name: str, kind: DuckDBPyType) -> Column:
    found = _stored(kind)
    if isinstance(found, str):
        quoted = quote_identifier(name) if not name.isidentifier() else name
        nested = "" if _plain(kind) == found else f", which holds {found}"
        hint = f"say which type: CAST(... AS {CASTS.get(found.lower(), 'VARCHAR')}) AS {quoted}"
        raise UsageError(
            f"{product}: Iceberg has no type for column {name}, a {_plain(kind)}{nested}", hint=hint
        )
    return Column(name, str(kind), *found)


def _plain(kind: DuckDBPyType) -> str:
    return str(kind).replace('"', "")


def _stored(kind: DuckDBPyType) -> tuple[str, IcebergType] | str:
    """The SQL type to store and Iceberg's, with ids yet to be given; or the name of a type that it lacks."""
    name = str(kind.id)
    # JSON and other types by a name are stored as what they are made of.
    if name in SIMPLE:
        return SIMPLE[name]
    if str(kind).lower() in SIMPLE:
        return SIMPLE[str(kind).lower()]
    if name == "decimal":
        width, scale = (int(str(value)) for _, value in kind.children)
        return f"DECIMAL({width},{scale})", DecimalType(width, scale)
    names = [child for child, _ in kind.children] if name in NESTED else []
    parts = [part for _, part in kind.children if isinstance(part, DuckDBPyType)] if name in NESTED else []
    match name:
        case "list" | "array":
            return _combined(parts, lambda t: f"{t[0]}[]", lambda i: ListType(0, i[0], False))
        case "map":
            return _combined(
                parts, lambda t: f"MAP({t[0]}, {t[1]})", lambda i: MapType(0, i[0], 0, i[1], False)
            )
        case "struct":
            return _combined(parts, lambda t: _struct(names, t), lambda i: StructType(*_fields(names, i)))
    return _plain(kind)


def _struct(names: Sequence[str], types: Sequence[str]) -> str:
    inner = (f"{quote_identifier(name)} {kind}" for name, kind in zip(names, types, strict=True))
    return f"STRUCT({', '.join(inner)})"


def _fields(names: Sequence[str], types: Sequence[IcebergType]) -> Iterator[NestedField]:
    for name, kind in zip(names, types, strict=True):
        yield NestedField(0, name, kind, required=False)


def _combined(
    parts: Sequence[DuckDBPyType],
    sql: Callable[[list[str]], str],
    iceberg: Callable[[list[IcebergType]], IcebergType],
) -> tuple[str, IcebergType] | str:
    found = [_stored(part) for part in parts]
    if lacking := next((f for f in found if isinstance(f, str)), None):
        return lacking
    both = [f for f in found if not isinstance(f, str)]
    return sql([t for t, _ in both]), iceberg([i for _, i in both])


def schema_of(columns: Sequence[Column], ids: Iterator[int], known: Schema | None = None) -> Schema:
    """Return the schema of these columns, each of them optional, with field ids from `ids`.

    A column that `known` has by the same name and type keeps its ids.
    """
    fields = []
    for column in columns:
        kept = _known(known, column)
        if kept is not None:
            fields.append(kept)
        else:
            number = next(ids)
            fields.append(NestedField(number, column.name, _numbered(column.iceberg, ids), required=False))
    return Schema(*fields)


def _known(schema: Schema | None, column: Column) -> NestedField | None:
    found = next((f for f in schema.fields if f.name == column.name), None) if schema else None
    same = found and not found.required and _shape(found.field_type) == _shape(column.iceberg)
    return found if same else None


def _numbered(kind: IcebergType, ids: Iterator[int]) -> IcebergType:
    match kind:
        case ListType():
            number = next(ids)
            return ListType(number, _numbered(kind.element_type, ids), False)
        case MapType():
            key, value = next(ids), next(ids)
            return MapType(key, _numbered(kind.key_type, ids), value, _numbered(kind.value_type, ids), False)
        case StructType():
            numbers = [next(ids) for _ in kind.fields]
            return StructType(
                *(
                    NestedField(number, f.name, _numbered(f.field_type, ids), required=False)
                    for number, f in zip(numbers, kind.fields, strict=True)
                )
            )
    return kind


def _shape(kind: IcebergType) -> Any:
    """A type without its ids, to compare."""
    match kind:
        case ListType():
            return "list", _shape(kind.element_type), kind.element_required
        case MapType():
            return "map", _shape(kind.key_type), _shape(kind.value_type), kind.value_required
        case StructType():
            return "struct", tuple((f.name, _shape(f.field_type), f.required) for f in kind.fields)
    return str(kind)


def evolved(before: Schema, after: Schema) -> tuple[str, ...]:
    """Return how columns changed from one schema to the next, in words."""
    old, new = ({f.name: f.field_type for f in s.fields} for s in (before, after))
    changes = [f"added column {name}" for name in new if name not in old]
    changes += [f"removed column {name}" for name in old if name not in new]
    changes += [
        f"column {name} is {new[name]}, and was {old[name]}"
        for name in new
        if name in old and _shape(new[name]) != _shape(old[name])
    ]
    return tuple(changes)


def field_ids(schema: Schema) -> str:
    """Return the FIELD_IDS option with which DuckDB writes the schema's ids into Parquet files."""
    return _ids([(f.name, f.field_id, f.field_type) for f in schema.fields])


def _ids(fields: Sequence[tuple[str, int, IcebergType]]) -> str:
    return (
        "{" + ", ".join(f"{quote_literal(name)}: {_id(number, kind)}" for name, number, kind in fields) + "}"
    )


def _id(number: int, kind: IcebergType) -> str:
    match kind:
        case ListType():
            inner = [("element", kind.element_id, kind.element_type)]
        case MapType():
            inner = [("key", kind.key_id, kind.key_type), ("value", kind.value_id, kind.value_type)]
        case StructType():
            inner = [(f.name, f.field_id, f.field_type) for f in kind.fields]
        case _:
            return str(number)
    return f"{{__duckdb_field_id: {number}, {_ids(inner)[1:]}"
