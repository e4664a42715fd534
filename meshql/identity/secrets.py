"""Credentials in the form that DuckDB's readers want: CREATE SECRET.

delta-kernel inside the delta extension takes its credentials from the same secrets.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import SecretStr

from meshql.catalog.model import AzureConnection, Connection, GcsConnection, S3Connection
from meshql.identity.broker import AccessKey, AccountKey, Credentials, StorageConnectionString
from meshql.sql import quote_identifier, quote_literal

__all__ = ["azure_connection_string", "emulator_url", "secret_sql"]

EMULATOR_ACCOUNT = "devstoreaccount1"


def secret_sql(name: str, connection: Connection, credentials: Credentials, scope: str) -> str | None:
    """Return the statement that gives DuckDB `credentials` for every URI that begins with `scope`.

    None for connections that need no secret (local, http). The text holds secret values: run it, never show
    it. DuckDB compares the scope as a plain prefix, so that of a folder has to end with a slash.
    """
    match connection:
        case S3Connection():
            options = {"TYPE": "s3", "REGION": connection.region, "URL_STYLE": connection.url_style}
            options |= _access_key(credentials) | _endpoint(connection.endpoint)
        case GcsConnection():
            options = {"TYPE": "gcs"} | _access_key(credentials) | _endpoint(connection.endpoint)
            if connection.endpoint:
                options["URL_STYLE"] = "path"
        case AzureConnection():
            options = {"TYPE": "azure", "CONNECTION_STRING": azure_connection_string(connection, credentials)}
        case _:
            return None
    pairs = ", ".join(f"{key} {quote_literal(value)}" for key, value in (options | {"SCOPE": scope}).items())
    return f"CREATE OR REPLACE SECRET {quote_identifier(name)} ({pairs})"


def azure_connection_string(connection: AzureConnection, credentials: Credentials) -> str:
    """Return the connection string of an Azure account; without a key when the identity is anonymous."""
    if isinstance(credentials, StorageConnectionString):
        return credentials.text.get_secret_value()
    parts = {"AccountName": connection.account or ""}
    if isinstance(credentials, AccountKey):
        parts |= {"AccountName": credentials.account, "AccountKey": credentials.key.get_secret_value()}
    blob = connection.endpoint or f"https://{parts['AccountName']}.blob.core.windows.net"
    parts |= {"DefaultEndpointsProtocol": urlsplit(blob).scheme, "BlobEndpoint": blob}
    return ";".join(f"{key}={value}" for key, value in parts.items())


def emulator_url(connection: Connection, credentials: Credentials) -> str | None:
    """Return the address of the Azure emulator that `connection` leads to, or None for a real account.

    delta-kernel knows the emulator's account, and takes its address from AZURITE_BLOB_STORAGE_URL only.
    """
    if not isinstance(connection, AzureConnection):
        return None
    given = StorageConnectionString(SecretStr(azure_connection_string(connection, credentials)))
    blob = given.part("BlobEndpoint")
    if blob is None or given.part("AccountName") != EMULATOR_ACCOUNT:
        return None
    return blob.rstrip("/").removesuffix(f"/{EMULATOR_ACCOUNT}")


def _access_key(credentials: Credentials) -> dict[str, str]:
    if not isinstance(credentials, AccessKey):
        return {}
    options = {"KEY_ID": credentials.key_id, "SECRET": credentials.secret.get_secret_value()}
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
