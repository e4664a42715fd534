"""A product as declared and as it lies in its store now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from meshql.catalog.model import Connection, Product
from meshql.formats.snapshot import Snapshot
from meshql.query.engine import Engine
from meshql.query.resolve import Resolver
from meshql.sql import quote_name

__all__ = ["Column", "ProductDescription", "describe"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a product: its DuckDB type, and what the contract says of it."""

    name: str
    type: str
    description: str | None


@dataclass(frozen=True, slots=True)
class ProductDescription:
    """What `meshql describe` tells; figures are None where the format does not record them."""

    product: Product
    connection: Connection
    columns: tuple[Column, ...]
    version: str
    files: int | None
    rows: int | None
    bytes: int | None
    changed_at: datetime | None


def describe(
    product: Product, connection: Connection, resolver: Resolver, engine: Engine
) -> ProductDescription:
    """Return the description of a product at its current snapshot; raises a StorageError that names it."""
    snapshot = resolver.snapshot(product)
    details = resolver.details(snapshot)
    return ProductDescription(
        product=product,
        connection=connection,
        columns=_columns(product, snapshot, resolver, engine),
        version=snapshot.version,
        files=details.files,
        rows=details.rows,
        bytes=details.bytes,
        changed_at=details.changed_at,
    )


def _columns(product: Product, snapshot: Snapshot, resolver: Resolver, engine: Engine) -> tuple[Column, ...]:
    said = {e.name.casefold(): e.description for t in product.table_schema for e in t.properties}
    try:
        with engine.using([snapshot]):
            resolver.mount_one(snapshot)
            rows = engine.ask(f"DESCRIBE {quote_name(product.domain, product.table)}")
    finally:
        engine.release([snapshot])
    return tuple(Column(name, kind, said.get(name.casefold())) for name, kind, *_ in rows)
