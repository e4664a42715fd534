"""Requests to a catalog's API, by whoever its connection says we are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from meshql.catalog.auth import SigV4
from meshql.catalog.connection_checks import AWS_REGION
from meshql.catalog.connections import Connection, IcebergRestConnection, UnityConnection
from meshql.errors import CredentialsError, LocationError, StorageError
from meshql.identity.broker import Broker
from meshql.identity.credentials import AccessKey, BearerToken, Credentials
from meshql.identity.declared import Declared

if TYPE_CHECKING:
    from meshql.identity.http import Answer

__all__ = ["Entry", "Loaded", "Remote", "included", "may_include"]

RemoteConnection = IcebergRestConnection | UnityConnection


@dataclass(frozen=True, slots=True)
class Entry:
    """A table that a catalog lists: `namespace.table`, its format, or why it cannot be read."""

    namespace: tuple[str, ...]
    table: str
    format: str
    refused: str | None = None

    @property
    def location(self) -> str:
        """What a product's `location` says."""
        return ".".join((*self.namespace, self.table))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A table at one moment: the URI to read, its folder, and credentials for it.

    `outside` are folders elsewhere in which it has files too.
    `connection` says how the store is spoken to; it has no identity of its own. `credentials` are None where
    the catalog gave none.
    """

    uri: str
    root: str
    format: str
    connection: Connection
    credentials: Credentials | None = field(repr=False)
    outside: tuple[str, ...] = ()


class Remote:
    """The API of one remote catalog; threads may share it."""

    def __init__(self, connection: RemoteConnection, broker: Broker) -> None:
        self.connection = connection
        self._broker = broker
        self.base = Declared(connection, os.environ).text(connection.uri, "uri").rstrip("/")

    def get(
        self, path: str, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the answer to a GET; raises a StorageError that says what the catalog refused."""
        return self._call("GET", path, query or {}, dict(headers or {}), None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a POST of JSON; raises a StorageError that says what the catalog refused."""
        content = json.dumps(body).encode()
        return self._call("POST", path, {}, {"Content-Type": "application/json"}, content)

    def _call(
        self, method: str, path: str, query: Mapping[str, str], headers: dict[str, str], body: bytes | None
    ) -> dict[str, Any]:
        from meshql.identity.http import place_of, request

        url = self.base + path + (f"?{urlencode(query)}" if query else "")
        headers["Accept"] = "application/json"
        identity = self._broker.credentials(self.connection)
        answer = request(method, url, self._identified(method, url, headers, body, identity), body)
        if answer.status == 401 and self._broker.renew(self.connection, identity):
            identity = self._broker.credentials(self.connection)
            answer = request(method, url, self._identified(method, url, headers, body, identity), body)
        if not answer.ok:
            raise self._refusal(answer, url)
        return answer.json(place_of(url))

    def _identified(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, credentials: Credentials
    ) -> dict[str, str]:
        if isinstance(credentials, BearerToken):
            return {**headers, "Authorization": f"Bearer {credentials.token.get_secret_value()}"}
        auth = self.connection.auth
        if isinstance(credentials, AccessKey) and isinstance(auth, SigV4):
            from meshql.identity import aws

            region = auth.region or self._region(url)
            return aws.sign(method, url, headers, body or b"", credentials, region, auth.service)
        return dict(headers)

    def _region(self, url: str) -> str:
        found = AWS_REGION.search(urlsplit(url).netloc)
        if found:
            return found[1]
        raise CredentialsError(
            f"connection {self.connection.name}: the URL names no AWS region to sign for",
            hint="add `region:` below auth",
        )

    def _refusal(self, answer: Answer, url: str) -> StorageError:
        from meshql.identity.http import place_of

        said = f"HTTP {answer.status}" + (f" {kind}" if (kind := _kind(answer)) else "")
        name, place = self.connection.name, place_of(url)
        if answer.status in (401, 403, 419):
            return CredentialsError(
                f"catalog {name} refused this identity ({said}): {place}",
                hint=f"check `auth` of connection {name}, and what this identity may read",
            )
        if answer.status == 404:
            own = "`warehouse`" if isinstance(self.connection, IcebergRestConnection) else "`catalog`"
            asked = "the table's name" if "/tables/" in place else f"its {own}"
            return LocationError(
                f"catalog {name} has nothing there ({said}): {place}",
                hint=f"check `uri` of connection {name}, and {asked}",
            )
        return StorageError(f"catalog {name} failed ({said}): {place}", hint="try again")


def _kind(answer: Answer) -> str | None:
    """The error's type or code; its message may repeat what was sent."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        return None
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return None
    kind = error.get("type") or error.get("error_code")
    return kind if isinstance(kind, str) and re.fullmatch(r"\w{1,60}", kind) else None


def included(connection: RemoteConnection, location: str) -> bool:
    """Return whether `namespace.table` is one of those that the connection mounts."""
    return any(fnmatchcase(location.casefold(), glob.casefold()) for glob in connection.include)


def may_include(connection: RemoteConnection, namespace: str) -> bool:
    """Return whether a namespace, or one inside it, may hold what the connection mounts."""
    prefix = namespace.casefold() + "."
    fixed = (re.split(r"[*?\[]", glob.casefold(), maxsplit=1)[0] for glob in connection.include)
    return any(prefix.startswith(f) or f.startswith(prefix) for f in fixed)


def instant(milliseconds: Any) -> datetime | None:
    """Return the moment of a catalog's milliseconds since 1970; None for what is none."""
    from datetime import UTC

    try:
        return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)
    except (TypeError, ValueError, OverflowError):
        return None
