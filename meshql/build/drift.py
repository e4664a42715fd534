"""Rows that change their shape from batch to batch: the columns that hold all of them, and what changed.

Numbers and times widen. Where two types have nothing in common, the column is read as text, as JSON where
either is nested; what earlier files hold can always be cast to that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
from duckdb.sqltypes import DuckDBPyType

from meshql.formats.batch_state import UNKNOWN
from meshql.sql import quote_identifier

__all__ = ["Shape", "changed", "merged", "spelled", "text_kept"]

NESTED = frozenset({"struct", "list", "map", "array", "union", "variant"})

TIMES = frozenset(
    {"date", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns", "timestamp with time zone"}
)

NUMBERS = frozenset(
    f"{sign}{size}" for sign in ("", "u") for size in ("tinyint", "smallint", "integer", "bigint", "hugeint")
) | {"float", "double", "decimal"}


@dataclass(frozen=True, slots=True)
class Shape:
    """All columns with the types that they are read at, and how new rows are written to fit.

    `written` has an expression and its type for each of the new rows' own columns, by the name it gets.
    """

    schema: Mapping[str, str]
    written: Mapping[str, tuple[str, str]]


def spelled(name: str, known: Mapping[str, object]) -> str:
    """Return a column's name as it is known already, whatever its case."""
    return next((k for k in known if k.casefold() == name.casefold()), name)


def merged(known: Mapping[str, str], new: Mapping[str, str], connection: duckdb.DuckDBPyConnection) -> Shape:
    """Return the shape of rows with `known` columns and of rows with `new` ones, read as one table."""
    schema, written = dict(known), dict[str, tuple[str, str]]()
    for column, kind in new.items():
        name = spelled(column, known)
        schema[name] = _common(schema[name], kind, connection) if name in schema else _storable(kind)
        written[name] = _expression(quote_identifier(column), kind, schema[name])
    return Shape(schema, written)


def changed(before: Mapping[str, str], now: Mapping[str, str], schema: Mapping[str, str]) -> list[str]:
    """Return what is different of a source's columns, in words, and what those are read as that changed."""
    old = {name.casefold(): kind for name, kind in before.items()}
    new = {name.casefold(): kind for name, kind in now.items()}
    words = [f"new column {n}: {_said(t)}" for n, t in now.items() if n.casefold() not in old]
    words += [f"column {n} did not come" for n in before if n.casefold() not in new]
    for name, kind in now.items():
        was = old.get(name.casefold(), kind)
        if UNKNOWN not in (was, kind) and was != kind:
            read = schema[spelled(name, schema)]
            words.append(f"column {name}: {was} became {kind}, read as {read}")
    return words


def text_kept(kind: str, connection: duckdb.DuckDBPyConnection) -> str:
    """Return a type of JSON's values without what DuckDB only guesses from their text: times and UUIDs.

    JSON has none, and what a guess makes of a text could not be turned back into it.
    """
    return str(connection.sqltype(_text_kept(connection.sqltype(kind))))


def _text_kept(kind: DuckDBPyType) -> str:
    match kind.id:
        case "list":
            return f"{_text_kept(_child(kind, 0))}[]"
        case "map":
            return f"MAP({_text_kept(_child(kind, 0))}, {_text_kept(_child(kind, 1))})"
        case "struct":
            fields = (f"{quote_identifier(n)} {_text_kept(child)}" for n, child in _fields(kind).items())
            return f"STRUCT({', '.join(fields)})"
    return "VARCHAR" if kind.id in TIMES | {"time", "uuid", "time with time zone"} else str(kind)


def _child(kind: DuckDBPyType, index: int) -> DuckDBPyType:
    found = kind.children[index][1]
    assert isinstance(found, DuckDBPyType)
    return found


def _fields(kind: DuckDBPyType) -> dict[str, DuckDBPyType]:
    return {name: child for name, child in kind.children if isinstance(child, DuckDBPyType)}


def _said(kind: str) -> str:
    return "only NULLs so far" if kind == UNKNOWN else kind


def _storable(kind: str) -> str:
    """The type that Parquet has for one that it has not: whole numbers of 128 bits would become DOUBLE."""
    return "DECIMAL(38,0)" if kind in ("HUGEINT", "UHUGEINT") else kind


def _expression(column: str, kind: str, schema: str) -> tuple[str, str]:
    """How a column of this type is written that is read as `schema`; what casting cannot do is done here."""
    nested = kind == "JSON" or (kind.endswith(("]", ")")) and not kind.startswith(("DECIMAL", "ENUM")))
    if kind == UNKNOWN:
        return "CAST(NULL AS INTEGER)", UNKNOWN
    if schema == "VARCHAR" and nested:
        return f"CAST({column if kind == 'JSON' else f'to_json({column})'} AS VARCHAR)", "VARCHAR"
    if schema == "JSON" and kind != "JSON":
        return f"to_json({column})", "JSON"
    if (stored := _storable(kind)) != kind:
        return f"CAST({column} AS {stored})", stored
    return column, kind


def _common(known: str, new: str, connection: duckdb.DuckDBPyConnection) -> str:
    if known == new or new == UNKNOWN:
        return known
    if known == UNKNOWN:
        return _storable(new)
    if known in ("JSON", "VARCHAR"):
        return known
    one, other = connection.sqltype(known), connection.sqltype(new)
    if one.id in NESTED or other.id in NESTED:
        return str(connection.sqltype(_nested(one, other, connection) or "JSON"))
    return _storable(_flat(known, new, connection))


def _flat(one: str, other: str, connection: duckdb.DuckDBPyConnection) -> str:
    if "JSON" in (one, other):
        return "VARCHAR" if "VARCHAR" in (one, other) else "JSON"
    kinds = {connection.sqltype(one).id, connection.sqltype(other).id}
    if not (kinds <= NUMBERS or kinds <= TIMES):
        return "VARCHAR"
    asked = f"SELECT typeof(x) FROM (SELECT CAST(NULL AS {one}) AS x UNION ALL SELECT CAST(NULL AS {other}))"
    row = connection.cursor().execute(asked).fetchone()
    return str(row[0]) if row else "VARCHAR"


def _nested(one: DuckDBPyType, other: DuckDBPyType, connection: duckdb.DuckDBPyConnection) -> str | None:
    """The type that holds both; None where what is inside has nothing in common."""
    if one.id not in NESTED and other.id not in NESTED:
        return str(one) if str(one) == str(other) else _flat(str(one), str(other), connection)
    if one.id != other.id or one.id not in ("struct", "list", "map"):
        return str(one) if str(one) == str(other) else None
    if one.id == "struct":
        return _struct(one, other, connection)
    children = [_nested(_child(one, i), _child(other, i), connection) for i in range(len(one.children))]
    if None in children:
        return None
    return f"{children[0]}[]" if one.id == "list" else f"MAP({children[0]}, {children[1]})"


def _struct(one: DuckDBPyType, other: DuckDBPyType, connection: duckdb.DuckDBPyConnection) -> str | None:
    children = _fields(one)
    fields: dict[str, str | None] = {name: str(kind) for name, kind in children.items()}
    for name, kind in _fields(other).items():
        known = spelled(name, fields)
        fields[known] = _nested(children[known], kind, connection) if known in fields else str(kind)
    if None in fields.values():
        return None
    return f"STRUCT({', '.join(f'{quote_identifier(name)} {kind}' for name, kind in fields.items())})"
