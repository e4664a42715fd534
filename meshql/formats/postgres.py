"""Tables of a live PostgreSQL: the server says their shape, the postgres extension reads them.

Filters, columns and limits are sent to the server. A `numeric` without a precision is a DOUBLE to the
extension, as is one of more than 38 digits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshql.catalog.model import Product
from meshql.errors import CredentialsError, LocationError, StorageError, UnreachableError, nearest
from meshql.formats.snapshot import Ask, Details, File, Snapshot
from meshql.sql import quote_literal, quote_name
from meshql.storage.location import Location

__all__ = ["Database", "contents", "database_error", "details", "is_database_error", "resolve"]

VERSION = "live"
"""PostgreSQL keeps no old versions; within a statement the server shows one moment."""

KINDS = "'r', 'v', 'm', 'f', 'p'"
"""Tables, views, materialised views, foreign and partitioned tables, as pg_class.relkind has them."""

SHAPE = """
    SELECT c.oid::text, has_table_privilege(c.oid, 'SELECT')::text, quote_ident(current_user),
        string_agg(concat_ws(' ',
        a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
        (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e
            WHERE e.enumtypid = coalesce(nullif(t.typelem, 0), t.oid))), '|' ORDER BY a.attnum)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_type t ON t.oid = a.atttypid
    WHERE n.nspname = {schema} AND c.relname = {table} AND c.relkind IN ({kinds})
    GROUP BY c.oid
"""

NAMES = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ({kinds}) AND n.nspname NOT IN ('pg_catalog', 'information_schema') LIMIT 1000
"""


@dataclass(frozen=True, slots=True)
class Database:
    """An attached database: its name in DuckDB, its address in words, and how to ask the server."""

    name: str
    place: str
    query: Callable[[str], list[tuple[Any, ...]]]
    """Runs SQL of PostgreSQL's on the server; raises a StorageError, also when it does not answer."""
    refresh: Callable[[], None]
    """Has DuckDB look at the tables anew."""


def resolve(product: Product, location: Location, store: Database, last: Snapshot | None) -> Snapshot:
    """Return the table as the server has it now; `last` itself while its columns are the same.

    The location is `schema.table`, or a table of schema public. Raises LocationError where there is none,
    CredentialsError where the user may not read it.
    """
    schema, _, table = location.key.rpartition(".")
    schema = schema or "public"
    shape = SHAPE.format(schema=quote_literal(schema), table=quote_literal(table), kinds=KINDS)
    rows = store.query(shape)
    if not rows:
        raise _missing(product, f"{schema}.{table}", store)
    identity, readable, user, columns = rows[0]
    if readable != "true":
        raise CredentialsError(
            f"{product.name}: the user may not read {schema}.{table} of {store.place}",
            hint=f"as its owner: GRANT SELECT ON {schema}.{table} TO {user}",
        )
    proof = (store.name, str(identity), hashlib.sha256(str(columns).encode()).hexdigest())
    if last is not None and last.proof == proof:
        return last
    # DuckDB remembers the tables of an attached database for good.
    store.refresh()
    return Snapshot(
        product=product,
        location=Location("postgres", store.place, f"{schema}.{table}"),
        version=VERSION,
        relation=quote_name(store.name, schema, table),
        proof=proof,
        shares=store.name,
    )


def _missing(product: Product, name: str, store: Database) -> LocationError:
    known = [str(row[0]) for row in store.query(NAMES.format(kinds=KINDS))]
    close = nearest(name, known)
    return LocationError(
        f"{product.name}: no table {name} in {store.place}",
        hint=f"did you mean {' or '.join(close)}?" if close else "write the location as schema.table",
    )


def details(snapshot: Snapshot, store: Database, ask: Ask) -> Details:
    """Return the table's bytes on the server; no rows, which only counting them would tell."""
    table = quote_literal(quote_name(*snapshot.location.key.split(".", 1)))
    rows = store.query(f"SELECT pg_table_size({table}::regclass)::text")
    size = int(rows[0][0]) if rows and rows[0][0] is not None else 0
    # A view, a foreign or a partitioned table has no bytes of its own.
    return Details(files=None, rows=None, bytes=size or None, changed_at=None)


def contents(snapshot: Snapshot, store: Database, ask: Ask) -> list[File]:
    """Return the table as one file of unknown bytes: what is sent depends on filters and columns."""
    return [File(snapshot.location.key, None)]


def is_database_error(text: str) -> bool:
    """Return whether `text` are the postgres extension's words for what a server said."""
    return bool(FAILED.search(text))


def database_error(text: str, place: str) -> StorageError:
    """Return the error that the extension's own words `text` amount to, for the server at `place`."""
    said = _said(text)
    for pattern, kind, meaning, hint in MEANINGS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind(f"{meaning}: {place}" + (f" ({said})" if said else ""), hint=hint)
    return StorageError(f"{place}: {said or text.strip().splitlines()[0]}")


def _said(text: str) -> str | None:
    """The server's own line, which names no password."""
    found = re.search(r"(?:ERROR|FATAL): +([^\n]+)", text)
    return found[1].strip() if found else None


FAILED = re.compile(
    r"Unable to connect to Postgres|Failed to (?:prepare|execute|send|fetch|copy|read)[^\n]*(?:COPY|query)"
    r"|server closed the connection|SSL connection has been closed|terminating connection"
)

MEANINGS: tuple[tuple[str, type[StorageError], str, str], ...] = (
    (
        r"password authentication failed|no password supplied|role .* does not exist|no pg_hba\.conf entry"
        r"|authentication failed",
        CredentialsError,
        "the database refused this user",
        "check the connection's `auth`, and that this user may connect from here",
    ),
    (
        r"permission denied",
        CredentialsError,
        "the user may not read this",
        "GRANT SELECT on it to the connection's user",
    ),
    (
        r"database .* does not exist",
        LocationError,
        "there is no such database",
        "check the connection's `database`",
    ),
    (
        r"relation .* does not exist|column .* does not exist",
        LocationError,
        "the table changed or went away",
        "run it again; or check the product's `location`",
    ),
    (
        r"does not support SSL|SSL error|certificate|root certificate",
        UnreachableError,
        "the server's encryption does not fit",
        "check the connection's `sslmode`",
    ),
    (
        r"could not translate|refused|timeout expired|timed? ?out|closed the connection|could not connect"
        r"|No route|unreachable|terminating connection|has been closed|starting up|shutting down",
        UnreachableError,
        "the database does not answer",
        "check the connection's `host` and `port`, and the network",
    ),
)
