"""What a catalog declares: connections and data products, as frozen values.

Blocks that the Open Data Contract Standard 3.2 defines (description, team, schema, quality,
slaProperties, ...) are spelled as it spells them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr

from meshql.catalog.base import AnyValue, Flag, Model, Place
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
    "Auth",
    "AzureConnection",
    "Catalog",
    "CatalogFile",
    "Connection",
    "Description",
    "Element",
    "Format",
    "GcsConnection",
    "HttpConnection",
    "LocalConnection",
    "Model",
    "Place",
    "Product",
    "QualityCheck",
    "S3Connection",
    "SlaProperty",
    "Table",
    "Team",
    "TeamMember",
]

Format = Literal["delta", "iceberg", "parquet", "csv", "json"]

NAME = r"^[A-Za-z_][A-Za-z0-9_-]*\.[A-Za-z_][A-Za-z0-9_-]*$"


# --- who we are -----------------------------------------------------------------------------------


class Anonymous(Model):
    """Show no identity: public data."""

    method: Literal["anonymous"]


class S3Keys(Model):
    """An access key, by reference."""

    method: Literal["keys"]
    key_id: SecretStr = Field(description="Access key id, as a reference: ${AWS_ACCESS_KEY_ID}")
    secret: SecretStr = Field(description="Secret access key, as a reference: ${AWS_SECRET_ACCESS_KEY}")
    session_token: SecretStr | None = Field(
        default=None, description="Session token of temporary keys, as a reference"
    )


class S3Env(Model):
    """The usual AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the environment."""

    method: Literal["env"]


class GcsHmac(Model):
    """An HMAC key of Cloud Storage's S3-interoperable API, by reference."""

    method: Literal["hmac"]
    key_id: SecretStr = Field(description="HMAC access id, as a reference: ${GCS_HMAC_KEY_ID}")
    secret: SecretStr = Field(description="HMAC secret, as a reference: ${GCS_HMAC_SECRET}")


class AzureConnectionString(Model):
    """A storage account's connection string, by reference."""

    method: Literal["connection_string"]
    connection_string: SecretStr = Field(
        description="Connection string, as a reference: ${AZURE_STORAGE_CONNECTION_STRING}"
    )


class AzureAccountKey(Model):
    """A storage account's shared key, by reference; the connection names the account."""

    method: Literal["account_key"]
    key: SecretStr = Field(description="Account key, as a reference: ${AZURE_STORAGE_KEY}")


S3Auth = Annotated[S3Keys | S3Env | Anonymous, Field(discriminator="method")]
GcsAuth = Annotated[GcsHmac | Anonymous, Field(discriminator="method")]
AzureAuth = Annotated[AzureConnectionString | AzureAccountKey | Anonymous, Field(discriminator="method")]
Auth = S3Keys | S3Env | GcsHmac | AzureConnectionString | AzureAccountKey | Anonymous


# --- where data lies ------------------------------------------------------------------------------


class ConnectionBase(Model):
    """What every connection has. `name` and `place` come from the file, not from keys."""

    from_file: ClassVar[frozenset[str]] = frozenset({"name", "place"})

    name: str = Field(default="", exclude=True)
    place: Place | None = Field(default=None, exclude=True)
    description: str | None = Field(default=None, description="What lies there")
    insecure: Flag = Field(
        default=False, description="Allow literal keys in this file: for emulators' well-known keys only"
    )


class S3Connection(ConnectionBase):
    """Amazon S3, or a store that speaks its API."""

    cloud: Literal["s3"]
    region: str = "us-east-1"
    endpoint: str | None = Field(
        default=None, description="URL of an S3-compatible store: https://minio.example.com:9000"
    )
    url_style: Literal["vhost", "path"] = "vhost"
    auth: S3Auth


class GcsConnection(ConnectionBase):
    """Google Cloud Storage."""

    cloud: Literal["gcs"]
    region: str | None = None
    endpoint: str | None = Field(default=None, description="URL of an emulator or a private endpoint")
    auth: GcsAuth


class AzureConnection(ConnectionBase):
    """Azure Blob Storage and Data Lake Storage."""

    cloud: Literal["azure"]
    region: str | None = None
    account: str | None = Field(
        default=None, description="Storage account; a connection string names it itself"
    )
    endpoint: str | None = Field(default=None, description="URL of an emulator or a private endpoint")
    auth: AzureAuth


class LocalConnection(ConnectionBase):
    """Files of this machine; relative locations start at the folder of the file that declares them."""

    cloud: Literal["local"]


class HttpConnection(ConnectionBase):
    """Public files behind http:// and https:// addresses."""

    cloud: Literal["http"]


Connection = Annotated[
    S3Connection | GcsConnection | AzureConnection | LocalConnection | HttpConnection,
    Field(discriminator="cloud"),
]

ConnectionName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]

SCHEMES: dict[str, tuple[str, ...]] = {
    "s3": ("s3",),
    "gcs": ("gs",),
    "azure": ("az",),
    "local": ("", "file"),
    "http": ("http", "https"),
}
"""The URI schemes that locations on each cloud may have; '' is a plain path."""


# --- what is in it --------------------------------------------------------------------------------


class Product(Model):
    """A data product: a name for rows that lie somewhere in some format."""

    from_file: ClassVar[frozenset[str]] = frozenset({"place"})

    name: str = Field(pattern=NAME, description="domain.product: what SQL says")
    place: Place | None = Field(default=None, exclude=True)
    connection: str | None = Field(
        default=None, description="Name of a connection; none for a plain local path"
    )
    location: str = Field(min_length=1, description="URI of the table's folder, a file or a glob")
    format: Format
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
