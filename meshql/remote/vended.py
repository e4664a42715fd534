"""Credentials that a catalog hands out with a table, and the connection that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from meshql.catalog.auth import Anonymous
from meshql.catalog.connections import (
    AzureConnection,
    Connection,
    GcsConnection,
    LocalConnection,
    S3Connection,
)
from meshql.errors import LocationError
from meshql.identity.credentials import AccessKey, BearerToken, Credentials, SharedAccessSignature

__all__ = ["connection_for", "credentials_in", "fallback_end", "plain_uri"]

S3_SCHEMES = ("s3", "s3a", "s3n")
AZURE_SCHEMES = ("abfs", "abfss", "wasb", "wasbs")

SHORT = timedelta(minutes=15)
"""How long temporary credentials are taken to live where nobody says it: no catalog's live shorter."""


def fallback_end() -> datetime:
    """Return when temporary credentials of unknown life should no longer be used."""
    return datetime.now(UTC) + SHORT


def plain_uri(uri: str) -> str:
    """Return a catalog's URI as locations are spelled here; raises LocationError for a store unknown here."""
    scheme, found, rest = uri.partition("://")
    if not found:
        return unquote(uri.removeprefix("file:")) if uri.startswith("file:") else uri
    if scheme in S3_SCHEMES:
        return f"s3://{rest}"
    if scheme in AZURE_SCHEMES:
        authority, slash, path = rest.partition("/")
        return f"az://{authority.partition('@')[0]}{slash}{path}"
    if scheme == "file":
        return unquote(rest)
    if scheme == "gs":
        return uri
    raise LocationError(
        f"the catalog says that the table lies at {scheme}://, which cannot be read",
        hint="s3://, gs://, abfss:// and files can",
    )


def connection_for(uri: str, config: Mapping[str, str], name: str) -> Connection:
    """Return how the store of `uri` is spoken to, as the catalog's `config` says; raises LocationError."""
    scheme = urlsplit(uri).scheme
    anonymous = Anonymous(method="anonymous")
    if scheme in S3_SCHEMES:
        return S3Connection(
            cloud="s3",
            name=name,
            region=config.get("client.region") or config.get("s3.region") or "us-east-1",
            endpoint=config.get("s3.endpoint"),
            url_style="path" if config.get("s3.path-style-access", "").lower() == "true" else "vhost",
            auth=anonymous,
        )
    if scheme == "gs":
        return GcsConnection(cloud="gcs", name=name, endpoint=config.get("gcs.service.host"), auth=anonymous)
    if scheme in AZURE_SCHEMES:
        host = urlsplit(uri).netloc.partition("@")[2]
        account = host.partition(".")[0]
        return AzureConnection(cloud="azure", name=name, account=account or None, auth=anonymous)
    plain_uri(uri)
    return LocalConnection(cloud="local", name=name)


def credentials_in(uri: str, config: Mapping[str, str]) -> Credentials | None:
    """Return the credentials for the store of `uri` that the catalog's `config` holds; None for none."""
    scheme = urlsplit(uri).scheme
    if scheme in S3_SCHEMES and "s3.access-key-id" in config:
        token = config.get("s3.session-token")
        ends = _instant(config.get("s3.session-token-expires-at-ms"))
        return AccessKey(
            config["s3.access-key-id"],
            SecretStr(config.get("s3.secret-access-key", "")),
            SecretStr(token) if token else None,
            ends or (fallback_end() if token else None),
        )
    if scheme == "gs" and "gcs.oauth2.token" in config:
        ends = _instant(config.get("gcs.oauth2.token-expires-at"))
        return BearerToken(SecretStr(config["gcs.oauth2.token"]), ends or fallback_end())
    if scheme in AZURE_SCHEMES:
        return _signature(urlsplit(uri).netloc.partition("@")[2], config)
    return None


def _signature(host: str, config: Mapping[str, str]) -> SharedAccessSignature | None:
    account = host.partition(".")[0]
    for name in (account, host):
        if sas := config.get(f"adls.sas-token.{name}"):
            ends = _instant(config.get(f"adls.sas-token-expires-at-ms.{name}"))
            return SharedAccessSignature(SecretStr(sas.removeprefix("?")), ends or fallback_end())
    return None


def _instant(milliseconds: str | None) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(milliseconds or "") / 1000, tz=UTC)
    except (ValueError, OverflowError):
        return None
