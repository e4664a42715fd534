"""A connection turned into credentials, the same ones for every reader."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from meshql.catalog.model import (
    Anonymous,
    AzureAccountKey,
    AzureConnectionString,
    Connection,
    GcsHmac,
    S3Env,
    S3Keys,
)
from meshql.catalog.references import unset_variables
from meshql.errors import CredentialsError

__all__ = ["AccessKey", "AccountKey", "Broker", "Credentials", "Public", "StorageConnectionString"]


@dataclass(frozen=True, slots=True)
class Public:
    """No identity at all."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An S3 access key, or a GCS HMAC key."""

    key_id: str
    secret: SecretStr
    session_token: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class AccountKey:
    """The shared key of an Azure storage account."""

    account: str
    key: SecretStr


@dataclass(frozen=True, slots=True)
class StorageConnectionString:
    """An Azure storage account's connection string."""

    text: SecretStr

    def part(self, name: str) -> str | None:
        """Return one of its `name=value` parts, such as AccountName, or None."""
        pairs = (p.partition("=") for p in self.text.get_secret_value().split(";"))
        return next((value for key, _, value in pairs if key.strip().casefold() == name.casefold()), None)


Credentials = Public | AccessKey | AccountKey | StorageConnectionString


class Broker:
    """Finds the credentials of connections; `environ` stands for the process's environment."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ

    def credentials(self, connection: Connection) -> Credentials:
        """Return the credentials that `connection` declares; raises CredentialsError when one is missing."""
        auth = getattr(connection, "auth", None)
        match auth:
            case None | Anonymous():
                return Public()
            case S3Keys() | GcsHmac():
                token = getattr(auth, "session_token", None)
                key_id = self._set(auth.key_id, "key_id", connection).get_secret_value()
                secret = self._set(auth.secret, "secret", connection)
                return AccessKey(key_id, secret, token and self._set(token, "session_token", connection))
            case S3Env():
                return self._from_environment(connection)
            case AzureConnectionString():
                text = self._set(auth.connection_string, "connection_string", connection)
                return StorageConnectionString(text)
            case AzureAccountKey():
                return self._account_key(auth, connection)
        raise CredentialsError(f"connection {connection.name}: auth method {auth.method} is not known")

    def _account_key(self, auth: AzureAccountKey, connection: Connection) -> AccountKey:
        account = getattr(connection, "account", None)
        if account is None:
            raise CredentialsError(
                f"connection {connection.name}: an account key needs the account's name",
                hint=f"add `account: NAME` to connection {connection.name} ({connection.place})",
            )
        return AccountKey(account, self._set(auth.key, "key", connection))

    def _from_environment(self, connection: Connection) -> AccessKey:
        missing = [n for n in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not self._environ.get(n)]
        if missing:
            raise _unset(missing[0], "auth: {method: env}", connection)
        token = self._environ.get("AWS_SESSION_TOKEN")
        return AccessKey(
            self._environ["AWS_ACCESS_KEY_ID"],
            SecretStr(self._environ["AWS_SECRET_ACCESS_KEY"]),
            SecretStr(token) if token else None,
        )

    def _set(self, secret: SecretStr, key: str, connection: Connection) -> SecretStr:
        missing = unset_variables(secret.get_secret_value())
        if missing:
            raise _unset(missing[0], f"auth.{key}", connection)
        return secret


def _unset(variable: str, key: str, connection: Connection) -> CredentialsError:
    place = f" ({connection.place})" if connection.place else ""
    return CredentialsError(
        f"connection {connection.name}: {key} needs environment variable {variable}, which is not set{place}",
        hint=f"export {variable}=...",
    )
