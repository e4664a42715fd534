"""What a catalog declares: connections and data products, as frozen values.

Blocks that the Open Data Contract Standard 3.2 defines (description, team, schema, quality,
slaProperties, ...) are spelled as it spells them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

__all__ = [
    "Auth",
    "AzureConnection",
    "Catalog",
    "Connection",
    "Description",
    "Element",
    "Format",
    "GcsConnection",
    "HttpConnection",
    "LocalConnection",
    "Place",
    "Product",
    "S3Connection",
    "Table",
    "Team",
    "TeamMember",
]

Format = Literal["delta", "iceberg", "parquet", "csv", "json"]

NAME = r"^[A-Za-z_][A-Za-z0-9_-]*\.[A-Za-z_][A-Za-z0-9_-]*$"


class Model(BaseModel):
    """A frozen value that knows no keys but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Place(Model):
    """Where something stands in the catalog's files: 1-based line and column."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


# --- who we are -----------------------------------------------------------------------------------


class Anonymous(Model):
    """Show no identity: public data."""

    method: Literal["anonymous"]


class S3Keys(Model):
    """An access key, by reference."""

    method: Literal["keys"]
    key_id: SecretStr = Field(description="Access key id, as a reference: ${AWS_ACCESS_KEY_ID}")
    secret: SecretStr = Field(description="Secret access key, as a reference: ${AWS_SECRET_ACCESS_KEY}")
    session_token: SecretStr | None = Field(None, description="Session token of temporary keys, as a reference")


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

    name: str = Field("", exclude=True)
    place: Place | None = Field(None, exclude=True)
    description: str | None = None
    insecure: bool = Field(
        False, description="Allow literal keys in this file: for emulators' well-known keys only"
    )


class S3Connection(ConnectionBase):
    """Amazon S3, or a store that speaks its API."""

    cloud: Literal["s3"]
    region: str = "us-east-1"
    endpoint: str | None = Field(None, description="URL of an S3-compatible store: https://minio.example.com:9000")
    url_style: Literal["vhost", "path"] = "vhost"
    auth: S3Auth


class GcsConnection(ConnectionBase):
    """Google Cloud Storage."""

    cloud: Literal["gcs"]
    region: str | None = None
    endpoint: str | None = Field(None, description="URL of an emulator or a private endpoint")
    auth: GcsAuth


class AzureConnection(ConnectionBase):
    """Azure Blob Storage and Data Lake Storage."""

    cloud: Literal["azure"]
    region: str | None = None
    account: str | None = Field(None, description="Storage account; a connection string names it itself")
    endpoint: str | None = Field(None, description="URL of an emulator or a private endpoint")
    auth: AzureAuth


class LocalConnection(ConnectionBase):
    """Files of this machine; relative locations start at the catalog's folder."""

    cloud: Literal["local"]


class HttpConnection(ConnectionBase):
    """Public files behind http:// and https:// addresses."""

    cloud: Literal["http"]


Connection = Annotated[
    S3Connection | GcsConnection | AzureConnection | LocalConnection | HttpConnection,
    Field(discriminator="cloud"),
]

SCHEMES: dict[str, tuple[str, ...]] = {
    "s3": ("s3",),
    "gcs": ("gs",),
    "azure": ("az",),
    "local": ("", "file"),
    "http": ("http", "https"),
}
"""The URI schemes that locations on each cloud may have; '' is a plain path."""


# --- what is in it --------------------------------------------------------------------------------


class Description(Model):
    """ODCS description."""

    purpose: str | None = None
    usage: str | None = None
    limitations: str | None = None


class TeamMember(Model):
    """ODCS team member."""

    username: str
    name: str | None = None
    role: str | None = None
    description: str | None = None
    dateIn: str | None = None
    dateOut: str | None = None


class Team(Model):
    """ODCS team."""

    name: str | None = None
    description: str | None = None
    members: tuple[TeamMember, ...] = ()


class Element(Model):
    """ODCS schema property: a column, or a field inside one."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    name: str
    description: str | None = None
    businessName: str | None = None
    logicalType: str | None = None
    physicalType: str | None = None
    required: bool = False
    unique: bool = False
    primaryKey: bool = False
    primaryKeyPosition: int | None = None
    classification: str | None = None
    properties: tuple[Element, ...] = ()


class Table(Model):
    """ODCS schema object: the table that a product is."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    name: str
    description: str | None = None
    physicalName: str | None = None
    physicalType: str | None = None
    properties: tuple[Element, ...] = ()


class Product(Model):
    """A data product: a name for rows that lie somewhere in some format."""

    name: str = Field(pattern=NAME, description="domain.product: what SQL says")
    place: Place | None = Field(None, exclude=True)
    connection: str | None = Field(None, description="Name of a connection; none for a plain local path")
    location: str = Field(min_length=1, description="URI of the table's folder, a file or a glob")
    format: Format
    options: dict[str, Any] = Field(
        default_factory=dict, description="Reader options of csv, json and parquet, as DuckDB names them"
    )
    status: str | None = None
    version: str | None = None
    tags: tuple[str, ...] = ()
    description: Description | None = None
    team: Team | None = None
    table_schema: tuple[Table, ...] = Field((), alias="schema")
    quality: tuple[dict[str, Any], ...] = ()
    slaProperties: tuple[dict[str, Any], ...] = ()
    policy: dict[str, Any] | None = None

    @property
    def domain(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def table(self) -> str:
        """The part of the name after the dot."""
        return self.name.partition(".")[2]


class Catalog(Model):
    """Everything declared: connections by name and products by name."""

    root: str
    digest: str = Field(description="sha256 over the files' names and bytes")
    files: tuple[str, ...] = ()
    connections: dict[str, Connection] = {}
    products: dict[str, Product] = {}

    def product(self, name: str) -> Product:
        """Return the product of this name, whatever its case; raises UnknownProductError."""
        from meshql.errors import UnknownProductError

        found = self.products.get(name) or self.find(*name.partition(".")[::2])
        if found is None:
            raise UnknownProductError.from_names(name, self.products)
        return found

    def find(self, domain: str, table: str) -> Product | None:
        """Return the product `domain.table`, compared as SQL compares identifiers: without case."""
        return self._folded.get(f"{domain}.{table}".casefold())

    def connection_of(self, product: Product) -> Connection:
        """Return the connection that `product` lies on."""
        if product.connection is None:
            return LocalConnection(cloud="local", name="local")
        return self.connections[product.connection]

    @property
    def domains(self) -> frozenset[str]:
        """The domains, case folded."""
        return frozenset(name.partition(".")[0] for name in self._folded)

    @property
    def _folded(self) -> dict[str, Product]:
        index = self.__dict__.get("_index")
        if index is None:
            index = self.__dict__["_index"] = {n.casefold(): p for n, p in self.products.items()}
        return index
