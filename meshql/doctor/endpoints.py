"""Where a connection's store answers, and which key of the catalog says so."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from meshql.catalog.azure import AzurePlace
from meshql.catalog.connections import (
    AzureConnection,
    Connection,
    GcsConnection,
    HttpConnection,
    PostgresConnection,
    RemoteCatalog,
    S3Connection,
)
from meshql.catalog.model import Product
from meshql.errors import CredentialsError
from meshql.identity.addresses import azure_account
from meshql.identity.credentials import Credentials, Public, StorageConnectionString

__all__ = ["Endpoint", "endpoint_of"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server: `scheme` is http, https or postgres; `host` may be the folder of a socket.

    `key` and `value` are what the connection says that leads there; the value is empty where it says nothing.
    """

    scheme: str
    host: str
    port: int
    path: str
    key: str
    value: str

    @property
    def url(self) -> str:
        """The address without user and password."""
        standard = {"https": 443, "http": 80}.get(self.scheme)
        port = "" if self.port == standard else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path.rstrip('/')}"

    @property
    def place(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    @property
    def setting(self) -> str:
        """What to correct where the address is wrong."""
        if self.key == "connection_string":
            return f"the {self.value} of its `connection_string`"
        return f"`{self.key}: {self.value}`"

    @property
    def with_other_scheme(self) -> str:
        """What to set for http in place of https, or the other way round."""
        url = f"{'http' if self.scheme == 'https' else 'https'}://{self.place}{self.path.rstrip('/')}"
        return (
            f"`BlobEndpoint={url}` in its connection string"
            if self.key == "connection_string"
            else (f"`{self.key}: {url}`")
        )


def endpoint_of(
    connection: Connection, credentials: Credentials | None, product: Product | None
) -> Endpoint | None:
    """Return where `connection` leads; None for this machine's files, and while it is not known.

    A connection string names the endpoint itself; that of http is the product's own address.
    """
    match connection:
        case S3Connection():
            key = "endpoint" if connection.endpoint else "region"
            return _parsed(connection.address, key, connection.endpoint or connection.region)
        case GcsConnection():
            return _parsed(connection.address, "endpoint", connection.endpoint or "")
        case AzureConnection():
            return _azure(connection, credentials, product)
        case PostgresConnection():
            return Endpoint("postgres", connection.host, connection.port, "", "host", connection.host)
        case RemoteCatalog():
            return _parsed(connection.uri, "uri", connection.uri)
        case HttpConnection() if product is not None:
            parts = urlsplit(product.location)
            return _parsed(f"{parts.scheme}://{parts.netloc}", "location", product.location)
    return None


def _azure(
    connection: AzureConnection, credentials: Credentials | None, product: Product | None
) -> Endpoint | None:
    named = AzurePlace.parse(product.location).host if product is not None else None
    try:
        account = azure_account(connection, credentials or Public(), named)
    except CredentialsError:
        return None
    if isinstance(credentials, StorageConnectionString):
        part = "BlobEndpoint" if credentials.part("BlobEndpoint") else "AccountName"
        return _parsed(account.endpoint, "connection_string", part)
    if connection.endpoint:
        return _parsed(account.endpoint, "endpoint", connection.endpoint)
    if connection.account:
        return _parsed(account.endpoint, "account", connection.account)
    return _parsed(account.endpoint, "location", product.location if product else "")


def _parsed(url: str, key: str, value: str) -> Endpoint | None:
    try:
        parts = urlsplit(url)
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return Endpoint(parts.scheme, parts.hostname, port, parts.path, key, value)
