"""Names of a statement turned into snapshots: all products at once, and nothing else."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshql.catalog.connections import Connection, PostgresConnection
from meshql.catalog.model import Catalog, Product
from meshql.catalog.references import unset_variables
from meshql.errors import CatalogError, CredentialsError, MeshError
from meshql.formats.registry import Source, reader
from meshql.formats.snapshot import Details, File, Snapshot
from meshql.identity.broker import Broker
from meshql.identity.credentials import Credentials
from meshql.query.addresses import Addresses
from meshql.query.engine import Engine
from meshql.query.failure import failure, mount_failure, named
from meshql.query.gate import Gate
from meshql.redact import learn_typed
from meshql.remote.mounts import Mounts
from meshql.sql import Statement, TableName
from meshql.storage.location import Location
from meshql.storage.store import Store, open_store

__all__ = ["Resolution", "Resolver"]

DEFAULT_DATABASE = "memory"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The snapshots of a statement, and the errors of products that could not be had."""

    snapshots: tuple[Snapshot, ...]
    failures: dict[str, MeshError] = field(default_factory=dict)
    watched: tuple[int, ...] = ()
    identities: tuple[tuple[Connection, Credentials], ...] = field(default=(), repr=False)
    """As whom the engine reads each connection's products."""

    def raise_first(self, among: Iterable[str] | None = None) -> None:
        """Raise the error of the first product that failed, if any did; only of those `among`, if given."""
        for name in self.failures if among is None else among:
            if name in self.failures:
                raise self.failures[name]


class Resolver:
    """Finds snapshots, and remembers the last one of each product to prove it unchanged."""

    def __init__(self, catalog: Catalog, engine: Engine, broker: Broker) -> None:
        self.catalog = catalog
        self.mounts = Mounts(catalog, broker)
        """The tables that remote catalogs have besides."""
        self.gate = Gate()
        """To be passed from the names of a statement to where it sees their views."""
        self._engine = engine
        self._broker = broker
        self._addresses = Addresses()
        self._stores: dict[tuple[str, str], tuple[Credentials, Store]] = {}
        self._last: dict[str, Snapshot] = {}
        self._copies: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="meshql-resolve")

    def adopt(self, catalog: Catalog) -> None:
        """Resolve by this catalog from now on; products that are gone from it are gone from the engine."""
        with self.gate.alone():
            self._adopt(catalog)

    def _adopt(self, catalog: Catalog) -> None:
        gone = (self.catalog.products.keys() | self._engine.mounted()) - catalog.products.keys()
        with self._lock:
            self.catalog = catalog
            self.mounts = Mounts(catalog, self._broker)
            # Connections may lead elsewhere now, as somebody else.
            self._stores.clear()
            self._last.clear()
        self._broker.retract()
        self._addresses.clear()
        self._engine.distrust()
        for name in gone:
            self._engine.unmount(name)

    def close(self) -> None:
        """Let the threads go, and what was copied to this machine."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self._copies is not None:
                self._copies.cleanup()
                self._copies = None

    def named(self, statement: Statement, schemas: Sequence[str] = ()) -> list[Product]:
        """Return the products that a statement names; `schemas` are searched for names that have none."""
        found = (product for name in statement.names for product in self._products(name, schemas))
        return list({product.name: product for product in found}.values())

    def reachable(self, statement: Statement) -> list[Product]:
        """Return the products that a statement may read without naming them.

        Those that views, macros and prepared statements were made over; and all that were ever read, when
        the names of tables come from values.
        """
        if statement.reads_nothing:
            return []
        names = self._engine.derived | (self._engine.mounted() if statement.is_dynamic else set())
        return [p for name in sorted(names) if (p := self.find(*name.split(".", 1)))]

    def find(self, domain: str, table: str) -> Product | None:
        """Return the product that is declared as `domain.table`, or that a remote catalog has so."""
        return self.catalog.find(domain, table) or self.mounts.find(domain, table)

    def product(self, name: str) -> Product:
        """Return the product of this name, declared or remote; raises UnknownProductError."""
        return self.find(*name.partition(".")[::2]) or self.listed().product(name)

    def listed(self) -> Catalog:
        """Return the catalog with what remote ones listed last; nobody is asked."""
        return self.mounts.extended(self.mounts.known())

    def _products(self, name: TableName, schemas: Sequence[str]) -> Iterator[Product]:
        if name.database and name.database.casefold() != DEFAULT_DATABASE:
            return
        for schema in [name.schema] if name.schema else schemas:
            if product := self.find(schema, name.table):
                yield product
                return

    def resolve(self, products: Iterable[Product]) -> Resolution:
        """Return the current snapshot of each product; extensions load while the stores answer.

        A product that fails is in `failures`, with an error that names it.
        """
        products = list(products)
        # Loading is submitted first and waits for nobody, so the jobs that wait for it cannot starve it.
        loading = self._pool.submit(self._load, products)
        jobs = {p.name: self._pool.submit(self._resolve, p, loading) for p in products}
        snapshots, failures = [], dict[str, MeshError]()
        identities = dict[str, tuple[Connection, Credentials]]()
        for name, job in jobs.items():
            try:
                snapshot, identity = job.result()
                snapshots.append(snapshot)
                identities.setdefault(identity[0].name, identity)
            except MeshError as error:
                failures[name] = error
        return Resolution(tuple(snapshots), failures, identities=tuple(identities.values()))

    def _load(self, products: Iterable[Product]) -> None:
        self._engine.load([(self.catalog.connection_of(p), p) for p in products])

    def snapshot(self, product: Product) -> Snapshot:
        """Return the current snapshot of one product; raises an error that names it."""
        resolution = self.resolve([product])
        if resolution.failures:
            raise resolution.failures[product.name]
        return resolution.snapshots[0]

    def _resolve(
        self, product: Product, loading: Future[None]
    ) -> tuple[Snapshot, tuple[Connection, Credentials]]:
        """The product's snapshot, and as whom the engine reads it."""
        try:
            product = self._placed(product)
        except MeshError as error:
            self._last.pop(product.name, None)
            raise named(error, product) from None
        last = self._last.get(product.name)
        if last is not None and last.product != product:
            last = None
        try:
            found = self._found(product, last, loading)
        except MeshError as error:
            self._last.pop(product.name, None)
            raise named(error, product) from None
        self._last[product.name] = found
        try:
            loading.result()
            connection = self.catalog.connection_of(product)
            for uri in product.placed.outside if product.placed else ():
                elsewhere = Location.parse(uri, connection)
                self._addresses.hold(connection, elsewhere)
                self._engine.trust(connection, str(elsewhere))
            return found, (connection, self._engine.trust(connection, str(found.location)))
        except MeshError as error:
            raise named(copy(error), product) from None

    def _placed(self, product: Product) -> Product:
        """A product of a remote catalog as it lies in its store now; loads what reading it there takes."""
        placed = self.mounts.place(product)
        if placed is not product:
            self._load([placed])
        return placed

    def _found(self, product: Product, last: Snapshot | None, loading: Future[None]) -> Snapshot:
        """Ask the store, and once more as soon as there are other credentials than those it refused."""
        connection = self.catalog.connection_of(product)
        credentials = self._broker.credentials(connection)
        try:
            source = self._source(product, loading)
            return reader(product).resolve(product, self._address(product), source, last)
        except CredentialsError:
            if not self._broker.renew(connection, credentials):
                raise
        source = self._source(product, loading)
        return reader(product).resolve(product, self._address(product), source, last)

    def renew(self, resolution: Resolution) -> bool:
        """Fetch the credentials that the engine had anew; returns whether any are others now.

        Those that cannot be fetched count as the same.
        """
        renewed = [self._broker.renew(*identity) for identity in resolution.identities]
        return any(renewed)

    def mount(self, resolution: Resolution) -> Resolution:
        """Make the views of the resolution's snapshots, all at once; call it inside the engine's `using`."""
        new = [s for s in resolution.snapshots if s.misread and not self._engine.shows(s)]
        misread = {s.key: self._pool.submit(self._engine.ask, str(s.misread)) for s in new}
        jobs = [(s, self._pool.submit(self._mount, s)) for s in resolution.snapshots]
        kept, watched, failures = [], [], dict(resolution.failures)
        for snapshot, job in jobs:
            try:
                watched.append(job.result())
                kept.append(self._well_read(snapshot, misread.get(snapshot.key)))
            except MeshError as error:
                failures[snapshot.product.name] = error
        ids = tuple(w for w in watched if w is not None)
        return Resolution(tuple(kept), failures, ids, resolution.identities)

    def _mount(self, snapshot: Snapshot) -> int | None:
        try:
            return self._engine.mount(snapshot)
        except Exception as error:
            self._last.pop(snapshot.product.name, None)
            raise mount_failure(error, snapshot) from None

    def _well_read(self, snapshot: Snapshot, misread: Future[list[Any]] | None) -> Snapshot:
        """Return the snapshot, or another of the same table where the delta extension may misread it."""
        try:
            if misread is None or not misread.result():
                return snapshot
            location, product = replace(snapshot.location, native=False), snapshot.product
            found = reader(product).resolve(product, location, self._source(product), None)
        except Exception as error:
            raise mount_failure(error, snapshot) from None
        self._last[product.name] = found
        self._mount(found)
        return found

    def mount_one(self, snapshot: Snapshot) -> None:
        """Make the view of one snapshot; raises an error that names its product."""
        self.mount(Resolution((snapshot,))).raise_first()

    def details(self, snapshot: Snapshot) -> Details:
        """Return how much a snapshot holds; raises an error that names its product."""
        product = snapshot.product
        try:
            return reader(product).details(snapshot, self._source(product), self._engine.ask)
        except Exception as error:
            raise failure(error, [snapshot]) from None

    def contents(self, snapshot: Snapshot) -> list[File]:
        """Return the files that a scan of all of a snapshot reads; raises an error that names its product."""
        product = snapshot.product
        try:
            return reader(product).contents(snapshot, self._source(product), self._engine.ask)
        except Exception as error:
            raise failure(error, [snapshot]) from None

    def _source(self, product: Product, loading: Future[None] | None = None) -> Source:
        """What a product is read from; a database only once `loading` is done."""
        connection = self.catalog.connection_of(product)
        if not isinstance(connection, PostgresConnection):
            return self.store(product)
        if loading is not None:
            loading.result()
        return self._engine.databases.attached(connection)

    def store(self, product: Product) -> Store:
        """Return the store that a product lies in; it is kept as long as the credentials are the same."""
        connection, location = self.catalog.connection_of(product), self.location(product)
        key = (connection.name, location.bucket)
        credentials = self._broker.credentials(connection)
        with self._lock:
            kept = self._stores.get(key)
            if kept is None or kept[0] is not credentials:
                kept = self._stores[key] = (
                    credentials,
                    open_store(connection, credentials, location, copies=self._folder),
                )
            return kept[1]

    def _address(self, product: Product) -> Location:
        connection = self.catalog.connection_of(product)
        credentials = self._broker.credentials(connection)
        location = self.location(product)
        folder = Location.parse(product.placed.root, connection) if product.placed else location
        address = self._addresses.address(connection, credentials, folder, product.format)
        return address.to(location.key)

    def _folder(self) -> Path:
        """A folder that only this user can look into, and that goes with this mesh."""
        with self._lock:
            if self._copies is None:
                self._copies = tempfile.TemporaryDirectory(prefix="meshql-", ignore_cleanup_errors=True)
            return Path(self._copies.name)

    def place(self, product: Product) -> tuple[Snapshot, tuple[Connection, Credentials]]:
        """Let the engine read a product's location as who we are there, whatever lies there.

        Returns a snapshot of nothing whose location is spelled as the engine has to, and the identity.
        """
        connection = self.catalog.connection_of(product)
        self._engine.load([(connection, product)])
        location = self._address(product)
        fixed = min((location.key.find(c) for c in "*?[" if c in location.key), default=len(location.key))
        if fixed < len(location.key):
            location = location.to(location.key[:fixed].rpartition("/")[0]).folder
        credentials = self._engine.trust(connection, str(location))
        return Snapshot(product, location, "", "", ()), (connection, credentials)

    def identity(self, name: str, refused: Credentials | None = None) -> Credentials:
        """Return who we are at a connection; with `refused`, others than those if there are any."""
        connection = self.catalog.connections[name]
        if refused is not None:
            self._broker.renew(connection, refused)
        return self._broker.credentials(connection)

    def reached(self, product: Product) -> tuple[Connection, Credentials, str]:
        """Return how a product is reached: its connection, credentials that live, and its location's URI."""
        product = self._placed(product)
        connection = self.catalog.connection_of(product)
        return connection, self._broker.credentials(connection), self.location(product).plain

    def location(self, product: Product) -> Location:
        """Return where a product lies; raises CatalogError while a variable hides it."""
        missing = unset_variables(product.location)
        if missing:
            raise CatalogError(
                f"{product.name}: its location needs environment variable {missing[0]}, which is not set",
                hint=f"export {missing[0]}=...",
            )
        # A signed address has its signature from the environment.
        learn_typed(product.location)
        return Location.parse(product.location, self.catalog.connection_of(product))
