"""Live databases, attached to DuckDB once a connection, so that a statement sees one moment of each."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import duckdb

from meshql.catalog.connections import PostgresConnection
from meshql.errors import UnreachableError
from meshql.formats.postgres import Database, database_error
from meshql.identity.broker import Broker
from meshql.identity.credentials import Login
from meshql.identity.declared import Declared
from meshql.identity.secrets import database_secret_sql
from meshql.sql import quote_identifier, quote_literal

__all__ = ["Databases"]

T = TypeVar("T")

CONNECT_SECONDS = 5

PATIENCE_SECONDS = 10.0
"""How long a server may take over a small question before it counts as hung."""

LIVELY = (
    f"connect_timeout={CONNECT_SECONDS} application_name=meshql"
    " keepalives_idle=10 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=20000"
)
"""With which libpq gives up a server that is gone."""


@dataclass(frozen=True, slots=True)
class _Attached:
    connection: PostgresConnection
    secret: str = field(repr=False)
    name: str


class Databases:
    """The databases that one DuckDB instance has attached; threads may share it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, broker: Broker) -> None:
        self._connection = connection
        self._broker = broker
        self._attached: dict[str, _Attached] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._made = 0

    def attached(self, connection: PostgresConnection) -> Database:
        """Return the database of a connection, attached read-only; anew when its login has changed.

        Raises UnreachableError, CredentialsError or LocationError with what the server said. DuckDB's
        postgres extension has to be loaded.
        """
        place = f"{connection.host}:{connection.port}/{connection.database}"
        with self._lock:
            lock = self._locks.setdefault(connection.name, threading.Lock())
        with lock:
            name = self._name(connection, place)
        return Database(
            name=name,
            place=place,
            query=lambda sql: self._asked(connection, name, place, sql),
            refresh=lambda: self._refresh(place),
        )

    def _name(self, connection: PostgresConnection, place: str) -> str:
        declared = Declared(connection, os.environ)
        for key in ("host", "database"):
            declared.text(getattr(connection, key), key)
        login = self._broker.credentials(connection)
        assert isinstance(login, Login)
        secret = database_secret_sql(f"postgres:{connection.name}", connection, login)
        known = self._attached.get(connection.name)
        if known and known.connection == connection and known.secret == secret:
            return known.name
        with self._lock:
            self._made += 1
            # No domain can be called so, which DuckDB would take for it.
            name = f"postgres:{connection.name}" + (f"~{self._made}" if self._made > 1 else "")
        options = f"sslmode={connection.sslmode} {LIVELY}"
        attach = (
            f"ATTACH {quote_literal(options)} AS {quote_identifier(name)}"
            f" (TYPE postgres, READ_ONLY, SECRET {quote_identifier(f'postgres:{connection.name}')})"
        )
        self._run(lambda cursor: cursor.execute(secret).execute(attach), place)
        self._attached[connection.name] = _Attached(connection, secret, name)
        return name

    def _asked(
        self, connection: PostgresConnection, name: str, place: str, sql: str
    ) -> list[tuple[Any, ...]]:
        question = f"FROM postgres_query({quote_literal(name)}, {quote_literal(sql)})"
        try:
            return self._run(lambda cursor: cursor.execute(question).fetchall(), place)
        except UnreachableError:
            # What hangs stays hung, and keeps its connections: the next statement makes new ones.
            self._attached.pop(connection.name, None)
            raise

    def _refresh(self, place: str) -> None:
        self._run(lambda cursor: cursor.execute("CALL pg_clear_cache()"), place)

    def _run(self, work: Callable[[duckdb.DuckDBPyConnection], T], place: str) -> T:
        """Run `work` on a cursor of its own; raises UnreachableError for a server that hangs over it."""
        cursor = self._connection.cursor()
        outcome: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                outcome.append(work(cursor))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="meshql-database", daemon=True)
        thread.start()
        thread.join(PATIENCE_SECONDS)
        if thread.is_alive():
            raise UnreachableError(
                f"the database did not answer within {PATIENCE_SECONDS:g} s: {place}",
                hint="check that the server is well",
            )
        if errors:
            raise database_error(str(errors[0]), place) from None
        return outcome[0]
