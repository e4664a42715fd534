"""Which module reads which format."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from meshql.catalog.build import in_batches
from meshql.catalog.model import Product
from meshql.formats import batches, delta, files, iceberg, postgres
from meshql.formats.postgres import Database
from meshql.formats.snapshot import Ask, Details, File, Snapshot
from meshql.storage.location import Location
from meshql.storage.store import Store

__all__ = ["Reader", "Source", "reader"]

Source = Store | Database
"""What a product is read from: objects, or a database."""

S = TypeVar("S", contravariant=True)


class Reader(Protocol[S]):
    """The verbs of a format, which reads from an S."""

    def resolve(self, product: Product, location: Location, store: S, last: Snapshot | None) -> Snapshot:
        """Return the current snapshot; `last` itself when it is proven to be still the current one."""

    def details(self, snapshot: Snapshot, store: S, ask: Ask) -> Details:
        """Return how much `snapshot` holds."""

    def contents(self, snapshot: Snapshot, store: S, ask: Ask) -> list[File]:
        """Return the files that a scan of all of `snapshot` reads."""


READERS: dict[str, Reader[Any]] = {
    "delta": delta,
    "iceberg": iceberg,
    "parquet": files,
    "csv": files,
    "json": files,
    "postgres": postgres,
}


def reader(product: Product) -> Reader[Any]:
    """Return the verbs of the format that `product` is in."""
    return batches if in_batches(product.build) else READERS[product.format]
