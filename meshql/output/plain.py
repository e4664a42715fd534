"""Columns as other programs read them: DuckDB's own types made into types that the others have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from meshql.sql import quote_identifier

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

__all__ = ["ARROW", "PARQUET", "replaced", "replacement", "unique"]

ARROW = {
    "hugeint": "DECIMAL(38,0)",
    "uhugeint": "DECIMAL(38,0)",
    "bignum": "VARCHAR",
    "bit": "VARCHAR",
    "time with time zone": "VARCHAR",
    "uuid": "VARCHAR",
}
"""What Arrow has no type for; UUID has one, which most readers take for bytes."""

PARQUET = {
    # DuckDB would write them as DOUBLE, and lose digits.
    "hugeint": "DECIMAL(38,0)",
    "uhugeint": "DECIMAL(38,0)",
    # Parquet's interval counts milliseconds.
    "interval": "VARCHAR",
    # DuckDB would write the members without their names.
    "union": "JSON",
}
"""What DuckDB does not write to Parquet as it is."""


def replacement(kind: DuckDBPyType, replacing: Mapping[str, str]) -> str | None:
    """Return the SQL of the type that stands for `kind`, or None when nothing in it is replaced."""
    sql = replaced(kind, replacing)
    return None if sql == replaced(kind, {}) else sql


def replaced(kind: DuckDBPyType, replacing: Mapping[str, str]) -> str:
    """Return the SQL of a type with the types inside it replaced, by the names in `replacing`."""
    if kind.id in replacing:
        return replacing[kind.id]
    if kind.id not in {"list", "array", "struct", "map", "union"}:
        return str(kind)
    inner = [(name, replaced(child, replacing)) for name, child in _children(kind)]
    match kind.id:
        case "list":
            return f"{inner[0][1]}[]"
        case "array":
            return f"{inner[0][1]}[{dict(kind.children)['size']}]"
        case "map":
            return f"MAP({inner[0][1]}, {inner[1][1]})"
    fields = ", ".join(f"{quote_identifier(name)} {sql}" for name, sql in inner)
    return f"{kind.id.upper()}({fields})"


def _children(kind: DuckDBPyType) -> list[tuple[str, DuckDBPyType]]:
    """The types inside, with their names; an array tells its size beside them, and a union its tag."""
    children = kind.children[1:] if kind.id == "union" else kind.children
    return [(name, child) for name, child in children if not isinstance(child, (int, list))]


def unique(names: Sequence[str]) -> list[str]:
    """Return the names with a number behind those that came before: `a`, `A` become `a`, `A_1`."""
    taken: set[str] = set()
    result = []
    for name in names:
        chosen, number = name, 0
        while chosen.casefold() in taken:
            number += 1
            chosen = f"{name}_{number}"
        taken.add(chosen.casefold())
        result.append(chosen)
    return result
