"""Which module reads which format."""

from __future__ import annotations

from typing import Protocol

from meshql.catalog.model import Product
from meshql.formats import delta, files, iceberg
from meshql.formats.snapshot import Ask, Details, File, Snapshot
from meshql.storage import Location, Store

__all__ = ["Reader", "reader"]


class Reader(Protocol):
    """The verbs of a format."""

    def resolve(self, product: Product, location: Location, store: Store, last: Snapshot | None) -> Snapshot:
        """Return the current snapshot; `last` itself when it is proven to be still the current one."""

    def details(self, snapshot: Snapshot, store: Store, ask: Ask) -> Details:
        """Return how much `snapshot` holds."""

    def contents(self, snapshot: Snapshot, store: Store, ask: Ask) -> list[File]:
        """Return the files that a scan of all of `snapshot` reads."""


READERS: dict[str, Reader] = {
    "delta": delta,
    "iceberg": iceberg,
    "parquet": files,
    "csv": files,
    "json": files,
}


def reader(product: Product) -> Reader:
    """Return the verbs of the format that `product` is in."""
    return READERS[product.format]
