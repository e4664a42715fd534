"""What a catalog declares: connections and data products, as frozen values.

Blocks that the Open Data Contract Standard 3.2 defines (description, team, schema, quality,
slaProperties, ...) are spelled as it spells them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field

from meshql.catalog.base import AnyValue, Model, Place
from meshql.catalog.build import Build
from meshql.catalog.connections import Connection, ConnectionName, LocalConnection
from meshql.catalog.contract import (
    AuthoritativeDefinition,
    CustomProperty,
    Description,
    QualityCheck,
    SlaProperty,
    Team,
    TeamMember,
)
from meshql.catalog.mistakes import Mistake
from meshql.catalog.references import unset_variables
from meshql.catalog.tables import Element, Table
from meshql.errors import CatalogError, UnknownProductError

__all__ = [
    "Catalog",
    "CatalogFile",
    "Description",
    "Element",
    "Format",
    "Model",
    "Place",
    "Placed",
    "Product",
    "QualityCheck",
    "SlaProperty",
    "Table",
    "Team",
    "TeamMember",
]

Format = Literal["delta", "iceberg", "parquet", "csv", "json", "postgres"]


class Placed(Model):
    """Where a table of a remote catalog lies at the moment that a statement reads it."""

    connection: Connection
    root: str = Field(description="The table's folder, with a slash at the end")
    outside: tuple[str, ...] = Field(default=(), description="Other folders that hold files of it")
    written: str = Field(description="The URI as the catalog spells it")


NAME = r"^[A-Za-z_][A-Za-z0-9_-]*\.[A-Za-z_][A-Za-z0-9_-]*$"


class Product(Model):
    """A data product: a name for rows that lie somewhere in some format."""

    from_file: ClassVar[frozenset[str]] = frozenset({"place", "placed", "beside"})

    name: str = Field(pattern=NAME, description="domain.product: what SQL says")
    place: Place | None = Field(default=None, exclude=True)
    placed: Placed | None = Field(default=None, exclude=True)
    beside: str | None = Field(default=None, exclude=True)
    connection: str | None = Field(
        default=None, description="Name of a connection; none for a plain local path"
    )
    location: str = Field(min_length=1, description="URI of the table's folder, a file or a glob")
    format: Format = Field(description="May be left out with `build`, which tells it")
    options: dict[str, AnyValue] = Field(
        default_factory=dict, description="Reader options of csv, json and parquet, as DuckDB names them"
    )
    status: str | None = Field(default=None, description="proposed, draft, active, deprecated or retired")
    version: str | None = Field(default=None, description="Version of the product: 1.2.0")
    tags: tuple[str, ...] = ()
    description: Description | None = None
    team: Team | None = None
    table_schema: tuple[Table, ...] = Field(default=(), alias="schema")
    quality: tuple[QualityCheck, ...] = Field(default=(), description="Rules that the rows must keep")
    slaProperties: tuple[SlaProperty, ...] = Field(default=(), description="What the team promises")
    customProperties: tuple[CustomProperty, ...] = ()
    authoritativeDefinitions: tuple[AuthoritativeDefinition, ...] = ()
    policy: dict[str, AnyValue] | None = Field(
        default=None, description="Who may read which columns and rows"
    )
    build: Build | None = Field(default=None, description="How it is made, where it is made here")

    @property
    def domain(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def table(self) -> str:
        """The part of the name after the dot."""
        return self.name.partition(".")[2]

    @property
    def owner(self) -> str | None:
        """The team's member whose role is owner, else the team; None where the contract names neither."""
        if self.team is None:
            return None
        owners = (m.username for m in self.team.members if (m.role or "").casefold() == "owner")
        return next(owners, self.team.name)


class Catalog(Model):
    """Everything declared: connections by name and products by name."""

    root: str
    digest: str = Field(description="sha256 over the files' names and bytes")
    files: tuple[str, ...] = Field(default=(), description="Names of the files, relative to root")
    warnings: tuple[Mistake, ...] = ()
    connections: dict[str, Connection] = Field(default_factory=dict)
    products: dict[str, Product] = Field(default_factory=dict)

    def product(self, name: str) -> Product:
        """Return the product of this name, whatever its case; raises UnknownProductError."""
        found = self.products.get(name) or self.find(*name.partition(".")[::2])
        if found is None:
            raise UnknownProductError.from_names(name, self.products)
        return found

    def find(self, domain: str, table: str) -> Product | None:
        """Return the product `domain.table`, compared as SQL compares identifiers: without case."""
        return self._folded.get(f"{domain}.{table}".casefold())

    def matching(self, pattern: str) -> list[Product]:
        """Return the products whose name matches a glob such as `sales.*`, by name and without case."""
        folded = pattern.casefold()
        return [p for name, p in sorted(self.products.items()) if fnmatchcase(name.casefold(), folded)]

    def connection_of(self, product: Product) -> Connection:
        """Return the connection that `product` lies on; raises CatalogError while a variable hides it."""
        if product.placed is not None:
            return product.placed.connection
        if product.connection is None:
            return LocalConnection(cloud="local", name="local")
        if unset := unset_variables(product.connection):
            message = f"connection of {product.name}: environment variable {unset[0]} is not set"
            raise CatalogError(message, hint=f"export {unset[0]}=...")
        return self.connections[product.connection]

    @cached_property
    def domains(self) -> frozenset[str]:
        """The domains, case folded."""
        return frozenset(name.partition(".")[0] for name in self._folded)

    @cached_property
    def _folded(self) -> dict[str, Product]:
        return {name.casefold(): product for name, product in self.products.items()}


class CatalogFile(Model):
    """One file of a catalog."""

    meshql: Literal[1] = Field(description="Version of this file's format")
    connections: dict[ConnectionName, Connection] | None = Field(
        default=None, description="Where data lies and who we are there, by name"
    )
    products: tuple[Product, ...] | None = Field(
        default=None, description="What is in it, under the names that SQL says"
    )
