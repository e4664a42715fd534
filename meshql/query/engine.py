"""The DuckDB instance of a mesh: secrets, views over snapshots, cursors that see one version of each."""

from __future__ import annotations

import os
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import duckdb
from pydantic import SecretStr

from meshql.catalog.azure import AzurePlace
from meshql.catalog.connections import Connection
from meshql.catalog.model import Product
from meshql.formats.snapshot import Snapshot
from meshql.identity.broker import Broker
from meshql.identity.credentials import Credentials
from meshql.identity.secrets import emulator_url, secret_sql
from meshql.query.databases import Databases
from meshql.query.extensions import Extensions
from meshql.sql import quote_identifier, quote_name

__all__ = ["LOSSLESS", "Engine"]

CLOUD_EXTENSIONS = {"s3": ("httpfs",), "gcs": ("httpfs",), "http": ("httpfs",), "azure": ("azure",)}
FORMAT_EXTENSIONS = {"delta": ("delta",), "iceberg": ("iceberg",), "postgres": ("postgres_scanner",)}

LOGGED = ("HTTP", "delta.FilterPushdown", "Iceberg")
"""Kinds of DuckDB's log: requests, and the files that scans leave out."""

CONFIG = {
    # What is needed comes from wheels: nothing is downloaded behind anybody's back.
    "autoinstall_known_extensions": "false",
    # SQL names tables, not the variables of whoever called meshql.
    "python_enable_replacements": "false",
    # DuckDB's own choice is a folder .tmp wherever somebody called it.
    "temp_directory": os.path.join(tempfile.gettempdir(), f"meshql-spill-{os.getpid()}"),
}

LOSSLESS = {"arrow_lossless_conversion": "true"}
"""Settings under which every type survives Arrow, for results that are written out as text or files.

Libraries that read Arrow take some types better without: a HUGEINT is opaque to them with it.
"""


class Engine:
    """One in-memory DuckDB instance; every method may be called from several threads."""

    def __init__(self, broker: Broker, *, settings: Mapping[str, str] | None = None) -> None:
        self._broker = broker
        self._connection = duckdb.connect(":memory:", config={**CONFIG, **(settings or {})})
        self._extensions = Extensions(self._connection)
        self.databases = Databases(self._connection, broker)
        """Databases that are attached for as long as the engine lives."""
        self._lock = threading.Lock()
        self._product_locks: dict[str, threading.Lock] = {}
        self._mounted: dict[str, Snapshot] = {}
        self._secrets: dict[str, SecretStr] = {}
        self.derived: set[str] = set()
        """Products that somebody made views, macros or prepared statements over."""
        self._preflighted: set[str] = set()
        self._in_use = Counter[str]()
        self._attached: set[str] = set()
        self._accounting = False
        self.closed = False

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor of its own for one statement, or one session of statements."""
        return self._connection.cursor()

    def close(self) -> None:
        """Close the instance; statements still running are cancelled first."""
        self.closed = True
        self._connection.interrupt()
        self._extensions.close()
        self._connection.close()

    def load(self, products: Iterable[tuple[Connection, Product]], extensions: Iterable[str] = ()) -> None:
        """Load what reading these products, each on its connection, takes, and `extensions`."""
        names = set(extensions)
        for connection, product in products:
            names.update(
                FORMAT_EXTENSIONS.get(product.format, ()), CLOUD_EXTENSIONS.get(connection.cloud, ())
            )
        self._extensions.load(sorted(names))

    def account(self) -> None:
        """Keep DuckDB's log of HTTP requests, which receipts are made from."""
        self._connection.execute("CALL enable_logging('HTTP')")
        self._accounting = True

    def log_pruning(self) -> None:
        """Keep DuckDB's log of the files that scans leave out, which plans are made from."""
        with self._lock:
            self._connection.execute("CALL enable_logging('HTTP')")
            # enable_logging refuses kinds of extensions that are not loaded yet.
            self._connection.execute(f"SET GLOBAL enabled_log_types = '{','.join(LOGGED)}'")
        self._accounting = True

    def trust(self, connection: Connection, scope: str) -> Credentials:
        """Give DuckDB the connection's credentials for URIs that begin with `scope`, and return them."""
        credentials = self._broker.credentials(connection)
        statement = secret_sql(_secret_name(scope), connection, credentials, scope)
        if statement is None:
            return credentials
        emulator = emulator_url(connection, credentials)
        # Other readers than delta-kernel get addresses that name the account.
        if emulator and AzurePlace.parse(scope).host is None:
            os.environ["AZURITE_BLOB_STORAGE_URL"] = emulator
        with self._lock:
            if self._secrets.get(scope) != SecretStr(statement):
                self.cursor().execute(statement)
                self._secrets[scope] = SecretStr(statement)
        return credentials

    def distrust(self) -> None:
        """Take all credentials from DuckDB again; statements that run keep theirs."""
        with self._lock:
            for scope in self._secrets:
                self.cursor().execute(f"DROP SECRET IF EXISTS {quote_identifier(_secret_name(scope))}")
            self._secrets.clear()

    def mount(self, snapshot: Snapshot) -> int | None:
        """Make the product's view show `snapshot`; call it inside `using`.

        Returns the id under which DuckDB accounts for the reading that this took, or None when the view was
        there already.
        """
        name = snapshot.product.name
        if self.shows(snapshot):
            return None
        self._mounted.pop(name, None)
        cursor = self.cursor()
        self._preflight(snapshot, cursor)
        if snapshot.attach:
            cursor.execute(snapshot.attach)
            self._attached.add(snapshot.key)
        with self._lock:
            # Two threads that make the same schema at once would conflict.
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(snapshot.product.domain)}")
        view = quote_name(snapshot.product.domain, snapshot.product.table)
        cursor.execute(f"CREATE OR REPLACE VIEW {view} AS FROM {snapshot.relation}")
        self._mounted[name] = snapshot
        row = cursor.execute("SELECT current_connection_id()").fetchone()
        return int(row[0]) if row else None

    def _preflight(self, snapshot: Snapshot, cursor: duckdb.DuckDBPyConnection) -> None:
        """Read what would otherwise abort the process when it cannot be read; once for each version."""
        if snapshot.preflight and snapshot.key not in self._preflighted:
            cursor.execute(snapshot.preflight).fetchall()
            self._preflighted.add(snapshot.key)

    @contextmanager
    def using(self, snapshots: Sequence[Snapshot]) -> Iterator[None]:
        """Begin to use these snapshots, until `release`; inside, nobody else changes their products' views.

        Statements over other products are not held up.
        """
        with self._lock:
            self._in_use.update(s.key for s in snapshots)
            names = sorted({s.product.name for s in snapshots})
            locks = [self._product_locks.setdefault(n, threading.Lock()) for n in names]
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            yield

    def shows(self, snapshot: Snapshot) -> bool:
        """Tell whether the product's view shows this very snapshot."""
        return self._mounted.get(snapshot.product.name) is snapshot

    def mounted(self) -> set[str]:
        """Return the names of the products that have a view."""
        return set(self._mounted)

    def begin(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Open a transaction that sees the views as they are now, whatever is mounted later."""
        cursor.execute("BEGIN")
        # A transaction takes its picture of the catalog at its first look, not at BEGIN.
        cursor.execute("SELECT 1 FROM duckdb_views() LIMIT 0").fetchall()

    def release(self, snapshots: Sequence[Snapshot]) -> None:
        """End the use of these snapshots; versions that nobody sees any more are let go."""
        with self._lock:
            self._in_use.subtract(s.key for s in snapshots)
            self._in_use += Counter()
            current = {s.key for s in list(self._mounted.values())}
            for key in self._attached - current - self._in_use.keys():
                self.cursor().execute(f"DETACH {quote_identifier(key)}")
                self._attached.discard(key)
            if self._accounting and not self._in_use:
                self.cursor().execute("CALL truncate_duckdb_logs()")

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Return all rows of a small statement of meshql's own."""
        return self.cursor().execute(statement).fetchall()

    def columns(self, snapshot: Snapshot) -> frozenset[str]:
        """Return the names of the columns that the view of the snapshot's product has."""
        view = quote_name(snapshot.product.domain, snapshot.product.table)
        return frozenset(str(row[0]) for row in self.ask(f"DESCRIBE {view}"))

    def unmount(self, name: str) -> None:
        """Take the view of a product away, so that no old version answers; nothing when there is none."""
        with self._lock:
            lock = self._product_locks.setdefault(name, threading.Lock())
        with lock:
            snapshot = self._mounted.pop(name, None)
            if snapshot is not None:
                view = quote_name(snapshot.product.domain, snapshot.product.table)
                self.cursor().execute(f"DROP VIEW IF EXISTS {view}")

    @property
    def accounting(self) -> bool:
        """Whether DuckDB's log holds requests, with the credentials in their headers."""
        return self._accounting


def _secret_name(scope: str) -> str:
    """A name for the secret of `scope`: DuckDB takes two that differ only in case for one."""
    return scope if scope == scope.lower() else f"{scope} {zlib.crc32(scope.encode()):08x}"
