"""The checks of a store: its region, a listing, the first bytes of an object."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from meshql.catalog.connections import Connection, HttpConnection, LocalConnection, S3Connection
from meshql.catalog.model import Product
from meshql.doctor.case import Case, Skip
from meshql.doctor.network import ask, proxy_of
from meshql.doctor.permissions import is_denied, lacking, new_signature
from meshql.errors import CredentialsError, LocationError, StorageError, UnreachableError
from meshql.identity.credentials import Public, SharedAccessSignature, StorageConnectionString
from meshql.identity.shared_access import Grant, grant_of
from meshql.storage.location import Location
from meshql.storage.store import Store, open_store

__all__ = ["check_list", "check_read", "check_region"]

REDIRECTS = frozenset({301, 302, 307, 308, 400})

FIRST_BYTES = 16

GUESSES = {"delta": "_delta_log/00000000000000000000.json", "iceberg": "metadata/version-hint.text"}
"""Objects that a table most likely has, for those who may not list it."""


def check_region(case: Case) -> str:
    """Tell the region that the bucket lies in; raises LocationError where the connection says another."""
    connection, endpoint = case.connection, case.endpoint
    if not isinstance(connection, S3Connection) or endpoint is None:
        raise Skip("the store has no regions")
    bucket = case.location.bucket
    path = f"{endpoint.path.rstrip('/')}/{bucket}"
    answer = ask(endpoint, path, timeout=case.left, fix=case.fix)
    region = answer.headers.get("x-amz-bucket-region")
    if not region:
        raise Skip("the store does not tell")
    if region == connection.region:
        return region
    # Other stores than Amazon's may be told any region at all.
    if answer.status in REDIRECTS or connection.endpoint is None:
        raise LocationError(
            f"bucket {bucket} lies in {region}, and the connection says {connection.region}",
            hint=f"set `region: {region}` {case.fix}",
        )
    return f"the store calls it {region}, and takes {connection.region} too"


def check_list(case: Case) -> str:
    """Tell what a listing of the product's location begins with; raises what the store refuses."""
    if isinstance(case.connection, LocalConnection):
        return _list_local(case)
    grant = _grant(case)
    if grant is not None and not grant.lists:
        case.denied.add("list")
        raise _not_permitted(case, grant, "list", "l")
    prefix = _folder(case.location, case.product)
    if homeless := _homeless(case, prefix):
        raise homeless
    try:
        found = _store(case, case.connection).first(prefix)
    except StorageError as error:
        raise _refused(case, error, prefix) from None
    case.found = found.key if found and found.size else None
    return f"{case.location.at(found.key)}" if found else f"nothing at {case.location.at(prefix)}"


def check_read(case: Case) -> str:
    """Tell which object could be read; raises what the store refuses."""
    if isinstance(case.connection, LocalConnection):
        return _read_local(case)
    grant = _grant(case)
    if grant is not None and not grant.reads:
        case.denied.add("read")
        raise _not_permitted(case, grant, "read", "r")
    key, sure = _readable(case)
    if key is None:
        raise Skip("there is no object to read")
    try:
        found = _begun(case, key)
    except StorageError as error:
        if not is_denied(error):
            raise
        if not sure:
            raise Skip("nothing could be listed, so no object is known to read") from None
        case.denied.add("read")
        raise lacking(case, "read", error) from None
    if found is None and sure:
        raise LocationError(
            f"there is nothing at {case.location.at(key)}", hint="check the product's `location`"
        )
    if found is None:
        raise Skip("nothing could be listed, so no object is known to read")
    return case.location.at(key)


def _begun(case: Case, key: str) -> object | None:
    """What the store gives of an object; servers of plain files need not know ranges."""
    store = _store(case, case.connection)
    return (
        store.head(key) if isinstance(case.connection, HttpConnection) else store.beginning(key, FIRST_BYTES)
    )


def _readable(case: Case) -> tuple[str | None, bool]:
    """The key of an object to read, and whether it is known to be there."""
    product, location = case.product, case.location
    if case.found is not None:
        return case.found, True
    if product is None or ("list" not in case.denied and location.scheme not in ("http", "https")):
        return None, False
    if location.key and not _is_folder(location, product):
        return location.key, True
    guess = GUESSES.get(product.format)
    return (location.folder.key + guess, False) if guess else (None, False)


def _is_folder(location: Location, product: Product) -> bool:
    """Whether a location names no object of its own."""
    if any(c in location.key for c in "*?[") and not location.scheme.startswith("http"):
        return True
    last = location.key.rpartition("/")[2]
    return product.format == "delta" or "." not in last


def _folder(location: Location, product: Product | None) -> str:
    """The folder that is listed: a file's parent, and of a glob what stands before it."""
    if product is None or not _is_folder(location, product):
        return location.key.rpartition("/")[0]
    fixed = min((location.key.find(c) for c in "*?[" if c in location.key), default=None)
    return location.key if fixed is None else location.key[:fixed].rpartition("/")[0]


def _store(case: Case, connection: Connection) -> Store:
    return open_store(connection, case.credentials or Public(), case.location)


def _refused(case: Case, error: StorageError, prefix: str) -> StorageError:
    """The error of a listing: a wrong style of URLs and a missing permission look like other things."""
    if is_denied(error):
        case.denied.add("list")
        return lacking(case, "list", error)
    connection = case.connection
    maybe = not isinstance(error, CredentialsError) or error.code == "SignatureDoesNotMatch"
    if isinstance(connection, S3Connection) and maybe:
        return _with_other_style(case, connection, prefix) or error
    return error


def _homeless(case: Case, prefix: str) -> StorageError | None:
    """The error of a bucket whose own host name nobody knows, found without the store's many tries."""
    connection, endpoint = case.connection, case.endpoint
    if not isinstance(connection, S3Connection) or connection.url_style == "path" or endpoint is None:
        return None
    host = f"{case.location.bucket}.{endpoint.host}"
    if proxy_of(endpoint) is not None:
        return None
    try:
        socket.getaddrinfo(host, endpoint.port)
    except OSError:
        return _with_other_style(case, connection, prefix) or UnreachableError(
            f"there is no address for {host}", hint=f"set `url_style: path` {case.fix}"
        )
    return None


def _with_other_style(case: Case, connection: S3Connection, prefix: str) -> StorageError | None:
    """The error to raise where the other style of URLs works; None where it does not either."""
    other = "path" if connection.url_style == "vhost" else "vhost"
    try:
        _store(case, connection.model_copy(update={"url_style": other})).first(prefix)
    except StorageError as error:
        if not is_denied(error):
            return None
    host = case.endpoint.place if case.endpoint else "the store"
    bucket = case.location.bucket
    wrong, right = f"{bucket}.{host}", f"{host}/{bucket}"
    if other == "vhost":
        wrong, right = right, wrong
    return UnreachableError(
        f"the bucket does not answer at {wrong}, and does at {right}",
        hint=f"set `url_style: {other}` {case.fix}",
    )


def _grant(case: Case) -> Grant | None:
    """What a shared access signature says of itself; None for every other kind of credentials."""
    match case.credentials:
        case SharedAccessSignature():
            return grant_of(case.credentials)
        case StorageConnectionString() if sas := case.credentials.part("SharedAccessSignature"):
            return grant_of(SharedAccessSignature(type(case.credentials.text)(sas)))
    return None


def _not_permitted(case: Case, grant: Grant, action: str, letter: str) -> CredentialsError:
    if grant.permissions is not None and letter not in grant.permissions:
        said = f"permits {grant.permissions}, and not {letter} ({action})"
    else:
        said = f"is for one {grant.scope} only"
    return CredentialsError(f"the shared access signature {said}", hint=new_signature(case))


def _list_local(case: Case) -> str:
    if case.product is None:
        raise Skip("no product uses it")
    folder = Path("/" + _folder(case.location, case.product))
    try:
        with os.scandir(folder):
            return str(folder)
    except FileNotFoundError:
        raise LocationError(
            f"there is no folder {folder}", hint=f"check the `location` of {case.product.name}"
        ) from None
    except PermissionError:
        raise CredentialsError(f"this user may not list {folder}", hint=f"chmod +rx {folder}") from None
    except OSError as error:
        raise LocationError(f"{folder} cannot be listed: {os.strerror(error.errno or 0)}") from None


def _read_local(case: Case) -> str:
    location, product = case.location, case.product
    if product is None:
        raise Skip("no product uses it")
    own = Path("/" + location.key)
    if _is_folder(location, product):
        folder = Path("/" + _folder(location, product))
        walked = (Path(top) / name for top, _, names in os.walk(folder) for name in sorted(names))
        own = next(walked, folder)
    if own.is_dir():
        raise Skip("there is no file to read")
    try:
        with own.open("rb") as file:
            file.read(FIRST_BYTES)
    except FileNotFoundError:
        raise LocationError(
            f"there is no file {own}", hint=f"check the `location` of {product.name}"
        ) from None
    except PermissionError:
        raise CredentialsError(f"this user may not read {own}", hint=f"chmod +r {own}") from None
    return str(own)
