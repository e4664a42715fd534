"""A product as declared and as it lies in its store now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from meshql.catalog.connections import Connection
from meshql.catalog.model import Product
from meshql.formats.snapshot import Snapshot
from meshql.query.engine import Engine
from meshql.query.resolve import Resolver
from meshql.redact import redact
from meshql.sql import quote_name
from meshql.terminal import size

__all__ = ["Column", "ProductDescription", "describe", "description_text"]


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


def describe(product: Product, resolver: Resolver, engine: Engine) -> ProductDescription:
    """Return the description of a product at its current snapshot; raises a StorageError that names it."""
    snapshot = resolver.snapshot(product)
    details = resolver.details(snapshot)
    return ProductDescription(
        product=snapshot.product,
        connection=resolver.catalog.connection_of(snapshot.product),
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


def description_text(found: ProductDescription, made: Mapping[str, str] | None = None) -> str:
    """Return a product's description as aligned lines, its columns last; `made` says how it came to be."""
    product, connection = found.product, found.connection
    facts = {
        "product": product.name,
        "purpose": product.description.purpose if product.description else None,
        "owner": product.owner,
        "cloud": " ".join(filter(None, (connection.cloud, getattr(connection, "region", None)))),
        "connection": connection.name,
        "location": redact(product.location),
        "format": product.format,
        "version": found.version,
        "files": _count(found.files),
        "rows": _count(found.rows),
        "bytes": None if found.bytes is None else f"{size(found.bytes)} ({found.bytes:,})",
        "last change": found.changed_at and found.changed_at.strftime("%Y-%m-%d %H:%M:%S %Z"),
        **(made or {}),
    }
    width = max(map(len, facts))
    lines = [f"{key:<{width}}  {value or 'not recorded'}" for key, value in facts.items()]
    names = max((len(c.name) for c in found.columns), default=0)
    types = max((len(c.type) for c in found.columns), default=0)
    columns = [
        f"  {c.name:<{names}}  {c.type:<{types}}  {c.description or ''}".rstrip() for c in found.columns
    ]
    return "\n".join([*lines, "columns", *columns])


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"
