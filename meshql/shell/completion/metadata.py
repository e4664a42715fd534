"""What completion knows of the catalog and the engine: one snapshot, replaced as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property

from meshql.catalog.model import Catalog, Element, Product
from meshql.errors import MeshError
from meshql.shell.completion.fuzzy import Index
from meshql.shell.completion.scope import Star, Table

__all__ = [
    "Column",
    "Engine",
    "Function",
    "Known",
    "Metadata",
    "Reference",
    "Setting",
    "columns_in",
    "references",
]


INDEXES = ("names", "by_domain", "by_table", "columns", "referring")
"""What a snapshot computes of the catalog when it is first asked."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; `fields` are those of an object."""

    name: str
    type: str = ""
    note: str = ""
    key: bool = False
    fields: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    """A function; `bare` if every form of it goes without arguments."""

    name: str
    kind: str
    note: str = ""
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of the engine and its value."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What a product's store told of it."""

    columns: tuple[Column, ...] | None = None
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """Columns of one table that point to columns of another, named `domain.table` or just `table`."""

    columns: tuple[str, ...]
    table: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """What the engine offers; `tables` are those of the session, views and temporary ones too."""

    functions: tuple[Function, ...] = ()
    keywords: tuple[str, ...] = ()
    reserved: frozenset[str] = frozenset()
    settings: tuple[Setting, ...] = ()
    types: tuple[str, ...] = ()
    tables: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Metadata:
    """One snapshot: everything is there before it is shown, and nothing of it changes."""

    catalog: Catalog | None = None
    engine: Engine = field(default_factory=Engine)
    known: Mapping[str, Known] = field(default_factory=dict)
    now: datetime | None = None

    def prepared(self) -> Metadata:
        """Return this snapshot with its indexes built: slow, for a background thread."""
        for name in INDEXES:
            getattr(self, name)
        return self

    def learned(self, product: str, known: Known) -> Metadata:
        """Return a snapshot that knows more of one product."""
        return self.knowing({**self.known, product.casefold(): known})

    def knowing(self, known: Mapping[str, Known]) -> Metadata:
        """Return a snapshot with this knowledge of products, its indexes shared with this one."""
        other = replace(self, known=known)
        for name in INDEXES:
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    @cached_property
    def names(self) -> Index:
        """The products' names."""
        return Index(self.catalog.products if self.catalog else ())

    @cached_property
    def by_domain(self) -> Mapping[str, Index]:
        """The products of each domain, by their names after the dot."""
        tables: dict[str, list[str]] = {}
        for name in self.names.names:
            domain, _, table = name.partition(".")
            tables.setdefault(domain.casefold(), []).append(table)
        return {domain: Index(held) for domain, held in tables.items()}

    @cached_property
    def by_table(self) -> Mapping[str, tuple[str, ...]]:
        """The products that a reference may mean, by whole name and by name after the dot."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.names.names:
            key = name.casefold()
            for said in (key, key.partition(".")[2]):
                found[said] = (*found.get(said, ()), name)
        return found

    @cached_property
    def columns(self) -> Index:
        """The names of all products' columns, as far as their contracts tell."""
        products = self.catalog.products.values() if self.catalog else ()
        return Index({e.name for p in products for e in _elements(p)})

    @cached_property
    def referring(self) -> Mapping[str, tuple[str, ...]]:
        """The products that point to a table, by the table's name after the dot."""
        found: dict[str, list[str]] = {}
        for product in self.catalog.products.values() if self.catalog else ():
            for reference in references(product):
                found.setdefault(reference.table.rpartition(".")[2], []).append(product.name)
        return {table: tuple(dict.fromkeys(names)) for table, names in found.items()}

    def product(self, name: str) -> Product | None:
        """Return the product of this dotted name, in whatever case."""
        domain, _, table = name.partition(".")
        return self.catalog.find(domain, table) if self.catalog else None

    def columns_of(self, name: str) -> tuple[Column, ...] | None:
        """Return the columns of a product or of a table of the session; None where nothing tells them."""
        known = self.known.get(name.casefold())
        product = self.product(name)
        declared = tuple(map(_column, _elements(product))) if product else ()
        if known and known.columns is not None:
            return _merged(known.columns, declared)
        return declared or self.engine.tables.get(name.lower())

    def side(self, product: Product) -> str:
        """Return what a menu says beside a product: format, cloud, freshness."""
        return " · ".join(filter(None, (product.format, self._cloud(product), self._freshness(product))))

    def _cloud(self, product: Product) -> str:
        try:
            return self.catalog.connection_of(product).cloud if self.catalog else ""
        except (MeshError, KeyError):
            return ""

    def _freshness(self, product: Product) -> str:
        if product.status in ("deprecated", "retired"):
            return product.status
        known = self.known.get(product.name.casefold())
        if known and known.changed_at:
            return ago(known.changed_at, self.now or datetime.now(UTC))
        promised = next((s for s in product.slaProperties if s.property in ("latency", "freshness")), None)
        return f"within {promised.value} {promised.unit or ''}".rstrip() if promised else ""


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was, in the unit that reads best."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (now - moment).total_seconds()
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"


def columns_in(metadata: Metadata, table: Table) -> tuple[Column, ...] | None:
    """Return the columns of a table in sight; None where they are not known."""
    if table.parts is None:
        return metadata.columns_of(table.name) if table.name else None
    return tuple(column for part in table.parts for column in _expanded(metadata, part))


def _expanded(metadata: Metadata, part: str | Star) -> Iterator[Column]:
    if isinstance(part, str):
        yield Column(part)
        return
    for table in part.tables:
        for column in columns_in(metadata, table) or ():
            if column.name.lower() not in part.without:
                yield column


def _elements(product: Product) -> tuple[Element, ...]:
    """The columns of the contract's table of the product's name, else of its first."""
    tables = product.table_schema
    return next((t for t in tables if t.name == product.table), tables[0]).properties if tables else ()


def _column(element: Element) -> Column:
    kind = element.physicalType or element.logicalType or ""
    fields = tuple(map(_column, element.properties))
    return Column(element.name, kind, element.description or "", element.primaryKey, fields)


def _merged(told: tuple[Column, ...], declared: tuple[Column, ...]) -> tuple[Column, ...]:
    """The store's columns with the contract's words on them."""
    said = {c.name.casefold(): c for c in declared}
    return tuple(replace(found, type=c.type) if (found := said.get(c.name.casefold())) else c for c in told)


def references(product: Product) -> Iterator[Reference]:
    """Yield what the contract's columns point to."""
    for table in product.table_schema:
        for relationship in table.relationships:
            sources = [_split(end)[1] for end in _ends(relationship.from_)]
            targets = [_split(end) for end in _ends(relationship.to)]
            yield Reference(tuple(sources), targets[0][0], tuple(column for _, column in targets))
    for element in _elements(product):
        for column_relationship in element.relationships:
            for end in _ends(column_relationship.to):
                target, column = _split(end)
                yield Reference((element.name,), target, (column,))


def _ends(reference: str | tuple[str, ...]) -> Iterable[str]:
    return (reference,) if isinstance(reference, str) else reference


def _split(reference: str) -> tuple[str, str]:
    """The table, in lower case, and column of `table.column`, or of a path: `#/schema/t/properties/c`."""
    local = reference.rpartition("#")[2]
    if "/" in local:
        local = ".".join(p for p in local.split("/") if p not in ("", "schema", "properties"))
    table, _, column = local.rpartition(".")
    return table.casefold(), column
