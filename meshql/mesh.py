"""The door: a catalog and an engine, and SQL over its products."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from meshql.catalog.load import load
from meshql.catalog.locate import find_catalog
from meshql.catalog.model import Catalog, Product
from meshql.errors import LocationError, MeshError, QueryError
from meshql.formats.snapshot import Snapshot
from meshql.identity.broker import Broker
from meshql.identity.credentials import Credentials
from meshql.query.describe import ProductDescription, describe
from meshql.query.engine import Engine
from meshql.query.reading import Reading, looking, reading
from meshql.query.resolve import Resolver
from meshql.query.session import Parameters, Session
from meshql.query.supervise import abandoned
from meshql.storage.location import Location
from meshql.storage.store import Store

if TYPE_CHECKING:
    from meshql.doctor.diagnosis import Diagnosis
    from meshql.identity.options import Reader
    from meshql.query.result import Result

__all__ = ["Mesh", "connect"]


def connect(
    catalog: str | Path | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    receipts: bool = False,
) -> Mesh:
    """Open the catalog at a folder or file, or the one that the environment names, for queries.

    No store is contacted before a statement names one of its products. `settings` are DuckDB's, such as
    `{"memory_limit": "4GB"}`; with `receipts`, every result tells what was read from where. Raises
    CatalogError, with all mistakes of the catalog at once.
    """
    path = Path(catalog) if catalog is not None else find_catalog(None)
    return Mesh(load(path), settings=settings, receipts=receipts)


class Mesh:
    """SQL over the products of one catalog.

    Threads may share it. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        settings: Mapping[str, str] | None = None,
        receipts: bool = False,
    ) -> None:
        self._broker = Broker()
        self._engine = Engine(self._broker, settings=settings)
        self._resolver = Resolver(catalog, self._engine, self._broker)
        self._receipts = receipts
        self._running = weakref.WeakSet[Session | Reading]()
        self._lock = threading.Lock()
        self._closed = False
        if receipts:
            self._engine.account()

    @property
    def catalog(self) -> Catalog:
        """What is declared."""
        return self._resolver.catalog

    def reload(self, catalog: Catalog) -> None:
        """Go on with another catalog; statements that run keep what they see."""
        self._resolver.adopt(catalog)

    def sql(self, text: str, params: Parameters = None, *, timeout: float | None = None) -> Result:
        """Run one statement and return its rows as they come.

        `params` are bound to `$name` (a mapping) or `?` (a sequence). `timeout` is in seconds. Temporary
        tables live as long as a session: see `session`. Raises QueryError for SQL that is wrong, StorageError
        for a product that cannot be read, DeadlineError past the timeout.
        """
        session = self.session()
        try:
            statements = session.parse(text)
            if len(statements) != 1:
                raise QueryError(
                    f"sql() runs one statement, and this text holds {len(statements)}",
                    hint="run several through session(): `for s in session.parse(text): session.run(s)`",
                )
            return session.run(statements[0], params, timeout=timeout, on_end=lambda: self._forget(session))
        except BaseException:
            self._forget(session)
            raise

    def session(self) -> Session:
        """Return a session of its own: statements one after the other, with temporary tables and settings."""
        if self._closed:
            raise QueryError("the mesh is closed", hint="open one: meshql.connect(...)")
        session = Session(self._engine, self._resolver, receipts=self._receipts, on_close=self._forget)
        with self._lock:
            self._running.add(session)
        return session

    @property
    def mounts_catalogs(self) -> bool:
        """Whether remote catalogs may have products besides those that are declared."""
        return any(getattr(c, "include", ()) for c in self.catalog.connections.values())

    @property
    def listed(self) -> Catalog:
        """What is declared, and what remote catalogs listed last; nobody is asked."""
        return self._resolver.listed()

    def discover(self, failures: dict[str, MeshError] | None = None) -> Catalog:
        """Return what is declared and what remote catalogs have, asked side by side.

        The errors of those that cannot be asked go into `failures`, by the names of their connections; what
        they listed last counts for them.
        """
        found = self._resolver.mounts.discover()
        if failures is not None:
            failures |= found.failures
        return self._resolver.listed()

    def products(self, pattern: str = "*") -> list[Product]:
        """Return the products whose name matches a glob such as `sales.*`, by name.

        Those of remote catalogs are among them, as far as these can be asked; see `discover`.
        """
        return self.discover().matching(pattern)

    def find(self, name: str) -> Product:
        """Return what is declared of a product, or listed by a remote catalog; raises UnknownProductError."""
        return self._resolver.product(name)

    def product(self, name: str) -> ProductDescription:
        """Return what is declared of a product and what lies in its store now; raises UnknownProductError."""
        with self._resolver.gate.passing():
            return describe(self._resolver.product(name), self._resolver, self._engine)

    def check(self, name: str) -> str:
        """Return the version of a product that its store has now; raises a StorageError when it has none."""
        with self._resolver.gate.passing():
            return self._resolver.snapshot(self._resolver.product(name)).version

    def doctor(self, names: str | Sequence[str] = (), *, timeout: float | None = None) -> list[Diagnosis]:
        """Examine connections and return, for each, who we are there and what works; all at once.

        `names` are connections or products, globs too; none means every connection. `timeout` is in seconds
        for each, 2.5 unless given; a check that is not done by then has failed. Raises UsageError for a name
        that is unknown.
        """
        from meshql.doctor.examine import SECONDS, diagnose

        named = [names] if isinstance(names, str) else names
        return diagnose(self.catalog, self._broker, named, timeout=timeout or SECONDS)

    def storage_options(self, name: str, reader: Reader) -> tuple[str, dict[str, str]]:
        """Return the URI of a product and the options with which another library reads it, as who meshql is.

        `reader` is deltalake, lance or pyiceberg. The options hold secrets, which live as long as the
        connection's credentials. Raises UnknownProductError, CredentialsError, and UsageError for what the
        reader cannot be given.
        """
        from meshql.identity.options import reader_uri, storage_options

        connection, credentials, uri = self._resolver.reached(self._resolver.product(name))
        options = storage_options(connection, credentials, reader, uri)
        return reader_uri(connection, credentials, reader, uri), options

    def named(self, text: str) -> list[Product]:
        """Return the products that SQL names; raises QueryError where it does not parse."""
        with self.session() as session:
            found = (p for statement in session.parse(text) for p in self._resolver.named(statement))
            return list({product.name: product for product in found}.values())

    def identity(self, connection: str, refused: Credentials | None = None) -> Credentials:
        """Return credentials of a connection; with `refused`, others than those if there are any now."""
        return self._resolver.identity(connection, refused)

    @contextmanager
    def looking(self, product: Product) -> Iterator[Reading]:
        """Open a cursor that may read any file below a product's location, by its address."""
        with looking(product, self._resolver, self._engine) as opened:
            with self._lock:
                self._running.add(opened)
            try:
                yield opened
            finally:
                with self._lock:
                    self._running.discard(opened)

    @contextmanager
    def reading(self, products: Iterable[Product], *, extensions: Sequence[str] = ()) -> Iterator[Reading]:
        """Hold products at their newest versions, for several statements that belong together.

        `extensions` are DuckDB's that the statements take besides what the products do.
        """
        with reading(products, self._resolver, self._engine, extensions) as held:
            with self._lock:
                self._running.add(held)
            try:
                yield held
            finally:
                with self._lock:
                    self._running.discard(held)

    def snapshot(self, product: Product) -> Snapshot | None:
        """Return a product's newest version; None where nothing lies at its location yet."""
        try:
            with self._resolver.gate.passing():
                return self._resolver.snapshot(product)
        except LocationError:
            return None

    def store(self, product: Product) -> tuple[Store, Location]:
        """Return the store that a product lies in, and its location there."""
        return self._resolver.store(product), self._resolver.location(product)

    def explain(self, text: str, params: Parameters = None, *, analyze: bool = False) -> str:
        """Return DuckDB's plan of a statement; `analyze` runs it and adds what was measured."""
        with self.sql(f"EXPLAIN {'ANALYZE ' if analyze else ''}{text}", params) as result:
            return "\n".join(str(row[-1]) for row in result.fetchall())

    def interrupt(self) -> None:
        """Cancel every running statement; for another thread to call."""
        with self._lock:
            running = list(self._running)
        for session in running:
            session.interrupt()

    def close(self) -> None:
        """Cancel what runs and let everything go; closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self.interrupt()
            self._resolver.close()
            self._engine.close()

    def __enter__(self) -> Mesh:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing would wait for the read that hangs.
        if error is None or not abandoned(error):
            self.close()

    def __repr__(self) -> str:
        return f"<meshql.Mesh {self.catalog.root}: {len(self.catalog.products)} products>"

    def _forget(self, session: Session) -> None:
        with self._lock:
            self._running.discard(session)
