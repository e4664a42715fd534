"""A connection turned into credentials, the same ones for every reader, renewed before they end."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pydantic import SecretStr

from meshql.catalog.auth import (
    Anonymous,
    AzureAccountKey,
    AzureConnectionString,
    AzureSas,
    ClientCredentials,
    GcsHmac,
    PostgresDefault,
    PostgresPassword,
    S3Env,
    S3Keys,
    SigV4,
    Token,
)
from meshql.catalog.connections import AzureConnection, Connection, GcsConnection, S3Connection
from meshql.catalog.references import SecretReference
from meshql.errors import MeshError
from meshql.identity.credentials import (
    AccountKey,
    BearerToken,
    Credentials,
    Login,
    Public,
    SharedAccessSignature,
    StorageConnectionString,
)
from meshql.identity.declared import Declared
from meshql.identity.keys import declared_keys, environment_keys
from meshql.identity.masks import mask_credentials
from meshql.redact import scrub

__all__ = ["Broker"]

MARGIN = timedelta(minutes=15)
"""Credentials are renewed when less than this, or a third of their life, is left."""

PAUSE = timedelta(seconds=10)
"""For so long nobody is asked again who failed, or gave what has ended already by this machine's clock."""


class Broker:
    """Finds the credentials of connections, and keeps them while they live; threads may share it.

    `environ` stands for the process's environment.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._kept: dict[str, _Kept] = {}
        self._secrets: dict[str, dict[SecretReference, SecretStr]] = {}
        self._lenders: dict[str, Callable[[bool], Credentials]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def credentials(self, connection: Connection) -> Credentials:
        """Return credentials of `connection` that live for a while yet; raises CredentialsError without.

        They are the same object until they are renewed. Where a renewal fails while the old ones still live,
        those are returned once more.
        """
        with self._locked(connection):
            kept = self._kept_for(connection)
            if kept and not kept.due:
                return kept.credentials
            try:
                return self._fetched(connection)
            except MeshError:
                if kept and kept.alive:
                    self._kept[connection.name] = replace(kept, since=datetime.now(UTC), failed=True)
                    return kept.credentials
                raise

    def lend(self, connection: Connection, fetch: Callable[[bool], Credentials]) -> None:
        """Take the credentials of `connection`, which no catalog declares, from `fetch` from now on.

        Its argument tells whether a store refused those that it gave last.
        """
        self._lenders[connection.name] = fetch

    def retract(self) -> None:
        """Forget all that was lent: another catalog may lend somebody else's under the same names."""
        for name in list(self._lenders):
            self._lenders.pop(name, None)
            self._kept.pop(name, None)

    def forget(self, connection: Connection) -> None:
        """Fetch the credentials of `connection` anew when they are next asked for.

        The secrets that it refers to are asked for anew, too: somebody may have rotated them.
        """
        with self._locked(connection):
            self._kept.pop(connection.name, None)
            self._secrets.pop(connection.name, None)

    def renew(self, connection: Connection, refused: Credentials) -> bool:
        """Fetch the credentials of `connection` anew, unless that was done since a store refused `refused`.

        Returns whether there are others now. Where fetching fails there are none, and the old ones are kept.
        """
        with self._locked(connection):
            kept = self._kept_for(connection)
            if kept and kept.credentials != refused:
                return True
            self._secrets.pop(connection.name, None)
            with suppress(MeshError):
                return self._fetched(connection, refused=True) != refused
            return False

    def _locked(self, connection: Connection) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(connection.name, threading.Lock())

    def _kept_for(self, connection: Connection) -> _Kept | None:
        kept = self._kept.get(connection.name)
        return kept if kept and kept.connection == connection else None

    def _fetched(self, connection: Connection, *, refused: bool = False) -> Credentials:
        kept = self._kept_for(connection)
        try:
            found = self._fetch(connection, refused)
        except MeshError as error:
            scrub(error)
            raise
        if kept and kept.credentials == found:
            found = kept.credentials
        mask_credentials(found, connection)
        self._kept[connection.name] = _Kept(connection, found, datetime.now(UTC))
        return found

    def _fetch(self, connection: Connection, refused: bool) -> Credentials:
        if lender := self._lenders.get(connection.name):
            return lender(refused)
        kept = self._secrets.setdefault(connection.name, {})
        declared = Declared(connection, self._environ, kept)
        auth = getattr(connection, "auth", None)
        match auth:
            case None | Anonymous():
                return Public()
            case S3Keys() | GcsHmac():
                return declared_keys(auth, declared)
            case S3Env():
                return environment_keys(declared)
            case AzureConnectionString():
                text = declared.secret(auth.connection_string, "connection_string")
                return StorageConnectionString(text)
            case AzureAccountKey():
                return AccountKey(_account(declared), _account_key(auth, declared))
            case AzureSas():
                sas = declared.secret(auth.sas, "sas").get_secret_value()
                return SharedAccessSignature(SecretStr(sas.removeprefix("?")))
            case Token():
                return BearerToken(declared.secret(auth.token, "token"))
            case PostgresPassword():
                return Login(auth.user, declared.secret(auth.password, "password"))
            case PostgresDefault():
                return Login(auth.user, None)
        return _from_sdk(declared)


@dataclass(frozen=True)
class _Kept:
    connection: Connection
    credentials: Credentials
    since: datetime
    """When they were asked for last."""
    failed: bool = False
    """Whether nobody answered then."""

    @property
    def due(self) -> bool:
        """Whether they should be renewed: few of their seconds are left, or nobody knows how many."""
        ends = self.credentials.expires_at
        if ends is None:
            # What the environment says may be something else by now, and costs nothing to read.
            return isinstance(getattr(self.connection, "auth", None), S3Env)
        left = ends - self.since
        if left <= timedelta(0):
            return datetime.now(UTC) >= self.since + PAUSE
        wait = min(PAUSE, left / 3) if self.failed else left - min(MARGIN, left / 3)
        return datetime.now(UTC) >= self.since + wait

    @property
    def alive(self) -> bool:
        ends = self.credentials.expires_at
        return ends is not None and datetime.now(UTC) < ends


def _from_sdk(declared: Declared) -> Credentials:
    """Ask the cloud's own library; imported only here, since each takes a good part of a second."""
    match declared.connection:
        case S3Connection():
            from meshql.identity import aws

            return aws.credentials(declared.connection.auth, declared)
        case GcsConnection():
            from meshql.identity import gcp

            return gcp.credentials(declared.connection.auth, declared)
        case AzureConnection():
            from meshql.identity import azure

            return azure.credentials(declared.connection.auth, declared)
    auth = getattr(declared.connection, "auth", None)
    if isinstance(auth, ClientCredentials):
        from meshql.identity import oauth

        return oauth.client_credentials(auth, declared)
    if isinstance(auth, SigV4):
        from meshql.identity import aws

        return aws.credentials(auth.source, declared)
    method = getattr(getattr(declared.connection, "auth", None), "method", None)
    raise declared.error(f"auth method {method} is not known")


def _account_key(auth: AzureAccountKey, declared: Declared) -> SecretStr:
    key = declared.secret(auth.key, "key")
    try:
        base64.b64decode(key.get_secret_value(), validate=True)
    except ValueError:
        raise declared.error(
            f"auth.key is no account key, which is base64{declared.place}",
            hint=f"az storage account keys list --account-name {_account(declared)}",
        ) from None
    return key


def _account(declared: Declared) -> str:
    account = getattr(declared.connection, "account", None)
    if account is None:
        raise declared.error(
            "an account key needs the account's name",
            hint=f"add `account: NAME` to connection {declared.connection.name}{declared.place}",
        )
    return str(account)
