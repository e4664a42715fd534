"""Types of columns: what a Delta table can hold of DuckDB's, and which may become which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshql.sql import quote_identifier

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

__all__ = ["apart", "stored", "widens"]

AS_THEY_ARE = frozenset(
    {
        "boolean",
        "tinyint",
        "smallint",
        "integer",
        "bigint",
        "float",
        "double",
        "varchar",
        "blob",
        "date",
        "timestamp",
        "timestamp with time zone",
        "decimal",
    }
)

STAND_IN = {
    "utinyint": "SMALLINT",
    "usmallint": "INTEGER",
    "uinteger": "BIGINT",
    "ubigint": "DECIMAL(20,0)",
    "hugeint": "DECIMAL(38,0)",
    "uhugeint": "DECIMAL(38,0)",
    "timestamp_s": "TIMESTAMP",
    "timestamp_ms": "TIMESTAMP",
    "timestamp_ns": "TIMESTAMP",
    "uuid": "VARCHAR",
    "enum": "VARCHAR",
    '"null"': "VARCHAR",
    "null": "VARCHAR",
}
"""What holds every value of a type that Delta lacks, or all but a few."""

WHOLE = {"tinyint": 3, "smallint": 5, "integer": 10, "bigint": 19}
"""Whole numbers by their digits."""


def stored(kind: DuckDBPyType) -> str | None:
    """Return the type that a Delta table holds values of `kind` as; None where it holds none of them."""
    if kind.id in AS_THEY_ARE:
        return "VARCHAR" if kind.id == "varchar" else str(kind)
    if kind.id in ("list", "array"):
        inner = stored(_parts(kind)[0][1])
        return inner and f"{inner}[]"
    if kind.id == "map":
        key, value = (stored(child) for _, child in _parts(kind))
        return f"MAP({key}, {value})" if key and value else None
    if kind.id == "struct":
        fields = [(name, stored(child)) for name, child in _parts(kind)]
        if any(inner is None for _, inner in fields):
            return None
        return f"STRUCT({', '.join(f'{quote_identifier(name)} {inner}' for name, inner in fields)})"
    return STAND_IN.get(kind.id)


def apart(kind: str) -> bool:
    """Tell whether a column of this type cannot be added to a table by a merge.

    A Delta table that gets its first TIMESTAMP without a zone so cannot be read any more.
    """
    return "TIMESTAMP" in kind.replace("TIMESTAMP WITH TIME ZONE", "")


def widens(old: DuckDBPyType, new: DuckDBPyType) -> bool:
    """Tell whether every value of `old` is one of `new`, without loss."""
    if old.id == new.id and old.id in ("list", "map"):
        pairs = zip(_parts(old), _parts(new), strict=True)
        return all(widens(before, after) for (_, before), (_, after) in pairs)
    if old.id == new.id == "struct":
        fields = {name.casefold(): kind for name, kind in _parts(new)}
        known = [(kind, fields.get(name.casefold())) for name, kind in _parts(old)]
        return all(after is not None and widens(before, after) for before, after in known)
    if old == new:
        return True
    if old.id in WHOLE:
        return _holds_whole(WHOLE[old.id], new)
    if old.id == new.id == "decimal":
        (whole, scale), (new_whole, new_scale) = _digits(old), _digits(new)
        return new_whole >= whole and new_scale >= scale
    return (old.id, new.id) in {("float", "double"), ("date", "timestamp")}


def _holds_whole(digits: int, new: DuckDBPyType) -> bool:
    if new.id in WHOLE:
        return WHOLE[new.id] >= digits
    if new.id == "decimal":
        return _digits(new)[0] >= digits
    # A double has 53 bits, which is 15 digits and a bit.
    return (new.id == "double" and digits <= 15) or (new.id == "float" and digits <= 5)


def _parts(kind: DuckDBPyType) -> list[tuple[str, Any]]:
    """What a type is made of, by name: types, or numbers."""
    return list(kind.children)


def _digits(kind: DuckDBPyType) -> tuple[int, int]:
    """Digits before and behind the point."""
    said = dict(_parts(kind))
    return said["precision"] - said["scale"], said["scale"]
