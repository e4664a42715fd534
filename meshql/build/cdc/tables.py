"""Tables of a PostgreSQL as it has them now: their shapes, and which of them cannot be followed rightly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshql.build.cdc.server import ask
from meshql.build.cdc.shapes import Column, Shape
from meshql.errors import LocationError, MeshError, UsageError, nearest
from meshql.sql import quote_name

if TYPE_CHECKING:
    import psycopg

__all__ = ["BESIDE", "Found", "carried", "read", "refuse"]

# Types behind domains; columns that PostgreSQL computes are not in its stream. A partition is `born` when it
# was made as one and not attached: its row type is as old as its place in the tree. Labels of enums are among
# what fills a table, since a label that is renamed changes rows; so is the table's place in the publication:
# while it was out of it, nothing was told.
QUERY = """
    SELECT n.nspname || '.' || c.relname, c.oid::bigint, c.relkind::text, c.relpersistence::text,
        c.relreplident::text, has_table_privilege(c.oid, 'SELECT'), quote_ident(current_user),
        (SELECT array_agg(ARRAY[a.attname::text, a.attnum::text, format_type(d.oid, d.modifier),
                a.atttypid::bigint::text, a.atttypmod::text, a.atthasmissing::text] ORDER BY a.attnum)
            FROM pg_attribute a, LATERAL (
                WITH RECURSIVE base(oid, modifier, depth) AS (
                    SELECT a.atttypid, a.atttypmod, 0
                    UNION ALL
                    SELECT t.typbasetype, CASE WHEN b.modifier >= 0 THEN b.modifier ELSE t.typtypmod END,
                        depth + 1
                    FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
                ) SELECT oid, modifier FROM base ORDER BY depth DESC LIMIT 1) d
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
        (SELECT array_agg(a.attname::text ORDER BY k.place) FROM pg_index i,
            LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
            JOIN pg_attribute a ON a.attnum = k.number
            WHERE i.indrelid = c.oid AND a.attrelid = c.oid AND k.place <= i.indnkeyatts
            AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END),
        (SELECT array_agg(concat_ws(':', l.oid::text, l.relfilenode::text,
                CASE WHEN t.xmin = h.xmin THEN 'born' END) ORDER BY l.oid)
            FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid
            LEFT JOIN pg_inherits h ON h.inhrelid = l.oid LEFT JOIN pg_type t ON t.oid = l.reltype
            WHERE p.isleaf),
        c.relfilenode::bigint,
        (SELECT array_agg(DISTINCT concat_ws(':', '=', e.enumtypid::text, e.enumlabel))
            FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            JOIN pg_enum e ON e.enumtypid IN (t.oid, t.typelem, t.typbasetype)
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT '@' || coalesce(r.oid, p.oid) FROM pg_publication p
            LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid WHERE p.pubname = %s)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname || '.' || c.relname = ANY(%s)
"""

NAMES = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') LIMIT 1000
"""

KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A table as the server has it now.

    `filled` names columns that were added with a default, which old rows have without an event to tell of it.
    `kind` and `persistence` are as pg_class has them.
    """

    shape: Shape
    kind: str
    persistence: str
    readable: bool
    user: str
    filled: frozenset[str]


def read(session: psycopg.Connection[Any], tables: Iterable[str], publication: str) -> dict[str, Found]:
    """Return the tables of these names, schema.table, that are there."""
    rows = ask(session, QUERY, (publication, list(tables)))
    return {row[0]: _found(*row) for row in rows}


def _found(
    table: str,
    oid: int,
    kind: str,
    persistence: str,
    identity: str,
    readable: bool,
    user: str,
    columns: list[list[str]] | None,
    key: list[str] | None,
    leaves: list[str] | None,
    file: int,
    labels: list[str] | None,
    member: str | None,
) -> Found:
    made = tuple(Column(c[0], int(c[1]), c[2], int(c[3]), int(c[4])) for c in columns or ())
    files = tuple(leaves or ()) if kind == "p" else (f"{oid}:{file}",)
    shape = Shape(
        table, oid, made, tuple(key or ()), identity, (*files, *sorted(labels or ()), *filter(None, [member]))
    )
    filled = frozenset(c[0] for c in columns or () if c[5] == "true")
    return Found(shape, kind, persistence, readable, user, filled)


def refuse(product: str, table: str, found: Found | None, session: psycopg.Connection[Any]) -> None:
    """Raise the error that says why a table cannot be followed, and what to do; nothing for one that can."""
    if found is None:
        raise _missing(product, table, session)
    error = _complaint(product, table, found)
    if error is not None:
        raise error


def _missing(product: str, table: str, session: psycopg.Connection[Any]) -> MeshError:
    close = nearest(table, [row[0] for row in ask(session, NAMES)])
    hint = f"did you mean {' or '.join(close)}?" if close else "write it as schema.table"
    return LocationError(f"{product}: there is no table {table}", hint=hint)


def _complaint(product: str, table: str, found: Found) -> MeshError | None:
    name = quote_name(*table.split(".", 1))
    if found.kind not in ("r", "p"):
        what = KINDS.get(found.kind, "no table")
        return UsageError(
            f"{product}: {table} is {what}, whose changes PostgreSQL does not tell",
            hint="name the tables that it is made of",
        )
    if found.persistence != "p":
        return UsageError(
            f"{product}: {table} is not logged, so PostgreSQL does not tell its changes",
            hint=f"ALTER TABLE {name} SET LOGGED",
        )
    if not found.readable:
        return UsageError(
            f"{product}: the user {found.user} may not read {table}",
            hint=f"as its owner: GRANT SELECT ON {name} TO {found.user}",
        )
    if not found.shape.columns:
        return UsageError(f"{product}: {table} has no columns", hint="take it out of `tables`")
    return _unidentified(product, table, name, found.shape)


def _unidentified(product: str, table: str, name: str, shape: Shape) -> MeshError | None:
    if shape.identity == "n":
        return UsageError(
            f"{product}: {table} has REPLICA IDENTITY NOTHING: PostgreSQL would refuse every update and"
            " delete of it as soon as it is followed",
            hint=f"ALTER TABLE {name} REPLICA IDENTITY {'DEFAULT' if shape.key else 'FULL'}",
        )
    if not shape.key and shape.identity != "f":
        return UsageError(
            f"{product}: {table} has no primary key: PostgreSQL would refuse every update and delete of it as"
            " soon as it is followed",
            hint=f"ALTER TABLE {name} ADD PRIMARY KEY (...); or, for a table that rows are only added to:"
            f" ALTER TABLE {name} REPLICA IDENTITY FULL",
        )
    return None


# --- from one shape to the next -------------------------------------------------------------------

BESIDE = ("=", "@")
"""What begins the names of what fills a table and is no file: labels of enums, a place in the publication."""

CHARACTERS = ("character varying", "character", "text", "citext")


def carried(known: Shape, found: Found) -> Shape | None:
    """Return the shape that a table has now, if rows from before are in it what the log makes of them.

    That is so for columns that were renamed, dropped, or added without a default. None where rows may hold
    what no change told of: then the table has to be read anew.
    """
    now = found.shape
    before = {c.number: c for c in known.columns}
    if now.oid != known.oid or _numbers(known) != _numbers(now) or not _filled_alike(known.files, now.files):
        return None
    for column in now.columns:
        old = before.get(column.number)
        if old is None and column.name in found.filled:
            return None
        if old is not None and not _read_alike(old, column):
            return None
    return now


def _numbers(shape: Shape) -> list[int]:
    """The numbers of the key's columns."""
    by_name = {c.name: c.number for c in shape.columns}
    return [by_name[name] for name in shape.key]


def _read_alike(old: Column, new: Column) -> bool:
    if old.kind != new.kind:
        return False
    return old.type == new.type or all(c.type.partition("(")[0] in CHARACTERS for c in (old, new))


def _filled_alike(known: tuple[str, ...], now: tuple[str, ...]) -> bool:
    """Whether all rows came as changes: no file of the table was replaced, no partition came or went."""
    old, new = {f.removesuffix(":born") for f in known}, {f.removesuffix(":born") for f in now}
    if all(f.startswith(BESIDE) for f in old):
        # It was truncated, and lies in other files since.
        new = {f for f in new if f.startswith(BESIDE)}
    born = {f.removesuffix(":born") for f in now if f.endswith(":born") or f.startswith("=")}
    return not old - new and new - old <= born
