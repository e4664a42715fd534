"""Columns as other programs read them: DuckDB's own types made into types that the others have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from meshql.errors import QueryError
from meshql.sql import quote_identifier

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

__all__ = ["ARROW", "PARQUET", "replacement", "require_lossless", "unique"]

NESTED = frozenset({"list", "array", "struct", "map", "union"})

ARROW = {
    # DuckDB's Arrow without loss has a type of its own for each of these, which few readers know.
    "boolean": "BOOLEAN",
    "JSON": "VARCHAR",
    "uuid": "VARCHAR",
    "hugeint": "DECIMAL(38,0)",
    "uhugeint": "DECIMAL(38,0)",
    "bignum": "VARCHAR",
    "bit": "VARCHAR",
    "time with time zone": "VARCHAR",
}
"""What becomes of types that Arrow lacks."""

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


LOSSY = ("BIT", "TIME WITH TIME ZONE", "UHUGEINT")
"""What DuckDB's Arrow carries as something else, unless it is told to lose nothing."""


def require_lossless(column: str, declared: str, imported: str) -> None:
    """Raise QueryError when a value of the `declared` type cannot be told from its `imported` one."""
    for kind in LOSSY:
        if re.search(rf"\b{kind}\b", declared) and not re.search(rf"\b{kind}\b", imported):
            raise QueryError(
                f"column {column}: Arrow has no {kind}",
                hint='cast it to VARCHAR, or connect with settings={"arrow_lossless_conversion": "true"}',
            )


def replacement(kind: DuckDBPyType, replacing: Mapping[str, str]) -> str | None:
    """Return the SQL of `kind` with types in it replaced, or None when `replacing` names none of them."""
    return _replaced(kind, replacing) if _names_any(kind, replacing) else None


def _names_any(kind: DuckDBPyType, replacing: Mapping[str, str]) -> bool:
    if kind.id in replacing or str(kind) in replacing:
        return True
    return kind.id in NESTED and any(_names_any(child, replacing) for _, child in _children(kind))


def _replaced(kind: DuckDBPyType, replacing: Mapping[str, str]) -> str:
    for name in (kind.id, str(kind)):
        if name in replacing:
            return replacing[name]
    if kind.id not in NESTED:
        return str(kind)
    inner = [(name, _replaced(child, replacing)) for name, child in _children(kind)]
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
