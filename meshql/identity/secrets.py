"""Credentials in the form that DuckDB's readers want: CREATE SECRET.

delta-kernel inside the delta extension takes its credentials from the same secrets.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from meshql.catalog.azure import DOMAINS, AzurePlace
from meshql.catalog.connections import (
    AzureConnection,
    Connection,
    GcsConnection,
    HttpConnection,
    PostgresConnection,
    S3Connection,
)
from meshql.identity.addresses import EMULATOR_ACCOUNT, AzureAccount, azure_account
from meshql.identity.credentials import (
    AccessKey,
    AccountKey,
    BearerToken,
    Credentials,
    Login,
    Public,
    SharedAccessSignature,
    StorageConnectionString,
)
from meshql.sql import quote_identifier, quote_literal

__all__ = ["azure_connection_string", "database_secret_sql", "emulator_url", "kernel_takes", "secret_sql"]


def secret_sql(name: str, connection: Connection, credentials: Credentials, scope: str) -> str | None:
    """Return the statement that gives DuckDB `credentials` for every URI that begins with `scope`.

    None for connections that need no secret (local, public http). The text holds secret values: run it,
    never show it. DuckDB compares the scope as a plain prefix, so that of a folder has to end with a slash.
    """
    match connection:
        case S3Connection():
            options = _s3(connection, scope) | _access_key(credentials)
        case GcsConnection():
            # Signatures name a region; Cloud Storage takes any, but an empty one is malformed.
            options = {"TYPE": "gcs", "REGION": "auto"}
            options |= _access_key(credentials) | _endpoint(connection.endpoint)
            if connection.endpoint:
                options["URL_STYLE"] = "path"
        case AzureConnection():
            options = {"TYPE": "azure"} | _azure(connection, credentials, scope)
        case HttpConnection() if isinstance(credentials, BearerToken):
            options = {"TYPE": "http", "BEARER_TOKEN": credentials.token.get_secret_value()}
        case _:
            return None
    pairs = ", ".join(f"{key} {quote_literal(value)}" for key, value in (options | {"SCOPE": scope}).items())
    return f"CREATE OR REPLACE SECRET {quote_identifier(name)} ({pairs})"


def database_secret_sql(name: str, connection: PostgresConnection, login: Login) -> str:
    """Return the statement that gives DuckDB a database's address and login, for ATTACH to name.

    What is attached so shows neither in duckdb_databases(). The text holds the password: never show it.
    """
    options = {"HOST": connection.host, "PORT": str(connection.port), "DATABASE": connection.database}
    if login.user:
        options["USER"] = login.user
    if login.password:
        options["PASSWORD"] = login.password.get_secret_value()
    pairs = ", ".join(f"{key} {quote_literal(value)}" for key, value in options.items())
    return f"CREATE OR REPLACE SECRET {quote_identifier(name)} (TYPE postgres, {pairs})"


def kernel_takes(connection: Connection, credentials: Credentials, host: str | None = None) -> bool:
    """Tell whether delta-kernel gets these credentials from DuckDB's secrets.

    It takes no bearer token for Cloud Storage, nor for an Azure account elsewhere than in the public cloud
    and OneLake, talks to no account without TLS but the emulator's own, and pays for nobody's requests.
    `host` is that of an Azure location, if it names one.
    """
    match connection:
        case S3Connection():
            return not connection.requester_pays
        case GcsConnection():
            return not isinstance(credentials, BearerToken)
        case AzureConnection():
            account = azure_account(connection, credentials, host)
            if isinstance(credentials, BearerToken):
                return account.domain is not None
            return account.emulated or account.endpoint.startswith("https://")
    return True


def azure_connection_string(account: AzureAccount, credentials: Credentials) -> str:
    """Return the connection string of an Azure account; without a key when the identity is anonymous."""
    parts = {"AccountName": account.name}
    if isinstance(credentials, StorageConnectionString):
        given = credentials.text.get_secret_value()
        # DuckDB wants the account named, which a signature's connection string need not do.
        return given if credentials.part("AccountName") else f"AccountName={account.name};{given}"
    if isinstance(credentials, SharedAccessSignature):
        parts["SharedAccessSignature"] = credentials.sas.get_secret_value()
    if isinstance(credentials, AccountKey):
        parts["AccountKey"] = credentials.key.get_secret_value()
    parts |= {
        "DefaultEndpointsProtocol": urlsplit(account.endpoint).scheme,
        "BlobEndpoint": account.endpoint,
    }
    return ";".join(f"{key}={value}" for key, value in parts.items())


def emulator_url(connection: Connection, credentials: Credentials) -> str | None:
    """Return the address of the Azure emulator that `connection` leads to, or None for a real account.

    delta-kernel knows the emulator's account, and takes its address from AZURITE_BLOB_STORAGE_URL only.
    """
    if not isinstance(connection, AzureConnection) or not _names_account(connection, credentials):
        return None
    account = azure_account(connection, credentials)
    if not account.emulated:
        return None
    return account.endpoint.removesuffix(f"/{EMULATOR_ACCOUNT}")


def _names_account(connection: AzureConnection, credentials: Credentials) -> bool:
    return bool(connection.account or connection.endpoint) or isinstance(
        credentials, (StorageConnectionString, AccountKey)
    )


def _s3(connection: S3Connection, scope: str) -> dict[str, str]:
    options = {"TYPE": "s3", "REGION": connection.region, "URL_STYLE": connection.url_style}
    options |= _endpoint(connection.endpoint)
    if connection.requester_pays:
        options["REQUESTER_PAYS"] = "true"
    if scope.startswith(("gs://", "gcs://")):
        # Under Google's schemes, delta-kernel asks for this type, and both for where to.
        options["TYPE"] = "gcs"
        options.setdefault("ENDPOINT", urlsplit(connection.address).netloc)
        options["URL_STYLE"] = connection.url_style if connection.endpoint else "path"
        options.pop("REQUESTER_PAYS", None)
    return options


def _azure(connection: AzureConnection, credentials: Credentials, scope: str) -> dict[str, str]:
    host = AzurePlace.parse(scope).host
    account = azure_account(connection, credentials, host)
    if isinstance(credentials, BearerToken):
        options = {
            "PROVIDER": "access_token",
            "ACCOUNT_NAME": account.name,
            "ACCESS_TOKEN": credentials.token.get_secret_value(),
        }
        domain = urlsplit(account.endpoint).netloc.removeprefix(f"{account.name}.")
        # For URIs that name no host. Where they do, delta-kernel would take this for a URL.
        return options | ({} if host or domain == f"blob.{DOMAINS[0]}" else {"ENDPOINT": domain})
    if isinstance(credentials, Public) and account.domain:
        # With a connection string that holds no key, delta-kernel would look for some identity.
        return {"ACCOUNT_NAME": account.name}
    options = {"CONNECTION_STRING": azure_connection_string(account, credentials)}
    # delta-kernel takes no endpoint from a connection string with a key, only from here.
    return options | ({} if account.domain or account.emulated else {"ENDPOINT": account.endpoint})


def _access_key(credentials: Credentials) -> dict[str, str]:
    if isinstance(credentials, BearerToken):
        return {"BEARER_TOKEN": credentials.token.get_secret_value()}
    # httpfs takes what a secret leaves out from the environment: somebody else's keys.
    options = {"KEY_ID": "", "SECRET": "", "SESSION_TOKEN": ""}
    if isinstance(credentials, AccessKey):
        options |= {"KEY_ID": credentials.key_id, "SECRET": credentials.secret.get_secret_value()}
        if credentials.session_token:
            options["SESSION_TOKEN"] = credentials.session_token.get_secret_value()
    return options


def _endpoint(url: str | None) -> dict[str, str]:
    if url is None:
        return {}
    parts = urlsplit(url)
    return {
        "ENDPOINT": parts.netloc + parts.path.rstrip("/"),
        "USE_SSL": str(parts.scheme == "https").lower(),
    }
