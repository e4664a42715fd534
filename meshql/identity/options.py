"""Credentials in the form that readers besides DuckDB want: the options of delta-rs, Lance and pyiceberg."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import urlsplit

from meshql.catalog.azure import AzurePlace
from meshql.catalog.connections import (
    AzureConnection,
    Connection,
    GcsConnection,
    PostgresConnection,
    S3Connection,
)
from meshql.errors import UsageError
from meshql.identity.addresses import AzureAccount, azure_account
from meshql.identity.credentials import (
    AccessKey,
    AccountKey,
    BearerToken,
    Credentials,
    SharedAccessSignature,
    StorageConnectionString,
)

__all__ = ["Reader", "reader_uri", "storage_options"]

Reader = Literal["deltalake", "lance", "pyiceberg"]

READERS: dict[Reader, str] = {"deltalake": "delta-rs", "lance": "Lance", "pyiceberg": "pyiceberg"}

Options = dict[str, str]

ARROW = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
INTEROP = {"py-io-impl": "meshql.identity.interop.InteropFileIO"}
AZURE = {"py-io-impl": "meshql.identity.interop.AzureFileIO"}


AMBIENT: dict[str, tuple[str, ...]] = {
    "aws_session_token": ("AWS_SESSION_TOKEN", "AWS_TOKEN"),
    "aws_endpoint": ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    "azure_storage_token": ("AZURE_STORAGE_TOKEN",),
    "azure_storage_account_key": (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_MASTER_KEY",
    ),
    "azure_storage_endpoint": ("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT"),
    "azure_client_secret": ("AZURE_CLIENT_SECRET", "AZURE_STORAGE_CLIENT_SECRET"),
    "azure_federated_token_file": ("AZURE_FEDERATED_TOKEN_FILE",),
    "azure_fabric_token_service_url": ("AZURE_FABRIC_TOKEN_SERVICE_URL",),
    "google_base_url": ("GOOGLE_BASE_URL",),
}
"""Where delta-rs and Lance look for options that they are not given."""

OUTRANKED: dict[str, tuple[str, ...]] = {
    "aws_access_key_id": ("aws_session_token",),
    "aws_region": ("aws_endpoint",),
    "azure_storage_account_name": ("azure_storage_endpoint",),
    "azure_storage_account_key": ("azure_storage_token", "azure_fabric_token_service_url"),
    "azure_storage_sas_token": (
        "azure_storage_token",
        "azure_storage_account_key",
        "azure_fabric_token_service_url",
    ),
    "google_bearer_token": ("google_base_url",),
    "google_skip_signature": ("google_base_url",),
}
"""For options that are given, those that would change what they mean."""

OUTRANKED_IN_LANCE: dict[str, tuple[str, ...]] = {
    "azure_storage_sas_token": ("azure_client_secret", "azure_federated_token_file"),
}
"""What delta-rs leaves alone as long as it is given a complete identity."""


def storage_options(
    connection: Connection,
    credentials: Credentials,
    reader: Reader,
    uri: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Options:
    """Return what `reader` takes as its storage_options or properties; the values hold secrets.

    They go with the URI that `reader_uri` returns. `uri` is the location; it is needed where it names what
    the connection does not: an Azure account, or the bucket in the name of an S3-compatible store's host.
    Empty for connections that need none (local, http). Raises UsageError for an unknown reader, a table of a
    database, what the reader has no option for, and where it would mix in somebody else's identity or address
    from the environment.
    """
    if reader not in READERS:
        raise UsageError(f"unknown reader {reader}", hint=f"known: {', '.join(READERS)}")
    if isinstance(connection, PostgresConnection):
        raise UsageError(
            f"connection {connection.name}: {READERS[reader]} reads files, and this is a table of a database",
            hint="read it with SQL: mesh.sql(...).arrow()",
        )
    options = _options(connection, credentials, reader, uri)
    if reader != "pyiceberg":
        _refuse_mixture(connection, reader, options, environ)
    return options


def _options(connection: Connection, credentials: Credentials, reader: Reader, uri: str | None) -> Options:
    match connection:
        case S3Connection() if reader == "pyiceberg":
            return ARROW | _s3_of_pyiceberg(connection, credentials)
        case S3Connection():
            return _s3_of_object_store(connection, credentials, uri)
        case GcsConnection() if _as_s3(credentials, reader):
            stand_in = _interoperable(connection)
            if reader == "pyiceberg":
                return INTEROP | _s3_of_pyiceberg(stand_in, credentials)
            return _s3_of_object_store(stand_in, credentials, uri)
        case GcsConnection():
            return _gcs(connection, credentials, reader)
        case AzureConnection():
            account = azure_account(connection, credentials, AzurePlace.parse(uri).host if uri else None)
            if reader == "pyiceberg":
                return _azure_of_pyiceberg(account, credentials)
            return _azure_of_object_store(account, credentials)
    return {}


def reader_uri(connection: Connection, credentials: Credentials, reader: Reader, uri: str) -> str:
    """Return `uri` as `reader` wants it under the options that it is given.

    HMAC keys of Cloud Storage are for its S3-interoperable API, so gs:// becomes s3://. On Azure the account
    stands in the options, and the URI is az://container/key; for pyiceberg, abfs://container/key.
    """
    scheme, found, rest = uri.partition("://")
    if isinstance(connection, GcsConnection) and _as_s3(credentials, reader) and reader != "pyiceberg":
        return f"s3://{rest}" if found and scheme in ("gs", "gcs") else uri
    if isinstance(connection, AzureConnection):
        place = AzurePlace.parse(uri)
        return f"{'abfs' if reader == 'pyiceberg' else 'az'}://{place.container}/{place.key}"
    return uri


def _refuse_mixture(
    connection: Connection, reader: Reader, options: Options, environ: Mapping[str, str]
) -> None:
    more = OUTRANKED_IN_LANCE if reader == "lance" else {}
    # An empty option does not help: they would send an empty session token, which stores refuse.
    for given in options:
        for option in OUTRANKED.get(given, ()) + more.get(given, ()):
            found = next((name for name in AMBIENT[option] if environ.get(name)), None)
            if found and option not in options:
                raise UsageError(
                    f"connection {connection.name}: {READERS[reader]} would mix ${found} of the environment"
                    " into the connection's own credentials and address",
                    hint=f"unset {found}",
                )


def _as_s3(credentials: Credentials, reader: Reader) -> bool:
    """Whether Cloud Storage is read through its S3-interoperable API.

    pyarrow's own Cloud Storage has no option for anonymous reading in pyiceberg.
    """
    return isinstance(credentials, AccessKey) or (
        reader == "pyiceberg" and not isinstance(credentials, BearerToken)
    )


def _interoperable(connection: GcsConnection) -> S3Connection:
    """The same store, as one that speaks S3's API."""
    return S3Connection.model_construct(
        name=connection.name,
        region="auto",
        endpoint=connection.address,
        url_style="path",
        requester_pays=False,
    )


def _s3_of_object_store(connection: S3Connection, credentials: Credentials, uri: str | None) -> Options:
    path_style = connection.url_style == "path"
    options = {
        "aws_region": connection.region,
        "aws_virtual_hosted_style_request": str(not path_style).lower(),
    }
    if connection.endpoint:
        options["aws_endpoint"] = connection.endpoint if path_style else _with_bucket(connection, uri)
        options["allow_http"] = str(connection.endpoint.startswith("http://")).lower()
    if connection.requester_pays:
        options["aws_request_payer"] = "true"
    if not isinstance(credentials, AccessKey):
        return options | {"aws_skip_signature": "true"}
    # The environment may say otherwise.
    options["aws_skip_signature"] = "false"
    options["aws_access_key_id"] = credentials.key_id
    options["aws_secret_access_key"] = credentials.secret.get_secret_value()
    if credentials.session_token:
        options["aws_session_token"] = credentials.session_token.get_secret_value()
    return options


def _with_bucket(connection: S3Connection, uri: str | None) -> str:
    if uri is None:
        raise UsageError(
            f"connection {connection.name}: url_style vhost at an endpoint needs the bucket's name",
            hint=f"set `url_style: path` on connection {connection.name}",
        )
    scheme, _, host = (connection.endpoint or "").partition("://")
    return f"{scheme}://{urlsplit(uri).netloc}.{host}"


def _s3_of_pyiceberg(connection: S3Connection, credentials: Credentials) -> Options:
    if connection.requester_pays:
        raise UsageError(
            f"connection {connection.name}: pyiceberg cannot read buckets whose requester pays",
            hint="read the table through SQL: DuckDB can",
        )
    options = {
        "s3.region": connection.region,
        "s3.force-virtual-addressing": str(connection.url_style != "path").lower(),
    }
    if connection.endpoint:
        options["s3.endpoint"] = connection.endpoint
    if not isinstance(credentials, AccessKey):
        return options | {"s3.anonymous": "true"}
    options["s3.access-key-id"] = credentials.key_id
    options["s3.secret-access-key"] = credentials.secret.get_secret_value()
    if credentials.session_token:
        options["s3.session-token"] = credentials.session_token.get_secret_value()
    return options


def _gcs(connection: GcsConnection, credentials: Credentials, reader: Reader) -> Options:
    """Cloud Storage by its own API, with a token or anonymously."""
    token = credentials.token.get_secret_value() if isinstance(credentials, BearerToken) else None
    if reader == "pyiceberg":
        ends = credentials.expires_at or datetime.now(UTC) + timedelta(hours=1)
        # pyarrow takes a token only together with its end.
        options = ARROW | {"gcs.oauth2.token": token or ""}
        options["gcs.oauth2.token-expires-at"] = str(int(ends.timestamp() * 1000))
        return options | ({"gcs.service.host": connection.endpoint} if connection.endpoint else {})
    if token and reader == "deltalake":
        raise UsageError(
            f"connection {connection.name}: delta-rs has no option for a bearer token of Cloud Storage",
            hint="auth: {method: hmac, ...}; Lance, pyiceberg and DuckDB take the token",
        )
    # The environment may say otherwise.
    options = {"google_skip_signature": str(token is None).lower()}
    if token:
        options["google_bearer_token"] = token
    if connection.endpoint:
        options["google_base_url"] = connection.endpoint
        options["allow_http"] = str(connection.endpoint.startswith("http://")).lower()
    return options


def _azure_of_object_store(account: AzureAccount, credentials: Credentials) -> Options:
    options = {
        "azure_storage_account_name": account.name,
        "azure_storage_endpoint": account.endpoint,
        "allow_http": str(account.endpoint.startswith("http://")).lower(),
        # The environment may say otherwise, and send the identity elsewhere, or leave it out.
        "azure_storage_use_emulator": "false",
        "azure_skip_signature": "false",
    }
    if isinstance(credentials, BearerToken):
        return options | {"azure_storage_token": credentials.token.get_secret_value()}
    key, sas = _shared(credentials)
    if key:
        return options | {"azure_storage_account_key": key}
    return options | ({"azure_storage_sas_token": sas} if sas else {"azure_skip_signature": "true"})


def _azure_of_pyiceberg(account: AzureAccount, credentials: Credentials) -> Options:
    options = AZURE | {"adls.account-name": account.name}
    key, sas = _shared(credentials)
    if key:
        return options | _authorities(account) | {"adls.account-key": key}
    if sas:
        # pyarrow puts it behind its URLs as it is.
        return options | _authorities(account) | {"adls.sas-token": f"?{sas}"}
    options["meshql.azure-endpoint"] = account.endpoint
    if isinstance(credentials, BearerToken):
        options["adls.token"] = credentials.token.get_secret_value()
    return options


def _shared(credentials: Credentials) -> tuple[str | None, str | None]:
    """The account's key and the shared access signature among the credentials; one of them at most."""
    match credentials:
        case AccountKey():
            return credentials.key.get_secret_value(), None
        case SharedAccessSignature():
            return None, credentials.sas.get_secret_value()
        case StorageConnectionString():
            key, sas = credentials.part("AccountKey"), credentials.part("SharedAccessSignature")
            return key, sas.removeprefix("?") if sas and not key else None
    return None, None


def _authorities(account: AzureAccount) -> Options:
    """Where pyarrow finds the account: it puts the name in front of `.host`, and behind any other host."""
    parts = urlsplit(account.endpoint)
    blob = dfs = parts.netloc
    if blob.startswith(f"{account.name}.blob."):
        blob = blob.removeprefix(account.name)
        # Other endpoints answer both protocols at one address, as emulators do.
        dfs = blob.replace(".blob.", ".dfs.", 1)
    options = {f"adls.{kind}-storage-scheme": parts.scheme for kind in ("blob", "dfs")}
    return options | {"adls.blob-storage-authority": blob, "adls.dfs-storage-authority": dfs}
