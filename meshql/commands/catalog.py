"""Commands that tell what a catalog holds: products, describe, validate, schema."""

from __future__ import annotations

from pathlib import Path

from meshql.catalog.load import check, load
from meshql.catalog.locate import find_catalog
from meshql.catalog.model import Catalog, Product
from meshql.commands.listing import print_rows
from meshql.commands.opening import open_mesh
from meshql.config import Config
from meshql.errors import CatalogError
from meshql.terminal import say, warn_unasked

__all__ = ["describe_product", "list_products", "print_schema", "validate_catalog"]


def list_products(pattern: str, format_: str, catalog: str | None) -> None:
    """Print the products whose name matches `pattern`."""

    declared = _with_remote(load(find_catalog(catalog)))
    rows = [_row(declared, product) for product in declared.matching(pattern)]
    if not rows:
        from meshql.shell.about import no_products

        raise no_products(pattern, declared)
    print_rows(rows, format_)


def _with_remote(catalog: Catalog) -> Catalog:
    """The catalog with what remote ones have; says on stderr which of them cannot be asked."""
    if not any(getattr(connection, "include", ()) for connection in catalog.connections.values()):
        return catalog
    from meshql.identity.broker import Broker
    from meshql.remote.mounts import Mounts

    mounts = Mounts(catalog, Broker())
    for name, error in mounts.discover().failures.items():
        warn_unasked(name, error)
    return mounts.extended(mounts.known())


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


def describe_product(name: str, config: Config) -> None:
    """Print what is declared of a product and what lies in its store now, if that is told in time."""
    from meshql.build.lineage import made_of
    from meshql.query.describe import description_text
    from meshql.query.supervise import supervise

    with open_mesh(config) as mesh:
        found, made = supervise(
            lambda: (mesh.product(name), made_of(mesh, name)), mesh.interrupt, timeout=config.timeout
        )
    print(description_text(found, made))


def validate_catalog(path: str | None) -> None:
    """Print all mistakes of a catalog; raises CatalogError when one of them is an error."""
    folder = Path(path) if path else find_catalog(None)
    mistakes = check(folder)
    for mistake in mistakes:
        print(mistake)
    errors = sum(m.severity == "error" for m in mistakes)
    if errors:
        raise CatalogError(f"catalog {folder} has {errors:,} mistake{'s' if errors > 1 else ''}")
    warned = len(mistakes)
    outcome = f"{warned:,} warning{'' if warned == 1 else 's'}, no errors" if warned else "no mistakes"
    catalog = load(folder)
    counts = f"{len(catalog.products):,} products on {len(catalog.connections):,} connections"
    say(f"{folder}: {counts}, {outcome}")


def print_schema() -> None:
    """Print the JSON schema of catalog files."""
    from meshql.catalog.schema import json_schema_text

    print(json_schema_text().rstrip())
