"""Products that nobody declares: the quarantine beside each silver product, and the log of runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from meshql.catalog.build import SilverBuild
from meshql.catalog.contract import Description
from meshql.catalog.model import Product
from meshql.folders import state_folder

__all__ = ["RUNS", "built_by", "derived_products", "quarantine_name"]

RUNS = "meshql.runs"
"""The log of runs; declared in a catalog, it lies where that says, and else with the user's state."""


def quarantine_name(name: str) -> str:
    """Return the name of the product that holds what the silver product `name` refused."""
    return f"{name}_quarantine"


def derived_products(
    root: str, products: dict[str, Product], environ: Mapping[str, str]
) -> dict[str, Product]:
    """Return `products` with those that they bring along; declared ones stay where they are."""
    found = dict(products)
    for silver in products.values():
        if isinstance(silver.build, SilverBuild):
            name = quarantine_name(silver.name)
            declared = products.get(name) or _quarantine(silver, silver.build)
            found[name] = declared.model_copy(update={"beside": silver.name})
    if any(product.build is not None for product in products.values()):
        found.setdefault(RUNS, _runs(root, environ))
    return found


def built_by(product: Product) -> str | None:
    """Return what `meshql build` is given to make a product: a name, nothing for all; None for others'."""
    if product.name == RUNS:
        return ""
    return product.name if product.build is not None else product.beside


def _quarantine(silver: Product, build: SilverBuild) -> Product:
    location = build.quarantine.location if build.quarantine else f"{silver.location.rstrip('/')}_quarantine/"
    return Product(
        name=quarantine_name(silver.name),
        place=silver.place,
        connection=silver.connection,
        location=location,
        format="delta",
        team=silver.team,
        description=Description(purpose=f"Rows that {silver.name} refused, with the reasons"),
    )


def _runs(root: str, environ: Mapping[str, str]) -> Product:
    digest = hashlib.sha256(root.encode()).hexdigest()[:12]
    return Product(
        name=RUNS,
        location=f"{state_folder(environ) / 'runs' / digest}/",
        format="delta",
        description=Description(purpose="Every step of every build: status, rows, bytes, versions, errors"),
    )
