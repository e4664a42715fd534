"""What of a connection's credentials is masked wherever it turns up."""

from __future__ import annotations

from urllib.parse import parse_qs

from meshql.catalog.connections import Connection
from meshql.identity.credentials import (
    AccessKey,
    AccountKey,
    BearerToken,
    Credentials,
    Login,
    SharedAccessSignature,
    StorageConnectionString,
)
from meshql.redact import learn

__all__ = ["mask", "mask_credentials"]

EMULATOR_WORD = 16
"""Keys of emulators are words such as `test` or `minioadmin`: shorter ones are no secrets."""


def mask(value: str, connection: Connection, *, identifier: bool = False) -> None:
    """Mask a secret that belongs to `connection`; short ones of emulators stay readable."""
    if not connection.insecure or len(value) >= EMULATOR_WORD:
        learn(value, identifier=identifier)


def mask_credentials(credentials: Credentials, connection: Connection) -> None:
    """Mask what `credentials` hold, their parts too; of key ids, the first four letters stay."""
    match credentials:
        case AccessKey(key_id, secret, token):
            mask(key_id, connection, identifier=True)
            mask(secret.get_secret_value(), connection)
            if token:
                mask(token.get_secret_value(), connection)
        case AccountKey(_, key):
            mask(key.get_secret_value(), connection)
        case SharedAccessSignature(sas):
            _mask_signature(sas.get_secret_value(), connection)
        case StorageConnectionString(text):
            mask(text.get_secret_value(), connection)
            mask(credentials.part("AccountKey") or "", connection)
            _mask_signature(credentials.part("SharedAccessSignature") or "", connection)
        case BearerToken(token):
            mask(token.get_secret_value(), connection)
        case Login(_, password) if password:
            mask(password.get_secret_value(), connection)


def _mask_signature(sas: str, connection: Connection) -> None:
    """Mask the whole of it, and its signature, which alone is secret."""
    mask(sas, connection)
    for signature in parse_qs(sas.removeprefix("?")).get("sig", []):
        mask(signature, connection)
