"""Which locations fit which cloud and which format, and how local ones become absolute."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from meshql.catalog.mistakes import quoted
from meshql.catalog.model import SCHEMES

__all__ = ["absolute", "cloud_of", "complaints", "format_complaint", "holds_secret", "scheme_of"]

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

# Spellings of other tools, by cloud.
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "wasb": "azure"}
_ALIASES |= {"wasbs": "azure", "azure": "azure", "adl": "azure"}


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
    if _climbs(location):
        yield "`..` leaves the folder of the product", "write the folder out from its root"
    if cloud is None or scheme is None:
        return
    if scheme not in SCHEMES[cloud]:
        yield _wrong_scheme(location, scheme, cloud, others)
    elif scheme == "" and location.startswith("~"):
        yield "`~` is not expanded", "write ${HOME} instead"
    elif scheme == "file" and not re.match(r"file://(localhost)?/", location, re.IGNORECASE):
        yield "a file:// location names this machine and a path from the root", "write file:///path"
    elif scheme and scheme != "file":
        yield from _bucket_complaints(location, scheme)


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


def _wrong_scheme(location: str, scheme: str, cloud: str, others: dict[str, list[str]]) -> Complaint:
    right = [f"{s}://" if s else "a path" for s in SCHEMES[cloud]]
    said = f"{scheme}://" if scheme else "a path"
    message = f"a location on cloud {cloud} is {' or '.join(right)}, not {said}"
    respelled = _respelled(location, scheme)
    if respelled and _ALIASES.get(scheme) == cloud:
        return message, f"write {respelled}"
    home = cloud_of(scheme)
    if home and others.get(home):
        return message, f"connections of cloud {home}: {quoted(others[home])}"
    if home:
        return message, f"{said} needs a connection with `cloud: {home}`"
    return message, f"write {right[0] if SCHEMES[cloud][0] else '/'}..."


def _respelled(location: str, scheme: str) -> str | None:
    cloud = _ALIASES.get(scheme)
    if cloud is None or holds_secret(location):
        return None
    address = location.partition("://")[2]
    host, slash, path = address.partition("/")
    # abfss://container@account.dfs.core.windows.net/path: the connection knows the account.
    return f"{SCHEMES[cloud][0]}://{host.partition('@')[0]}{slash}{path}"


def format_complaint(location: str, form: str, cloud: str | None) -> Complaint | None:
    """Return what is wrong with a location for a format, if something is."""
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
