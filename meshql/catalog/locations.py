"""Which locations fit which cloud and which format, and how local ones become absolute."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from meshql.catalog.azure import DOMAINS, AzurePlace, MisspelledError, connection_string_part
from meshql.catalog.connections import NAMED, SCHEMES
from meshql.catalog.mistakes import quoted

__all__ = [
    "absolute",
    "account_complaint",
    "cloud_of",
    "complaints",
    "format_complaint",
    "holds_secret",
    "scheme_of",
    "wrong_format",
]

Complaint = tuple[str, str | None]
"""A message, and its hint."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_GLOB = re.compile(r"[*?\[\]]")
_FILE = re.compile(
    r"\.(parquet|pq|csv|tsv|txt|json|jsonl|ndjson|avro|orc)(\.(gz|gzip|zst|bz2))?\Z", re.IGNORECASE
)
_SIGNED = re.compile(r"[?&](sig|x-amz-signature|x-goog-signature|[a-z_-]*(token|key|secret|password))=", re.I)

_FORMAT_OF = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "tsv": "csv",
    "json": "json",
    "jsonl": "json",
    "ndjson": "json",
}

FORMATS: dict[str, tuple[str, ...]] = {
    "postgres": ("postgres",),
    "iceberg_rest": ("iceberg",),
    "unity": ("delta", "iceberg", "parquet", "csv", "json"),
}
"""What lies on clouds that hold certain formats only."""

LEAST_PARTS = {"postgres": 1, "iceberg_rest": 2, "unity": 2}

# Spellings of other tools, by cloud.
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gcs", "abfs": "azure", "wasb": "azure", "wasbs": "azure"}
_ALIASES |= {"azure": "azure", "adl": "azure"}


def scheme_of(location: str) -> str | None:
    """Return the URI scheme of a location, '' for a path, None where a variable that is not set hides it."""
    if location.startswith("${"):
        return None
    found = _SCHEME.match(location)
    return found[1].lower() if found else ""


def cloud_of(scheme: str) -> str | None:
    """Return the cloud that a scheme belongs to, in whatever tool's spelling."""
    return _ALIASES.get(scheme) or next((cloud for cloud, own in SCHEMES.items() if scheme in own), None)


def holds_secret(location: str) -> bool:
    """Return whether a URI carries a password or a signature in clear."""
    address = location.partition("://")[2]
    account = address.partition("/")[0].rpartition("@")[0]
    return ":" in account or _SIGNED.search(location) is not None


def complaints(location: str, cloud: str | None, others: dict[str, list[str]]) -> Iterator[Complaint]:
    """Yield what is wrong with a location on `cloud`, if known; `others` are the connections by cloud."""
    scheme = scheme_of(location)
    if location != location.strip() or not location.isprintable():
        yield "a location has no blanks around it and no line breaks", "remove them"
        return
    if cloud not in NAMED and _climbs(location):
        yield "`..` leaves the folder of the product", "write the folder out from its root"
    if cloud is None or scheme is None:
        return
    if scheme not in SCHEMES[cloud]:
        yield _wrong_scheme(location, scheme, cloud, others)
    elif cloud in NAMED:
        yield from _name_complaints(location, cloud)
    elif scheme == "" and location.startswith("~"):
        yield "`~` is not expanded", "write ${HOME} instead"
    elif scheme == "file" and not re.match(r"file://(localhost)?/", location, re.IGNORECASE):
        yield "a file:// location names this machine and a path from the root", "write file:///path"
    elif scheme and scheme != "file":
        yield from _bucket_complaints(location, scheme)
        if cloud == "azure":
            yield from _azure_complaints(location)


def _climbs(location: str) -> bool:
    path = location
    for _ in range(3):
        path = unquote(path)
    return ".." in re.split(r"[/\\]", path)


def _bucket_complaints(location: str, scheme: str) -> Iterator[Complaint]:
    bucket = location.partition("://")[2].partition("/")[0]
    if not bucket:
        what = {"az": "container", "http": "host", "https": "host"}.get(scheme, "bucket")
        yield f"the location names no {what}", f"write {scheme}://{what}/path"
    elif _GLOB.search(bucket) and "${" not in bucket:
        yield "a bucket's name cannot be a pattern", "put * and ? behind the first /"


def _name_complaints(location: str, cloud: str) -> Iterator[Complaint]:
    parts = location.split(".")
    if "${" in location or (all(parts) and "/" not in location and len(parts) >= LEAST_PARTS[cloud]):
        return
    example = {"postgres": "schema.table"}.get(cloud, "namespace.table")
    yield f"a location on cloud {cloud} is {example}", "write the table's name, without slashes"


def wrong_format(form: str, cloud: str | None) -> Complaint | None:
    """Return what is wrong with a format on a cloud, if something is."""
    held = FORMATS.get(cloud or "")
    if held and form not in held:
        return f"what lies on cloud {cloud} is not of format {form}", f"write `format: {held[0]}`"
    if form == "postgres" and cloud is not None and not held:
        return f"format postgres is for tables of a database, not for cloud {cloud}", (
            "name a connection with `cloud: postgres`"
        )
    return None


def _azure_complaints(location: str) -> Iterator[Complaint]:
    address = location.partition("://")[2]
    # A variable that is not set may stand for anything.
    if "${" in address or not address.partition("/")[0]:
        return
    try:
        AzurePlace.parse(location)
    except MisspelledError as error:
        yield error.message, error.hint


def account_complaint(location: str, connection: Mapping[str, Any]) -> Complaint | None:
    """Return what is wrong between a location on Azure and the account of its connection, if something is.

    `connection` is the connection's block as its file has it.
    """
    if scheme_of(location) not in SCHEMES["azure"]:
        return None
    try:
        named = AzurePlace.parse(location).account
    except MisspelledError:
        return None
    auth = connection.get("auth")
    given = str(auth.get("connection_string") or "") if isinstance(auth, dict) else ""
    account = connection_string_part(given, "AccountName") or connection.get("account")
    unknown = "${" in location or "${" in f"{given}{account or ''}"
    if unknown:
        return None
    if account and named and account != named:
        message = f"account {named} is not that of the connection, {account}"
        return message, f"name a connection to account {named}, or write {account} here"
    if account or named or given or connection.get("endpoint"):
        return None
    hint = f"add `account: NAME` to the connection, or write {_with_account(location)}"
    return "nothing names the storage account", hint


def _with_account(location: str) -> str:
    place = AzurePlace.parse(location)
    return str(AzurePlace(place.container, place.key, f"ACCOUNT.blob.{DOMAINS[0]}"))


def _wrong_scheme(location: str, scheme: str, cloud: str, others: dict[str, list[str]]) -> Complaint:
    path = "a table's name" if cloud in NAMED else "a path"
    right = [f"{s}://" if s else path for s in SCHEMES[cloud]]
    said = f"{scheme}://" if scheme else "a path"
    *others_right, last = right
    either = f"{', '.join(others_right)} or {last}" if others_right else last
    message = f"a location on cloud {cloud} is {either}, not {said}"
    respelled = _respelled(location, scheme)
    if respelled and _ALIASES.get(scheme) == cloud:
        return message, f"write {respelled}"
    home = cloud_of(scheme)
    if home and others.get(home):
        return message, f"connections of cloud {home}: {quoted(others[home])}"
    if home:
        return message, f"{said} needs a connection with `cloud: {home}`"
    if cloud in NAMED:
        return message, "write schema.table"
    return message, f"write {right[0] if SCHEMES[cloud][0] else '/'}..."


def _respelled(location: str, scheme: str) -> str | None:
    cloud = _ALIASES.get(scheme)
    if cloud is None or holds_secret(location):
        return None
    address = location.partition("://")[2]
    host, slash, path = address.partition("/")
    if scheme == "adl":
        # Data Lake Storage Gen1 had no containers.
        return f"az://container/{path}"
    container, at, account = host.partition("@")
    if at:
        return f"abfss://{container}@{account.replace('.blob.', '.dfs.', 1)}{slash}{path}"
    return f"{SCHEMES[cloud][0]}://{container}{slash}{path}"


def format_complaint(location: str, form: str, cloud: str | None) -> Complaint | None:
    """Return what is wrong with a location for a format, if something is."""
    if cloud in NAMED:
        return None
    glob = _GLOB.search(_path_part(location)) is not None
    if cloud == "http" and (glob or form == "delta" or (form == "parquet" and location.endswith("/"))):
        return f"a web server lists no files, so format {form} cannot be read like this", "name one file"
    if form in ("delta", "iceberg"):
        return _table_complaint(location.rstrip("/"), form, glob)
    ending = _FILE.search(location)
    if ending is None:
        return None
    kind = ending[1].lower()
    held = _FORMAT_OF.get(kind)
    if kind == "txt" or held == form:
        return None
    hint = f"write `format: {held}`" if held else "convert it to Parquet"
    return f"format {form} does not fit a .{kind} file", hint


def _path_part(location: str) -> str:
    # The braces of a variable that is not set are no pattern; a query of http:// is none either.
    path = re.sub(r"\$\{[^}]*\}", "", location)
    return path.partition("?")[0] if path.lower().startswith(("http://", "https://")) else path


def _table_complaint(location: str, form: str, glob: bool) -> Complaint | None:
    if glob:
        hint = "name the table's folder; patterns are for parquet, csv and json"
        return f"format {form} is a table, and its location cannot be a pattern", hint
    last = location.rpartition("/")[2]
    inside = {"delta": ("_delta_log",), "iceberg": ("metadata", "data")}[form]
    if last in inside:
        return f"`{last}` is a folder inside the table", "name the folder above it"
    ending = _FILE.search(last)
    if not ending or (form == "iceberg" and last.lower().endswith("metadata.json")):
        return None
    kind = ending[1].lower()
    held = _FORMAT_OF.get(kind)
    also = f", or write `format: {held}`" if held else ""
    return f"format {form} is a table, not a .{kind} file", f"name the table's folder{also}"


def absolute(location: str, folder: Path) -> str:
    """Return a local location as an absolute path, relative ones starting at `folder`; keeps a last slash."""
    if scheme_of(location) is None:
        return location
    path = location
    if location.lower().startswith("file://"):
        path = unquote(location[len("file://") :].removeprefix("localhost"))
        if os.name == "nt":
            path = path.lstrip("/")
    joined = os.path.normpath(os.path.join(folder, path))
    return f"{joined}/" if path.endswith(("/", os.sep)) and not joined.endswith("/") else joined
