"""A live PostgreSQL as change capture reaches it: sessions, with errors in meshql's words.

What extensions read as rows goes through DuckDB; slots, snapshots and the stream of changes take sessions of
our own, by psycopg.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshql.build.needs import needs
from meshql.build.step import Step
from meshql.catalog.connections import PostgresConnection
from meshql.errors import (
    CatalogError,
    CredentialsError,
    LocationError,
    MeshError,
    StorageError,
    UnreachableError,
)
from meshql.formats.postgres import database_error
from meshql.identity.credentials import Login
from meshql.mesh import Mesh
from meshql.redact import scrub

if TYPE_CHECKING:
    import psycopg

__all__ = ["OURS", "Server", "ask", "called", "cancellable", "server_of"]

CONNECT_SECONDS = 10

ANSWER_SECONDS = 20.0
"""How long the server may take for what it need not wait for: behind a dead network it takes for ever."""

CANCEL_SECONDS = 0.5

# The text of a value does not depend on how the server or the role is set up.
SETTINGS = (
    "-c datestyle=ISO -c timezone=UTC -c intervalstyle=postgres -c bytea_output=hex -c extra_float_digits=1"
    " -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"
    " -c wal_sender_timeout=60s"
)

OURS = "meshql"
"""What names of sessions begin with."""


@dataclass(frozen=True)
class Server:
    """The server of a connection; `place` says where it is, in words."""

    mesh: Mesh
    connection: PostgresConnection

    @property
    def place(self) -> str:
        """Host, port and database."""
        return f"{self.connection.host}:{self.connection.port}/{self.connection.database}"

    def connect(self, name: str = OURS, *, replication: bool = False) -> psycopg.Connection[Any]:
        """Open a session that commits each statement by itself; raises a StorageError.

        `name` is what the server calls it. With `replication` it takes the commands of that protocol.
        """
        needs("psycopg", "cdc")
        import psycopg

        login = self.mesh.identity(self.connection.name)
        assert isinstance(login, Login)
        more: dict[str, Any] = {"replication": "database"} if replication else {}
        with self.asking():
            return psycopg.connect(
                host=self.connection.host,
                port=self.connection.port,
                dbname=self.connection.database,
                user=login.user,
                password=login.password.get_secret_value() if login.password else None,
                sslmode=self.connection.sslmode,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                application_name=name,
                client_encoding="UTF8",
                options=SETTINGS,
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                tcp_user_timeout=20_000,
                **more,
            )

    @contextmanager
    def session(self, name: str = OURS, *, replication: bool = False) -> Iterator[psycopg.Connection[Any]]:
        """Open a session for the block, whose errors become a StorageError."""
        session = self.connect(name, replication=replication)
        try:
            with self.asking():
                yield session
        finally:
            session.close()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Turn what psycopg raises inside the block into errors of meshql's."""
        import psycopg

        try:
            yield
        except MeshError:
            raise
        except psycopg.Error as error:
            scrub(error)
            raise self.error(error) from None

    def error(self, error: psycopg.Error) -> StorageError:
        """Return the error that one of psycopg's amounts to."""
        import psycopg

        text = str(error).strip() or type(error).__name__
        if re.search(r"publication .* does not exist", text):
            return LocationError(
                f"the publication went away, and what it would have told with it: {self.place} ({text})",
                hint="build the log with --full: it reads the tables anew",
            )
        found = database_error(text, self.place)
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            said = error.diag.message_primary or text
            hint = error.diag.message_hint or error.diag.message_detail
            return CredentialsError(f"the database refused this user: {self.place} ({said})", hint=hint)
        lost = isinstance(error, psycopg.OperationalError) and not error.sqlstate
        if lost and type(found) is StorageError:
            return UnreachableError(
                f"the database does not answer: {self.place} ({text.splitlines()[0]})",
                hint="check the connection's `host` and `port`, and the network",
            )
        return found


def server_of(mesh: Mesh, name: str, product: str) -> Server:
    """Return the server of the connection `name`; raises CatalogError where it is none of PostgreSQL's."""
    found = mesh.catalog.connections.get(name)
    if not isinstance(found, PostgresConnection):
        raise CatalogError(
            f"{product}: from names {name}, which is no connection of cloud postgres",
            hint="declare it under `connections:`",
        )
    return Server(mesh, found)


def called(product: str) -> str:
    """Return what the server calls sessions that follow changes for a product."""
    return f"{OURS} {product}"[:63]


def ask(
    session: psycopg.Connection[Any], query: str, parameters: Sequence[Any] = (), *, patient: bool = False
) -> list[tuple[Any, ...]]:
    """Run a statement and return all of its rows.

    A session that does not answer is given up, unless `patient`: for what may have to wait at the server.
    """
    given_up = threading.Timer(ANSWER_SECONDS, _break_off, (session,))
    given_up.daemon = True
    if not patient:
        given_up.start()
    try:
        # Without parameters, a % is nothing but itself.
        cursor = session.execute(query.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []
    finally:
        given_up.cancel()


@contextmanager
def cancellable(step: Step, *sessions: psycopg.Connection[Any]) -> Iterator[None]:
    """Cancel what the sessions wait for when the step is cancelled and the block does not end by itself."""
    import psycopg

    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if step.cancelled.wait(0.1) and not done.wait(CANCEL_SECONDS):
                for session in sessions:
                    with suppress(psycopg.Error):
                        session.cancel_safe(timeout=CANCEL_SECONDS)
                if not done.wait(CANCEL_SECONDS):
                    list(map(_break_off, sessions))
                return

    watcher = threading.Thread(target=watch, name="meshql-cancel", daemon=True)
    watcher.start()
    try:
        yield
    except Exception:
        step.check()
        raise
    finally:
        done.set()
        watcher.join()


def _break_off(session: psycopg.Connection[Any]) -> None:
    """End a session without asking the server: whoever waits for it in another thread gets an error."""
    import psycopg

    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(session.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)
