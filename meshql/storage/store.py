"""One bucket as one identity sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import urlsplit

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from meshql.catalog.connections import Connection
from meshql.errors import CredentialsError, ExistsError
from meshql.identity.credentials import Credentials
from meshql.redact import scrub
from meshql.storage.clients import client
from meshql.storage.location import Location
from meshql.storage.refusals import storage_error

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

__all__ = ["Object", "Store", "open_store"]

T = TypeVar("T")


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

    def __init__(self, store: ObjectStore, place: str, copies: Callable[[], Path] | None = None) -> None:
        self._store = store
        self.place = place
        """The bucket and the endpoint, in words."""
        self.copies = copies
        """Makes the folder to copy to what the delta extension cannot fetch as this identity."""
        self._sorted = not isinstance(store, LocalStore)

    def __reduce__(self) -> NoReturn:
        # The library's stores write their keys into a pickle in clear.
        raise TypeError("a store holds credentials, so it cannot be pickled")

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

    def first(self, prefix: str) -> Object | None:
        """Return an object below the folder `prefix`, one that holds something if the first page has one."""
        return self._run(lambda: self._first(prefix))

    def _first(self, prefix: str) -> Object | None:
        page = next(iter(self._store.list(prefix or None, chunk_size=1000)), ())
        objects = [_object(meta) for meta in page]
        return next((o for o in objects if o.size), objects[0] if objects else None)

    def beginning(self, key: str, length: int) -> bytes | None:
        """Return the first bytes of one object, `length` of them at most."""
        found = self._run(lambda: bytes(self._store.get(key, options={"range": (0, length)}).bytes()))
        return found[:length] if found else found

    def put(self, key: str, content: bytes | Path, *, new: bool = False) -> bool:
        """Write one object, whole or not at all; `content` may be a file of this machine.

        With `new`, an object that is there already stays as it is, and False is returned: of several writers
        one succeeds.
        """
        try:
            self._run(lambda: self._store.put(key, content, mode="create" if new else "overwrite"))
        except ExistsError:
            return False
        return True

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are no error."""
        if keys:
            self._run(lambda: self._store.delete(list(keys)))

    def _run(self, request: Callable[[], T]) -> T | None:
        try:
            return request()
        except FileNotFoundError:
            return None
        except AlreadyExistsError:
            raise ExistsError(f"{self.place}: the object is there already") from None
        except (BaseError, OSError) as error:
            scrub(error)
            raise storage_error(str(error), self.place) from None


def open_store(
    connection: Connection,
    credentials: Credentials,
    location: Location,
    *,
    copies: Callable[[], Path] | None = None,
) -> Store:
    """Return the store that `location` lies in, as `credentials` see it; nothing is sent yet.

    `copies` makes the folder for what the delta extension cannot fetch as this identity.
    Raises CredentialsError for keys and endpoints that cannot be right.
    """
    place = _place(connection, location)
    try:
        return Store(client(connection, credentials, location), place, copies)
    except (BaseError, ValueError) as error:
        # The library's words may hold what was given.
        scrub(error)
        raise CredentialsError(
            f"the connection's keys or endpoint are malformed: {place}",
            hint="check the connection's `auth` and `endpoint`",
        ) from None


def _object(meta: ObjectMeta) -> Object:
    return Object(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"])


def _place(connection: Connection, location: Location) -> str:
    if not location.scheme:
        return "this machine's files"
    endpoint = getattr(connection, "endpoint", None)
    return f"{location.scheme}://{location.bucket}" + (f" at {_host(endpoint)}" if endpoint else "")


def _host(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
