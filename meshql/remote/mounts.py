"""Tables of remote catalogs as products: found when they are named, placed when they are read."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from meshql.catalog.connections import (
    AzureConnection,
    Connection,
    GcsConnection,
    IcebergRestConnection,
    LocalConnection,
    RemoteCatalog,
    S3Connection,
    UnityConnection,
)
from meshql.catalog.model import Catalog, Placed, Product
from meshql.catalog.references import unset_variables
from meshql.errors import CatalogError, CredentialsError, MeshError
from meshql.identity.broker import Broker
from meshql.identity.credentials import Credentials
from meshql.remote.client import Entry, Loaded
from meshql.remote.iceberg_rest import IcebergRest
from meshql.remote.listing import Listing
from meshql.remote.unity import Unity
from meshql.remote.vended import plain_uri

__all__ = ["Discovery", "Mounts"]

STORES = (S3Connection, GcsConnection, AzureConnection)

OF_DUCKDB = frozenset({"information_schema", "main", "memory", "pg_catalog", "system", "temp"})

HASTY_SECONDS = 5.0
"""A name that was not listed so long ago is asked for again."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """The products that remote catalogs have, and the errors of those that could not be asked, by name."""

    products: tuple[Product, ...]
    failures: dict[str, MeshError]


class Mounts:
    """The remote catalogs of a catalog; threads may share it. Nothing is asked before it is needed."""

    def __init__(self, catalog: Catalog, broker: Broker, *, folder: Path | None = None) -> None:
        self._catalog = catalog
        self._broker = broker
        self._folder = folder
        self._lock = threading.Lock()
        self._listings: dict[str, Listing] = {}
        self._remotes = [c for c in catalog.connections.values() if isinstance(c, RemoteCatalog)]
        self._mounting = [c for c in self._remotes if c.include]
        self._loaded: dict[str, Loaded] = {}

    # --- names --------------------------------------------------------------------------------------

    def find(self, domain: str, table: str) -> Product | None:
        """Return the product `domain.table` that a remote catalog has, compared without case.

        Catalogs that cannot have the domain are not asked. Raises CatalogError for a table that cannot be
        read, or that two catalogs or namespaces have; a StorageError where the only catalog that may have the
        domain cannot be asked.
        """
        if not domain or domain.casefold() in OF_DUCKDB:
            return None
        asked = [c for c in self._mounting if _may_have(c, domain)]
        for connection in asked:
            try:
                found = self._found(connection, f"{domain}.{table}".casefold())
            except MeshError:
                if connection.domain is None:
                    # It is not sure that the name has anything to do with this catalog.
                    continue
                raise
            if found:
                return self._only(connection, found, f"{domain}.{table}")
        return None

    def _found(self, connection: RemoteCatalog, name: str) -> list[Entry]:
        listing = self._listing(connection)
        found = _named(connection, listing.known(), name)
        if found:
            return found
        entries = listing.entries(within=HASTY_SECONDS) if connection.domain else listing.guessed()
        return _named(connection, entries, name)

    def trouble(self, domain: str) -> MeshError | None:
        """Return why a catalog that may have `domain` could not be asked, if one could not."""
        listings = (self._listings.get(c.name) for c in self._mounting if _may_have(c, domain))
        return next((found.failure for found in listings if found and found.failure), None)

    def known(self) -> list[Product]:
        """Return the products that were listed last, without asking anybody."""
        return self._products((c, self._listing(c).known()) for c in self._usable())

    def discover(self) -> Discovery:
        """Ask all catalogs, side by side, what they have; one that cannot be asked breaks no other."""
        connections, failures = self._mounting, dict[str, MeshError]()
        if not connections:
            return Discovery((), {})
        found = list[tuple[RemoteCatalog, tuple[Entry, ...]]]()
        with ThreadPoolExecutor(max_workers=8, thread_name_prefix="meshql-catalog") as pool:
            jobs = [(c, pool.submit(self._entries, c)) for c in connections]
            for connection, job in jobs:
                try:
                    found.append((connection, job.result()))
                except MeshError as error:
                    failures[connection.name] = error
        return Discovery(tuple(self._products(found)), failures)

    def mounted(self, connection: RemoteCatalog) -> list[Product]:
        """Ask one catalog now which products it has; raises a StorageError where it cannot be asked."""
        return self._products([(connection, self._listing(connection).entries(within=0))])

    def _entries(self, connection: RemoteCatalog) -> tuple[Entry, ...]:
        return self._listing(connection).entries()

    def extended(self, products: Iterable[Product]) -> Catalog:
        """Return the catalog with these products besides the declared ones, which win."""
        declared = self._catalog
        merged = {p.name: p for p in products if declared.find(p.domain, p.table) is None}
        merged |= declared.products
        return Catalog.model_construct(
            root=declared.root,
            digest=declared.digest,
            files=declared.files,
            warnings=declared.warnings,
            connections=declared.connections,
            products=merged,
        )

    def _usable(self) -> list[RemoteCatalog]:
        return [c for c in self._mounting if not unset_variables(getattr(c, "uri", ""))]

    def _products(self, found: Iterable[tuple[RemoteCatalog, Iterable[Entry]]]) -> list[Product]:
        products = dict[str, Product]()
        for connection, entries in found:
            for entry in entries:
                name = _name(connection, entry)
                if entry.refused is None:
                    products.setdefault(name.casefold(), _product(connection, entry))
        return [product for _, product in sorted(products.items())]

    def _only(self, connection: RemoteCatalog, found: list[Entry], name: str) -> Product:
        if len(found) > 1:
            places = " and ".join(entry.location for entry in found)
            raise CatalogError(
                f"{name} is two tables of catalog {connection.name}: {places}",
                hint=f"narrow `include` of connection {connection.name}, or leave out its `domain`",
            )
        if found[0].refused:
            raise CatalogError(f"{name} {found[0].refused} (catalog {connection.name})")
        return _product(connection, found[0])

    def _listing(self, connection: RemoteCatalog) -> Listing:
        with self._lock:
            if connection.name not in self._listings:
                self._listings[connection.name] = Listing(self._api(connection), self._folder)
            return self._listings[connection.name]

    def _api(self, connection: RemoteCatalog) -> IcebergRest | Unity:
        if isinstance(connection, IcebergRestConnection):
            return IcebergRest(connection, self._broker)
        assert isinstance(connection, UnityConnection)
        return Unity(connection, self._broker)

    # --- tables -------------------------------------------------------------------------------------

    def place(self, product: Product) -> Product:
        """Return a product of a remote catalog as it lies in its store now: one request to the catalog.

        Other products are returned as they are. Raises LocationError where the catalog has no such table,
        CredentialsError where nobody gives credentials for its files.
        """
        connection = None if product.placed else self._catalog.connection_of(product)
        if not isinstance(connection, RemoteCatalog):
            return product
        api = self._listing(connection).api
        key = f"{connection.name}: {product.location}"
        loaded = api.load(product.location, key)
        if loaded.format != product.format:
            raise CatalogError(
                f"{product.name}: the catalog has {product.location} as {loaded.format}",
                hint=f"write `format: {loaded.format}`",
            )
        placed = Placed(
            connection=self._store(connection, loaded, product, key),
            root=plain_uri(loaded.root),
            outside=tuple(plain_uri(path) for path in loaded.outside),
            written=loaded.uri,
        )
        return product.model_copy(update={"location": plain_uri(loaded.uri), "placed": placed})

    def _store(self, catalog: RemoteCatalog, loaded: Loaded, product: Product, key: str) -> Connection:
        """The connection that a table is read through, with somebody's credentials behind it."""
        own = self._catalog.connections.get(catalog.storage) if catalog.storage else None
        if isinstance(loaded.connection, LocalConnection):
            return loaded.connection
        if loaded.credentials is None:
            if own is None:
                raise CredentialsError(
                    f"{product.name}: catalog {catalog.name} gives no credentials for {loaded.root}",
                    hint=f"add `storage:` to connection {catalog.name}, with a connection that may read it",
                )
            return own
        store = _like(loaded.connection, own)
        with self._lock:
            self._loaded[key] = loaded
        self._broker.lend(store, lambda refused: self._lent(catalog, product.location, key, refused))
        return store

    def _lent(self, catalog: RemoteCatalog, location: str, key: str, refused: bool) -> Credentials:
        """The credentials that came last, and new ones where those were given out before or `refused`."""
        with self._lock:
            loaded = self._loaded.pop(key, None)
        if loaded is None or refused:
            loaded = self._listing(catalog).api.load(location, key, anew=True)
        if loaded.credentials is None:
            raise CredentialsError(f"catalog {catalog.name} gives no credentials for {location} any more")
        return loaded.credentials


def _like(connection: Connection, own: Connection | None) -> Connection:
    """What the catalog leaves open of its store, as the connection in `storage` says it."""
    if not isinstance(connection, STORES) or own is None or type(own) is not type(connection):
        return connection
    told = {k for k in ("region", "endpoint", "account") if getattr(connection, k, None) is not None}
    told -= {"region"} if getattr(connection, "endpoint", None) is None else set()
    kept = {"name", "auth", *told} | ({"url_style"} if "endpoint" in told else set())
    return own.model_copy(update={k: getattr(connection, k) for k in kept if k in type(own).model_fields})


def _may_have(connection: RemoteCatalog, domain: str) -> bool:
    if connection.domain:
        return connection.domain.casefold() == domain.casefold()
    for glob in connection.include:
        space, _, table = glob.rpartition(".")
        # A star stands for dots too: sales.* has the table sales.eu.orders.
        spaces = [space or "*", *([f"{space}.*"] if "*" in table else [])]
        if any(fnmatchcase(domain.casefold(), _word(s, "*?[]").casefold()) for s in spaces):
            return True
    return False


def _named(connection: RemoteCatalog, entries: Iterable[Entry], name: str) -> list[Entry]:
    return [e for e in entries if _name(connection, e).casefold() == name]


def _name(connection: RemoteCatalog, entry: Entry) -> str:
    domain = connection.domain or _word("_".join(entry.namespace))
    return f"{domain}.{_word(entry.table)}"


def _word(text: str, besides: str = "") -> str:
    """A name of a catalog as a part of a product's name."""
    plain = re.sub(rf"[^A-Za-z0-9_\-{re.escape(besides)}]", "_", text)
    return f"_{plain}" if plain[:1].isdigit() or plain[:1] == "-" else plain


def _product(connection: RemoteCatalog, entry: Entry) -> Product:
    return Product.model_validate(
        {
            "name": _name(connection, entry),
            "connection": connection.name,
            "location": entry.location,
            "format": entry.format,
        }
    )
