"""The URI under which DuckDB gets to know a location, so that it never shows a store the wrong identity.

DuckDB picks credentials by the beginning of a URI alone. Where two connections lead to the same bucket and
path (in two accounts, at two endpoints, as two people), each gets a spelling of its own: httpfs reads s3://,
s3a://, s3n://, r2://, gs:// and gcs:// alike, as long as a secret says where to.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from meshql.catalog.azure import AzurePlace
from meshql.catalog.connections import AzureConnection, Connection, GcsConnection, S3Connection
from meshql.errors import CatalogError
from meshql.identity.addresses import azure_account, azure_address
from meshql.identity.credentials import Credentials
from meshql.identity.secrets import emulator_url, kernel_takes
from meshql.storage.location import Location

__all__ = ["Addresses"]

SPELLINGS = {
    "s3": ("s3", "s3a", "s3n", "r2", "gs", "gcs"),
    "gcs": ("gs", "gcs"),
}

KERNEL_SPELLINGS = frozenset({"s3", "gs", "gcs"})
"""Those for which delta-kernel takes its credentials from a secret."""


class Addresses:
    """Gives out addresses; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: dict[tuple[str, str, str], Location] = {}
        self._claims: defaultdict[str, dict[str, Connection]] = defaultdict(dict)
        self._emulator: str | None = None
        """The only Azure emulator that delta-kernel is told of: it knows one for the whole process."""

    def address(
        self, connection: Connection, credentials: Credentials, location: Location, form: str
    ) -> Location:
        """Return `location` with the root that no other connection's address overlaps.

        `form` is the product's format. The same question has the same answer, until `clear`. Raises
        CatalogError when there are more identities for one path than DuckDB has spellings.
        """
        if not isinstance(connection, S3Connection | GcsConnection | AzureConnection):
            return location
        asked = (connection.name, str(location), form)
        with self._lock:
            if asked not in self._given:
                self._given[asked] = self._claim(connection, credentials, location, form)
            return self._given[asked]

    def hold(self, connection: Connection, location: Location) -> None:
        """Keep other connections from `location` as it is spelled, which the table's own metadata decides.

        Raises CatalogError where another connection's address overlaps it.
        """
        with self._lock:
            claims = self._claims[location.at("").rstrip("/")]
            rivals = {c.name for p, c in claims.items() if c != connection and _overlap(p, str(location))}
            if rivals:
                raise CatalogError(
                    f"{location} holds files of a table, and {', '.join(sorted(rivals))} reads there too",
                    hint="read the two in two programs: DuckDB could not tell their identities apart",
                )
            claims[str(location)] = connection

    def clear(self) -> None:
        """Forget all that was given out."""
        with self._lock:
            self._given.clear()
            self._claims.clear()
            self._emulator = None

    def _claim(
        self, connection: Connection, credentials: Credentials, location: Location, form: str
    ) -> Location:
        rivals = set[str]()
        emulator = emulator_url(connection, credentials) if form == "delta" else None
        self._emulator = self._emulator or emulator
        for root, host, native in _spelled(connection, credentials, location, form):
            if native and emulator and emulator != self._emulator:
                continue
            found = replace(location, root=root, host=host, native=native)
            prefix = _prefix(found)
            claims = self._claims[root]
            overlapping = {c.name for p, c in claims.items() if c != connection and _overlap(p, prefix)}
            if not overlapping:
                claims[prefix] = connection
                return found
            rivals |= overlapping
        others = ", ".join(sorted(rivals))
        raise CatalogError(
            f"{location} is reached through too many connections: {connection.name} besides {others}",
            hint="read it through one of them: DuckDB cannot tell any more of them apart",
        )


def _spelled(
    connection: Connection, credentials: Credentials, location: Location, form: str
) -> Iterator[tuple[str, str, bool]]:
    """The roots that a location may have, each with its host and with whether delta-kernel can read it.

    For Delta, those that it can come first.
    """
    if isinstance(connection, AzureConnection):
        yield from _azure(connection, credentials, location, form)
        return
    host = _host(connection)
    schemes = SPELLINGS[connection.cloud]
    kernel = kernel_takes(connection, credentials)
    native = [scheme for scheme in schemes if kernel and scheme in KERNEL_SPELLINGS]
    for scheme in sorted(schemes, key=lambda s: s not in native) if form == "delta" else schemes:
        yield f"{scheme}://{location.bucket}", host, scheme in native


def _azure(
    connection: AzureConnection, credentials: Credentials, location: Location, form: str
) -> Iterator[tuple[str, str, bool]]:
    place = AzurePlace.parse(str(location))
    account = azure_account(connection, credentials, place.host)
    endpoint = urlsplit(account.endpoint)
    host = f"//{account.name}." if account.domain else f"//{endpoint.netloc}{endpoint.path}"

    def root(form: str) -> str:
        return azure_address(connection, credentials, place.container, "", form, place.host).rstrip("/")

    if form == "delta" and kernel_takes(connection, credentials, place.host):
        yield root("delta"), host, True
    for scheme in ("az", "azure"):
        yield root("files").replace("az:", f"{scheme}:", 1), host, False


def _host(connection: Connection) -> str:
    """What the URL of every request of a connection holds."""
    if isinstance(connection, S3Connection) and not connection.endpoint:
        # DuckDB leaves the region out of the host where the bucket stands in front of it.
        return "amazonaws.com"
    address = getattr(connection, "address", "")
    return urlsplit(address).netloc


def _prefix(location: Location) -> str:
    """The beginning that all URIs of a location have: its folder, where it is a glob or a metadata file."""
    key = location.key
    if key.endswith(".metadata.json"):
        key = key.rpartition("/")[0].removesuffix("/metadata") + "/"
    fixed = min((key.find(c) for c in "*?[" if c in key), default=len(key))
    return location.at(key if fixed == len(key) else key[:fixed].rpartition("/")[0])


def _overlap(one: str, other: str) -> bool:
    return (one + "/").startswith(other.rstrip("/") + "/") or (other + "/").startswith(one.rstrip("/") + "/")
