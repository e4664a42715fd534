"""What shows a store who we are, whatever method it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from pydantic import SecretStr

from meshql.catalog.azure import connection_string_part

__all__ = [
    "AccessKey",
    "AccountKey",
    "BearerToken",
    "Credentials",
    "Login",
    "Public",
    "SharedAccessSignature",
    "StorageConnectionString",
]


@dataclass(frozen=True, slots=True)
class Public:
    """No identity at all."""

    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An S3 access key, or a GCS HMAC key."""

    key_id: str = field(repr=False)
    secret: SecretStr
    session_token: SecretStr | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AccountKey:
    """The shared key of an Azure storage account."""

    account: str
    key: SecretStr
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SharedAccessSignature:
    """A shared access signature, without the question mark in front."""

    sas: SecretStr
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StorageConnectionString:
    """An Azure storage account's connection string."""

    text: SecretStr
    expires_at: datetime | None = None

    def part(self, name: str) -> str | None:
        """Return one of its `name=value` parts, such as AccountName, or None."""
        return connection_string_part(self.text.get_secret_value(), name)


@dataclass(frozen=True, slots=True)
class BearerToken:
    """An OAuth 2 access token, for Google, Azure or a catalog."""

    token: SecretStr
    expires_at: datetime | None = None
    principal: str | None = None
    """Whose token it is, where the one who gave it said so."""


@dataclass(frozen=True, slots=True)
class Login:
    """A database's user and password; None where libpq finds them itself."""

    user: str | None
    password: SecretStr | None
    expires_at: datetime | None = None


Credentials = (
    Public | AccessKey | AccountKey | SharedAccessSignature | StorageConnectionString | BearerToken | Login
)
"""`expires_at` is an aware instant; None where nobody says when they end."""
