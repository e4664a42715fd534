"""Who a connection's credentials make us, as far as they say so themselves or their cloud does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from meshql.catalog.connections import AzureConnection, Connection, GcsConnection, S3Connection
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
from meshql.identity.shared_access import grant_of
from meshql.identity.tokens import claims_of

__all__ = ["expiry", "identify", "libraries_of", "own_words"]

DECLARED = frozenset({"keys", "env", "hmac", "connection_string", "account_key", "sas", "token", "anonymous"})
"""Methods whose credentials stand in the catalog or the environment: no cloud is asked about them."""

CLAIMS = ("upn", "preferred_username", "email", "azp", "appid", "sub", "oid")


LIBRARIES: dict[str, tuple[str, ...]] = {
    "s3": ("botocore.session", "botocore.httpsession"),
    "gcs": ("google.auth.transport.requests", "google.oauth2.service_account"),
    "azure": ("azure.identity",),
}


def libraries_of(connection: Connection) -> tuple[str, ...]:
    """Return the modules of a cloud that the connection's credentials need, and that take long to import."""
    return () if _asked(connection) is None else LIBRARIES.get(connection.cloud, ())


def identify(connection: Connection, credentials: Credentials) -> str | None:
    """Return who the cloud says we are; where it is not asked or does not say, what `own_words` returns.

    Takes a request for methods of the clouds' own libraries. Raises what that request raises.
    """
    asked = _asked(connection)
    return (asked(connection, credentials) if asked else None) or own_words(credentials)


def own_words(credentials: Credentials) -> str | None:
    """Return what credentials say of themselves, and nothing that is secret; None for an opaque token."""
    match credentials:
        case Public():
            return "anonymous"
        case AccessKey(key_id=key_id):
            return _masked(key_id)
        case AccountKey(account=account):
            return account
        case StorageConnectionString():
            return credentials.part("AccountName")
        case SharedAccessSignature():
            grant = grant_of(credentials)
            return f"{grant.permissions or 'a stored policy'} on the {grant.scope}"
        case BearerToken(token=token):
            claims = claims_of(token)
            return next((str(claims[name]) for name in CLAIMS if claims.get(name)), None)
        case Login(user=user):
            return user


def expiry(credentials: Credentials) -> datetime | None:
    """Return when credentials end: as whoever gave them says, or else as they say themselves."""
    if credentials.expires_at is not None:
        return credentials.expires_at
    if isinstance(credentials, SharedAccessSignature):
        return grant_of(credentials).expires_at
    if isinstance(credentials, StorageConnectionString):
        sas = credentials.part("SharedAccessSignature")
        return grant_of(SharedAccessSignature(type(credentials.text)(sas))).expires_at if sas else None
    if isinstance(credentials, BearerToken):
        ends = claims_of(credentials.token).get("exp")
        return datetime.fromtimestamp(ends, UTC) if isinstance(ends, int | float) else None
    return None


def _asked(connection: Connection) -> Callable[[Connection, Any], str | None] | None:
    """The cloud's own `identify`, imported only for methods that its library serves anyway."""
    method = getattr(getattr(connection, "auth", None), "method", None)
    if method is None or method in DECLARED:
        return None
    match connection:
        case S3Connection():
            from meshql.identity import aws

            return aws.identify
        case GcsConnection():
            from meshql.identity import gcp

            return gcp.identify
        case AzureConnection():
            from meshql.identity import azure

            return azure.identify
    return None


def _masked(key_id: str) -> str:
    """Enough of a key's id to know it by: AKIA…3F2A."""
    return f"{key_id[:4]}…{key_id[-4:]}" if len(key_id) > 8 else f"{key_id[:2]}…"
