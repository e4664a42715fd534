"""Where data lies: the `connections:` block of a catalog, one model a cloud."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from meshql.catalog.auth import (
    Anonymous,
    AzureAuth,
    GcsAuth,
    HttpAuth,
    IcebergRestAuth,
    PostgresAuth,
    S3Auth,
    UnityAuth,
)
from meshql.catalog.base import Flag, Model, Place, Whole

__all__ = [
    "NAMED",
    "SCHEMES",
    "AzureConnection",
    "Connection",
    "ConnectionName",
    "GcsConnection",
    "HttpConnection",
    "IcebergRestConnection",
    "LocalConnection",
    "PostgresConnection",
    "RemoteCatalog",
    "S3Connection",
    "UnityConnection",
]


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
    requester_pays: Flag = Field(default=False, description="Pay for requests to somebody else's bucket")
    auth: S3Auth

    @property
    def address(self) -> str:
        """The URL of the store: the endpoint, or that of Amazon S3 in the region."""
        domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return self.endpoint or f"https://s3.{self.region}.{domain}"


class GcsConnection(ConnectionBase):
    """Google Cloud Storage."""

    cloud: Literal["gcs"]
    region: str | None = None
    endpoint: str | None = Field(default=None, description="URL of an emulator or a private endpoint")
    auth: GcsAuth

    @property
    def address(self) -> str:
        """The URL of the store: the endpoint, or Google's own."""
        return self.endpoint or "https://storage.googleapis.com"


class AzureConnection(ConnectionBase):
    """Azure Blob Storage, Data Lake Storage and OneLake."""

    cloud: Literal["azure"]
    region: str | None = None
    account: str | None = Field(
        default=None,
        description="Storage account, onelake for Fabric; a connection string names it itself",
    )
    endpoint: str | None = Field(default=None, description="URL of an emulator or a private endpoint")
    auth: AzureAuth


class LocalConnection(ConnectionBase):
    """Files of this machine; relative locations start at the folder of the file that declares them."""

    cloud: Literal["local"]


class HttpConnection(ConnectionBase):
    """Files and APIs behind http:// and https:// addresses."""

    cloud: Literal["http"]
    auth: HttpAuth = Field(
        default=Anonymous(method="anonymous"), description="Or else nobody's: public files"
    )


class PostgresConnection(ConnectionBase):
    """A live PostgreSQL database; locations are schema.table."""

    cloud: Literal["postgres"]
    host: str = Field(description="Host name, or the folder of its socket")
    port: Annotated[Whole, Field(ge=1, le=65535)] = 5432
    database: str
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    auth: PostgresAuth


class RemoteCatalog(ConnectionBase):
    """What catalogs of others have in common: their tables become products."""

    uri: str = Field(description="URL of the catalog's API")
    domain: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$",
        description="Domain of the products; or else their namespace's name",
    )
    include: tuple[str, ...] = Field(
        default=(), description="Globs over namespace.table; what matches one is a product"
    )
    storage: str | None = Field(
        default=None, description="Connection that reads the files when the catalog vends no credentials"
    )


class IcebergRestConnection(RemoteCatalog):
    """A catalog that speaks the Iceberg REST protocol: Polaris, Lakekeeper, Glue, S3 Tables, Nessie ..."""

    cloud: Literal["iceberg_rest"]
    warehouse: str | None = Field(default=None, description="Warehouse that the catalog is asked for")
    auth: IcebergRestAuth


class UnityConnection(RemoteCatalog):
    """Unity Catalog, of Databricks or of its open-source server."""

    cloud: Literal["unity"]
    catalog: str = Field(description="Name of the catalog: main")
    auth: UnityAuth


Connection = Annotated[
    S3Connection
    | GcsConnection
    | AzureConnection
    | LocalConnection
    | HttpConnection
    | PostgresConnection
    | IcebergRestConnection
    | UnityConnection,
    Field(discriminator="cloud"),
]

ConnectionName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]

SCHEMES: dict[str, tuple[str, ...]] = {
    "s3": ("s3",),
    "gcs": ("gs",),
    "azure": ("az", "abfss", "https"),
    "local": ("", "file"),
    "http": ("http", "https"),
    "postgres": ("",),
    "iceberg_rest": ("",),
    "unity": ("",),
}
"""The URI schemes that locations on each cloud may have; '' is a plain path, or a table's name."""

NAMED = frozenset({"postgres", "iceberg_rest", "unity"})
"""Clouds whose locations are names of tables: schema.table."""
