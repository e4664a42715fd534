"""Which account an Azure location lies in, and the URI under which each of DuckDB's readers finds it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from meshql.catalog.azure import DOMAINS, account_of_host
from meshql.catalog.connections import AzureConnection
from meshql.errors import CredentialsError
from meshql.identity.credentials import AccountKey, BearerToken, Credentials, StorageConnectionString

__all__ = ["EMULATOR_ACCOUNT", "AzureAccount", "azure_account", "azure_address"]

EMULATOR_ACCOUNT = "devstoreaccount1"
"""The only account that delta-kernel looks for at an emulator."""


@dataclass(frozen=True, slots=True)
class AzureAccount:
    """A storage account, and the URL of its blob service without a slash at the end."""

    name: str
    endpoint: str

    @property
    def domain(self) -> str | None:
        """What follows `account.blob.` in a host of the public cloud or OneLake; None for other hosts."""
        host = urlsplit(self.endpoint).netloc
        domains = (d for d in DOMAINS if host == f"{self.name}.blob.{d}")
        return next(domains, None) if self.endpoint.startswith("https://") else None

    @property
    def emulated(self) -> bool:
        """Whether delta-kernel takes it for its emulator's."""
        return self.name == EMULATOR_ACCOUNT and self.domain is None


def azure_account(
    connection: AzureConnection, credentials: Credentials, host: str | None = None
) -> AzureAccount:
    """Return the account behind `connection`; `host` is that of the location, which may name it alone.

    An endpoint of the connection wins over the location's host. Raises CredentialsError where nothing names
    the account, and where the location names another than the connection.
    """
    given = credentials if isinstance(credentials, StorageConnectionString) else None
    endpoint = (given and given.part("BlobEndpoint")) or connection.endpoint
    name = _declared(connection, credentials) or (endpoint and _account_of_url(endpoint))
    inside = account_of_host(host) if host else None
    if name and inside and name != inside:
        raise CredentialsError(
            f"connection {connection.name}: its account is {name}, and the location's {inside}",
            hint=f"read it through a connection to account {inside}, or correct the location",
        )
    name = name or inside
    if not name:
        raise CredentialsError(
            f"connection {connection.name}: nothing names the storage account",
            hint=f"add `account: NAME` to connection {connection.name}, or write the location as "
            "abfss://container@ACCOUNT.dfs.core.windows.net/path",
        )
    if endpoint:
        return AzureAccount(name, endpoint.rstrip("/"))
    if given and (suffix := given.part("EndpointSuffix")):
        protocol = given.part("DefaultEndpointsProtocol") or "https"
        return AzureAccount(name, f"{protocol}://{name}.blob.{suffix}")
    domain = DOMAINS[1] if name.endswith("onelake") else DOMAINS[0]
    return AzureAccount(name, f"https://{host or f'{name}.blob.{domain}'}")


def azure_address(
    connection: AzureConnection,
    credentials: Credentials,
    container: str,
    key: str,
    form: str,
    host: str | None = None,
) -> str:
    """Return the URI that DuckDB's reader of format `form` must get for `key` in `container`.

    It names the account wherever that reader can take it from there, so that containers of one name in two
    accounts are two. `host` is that of the product's location, if it names one. Raises CredentialsError for
    what the reader cannot reach, rather than let it take a key or a token to another host.
    """
    account = azure_account(connection, credentials, host)
    token = isinstance(credentials, BearerToken)
    if form == "delta":
        return _delta_address(account, container, key, token, connection)
    address = urlsplit(account.endpoint)
    if token and (address.scheme != "https" or address.path):
        raise CredentialsError(
            f"connection {connection.name}: a token goes over https to a host of its own only, "
            f"not to {_shown(account)}",
            hint="use `auth: {method: account_key}` with an emulator",
        )
    if token or address.netloc.startswith(f"{account.name}."):
        return f"az://{address.netloc}/{container}/{key}"
    # The secret is a connection string: its endpoint counts, and of the URI's host only the account.
    return f"az://{account.name}.blob.{DOMAINS[0]}/{container}/{key}"


def _delta_address(
    account: AzureAccount, container: str, key: str, token: bool, connection: AzureConnection
) -> str:
    """delta-kernel knows the public cloud's hosts; others it takes from the secret, but not with a token."""
    if account.domain:
        return f"abfss://{container}@{account.name}.dfs.{account.domain}/{key}"
    if token:
        raise CredentialsError(
            f"connection {connection.name}: Delta cannot be read with a token from {_shown(account)}",
            hint="use `auth: {method: sas}` or `auth: {method: account_key}` there",
        )
    return f"az://{container}/{key}"


def _declared(connection: AzureConnection, credentials: Credentials) -> str | None:
    if isinstance(credentials, StorageConnectionString):
        return credentials.part("AccountName") or connection.account
    if isinstance(credentials, AccountKey):
        return credentials.account
    return connection.account


def _account_of_url(url: str) -> str | None:
    """An emulator's endpoint ends with the account; a real one's host begins with it."""
    parts = urlsplit(url)
    return parts.path.strip("/") or account_of_host(parts.netloc.rpartition("@")[2])


def _shown(account: AzureAccount) -> str:
    return urlsplit(account.endpoint).netloc.rpartition("@")[2]
