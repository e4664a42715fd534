"""Conditions that join two tables: from the contracts' relationships, then keys, then names in common."""

from __future__ import annotations

from collections.abc import Iterator

from meshql.shell.completion.metadata import Column, Metadata, Reference, columns_in, references
from meshql.shell.completion.scope import Table

__all__ = ["common", "conditions", "partners", "short_name"]

Pairs = tuple[tuple[str, str], ...]
"""Columns of the left table with those of the right that they equal."""


def conditions(metadata: Metadata, left: Table, right: Table) -> list[tuple[Pairs, str]]:
    """Return the ways to join two tables, the likeliest first, each with why it is offered."""
    found: dict[Pairs, str] = {}
    for pairs in _related(metadata, left, right):
        found.setdefault(pairs, "relationship")
    here, there = columns_in(metadata, left) or (), columns_in(metadata, right) or ()
    if keys := _keys(here, there):
        found.setdefault(keys, "primary key")
    for name in common(here, there):
        found.setdefault(((name, name),), "same name")
    return list(found.items())


def common(here: tuple[Column, ...], there: tuple[Column, ...]) -> list[str]:
    """Return the names of columns that both have."""
    names = {c.name.casefold() for c in there}
    return [c.name for c in here if c.name.casefold() in names]


def partners(metadata: Metadata, table: Table) -> Iterator[tuple[str, Pairs]]:
    """Yield the products that a relationship joins to a table, with the columns that do so."""
    product = metadata.product(table.name)
    if product is None:
        return
    for reference in references(product):
        for name in _targets(metadata, product.domain, reference):
            yield name, tuple(zip(reference.columns, reference.targets, strict=False))
    for name in metadata.referring.get(product.table.casefold(), ()):
        other = metadata.product(name)
        for reference in references(other) if other else ():
            if product.name in _targets(metadata, name.partition(".")[0], reference):
                yield name, tuple(zip(reference.targets, reference.columns, strict=False))


def short_name(name: str, taken: frozenset[str]) -> str:
    """Return a free alias for a table: its words' first letters, numbered if they are taken."""
    words = [w for w in name.rpartition(".")[2].replace("-", "_").split("_") if w]
    letters = "".join(w[0] for w in words).lower() or "t"
    if letters not in taken and letters not in TWO_LETTER_WORDS:
        return letters
    return next(f"{letters}{i}" for i in range(2, 1000) if f"{letters}{i}" not in taken)


TWO_LETTER_WORDS = frozenset({"as", "at", "by", "do", "in", "is", "on", "or", "to"})


def _related(metadata: Metadata, left: Table, right: Table) -> Iterator[Pairs]:
    here, there = metadata.product(left.name), metadata.product(right.name)
    if here is None or there is None:
        return
    for reference in references(here):
        if _means(reference, there.name):
            yield tuple(zip(reference.columns, reference.targets, strict=False))
    for reference in references(there):
        if _means(reference, here.name):
            yield tuple(zip(reference.targets, reference.columns, strict=False))


def _targets(metadata: Metadata, domain: str, reference: Reference) -> tuple[str, ...]:
    """The products that a reference in this domain may mean: its own domain's, else any."""
    named = metadata.by_table.get(reference.table, ())
    own = tuple(n for n in named if n.partition(".")[0].casefold() == domain.casefold())
    return own or named


def _means(reference: Reference, product: str) -> bool:
    name = product.casefold()
    return reference.table in (name, name.partition(".")[2])


def _keys(here: tuple[Column, ...], there: tuple[Column, ...]) -> Pairs:
    """The whole primary key of one table, where the other has columns of the same names."""
    for owner, other in ((there, here), (here, there)):
        keys = [c.name for c in owner if c.key]
        names = {c.name.casefold() for c in other}
        if keys and all(key.casefold() in names for key in keys):
            return tuple((key, key) for key in keys)
    return ()
