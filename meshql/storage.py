"""Objects of a store: listed, looked at and read, on every cloud alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, HTTPStore, LocalStore, S3Store

from meshql.catalog.model import AzureConnection, Connection, GcsConnection, HttpConnection, S3Connection
from meshql.errors import CredentialsError, LocationError, StorageError, UnreachableError
from meshql.identity.broker import AccessKey, AccountKey, Credentials, StorageConnectionString

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import AzureConfig, ClientConfig, ObjectStore, RetryConfig, S3Config

__all__ = ["Location", "Object", "Store", "open_store", "storage_error"]

T = TypeVar("T")

GCS_ENDPOINT = "https://storage.googleapis.com"

CLIENT: ClientConfig = {"connect_timeout": "5s", "timeout": "10s", "allow_http": True}
RETRY: RetryConfig = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=8),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 3},
}
"""A store that does not answer is given up within 15 seconds."""


@dataclass(frozen=True, slots=True)
class Location:
    """A URI taken apart: `s3://bucket/key`, or a local path, whose bucket is empty."""

    scheme: str
    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> Location:
        """Take `uri` apart; a local path may be plain or file://."""
        scheme, found, rest = uri.partition("://")
        if not found or scheme == "file":
            return cls("", "", (rest if found else uri).lstrip("/"))
        bucket, _, key = rest.partition("/")
        return cls(scheme, bucket, key)

    @property
    def folder(self) -> Location:
        """The same location, ending with a slash."""
        return Location(self.scheme, self.bucket, self.key.rstrip("/") + "/" if self.key else "")

    def at(self, key: str) -> str:
        """Return the URI of another key of the same bucket."""
        return f"{self.scheme}://{self.bucket}/{key}" if self.scheme else "/" + key

    def __str__(self) -> str:
        return self.at(self.key)


@dataclass(frozen=True, slots=True)
class Object:
    """One object: its key in the bucket, its size in bytes, and what tells one version from another."""

    key: str
    size: int
    modified: datetime
    etag: str | None

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


class Store:
    """One bucket, container or file system, seen by one identity.

    Every method raises a StorageError that says what the store refused; nothing is raised for an object
    that is not there.
    """

    def __init__(self, store: ObjectStore, place: str) -> None:
        self._store = store
        self.place = place
        """The bucket and the endpoint, in words."""
        self._sorted = not isinstance(store, LocalStore)

    def objects(self, prefix: str, *, after: str | None = None) -> list[Object]:
        """Return the objects whose key begins with `prefix`, by key; only those behind `after`, if given."""
        return self._run(lambda: self._list(prefix, after)) or []

    def _list(self, prefix: str, after: str | None) -> list[Object]:
        objects: list[Object] = []
        folder = prefix.rpartition("/")[0]
        for chunk in self._store.list(folder or None, offset=after, chunk_size=1000):
            objects += [_object(meta) for meta in chunk if meta["path"].startswith(prefix)]
            if self._sorted and chunk[-1]["path"] > prefix and not chunk[-1]["path"].startswith(prefix):
                break
        return sorted(objects, key=lambda o: o.key)

    def head(self, key: str) -> Object | None:
        """Return what the store says of one object, without its content."""
        return self._run(lambda: _object(self._store.head(key)))

    def get(self, key: str) -> bytes | None:
        """Return the content of one object."""
        return self._run(lambda: bytes(self._store.get(key).bytes()))

    def _run(self, request: Callable[[], T]) -> T | None:
        try:
            return request()
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise storage_error(str(error), self.place) from None


def open_store(connection: Connection, credentials: Credentials, location: Location) -> Store:
    """Return the store that `location` lies in, as `credentials` see it; nothing is sent yet.

    Raises CredentialsError for keys and endpoints that cannot be right.
    """
    place = _place(connection, location)
    try:
        return Store(_opened(connection, credentials, location), place)
    except (BaseError, ValueError):
        # The library's words may hold what was given.
        raise CredentialsError(
            f"the connection's keys or endpoint are malformed: {place}",
            hint="check the connection's `auth` and `endpoint`",
        ) from None


def _opened(connection: Connection, credentials: Credentials, location: Location) -> ObjectStore:
    match connection:
        case S3Connection():
            path_style = connection.url_style == "path"
            config = _s3(credentials) | {"region": connection.region}
            return _s3_store(location.bucket, connection.endpoint, path_style, config)
        case GcsConnection():
            endpoint = connection.endpoint or GCS_ENDPOINT
            return _s3_store(location.bucket, endpoint, True, _s3(credentials) | {"region": "auto"})
        case AzureConnection():
            return _azure_store(location.bucket, connection, credentials)
        case HttpConnection():
            root = f"{location.scheme}://{location.bucket}"
            return HTTPStore.from_url(root, client_options=CLIENT, retry_config=RETRY)
        case _:
            return LocalStore("/")


def storage_error(text: str, place: str) -> StorageError:
    """Return the error that a store's or reader's own words `text` amount to, at `place`."""
    status = re.search(r"\b(?:HTTP |error: |\()?([345]\d\d)\b(?: [A-Z]|\))", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    said = code[1] if code else f"HTTP {status[1]}" if status else None
    for pattern, kind, meaning, hint in MEANINGS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind(f"{meaning}: {place}" + (f" (the store said {said})" if said else ""), hint=hint)
    first = text.split("\n\nDebug source")[0].strip().splitlines()[0]
    return StorageError(f"{place}: {first}")


MEANINGS: tuple[tuple[str, type[StorageError], str, str], ...] = (
    (
        r"NoSuchBucket|ContainerNotFound|ContainerBeingDeleted",
        LocationError,
        "the bucket does not exist",
        "check the location's bucket and the connection's endpoint and region",
    ),
    (
        r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint",
        LocationError,
        "the bucket lies in another region",
        "set the connection's `region` to the bucket's",
    ),
    (
        r"ExpiredToken|TokenRefreshRequired",
        CredentialsError,
        "the credentials have expired",
        "get fresh ones and run it again",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|AuthenticationFailed|AuthorizationFailure|AccessDenied"
        r"|NoAuthenticationInformation|InvalidAuthenticationInfo|\b40[13] (?:Forbidden|Unauthorized)"
        r"|HTTP 40[13]|AccountIsDisabled|PublicAccessNotPermitted",
        CredentialsError,
        "the store refused these credentials",
        "check the connection's `auth`, and that this identity may list and read the location",
    ),
    (
        r"error sending request|error trying to connect|timed? ?out|could not connect|couldn't connect"
        r"|could not resolve|couldn't resolve|connection refused|connection reset|dns error"
        r"|Could not establish connection",
        UnreachableError,
        "the store does not answer",
        "check the connection's `endpoint`, the network and any proxy",
    ),
    (
        r"\b404\b|not found|NoSuchKey|BlobNotFound|no such file",
        LocationError,
        "there is nothing at this location",
        "check the product's `location`, and that its files still exist",
    ),
)


def _object(meta: ObjectMeta) -> Object:
    return Object(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"])


def _s3(credentials: Credentials) -> S3Config:
    if not isinstance(credentials, AccessKey):
        return {"skip_signature": True}
    config: S3Config = {
        "access_key_id": credentials.key_id,
        "secret_access_key": credentials.secret.get_secret_value(),
    }
    if credentials.session_token:
        config["session_token"] = credentials.session_token.get_secret_value()
    return config


def _s3_store(bucket: str, endpoint: str | None, path_style: bool, config: S3Config) -> S3Store:
    config["virtual_hosted_style_request"] = not path_style
    if endpoint:
        config["endpoint"] = endpoint if path_style else _with_bucket(endpoint, bucket)
    return S3Store(bucket, config=config, client_options=CLIENT, retry_config=RETRY)


def _with_bucket(endpoint: str, bucket: str) -> str:
    """object_store wants the bucket in the endpoint of a virtual-hosted store."""
    scheme, _, host = endpoint.partition("://")
    return f"{scheme}://{bucket}.{host}"


def _azure_store(container: str, connection: AzureConnection, credentials: Credentials) -> AzureStore:
    account, key, sas, endpoint = connection.account, None, None, connection.endpoint
    if isinstance(credentials, StorageConnectionString):
        account = credentials.part("AccountName") or account
        key, sas = credentials.part("AccountKey"), credentials.part("SharedAccessSignature")
        endpoint = credentials.part("BlobEndpoint") or endpoint
    elif isinstance(credentials, AccountKey):
        account, key = credentials.account, credentials.key.get_secret_value()
    identity: AzureConfig = {"skip_signature": True}
    if key or sas:
        identity = {"account_key": key} if key else {"sas_key": sas or ""}
    if endpoint:
        identity["endpoint"] = endpoint.rstrip("/")
    return AzureStore(
        container,
        config=identity | {"account_name": account or ""},
        client_options=CLIENT,
        retry_config=RETRY,
    )


def _place(connection: Connection, location: Location) -> str:
    if not location.scheme:
        return "this machine's files"
    endpoint = getattr(connection, "endpoint", None)
    return f"{location.scheme}://{location.bucket}" + (f" at {_host(endpoint)}" if endpoint else "")


def _host(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
