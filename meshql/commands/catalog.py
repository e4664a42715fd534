"""Commands that tell what a catalog holds: products, describe, validate, schema."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from meshql.catalog.load import check, load
from meshql.catalog.locate import find_catalog
from meshql.catalog.model import Catalog, Product
from meshql.errors import CatalogError, UnknownProductError
from meshql.terminal import say, size

if TYPE_CHECKING:
    from meshql.query.describe import ProductDescription
    from meshql.query.result import Result

__all__ = ["describe_product", "list_products", "print_schema", "validate_catalog"]


def list_products(pattern: str, format_: str, catalog: str | None) -> None:
    """Print the products whose name matches `pattern`."""
    from meshql.output import write

    declared = load(find_catalog(catalog))
    rows = [_row(declared, product) for product in declared.matching(pattern)]
    if not rows:
        raise UnknownProductError.from_names(pattern, declared.products)
    write(_listing(rows), sys.stdout.buffer, format_, width=_width())


def _row(catalog: Catalog, product: Product) -> dict[str, str | None]:
    connection = catalog.connection_of(product)
    return {
        "product": product.name,
        "format": product.format,
        "cloud": connection.cloud,
        "connection": connection.name,
        "owner": product.owner,
        "purpose": product.description.purpose if product.description else None,
    }


def _listing(rows: list[dict[str, str | None]]) -> Result:
    """The rows as a result, so that they are written as all results are."""
    import duckdb
    import pyarrow

    from meshql.query.result import Result

    listed = pyarrow.Table.from_pylist(rows, pyarrow.schema([(name, pyarrow.string()) for name in rows[0]]))
    cursor = duckdb.connect()
    cursor.register("listed", listed)
    return Result(
        cursor.execute("FROM listed"),
        translate=lambda error: error,
        account=lambda count: None,
        end=lambda ok: cursor.close(),
    )


def _width() -> int | None:
    from meshql.output.table import terminal_width

    return terminal_width()


def describe_product(name: str, catalog: str | None) -> None:
    """Print what is declared of a product and what lies in its store now."""
    from meshql.mesh import connect
    from meshql.query.supervise import supervise

    with connect(catalog) as mesh:
        found = supervise(lambda: mesh.product(name), mesh.interrupt)
    print(description_text(found))


def description_text(found: ProductDescription) -> str:
    """Return a product's description as aligned lines, its columns last."""
    product, connection = found.product, found.connection
    facts = {
        "product": product.name,
        "purpose": product.description.purpose if product.description else None,
        "owner": product.owner,
        "cloud": " ".join(filter(None, (connection.cloud, getattr(connection, "region", None)))),
        "connection": connection.name,
        "location": product.location,
        "format": product.format,
        "version": found.version,
        "files": _count(found.files),
        "rows": _count(found.rows),
        "bytes": None if found.bytes is None else f"{size(found.bytes)} ({found.bytes:,})",
        "last change": found.changed_at and found.changed_at.strftime("%Y-%m-%d %H:%M:%S %Z"),
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


def validate_catalog(path: str | None) -> None:
    """Print all mistakes of a catalog; raises CatalogError when one of them is an error."""
    folder = Path(path) if path else find_catalog(None)
    mistakes = check(folder)
    for mistake in mistakes:
        print(mistake)
    errors = sum(m.severity == "error" for m in mistakes)
    if errors:
        raise CatalogError(f"catalog {folder} has {errors:,} mistake{'s' if errors > 1 else ''}")
    catalog = load(folder)
    counts = f"{len(catalog.products):,} products on {len(catalog.connections):,} connections"
    say(f"{folder}: {counts}, no mistakes")


def print_schema() -> None:
    """Print the JSON schema of catalog files."""
    from meshql.catalog.schema import json_schema_text

    print(json_schema_text().rstrip())
