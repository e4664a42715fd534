"""Commands that tell: products, plans, stores, history."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from meshql.catalog.model import Product
from meshql.errors import MeshError, QueryError, UnknownProductError, UsageError
from meshql.shell.show import page_text
from meshql.sql import quote_identifier, quote_name
from meshql.terminal import warn_unasked

if TYPE_CHECKING:
    from meshql.catalog.model import Catalog
    from meshql.shell.shell import Shell
    from meshql.shell.state import Front
    from meshql.sql import Statement

__all__ = [
    "describe",
    "doctor",
    "domains",
    "explain",
    "history",
    "no_products",
    "plan_",
    "preview",
    "products",
    "schema",
]

PREVIEWED_ROWS = 10


def products(front: Front, pattern: str) -> None:
    """List the products whose name matches."""
    failures = dict[str, MeshError]()
    catalog = front.mesh.discover(failures)
    for name, error in failures.items():
        warn_unasked(name, error)
    found = catalog.matching(pattern or "*")
    if not found:
        raise no_products(pattern, catalog)
    rows = [
        {
            "product": p.name,
            "format": p.format,
            "cloud": catalog.connection_of(p).cloud,
            "owner": p.owner,
            "purpose": p.description.purpose if p.description else None,
        }
        for p in found
    ]
    front.show_rows(rows)


def no_products(pattern: str, catalog: Catalog) -> UnknownProductError:
    """Return the error for a pattern that matches no product, with the nearest names, or all of a domain."""
    if not catalog.products:
        hint = "declare some below `products:`, or mount a remote catalog's with `include:`"
        return UnknownProductError("the catalog has no products", hint=hint)
    whole = {f"{product.domain}.*" for product in catalog.products.values()}
    return UnknownProductError.from_names(pattern, whole if pattern.endswith("*") else catalog.products)


def domains(front: Front, argument: str) -> None:
    """List the domains."""
    counts = Counter(p.domain for p in front.mesh.products())
    front.show_rows([{"domain": name, "products": str(count)} for name, count in sorted(counts.items())])


def describe(front: Front, name: str) -> None:
    """Describe a product; without a name, list them all, as psql does."""
    from meshql.build.lineage import made_of
    from meshql.query.describe import description_text

    if not name:
        products(front, "")
        return
    product = product_of(front, name)
    found, made = front.supervised(
        lambda: (front.mesh.product(product.name), made_of(front.mesh, product.name))
    )
    page_text(description_text(found, made), front.settings)


def schema(front: Front, name: str) -> None:
    """Print the columns of a product as a CREATE TABLE statement."""
    product = product_of(front, name)
    found = front.supervised(lambda: front.mesh.product(product.name))
    lines = []
    for i, column in enumerate(found.columns):
        comma = "," if i < len(found.columns) - 1 else ""
        said = f"  -- {column.description}" if column.description else ""
        lines.append(f"    {quote_if_needed(column.name)} {column.type}{comma}{said}")
    head = f"CREATE TABLE {quote_if_needed(product.domain)}.{quote_if_needed(product.table)} ("
    page_text("\n".join([head, *lines, ");"]), front.settings)


def quote_if_needed(name: str) -> str:
    """Return `name` as SQL takes it, in quotes only where it needs them."""
    return name if name.isidentifier() and name == name.lower() else quote_identifier(name)


def preview(front: Front, argument: str) -> None:
    """Show a few rows; the scan ends when they are there."""
    name, _, rows = argument.partition(" ")
    product = product_of(front, name)
    if rows and not rows.isdigit():
        raise UsageError(f"not a number of rows: {rows}", hint=".preview NAME 20")
    text = f"FROM {quote_name(product.domain, product.table)} LIMIT {rows or PREVIEWED_ROWS}"
    (statement,) = front.session.parse(text)
    front.deliver(statement)


def product_of(front: Front, name: str) -> Product:
    """Return the product of a name as SQL writes it, quoted or not."""
    return front.mesh.find(name.replace('"', ""))


def statement_of(front: Front, sql: str) -> Statement:
    """Return the one statement of `sql`, else the last that ran."""
    text = sql or front.last_sql
    if not text:
        raise QueryError("there is no query yet", hint="give one: .explain SELECT ...")
    statements = front.session.parse(text)
    if len(statements) != 1:
        raise UsageError(f"one statement at a time; this text holds {len(statements)}")
    return statements[0]


def explain(front: Front, sql: str) -> None:
    """Run a statement and draw its plan with rows, time, files, bytes and clouds."""
    from meshql.shell.plan_tree import draw

    statement = statement_of(front, sql)
    values = front.values_of(statement)
    operator = front.supervised(lambda: front.session.explain(statement, values, analyze=True))
    page_text(draw(operator, front.width, colour=front.colour), front.settings)


def plan_(front: Front, sql: str) -> None:
    """Tell what a statement would read, without running it."""
    statement = statement_of(front, sql)
    found = front.supervised(lambda: front.session.plan(statement, front.values_of(statement)))
    print(found.text(), flush=True)


def doctor(front: Front, names: str) -> None:
    """Examine the connections, or those of names, all at once: who we are there, and what works."""
    from meshql.doctor.table import diagnoses_text
    from meshql.output.table import terminal_width

    found = front.supervised(lambda: front.mesh.doctor(names.split()))
    print(diagnoses_text(found, width=terminal_width(), colour=front.colour), flush=True)


def history(shell: Shell, words: str) -> None:
    """Print the last lines typed, those that hold `words`."""
    lines = shell.history.matching(words, 50) if shell.history else ()
    page_text("\n".join(lines), shell.settings)
