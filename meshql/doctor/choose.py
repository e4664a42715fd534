"""Which connections are examined, and through which of their products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from meshql.catalog.connections import Connection
from meshql.catalog.model import Catalog, Product
from meshql.errors import CatalogError, UsageError, nearest

__all__ = ["Chosen", "choose", "unplaced"]


@dataclass(slots=True)
class Chosen:
    """A connection to examine, the names of all products on it, and those whose readers are tried.

    `labels` are what the checks of those are called, by the product's name.
    """

    connection: Connection
    used_by: tuple[str, ...]
    labels: dict[str, str] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)

    def add(self, product: Product, label: str) -> None:
        """Try the reader of one more product."""
        if product.name not in self.labels:
            self.products.append(product)
        self.labels[product.name] = label


def choose(catalog: Catalog, names: Sequence[str]) -> list[Chosen]:
    """Return the connections to examine: all, or those that names or globs lead to, each once.

    A connection is examined through one product of each format that it has; a product's name leads to its
    connection and to just that product. Raises UsageError for a name that leads nowhere.
    """
    everything = _everything(catalog)
    if not names:
        for one, products in everything.values():
            _add_formats(one, products)
        return [one for one, _ in everything.values()]
    chosen: dict[str, Chosen] = {}
    for name in names:
        connections = [key for key in everything if fnmatchcase(key.casefold(), name.casefold())]
        products = catalog.matching(name)
        if not connections and not products:
            raise _unknown(name, [*everything, *catalog.products])
        for key in connections:
            _add_formats(*everything[key])
            chosen[key] = everything[key][0]
        for product in products:
            key = catalog.connection_of(product).name
            everything[key][0].add(product, product.name)
            chosen[key] = everything[key][0]
    return list(chosen.values())


def unplaced(catalog: Catalog) -> list[tuple[Product, CatalogError]]:
    """Return the products whose connection a variable that is not set hides, and what each error says."""
    found = []
    for product in catalog.products.values():
        try:
            catalog.connection_of(product)
        except CatalogError as error:
            found.append((product, error))
    return found


def _everything(catalog: Catalog) -> dict[str, tuple[Chosen, list[Product]]]:
    """Every connection by name, this machine's files among them where products lie there."""
    hidden = {product.name for product, _ in unplaced(catalog)}
    users: dict[str, list[Product]] = {name: [] for name in catalog.connections}
    connections = dict(catalog.connections)
    for product in catalog.products.values():
        if product.name not in hidden:
            connection = catalog.connection_of(product)
            connections.setdefault(connection.name, connection)
            users.setdefault(connection.name, []).append(product)
    return {
        name: (Chosen(connection, tuple(p.name for p in users[name])), users[name])
        for name, connection in connections.items()
    }


def _add_formats(one: Chosen, products: list[Product]) -> None:
    """Try the reader of each format once."""
    for format_ in dict.fromkeys(p.format for p in products):
        one.add(next(p for p in products if p.format == format_), format_)


def _unknown(name: str, known: Sequence[str]) -> UsageError:
    close = nearest(name, known)
    hint = f"did you mean {' or '.join(close)}?" if close else "meshql doctor, without a name, examines all"
    return UsageError(f"no connection or product is named {name}", hint=hint)
