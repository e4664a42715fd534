"""Where objects lie: a URI taken apart, and put together again as its readers spell it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from meshql.catalog.azure import AzurePlace, MisspelledError
from meshql.catalog.connections import AzureConnection, Connection
from meshql.errors import CatalogError

__all__ = ["Location", "azure_place"]


@dataclass(frozen=True, slots=True)
class Location:
    """A URI taken apart: `s3://bucket/key`, or a local path, whose bucket is empty.

    On Azure the bucket holds all that stands in front of the key: `container@account.dfs.core.windows.net`.
    """

    scheme: str
    bucket: str
    key: str
    root: str = ""
    """The bucket's URI as DuckDB is to read it, where that is not `scheme://bucket`."""
    host: str = ""
    """What the URLs of its requests hold, since another store may have a bucket of that name."""
    native: bool = True
    """Whether the delta extension can be handed the identity for this address."""

    @classmethod
    def parse(cls, uri: str, connection: Connection | None = None) -> Location:
        """Take `uri` apart; a local path may be plain or file://.

        Of a location on an Azure `connection` every spelling gives the same; raises CatalogError for one that
        is none.
        """
        if isinstance(connection, AzureConnection):
            uri = str(azure_place(uri))
        scheme, found, rest = uri.partition("://")
        if not found or scheme == "file":
            return cls("", "", (rest if found else uri).lstrip("/"))
        bucket, _, key = rest.partition("/")
        if scheme == "az" and "." in bucket:
            container, _, key = key.partition("/")
            bucket = f"{bucket}/{container}"
        return cls(scheme, bucket, key)

    @property
    def folder(self) -> Location:
        """The same location, ending with a slash."""
        return self.to(self.key.rstrip("/") + "/" if self.key else "")

    def to(self, key: str) -> Location:
        """Return the location of another key of the same bucket."""
        return replace(self, key=key)

    def at(self, key: str) -> str:
        """Return the URI of another key of the same bucket, as DuckDB is to read it."""
        root = self.root or (f"{self.scheme}://{self.bucket}" if self.scheme else "")
        return f"{root}/{key}"

    def holds(self, url: str) -> bool:
        """Tell whether a request to `url` is for an object of this location."""
        parts = urlsplit(url)
        path = unquote(parts.path)
        place = f"//{parts.netloc}{path}"
        # On Azure, the account stands in front of the container or behind it.
        container = self.bucket.partition("@")[0].rpartition("/")[2]
        return f"/{self.key.rstrip('/')}" in path and container in place and self.host in place

    @property
    def plain(self) -> str:
        """The URI as catalogs spell it."""
        return replace(self, root="").at(self.key)

    def __str__(self) -> str:
        return self.at(self.key)


def azure_place(uri: str) -> AzurePlace:
    """Take a location on Azure apart; raises CatalogError for one that is none."""
    try:
        return AzurePlace.parse(uri)
    except MisspelledError as error:
        raise CatalogError(f"{error.message}: {uri}", hint=error.hint) from None
