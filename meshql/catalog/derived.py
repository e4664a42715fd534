"""Products that nobody declares: quarantines beside silver products, the tables of logs, the log of runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

from meshql.catalog.build import CdcBuild, SilverBuild
from meshql.catalog.contract import Description
from meshql.catalog.model import NAME, Product
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
    for table in _tables(products):
        found.setdefault(table.name, table)
    if any(product.build is not None for product in products.values()):
        found.setdefault(RUNS, _runs(root, environ))
    return found


def built_by(product: Product) -> str | None:
    """Return what `meshql build` is given to make a product: a name, nothing for all; None for others'.

    A table of a log is made along with the log, which is nothing to read by itself.
    """
    if product.name == RUNS:
        return ""
    if isinstance(product.build, CdcBuild) and product.build.table:
        return f"+{product.name}"
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


def _tables(products: Mapping[str, Product]) -> Iterator[Product]:
    """The tables of logs that no product is declared for."""
    builds = [p.build for p in products.values() if isinstance(p.build, CdcBuild)]
    made = {(b.from_.casefold(), b.table) for b in builds}
    for log in products.values():
        if isinstance(log.build, CdcBuild):
            for table in log.build.tables:
                name = f"{log.domain}.{table.rpartition('.')[2]}"
                # A variable that is not set hides what the table is called.
                if (log.name.casefold(), table) not in made and re.fullmatch(NAME, name):
                    yield _table(name, table, log)


def _table(name: str, table: str, log: Product) -> Product:
    return Product(
        name=name,
        place=log.place,
        connection=log.connection,
        location=f"{log.location.rstrip('/')}_{name.partition('.')[2]}/",
        format="delta",
        team=log.team,
        description=Description(purpose=f"Rows of {table} as they are, by the changes in {log.name}"),
        build=CdcBuild.model_validate({"kind": "cdc", "from": log.name, "table": table}),
    )


def _runs(root: str, environ: Mapping[str, str]) -> Product:
    digest = hashlib.sha256(root.encode()).hexdigest()[:12]
    return Product(
        name=RUNS,
        location=f"{state_folder(environ) / 'runs' / digest}/",
        format="delta",
        description=Description(purpose="Every step of every build: status, rows, bytes, versions, errors"),
    )
