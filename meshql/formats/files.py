"""Parquet, CSV and JSON: a file, a folder (hive partitions too) or a glob, as an explicit list of files."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import unquote

from meshql.catalog.model import Product
from meshql.errors import LocationError
from meshql.formats.snapshot import Ask, Details, File, Snapshot
from meshql.sql import quote_identifier, quote_literal
from meshql.storage.location import Location
from meshql.storage.store import Object, Store

__all__ = ["READERS", "SUFFIXES", "contents", "details", "listed", "literal", "readable_uri", "resolve"]

READERS = {"parquet": "read_parquet", "csv": "read_csv", "json": "read_json"}

SUFFIXES = {
    "parquet": re.compile(r"\.(parquet|parq|pq)$", re.IGNORECASE),
    "csv": re.compile(r"\.(csv|tsv|txt)(\.(gz|zst))?$", re.IGNORECASE),
    "json": re.compile(r"\.(json|jsonl|ndjson)(\.(gz|zst))?$", re.IGNORECASE),
}

GLOB = re.compile(r"[*?\[]")

HIDDEN = re.compile(r"(^|/)(\.|_(?![^/]*=))")
"""Names that readers of folders pass over; a partition such as `_day=2026-01-31` is none of them."""


def resolve(product: Product, location: Location, store: Store, last: Snapshot | None) -> Snapshot:
    """Return the files that are there now; `last` itself when they are the same ones.

    In a folder, names that begin with `_` or `.` are passed over, as every reader of such folders does, but
    for partitions such as `_day=2026-01-31`.
    Raises LocationError where there is no file.
    """
    files = listed(location, store, SUFFIXES[product.format])
    if not files:
        raise LocationError(
            f"{product.name}: no {product.format} file at {location}",
            hint="check the product's `location`, and that its files still exist",
        )
    proof = tuple(f"{o.key}\0{o.size}\0{o.etag or o.modified.isoformat()}" for o in files)
    if last is not None and last.proof == proof:
        return last
    uris = ", ".join(quote_literal(readable_uri(location, o.key)) for o in files)
    options = "".join(f", {quote_identifier(k)} => {literal(v)}" for k, v in product.options.items())
    return Snapshot(
        product=product,
        location=_scope(location, files),
        version=hashlib.sha256("\n".join(proof).encode()).hexdigest()[:12],
        relation=f"{READERS[product.format]}([{uris}]{options})",
        proof=proof,
        changed_at=max(o.modified for o in files),
        files=len(files),
        bytes=sum(o.size for o in files),
    )


def _glob(location: Location) -> re.Match[str] | None:
    """Where the glob of a location begins; the query of an http address is none."""
    return None if location.scheme.startswith("http") else GLOB.search(location.key)


def readable_uri(location: Location, key: str) -> str:
    """Return the URI of one file as DuckDB's readers take it: what reads as a glob is escaped.

    Raises LocationError for a key with a question mark, which cannot be escaped.
    """
    if location.scheme.startswith("http"):
        return location.at(key)
    if "?" in key:
        raise LocationError(
            f"a file's name holds a ?, which DuckDB reads as an option: {location.at(key)}",
            hint="rename the file",
        )
    return location.at(re.sub(r"[\[*]", lambda found: f"[{found[0]}]", key))


def _scope(location: Location, files: list[Object]) -> Location:
    """What all of the files lie in: the file itself, or the folder, which ends with a slash."""
    if glob := _glob(location):
        folder = location.key[: glob.start()].rpartition("/")[0]
        return location.to(folder).folder
    return location if files[0].key == location.key else location.folder


def listed(location: Location, store: Store, suffix: re.Pattern[str]) -> list[Object]:
    """Return the files that a location means: one, those of a glob, or those of a folder with such a name."""
    if glob := _glob(location):
        fixed = location.key[: glob.start()]
        pattern = _regex(location.key)
        return [o for o in store.objects(fixed) if pattern.fullmatch(o.key)]
    if not location.key.endswith("/") and (suffix.search(location.key) or location.scheme.startswith("http")):
        file = store.head(location.key)
        if file:
            return [file]
    folder = location.folder.key
    found = store.objects(folder)
    return [o for o in found if suffix.search(o.name) and not HIDDEN.search(o.key[len(folder) :])]


def _regex(glob: str) -> re.Pattern[str]:
    """DuckDB's globs: `**` crosses folders, `*` and `?` do not, `[...]` is a set."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", glob)
    meaning = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile(
        "".join(
            meaning.get(p) or (p.replace("[!", "[^") if p.startswith("[") else re.escape(p)) for p in parts
        )
    )


def literal(value: Any) -> str:
    """Return a YAML value as DuckDB writes it."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case list() | tuple():
            return "[" + ", ".join(literal(v) for v in value) + "]"
        case dict():
            return "{" + ", ".join(f"{quote_literal(str(k))}: {literal(v)}" for k, v in value.items()) + "}"
        case None:
            return "NULL"
    return quote_literal(str(value))


def details(snapshot: Snapshot, store: Store, ask: Ask) -> Details:
    """Return files and bytes from the listing, and rows from Parquet's footers; CSV and JSON count none."""
    rows = None
    if snapshot.product.format == "parquet":
        keys = (proof.partition("\0")[0] for proof in snapshot.proof)
        uris = ", ".join(quote_literal(readable_uri(snapshot.location, key)) for key in keys)
        rows = int(ask(f"SELECT sum(num_rows) FROM parquet_file_metadata([{uris}])")[0][0])
    return Details(files=snapshot.files, rows=rows, bytes=snapshot.bytes, changed_at=snapshot.changed_at)


def contents(snapshot: Snapshot, store: Store, ask: Ask) -> list[File]:
    """Return the files, with what folders such as `year=2026` say of columns."""
    found = []
    for proof in snapshot.proof:
        key, size, _ = proof.split("\0")
        pairs = (part.partition("=") for part in key.split("/")[:-1] if "=" in part)
        found.append(File(key, int(size), {name: unquote(value) for name, _, value in pairs}))
    return found
