"""Values of a source's columns: the SQL that makes them of text, and finds what cannot be made.

A value is right or refused, never another one: what DuckDB's casts would bend (an infinite date, a date
before Christ, a digit too many, half a list) counts as what cannot be had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from meshql.build.column_types import stored
from meshql.errors import UsageError
from meshql.query.reading import Reading
from meshql.sql import quote_literal

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

__all__ = ["NESTED", "Value", "kind_named", "of_text"]

FIRST_DAY, LAST_DAY = "0001-01-01", "9999-12-31 23:59:59.999999"
"""Days and moments outside of these are not the same to every reader of a Delta table."""

WHOLE = (
    "tinyint",
    "smallint",
    "integer",
    "bigint",
    "hugeint",
    "utinyint",
    "usmallint",
    "uinteger",
    "ubigint",
)

NESTED = ("struct", "map", "union", "list", "array")


@dataclass(frozen=True, slots=True)
class Value:
    """A column's value: its SQL, a predicate for what it cannot be made of, and the type a table holds it as.

    `bad` is empty where every value can be made.
    """

    sql: str
    bad: str
    kind: str


def kind_named(place: str, name: str, reading: Reading) -> DuckDBPyType:
    """Return the type of a name; raises UsageError, which begins with `place`, where there is none."""
    try:
        return reading.cursor.sql(f"SELECT CAST(NULL AS {name}) AS v").types[0]
    except duckdb.Error:
        raise UsageError(
            f"{place}: {name} is no type", hint="a DuckDB type: VARCHAR, DECIMAL(12,2), INTEGER[]"
        ) from None


def of_text(place: str, text: str, kind: DuckDBPyType, *, hexed: bool = False, asked: bool = False) -> Value:
    """Return the value of type `kind` that the SQL `text` is the text of, as PostgreSQL writes it.

    Lists are JSON lists of texts. `hexed` says that bytes are written as \\x00ff. `asked` says that the type
    is not the source's own, so that there may be more digits than it holds. Raises UsageError for a type that
    is not made of text, or that a Delta table does not hold.
    """
    depth, scalar = 0, kind
    while scalar.id in ("list", "array"):
        inner: Any = scalar.children[0][1]
        depth, scalar = depth + 1, inner
    held = stored(kind)
    if held is None or scalar.id in NESTED:
        raise UsageError(f"{place}: no {kind} is made of text for a Delta table", hint="VARCHAR")
    if not depth:
        sql = _scalar(text, scalar, hexed, asked)
        bad = f"({text} IS NOT NULL AND {sql} IS NULL)" if sql != text else ""
        return Value(sql, bad, held)
    raw = _list(text, depth)
    sql = _each(raw, depth, lambda at: _scalar(at, scalar, hexed, asked))
    bad = f"({text} IS NOT NULL AND {sql} IS NULL)"
    if sql != raw:
        bad = f"({bad} OR {_count(raw, depth)} <> {_count(sql, depth)})"
    return Value(sql, bad, held)


def _scalar(text: str, kind: DuckDBPyType, hexed: bool, asked: bool) -> str:
    """The SQL of one value; NULL where the text is none."""
    made = f"TRY_CAST({text} AS {kind})"
    if kind.id == "varchar":
        return text
    if kind.id == "blob" and hexed:
        return f"CASE WHEN starts_with({text}, '\\x') THEN TRY(unhex(substr({text}, 3))) END"
    if kind.id == "date" or kind.id.startswith("timestamp"):
        # DuckDB passes over what follows a day: `BC`.
        within = f"{made} BETWEEN '{FIRST_DAY}'::{kind} AND '{LAST_DAY}'::{kind}"
        made = f"CASE WHEN NOT ends_with({text}, ' BC') AND {within} THEN {made} END"
    elif asked and (kind.id in WHOLE or kind.id == "decimal"):
        scale = dict(kind.children)["scale"] if kind.id == "decimal" else 0
        rounded = f"regexp_matches({text}, '\\.[0-9]{{{scale}}}[0-9]*[1-9]|[eE]')"
        made = f"CASE WHEN NOT {rounded} THEN {made} END"
    elif asked and kind.id in ("float", "double"):
        made = f"CASE WHEN isfinite({made}) OR NOT regexp_matches({text}, '^-?[0-9]') THEN {made} END"
    held = stored(kind)
    return made if held == str(kind) else f"TRY_CAST({made} AS {held})"


def _list(text: str, depth: int) -> str:
    """The SQL of a list of texts; NULL where its depth is another one."""
    structure = "[" * depth + '"VARCHAR"' + "]" * depth
    fits = f"({text} = '[]' OR regexp_matches({text}, '^\\[{{{depth}}}([^\\[]|$)'))"
    return f"CASE WHEN {fits} THEN TRY(from_json({text}, {quote_literal(structure)})) END"


def _each(at: str, depth: int, scalar: Callable[[str], str]) -> str:
    name = f"x{depth}"
    inner = scalar(name) if depth == 1 else _each(name, depth - 1, scalar)
    return at if inner == name else f"list_transform({at}, lambda {name}: {inner})"


def _count(at: str, depth: int) -> str:
    """How many values other than NULL a list holds."""
    for _ in range(depth - 1):
        at = f"flatten({at})"
    return f"list_count({at})"
