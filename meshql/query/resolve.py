"""Names of a statement turned into snapshots: all products at once, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field

from meshql.catalog.model import Catalog, Product
from meshql.catalog.references import unset_variables
from meshql.errors import CatalogError, MeshError
from meshql.formats.registry import reader
from meshql.formats.snapshot import Details, File, Snapshot
from meshql.identity.broker import Broker
from meshql.query.engine import Engine
from meshql.query.failure import failure, mount_failure, named
from meshql.sql import Statement, TableName
from meshql.storage import Location, Store, open_store

__all__ = ["Resolution", "Resolver"]

DEFAULT_DATABASE = "memory"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The snapshots of a statement, and the errors of products that could not be had."""

    snapshots: tuple[Snapshot, ...]
    failures: dict[str, MeshError] = field(default_factory=dict)
    watched: tuple[int, ...] = ()

    def raise_first(self, among: Iterable[str] | None = None) -> None:
        """Raise the error of the first product that failed, if any did; only of those `among`, if given."""
        for name in self.failures if among is None else among:
            if name in self.failures:
                raise self.failures[name]


class Resolver:
    """Finds snapshots, and remembers the last one of each product to prove it unchanged."""

    def __init__(self, catalog: Catalog, engine: Engine, broker: Broker) -> None:
        self.catalog = catalog
        self._engine = engine
        self._broker = broker
        self._stores: dict[tuple[str, str], Store] = {}
        self._last: dict[str, Snapshot] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="meshql-resolve")

    def adopt(self, catalog: Catalog) -> None:
        """Resolve by this catalog from now on; products that are gone from it are gone from the engine."""
        gone = self.catalog.products.keys() - catalog.products.keys()
        with self._lock:
            self.catalog = catalog
            # Connections may lead elsewhere now, as somebody else.
            self._stores.clear()
            self._last.clear()
        self._engine.forget_scopes()
        for name in gone:
            self._engine.unmount(name)

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

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
        return [p for name in sorted(names) if (p := self.catalog.products.get(name))]

    def _products(self, name: TableName, schemas: Sequence[str]) -> Iterator[Product]:
        if name.database and name.database.casefold() != DEFAULT_DATABASE:
            return
        for schema in [name.schema] if name.schema else schemas:
            if product := self.catalog.find(schema, name.table):
                yield product
                return

    def resolve(self, products: Iterable[Product]) -> Resolution:
        """Return the current snapshot of each product; extensions load while the stores answer.

        A product that fails is in `failures`, with an error that names it.
        """
        products = list(products)
        # Loading is submitted first and waits for nobody, so the jobs that wait for it cannot starve it.
        pairs = [(self.catalog.connection_of(p), p) for p in products]
        loading = self._pool.submit(self._engine.load, pairs)
        jobs = {p.name: self._pool.submit(self._resolve, p, loading) for p in products}
        snapshots, failures = [], dict[str, MeshError]()
        for name, job in jobs.items():
            try:
                snapshots.append(job.result())
            except MeshError as error:
                failures[name] = error
        return Resolution(tuple(snapshots), failures)

    def snapshot(self, product: Product) -> Snapshot:
        """Return the current snapshot of one product; raises an error that names it."""
        resolution = self.resolve([product])
        if resolution.failures:
            raise resolution.failures[product.name]
        return resolution.snapshots[0]

    def _resolve(self, product: Product, loading: Future[None]) -> Snapshot:
        last = self._last.get(product.name)
        if last is not None and last.product != product:
            last = None
        try:
            found = reader(product).resolve(product, self._location(product), self.store(product), last)
        except MeshError as error:
            self._last.pop(product.name, None)
            raise named(error, product) from None
        self._last[product.name] = found
        try:
            loading.result()
            self._engine.trust(self.catalog.connection_of(product), str(found.location))
        except MeshError as error:
            raise named(copy(error), product) from None
        return found

    def mount(self, resolution: Resolution) -> Resolution:
        """Make the views of the resolution's snapshots, all at once; call it inside the engine's `using`."""
        jobs = [(s, self._pool.submit(self._mount, s)) for s in resolution.snapshots]
        kept, watched, failures = [], [], dict(resolution.failures)
        for snapshot, job in jobs:
            try:
                watched.append(job.result())
                kept.append(snapshot)
            except MeshError as error:
                failures[snapshot.product.name] = error
        return Resolution(tuple(kept), failures, tuple(w for w in watched if w is not None))

    def _mount(self, snapshot: Snapshot) -> int | None:
        try:
            return self._engine.mount(snapshot)
        except Exception as error:
            self._last.pop(snapshot.product.name, None)
            raise mount_failure(error, snapshot) from None

    def mount_one(self, snapshot: Snapshot) -> None:
        """Make the view of one snapshot; raises an error that names its product."""
        self.mount(Resolution((snapshot,))).raise_first()

    def details(self, snapshot: Snapshot) -> Details:
        """Return how much a snapshot holds; raises an error that names its product."""
        product = snapshot.product
        try:
            return reader(product).details(snapshot, self.store(product), self._engine.ask)
        except Exception as error:
            raise failure(error, [snapshot]) from None

    def contents(self, snapshot: Snapshot) -> list[File]:
        """Return the files that a scan of all of a snapshot reads; raises an error that names its product."""
        product = snapshot.product
        try:
            return reader(product).contents(snapshot, self.store(product), self._engine.ask)
        except Exception as error:
            raise failure(error, [snapshot]) from None

    def store(self, product: Product) -> Store:
        """Return the store that a product lies in; stores are kept, and their connections with them."""
        connection, location = self.catalog.connection_of(product), self._location(product)
        key = (connection.name, location.bucket)
        with self._lock:
            if key not in self._stores:
                credentials = self._broker.credentials(connection)
                self._stores[key] = open_store(connection, credentials, location)
            return self._stores[key]

    def _location(self, product: Product) -> Location:
        missing = unset_variables(product.location)
        if missing:
            raise CatalogError(
                f"{product.name}: its location needs environment variable {missing[0]}, which is not set",
                hint=f"export {missing[0]}=...",
            )
        return Location.parse(product.location)
