"""Which products are made of which, read from their builds and SQL, and which of them a selector means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter

from meshql.build.rules import referred
from meshql.catalog.build import BronzeBuild, CdcBuild, GoldBuild, SilverBuild, SqlSource
from meshql.catalog.model import Product
from meshql.errors import CatalogError, UnknownProductError, UsageError
from meshql.mesh import Mesh

__all__ = ["Graph", "graph_of", "inputs_of"]

CHANGED = "changed"
"""The selector of products whose definition is another one than that of their last build."""


def inputs_of(mesh: Mesh, product: Product) -> tuple[str, ...]:
    """Return the names of the products that a product is made of, in the order of its definition.

    Empty for one that is not built here. Raises CatalogError, which names the product, for SQL that does not
    parse and for a product that nobody declared.
    """
    match product.build:
        case CdcBuild(tables=()) | SilverBuild():
            return (_known(mesh, product, product.build.from_),)
        case GoldBuild(sql=sql):
            return _named(mesh, product, sql)
        case BronzeBuild(sources=sources):
            texts = [source.sql for source in sources if isinstance(source, SqlSource)]
            return tuple(dict.fromkeys(name for sql in texts for name in _named(mesh, product, sql)))
    return ()


def _named(mesh: Mesh, product: Product, sql: str) -> tuple[str, ...]:
    try:
        return tuple(found.name for found in mesh.named(sql))
    except UsageError:
        raise
    except Exception as error:
        message = getattr(error, "message", str(error))
        raise CatalogError(f"{product.name}: its SQL does not parse: {message}") from None


def _known(mesh: Mesh, product: Product, name: str) -> str:
    try:
        return mesh.find(name).name
    except UnknownProductError as error:
        raise CatalogError(f"{product.name}: its build is from {error.message}", hint=error.hint) from None


def _referred(mesh: Mesh, product: Product) -> list[str]:
    """The products that rows of this one have to refer to."""
    found = map(mesh.find, referred(mesh.catalog, product))
    return [p.beside or p.name for p in found if product.name not in (p.name, p.beside)]


@dataclass(frozen=True, slots=True)
class Graph:
    """The products that are built here, in an order in which each follows those that it is made of."""

    products: dict[str, Product]
    inputs: dict[str, tuple[str, ...]]
    """What each is made of, by name; other products too, which are not built here."""
    follows: dict[str, tuple[str, ...]]
    """What each is built after: its inputs, and what its rows have to refer to."""

    def parents(self, name: str) -> list[str]:
        """Return the products built here that `name` is made of."""
        return [parent for parent in self.inputs.get(name, ()) if parent in self.products]

    def children(self, name: str) -> list[str]:
        """Return the products that are made of `name`."""
        return [child for child, parents in self.inputs.items() if name in parents]

    def upstream(self, name: str) -> set[str]:
        """Return all products built here that `name` depends on."""
        return _reach(name, self.parents)

    def downstream(self, name: str) -> set[str]:
        """Return all products that depend on `name`."""
        return _reach(name, self.children)

    def select(self, selectors: Sequence[str], changed: Callable[[str], bool]) -> list[str]:
        """Return the names that selectors mean, in the order to build them; all for no selector.

        A selector is a name, a glob, or `changed`; with `+` in front what it is made of comes along, and with
        `+` behind what is made of it. Raises UsageError for a selector that means nothing.
        """
        if not selectors:
            return list(self.products)
        chosen = {name for selector in selectors for name in self._selected(selector, changed)}
        return [name for name in self.products if name in chosen]

    def _selected(self, selector: str, changed: Callable[[str], bool]) -> Iterable[str]:
        word = selector.removeprefix("+").removesuffix("+")
        names = [n for n in self.products if changed(n)] if word == CHANGED else self._matching(word)
        chosen = set(names)
        for name in names:
            chosen |= self.upstream(name) if selector.startswith("+") else set()
            chosen |= self.downstream(name) if selector.endswith("+") else set()
        return chosen

    def _matching(self, word: str) -> list[str]:
        folded = word.casefold()
        found = [name for name in self.products if fnmatchcase(name.casefold(), folded)]
        if found:
            return found
        if "*" in word or "?" in word or "[" in word:
            known = ", ".join(self.products) or "none"
            raise UsageError(f"no product that is built here matches {word}", hint=f"built here: {known}")
        raise UnknownProductError.from_names(word, self.products)


def _reach(name: str, follow: Callable[[str], list[str]]) -> set[str]:
    found: set[str] = set()
    waiting = follow(name)
    while waiting:
        reached = waiting.pop()
        if reached not in found:
            found.add(reached)
            waiting += follow(reached)
    return found


def graph_of(mesh: Mesh) -> Graph:
    """Return the graph of a catalog; raises CatalogError for a product that is made of itself."""
    built = {p.name: p for p in mesh.catalog.products.values() if p.build is not None}
    inputs = {name: _inputs(mesh, product) for name, product in built.items()}
    # What rows refer to had better be there before they are judged, but two products may refer to each other.
    wished = {name: (*made, *_referred(mesh, built[name])) for name, made in inputs.items()}
    follows = wished if _order(wished) is not None else inputs
    names = _order(follows)
    if names is None:
        circle = " ← ".join(_circle(inputs))
        raise CatalogError(f"products are made of one another: {circle}")
    return Graph({name: built[name] for name in names if name in built}, inputs, follows)


def _order(inputs: dict[str, tuple[str, ...]]) -> list[str] | None:
    """Return the names in an order in which each follows its inputs, or None where they go in a circle."""
    try:
        return list(TopologicalSorter({n: sorted(inputs[n]) for n in sorted(inputs)}).static_order())
    except CycleError:
        return None


def _circle(inputs: dict[str, tuple[str, ...]]) -> list[str]:
    try:
        TopologicalSorter(inputs).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _inputs(mesh: Mesh, product: Product) -> tuple[str, ...]:
    # A quarantine is made with its silver product, not after it by itself.
    return tuple(dict.fromkeys(mesh.find(name).beside or name for name in inputs_of(mesh, product)))
