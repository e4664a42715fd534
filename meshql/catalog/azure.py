"""Locations on Azure, whatever their spelling: a container, a key, and perhaps the account's host.

    az://container/path                                          the connection knows the account
    abfss://container@account.dfs.core.windows.net/path
    https://account.blob.core.windows.net/container/path
    abfss://workspace@onelake.dfs.fabric.microsoft.com/item.Lakehouse/Tables/table
    https://onelake.blob.fabric.microsoft.com/workspace/item.Lakehouse/Files/path

Hosts of sovereign clouds stand in the same places. `az://account.blob.core.windows.net/container/path`, which
DuckDB knows, is understood too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

__all__ = ["DOMAINS", "AzurePlace", "MisspelledError", "account_of_host", "connection_string_part"]

DOMAINS = ("core.windows.net", "fabric.microsoft.com")
"""Where accounts of the public cloud and OneLake lie, behind `account.blob.` and `account.dfs.`."""

_HOST = re.compile(
    r"(?P<account>[a-z0-9][a-z0-9-]*)(?P<zone>\.z\d+)?\.(?:blob|dfs)\."
    r"(?P<domain>core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net|cloudapi\.de)"
    r"|storage\.azure\.net|fabric\.microsoft\.com)",
    re.IGNORECASE,
)
_CONTAINER = re.compile(r"[^@/.:]+")


class MisspelledError(ValueError):
    """A location that is no place on Azure; `hint` is how to write it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class AzurePlace:
    """A location taken apart. `host` is that of the account's blob service, None where none is named."""

    container: str
    key: str
    host: str | None = None

    @classmethod
    def parse(cls, uri: str) -> AzurePlace:
        """Take any of the spellings apart; raises MisspelledError for others."""
        scheme, _, rest = uri.partition("://")
        match scheme.lower():
            case "abfss":
                return _abfss(uri, rest)
            case "https":
                place = _behind_host(uri, rest)
                # What stands in a URL is encoded; the other spellings name keys as they are.
                return cls(unquote(place.container), unquote(place.key), place.host)
            case "az" if "." in rest.partition("/")[0]:
                return _behind_host(uri, rest)
        container, _, key = rest.partition("/")
        return cls(container, key)

    @property
    def account(self) -> str | None:
        """The account that the location names, if it does."""
        return account_of_host(self.host) if self.host else None

    def __str__(self) -> str:
        """The spelling that every reader knows: abfss:// for hosts of the public cloud and OneLake."""
        if self.host is None:
            return f"az://{self.container}/{self.key}"
        account, _, domain = self.host.partition(".blob.")
        if domain in DOMAINS:
            return f"abfss://{self.container}@{account}.dfs.{domain}/{self.key}"
        return f"az://{self.host}/{self.container}/{self.key}"


def account_of_host(host: str) -> str:
    """Return the account that a host of a storage service belongs to."""
    return host.partition(".")[0]


def connection_string_part(text: str, name: str) -> str | None:
    """Return one of the `name=value` parts of a connection string, such as AccountName, or None."""
    pairs = (p.partition("=") for p in text.split(";"))
    return next((value for key, _, value in pairs if key.strip().casefold() == name.casefold()), None)


def _abfss(uri: str, rest: str) -> AzurePlace:
    authority, _, key = rest.partition("/")
    container, at, host = authority.rpartition("@")
    if not at:
        raise MisspelledError(
            "an abfss:// location names container and account",
            f"write abfss://{authority or 'container'}@ACCOUNT.dfs.core.windows.net/{key}, or az://{rest}",
        )
    blob_host = _blob_host(host, uri)
    if not _CONTAINER.fullmatch(container):
        raise MisspelledError("the location names no container", "write abfss://container@account...")
    return AzurePlace(container, key, blob_host)


def _behind_host(uri: str, rest: str) -> AzurePlace:
    host, _, path = rest.partition("/")
    blob_host = _blob_host(host, uri)
    container, _, key = path.partition("/")
    if not container:
        hint = f"write {uri.partition('://')[0]}://{host}/container/path"
        raise MisspelledError("the location names no container", hint)
    return AzurePlace(container, key, blob_host)


def _blob_host(host: str, uri: str) -> str:
    found = _HOST.fullmatch(host)
    if found is None:
        shown = host.rpartition("@")[2]
        if uri.lower().startswith("https"):
            hint = "a connection with `cloud: http` reads from any web server; write az://container/path"
        else:
            hint = "write abfss://container@account.dfs.core.windows.net/path"
        raise MisspelledError(f"{shown} is no host of a storage account", hint)
    domain = f"{found['zone'] or ''}.blob.{found['domain']}"
    return (found["account"] + domain).lower()
