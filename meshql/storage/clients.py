"""A bucket as the object store library opens it, with one identity and nothing of the environment's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, S3Store

from meshql.catalog.azure import AzurePlace
from meshql.catalog.connections import (
    AzureConnection,
    Connection,
    GcsConnection,
    HttpConnection,
    S3Connection,
)
from meshql.errors import LocationError
from meshql.identity.addresses import azure_account
from meshql.identity.credentials import (
    AccessKey,
    AccountKey,
    BearerToken,
    Credentials,
    SharedAccessSignature,
    StorageConnectionString,
)
from meshql.storage.location import Location, azure_place

if TYPE_CHECKING:
    from obstore.store import (
        AzureConfig,
        AzureCredential,
        ClientConfig,
        GCSConfig,
        ObjectStore,
        RetryConfig,
        S3Config,
        S3Credential,
    )

__all__ = ["client"]

CLIENT: ClientConfig = {"connect_timeout": "5s", "timeout": "10s", "allow_http": True}
RETRY: RetryConfig = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=8),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 3},
}
"""A store that does not answer is given up within 15 seconds."""


def client(connection: Connection, credentials: Credentials, location: Location) -> ObjectStore:
    """Return the bucket of `location`; nothing is sent yet.

    Raises what the library raises for what is malformed, in words that may hold it.
    """
    match connection:
        case S3Connection():
            path_style = connection.url_style == "path"
            config = _s3(credentials) | {"region": connection.region}
            if connection.requester_pays:
                config["request_payer"] = True
            # Without one, the library would follow $AWS_ENDPOINT_URL.
            return _s3_store(location.bucket, connection.address, path_style, config)
        case GcsConnection() if isinstance(credentials, BearerToken):
            return _gcs_store(location.bucket, connection.address, credentials)
        case GcsConnection():
            return _s3_store(location.bucket, connection.address, True, _s3(credentials) | {"region": "auto"})
        case AzureConnection():
            return _azure_store(azure_place(location.plain), connection, credentials)
        case HttpConnection():
            root = f"{location.scheme}://{location.bucket}"
            return HTTPStore.from_url(root, client_options=_shown(credentials), retry_config=RETRY)
        case _:
            return LocalStore("/")


def _shown(credentials: Credentials) -> ClientConfig:
    if not isinstance(credentials, BearerToken):
        return CLIENT
    shown = f"Bearer {credentials.token.get_secret_value()}"
    return {**CLIENT, "default_headers": {"Authorization": shown}}


def _s3(credentials: Credentials) -> S3Config:
    if not isinstance(credentials, AccessKey):
        return {"skip_signature": True}
    config: S3Config = {
        "access_key_id": credentials.key_id,
        "secret_access_key": credentials.secret.get_secret_value(),
        # The environment may say otherwise.
        "skip_signature": False,
    }
    if credentials.session_token:
        config["session_token"] = credentials.session_token.get_secret_value()
    return config


def _s3_store(bucket: str, endpoint: str, path_style: bool, config: S3Config) -> S3Store:
    config["virtual_hosted_style_request"] = not path_style
    config["endpoint"] = endpoint if path_style else _with_bucket(endpoint, bucket)
    return S3Store(
        bucket,
        config=config,
        client_options=CLIENT,
        retry_config=RETRY,
        credential_provider=_s3_provider(config),
    )


# What a configuration leaves out, the library takes from the environment: the session token of other keys,
# another account's token. From a provider it takes all or nothing.
def _s3_provider(config: S3Config) -> Callable[[], S3Credential] | None:
    if config.get("skip_signature"):
        return None
    found: S3Credential = {
        "access_key_id": config["access_key_id"],
        "secret_access_key": config["secret_access_key"],
        "token": config.get("session_token"),
        "expires_at": None,
    }
    return lambda: found


def _azure_provider(identity: AzureConfig) -> Callable[[], AzureCredential] | None:
    if key := identity.get("account_key"):
        return lambda: {"access_key": key, "expires_at": None}
    if sas := identity.get("sas_key"):
        return lambda: {"sas_token": sas, "expires_at": None}
    if token := identity.get("token"):
        return lambda: {"token": token, "expires_at": None}
    return None


def _gcs_store(bucket: str, endpoint: str, credentials: BearerToken) -> GCSStore:
    token = credentials.token.get_secret_value()
    config: GCSConfig = {"bearer_token": token, "base_url": endpoint, "skip_signature": False}
    return GCSStore(bucket, config=config, client_options=CLIENT, retry_config=RETRY)


def _with_bucket(endpoint: str, bucket: str) -> str:
    """object_store wants the bucket in the endpoint of a virtual-hosted store; at one of an IP it panics."""
    scheme, _, host = endpoint.partition("://")
    with suppress(ValueError):
        address = ip_address(urlsplit(endpoint).hostname or "")
        raise LocationError(
            f"{address} is no name, so that there is no {bucket}.{address}",
            hint="set the connection's `url_style: path`",
        )
    return f"{scheme}://{bucket}.{host}"


def _azure_store(place: AzurePlace, connection: AzureConnection, credentials: Credentials) -> AzureStore:
    account = azure_account(connection, credentials, place.host)
    identity: AzureConfig = {"skip_signature": True}
    key, sas = None, None
    if isinstance(credentials, StorageConnectionString):
        key, sas = credentials.part("AccountKey"), credentials.part("SharedAccessSignature")
    elif isinstance(credentials, AccountKey):
        key = credentials.key.get_secret_value()
    elif isinstance(credentials, SharedAccessSignature):
        sas = credentials.sas.get_secret_value()
    if isinstance(credentials, BearerToken):
        identity = {"token": credentials.token.get_secret_value()}
    elif key or sas:
        identity = {"account_key": key} if key else {"sas_key": sas or ""}
    # What is not said here may stand in the environment.
    said: AzureConfig = {
        "account_name": account.name,
        "endpoint": account.endpoint,
        "use_emulator": False,
        "skip_signature": False,
    }
    return AzureStore(
        place.container,
        config=said | identity,
        credential_provider=_azure_provider(identity),
        client_options=CLIENT,
        retry_config=RETRY,
    )
