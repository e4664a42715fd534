"""Iceberg tables: the newest metadata file tells the version, the iceberg extension scans it.

Names of metadata files are those of the Iceberg specification and its common catalogs:
`00007-<uuid>.metadata.json`, or `v7.metadata.json` with a `version-hint.text` beside it.
https://iceberg.apache.org/spec/
"""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, datetime
from typing import Any

from meshql.catalog.model import Placed, Product
from meshql.errors import CatalogError, CorruptError, LocationError
from meshql.formats.snapshot import Ask, Details, File, Snapshot
from meshql.sql import quote_literal
from meshql.storage.location import Location
from meshql.storage.store import Object, Store

__all__ = ["contents", "details", "document", "resolve"]

METADATA = re.compile(r"v?(\d+)(?:-[\w-]+)?(\.gz)?\.metadata\.json$")


def resolve(product: Product, location: Location, store: Store, last: Snapshot | None) -> Snapshot:
    """Return the newest version of the table; `last` itself when the store proves that it still is.

    The location is the table's folder, or one metadata.json, which then stays the version for good. Raises
    LocationError where there is no metadata.
    """
    if product.placed is not None and location.key.endswith(".metadata.json"):
        # The catalog that named it is the proof, and a metadata file never changes.
        return last or _named_by_catalog(product, product.placed, location)
    if location.key.endswith(".metadata.json"):
        named = store.head(location.key)
        root = location.to(location.key.rpartition("metadata/")[0])
    else:
        root = location.folder
        known = last.proof[0] if last else _hinted(store, root)
        named = _still_newest(store, known) if known else None
        named = named or _newest_of(store.objects(f"{root.key}metadata/"))
    if named is None:
        raise LocationError(
            f"{product.name}: no Iceberg table at {location}",
            hint="check the product's `location`: the folder that holds metadata/, or a metadata.json",
        )
    if last is not None and last.proof == _proof(named):
        return last
    return _snapshot(product, root, named)


def _named_by_catalog(product: Product, placed: Placed, location: Location) -> Snapshot:
    root = location.to(Location.parse(placed.root).key)
    folder, _, name = location.key.rpartition("/")
    version = name.removesuffix(".metadata.json").removesuffix(".gz")
    zipped = ", metadata_compression_codec => 'gzip'" if ".gz." in name else ""
    if placed.written == str(location):
        # As it stands, the metadata leads to all files, wherever they lie.
        arguments = quote_literal(placed.written) + zipped
    elif placed.outside:
        raise CatalogError(
            f"{product.name}: files of the table lie outside its folder, where others read as well",
            hint="read the two in two programs: DuckDB could not tell their identities apart",
        )
    else:
        moved = location.to(folder.removesuffix("/metadata"))
        arguments = _moved(moved, version) + zipped
    return Snapshot(
        product=product,
        location=root,
        version=version,
        relation=f"iceberg_scan({arguments})",
        proof=(location.key,),
        preflight=f"SELECT count(*) FROM iceberg_metadata({arguments})",
    )


def _moved(root: Location, version: str) -> str:
    """The arguments that read a version below a folder other than the one that it was written to."""
    return (
        f"{quote_literal(str(root).rstrip('/'))}, allow_moved_paths => true"
        f", version => {quote_literal(version)}, version_name_format => '%s%s.metadata.json'"
    )


def _snapshot(product: Product, root: Location, metadata: Object) -> Snapshot:
    name = metadata.name.removesuffix(".metadata.json").removesuffix(".gz")
    # Metadata holds absolute paths: a table written as s3:// and read as gs:// has moved.
    arguments = _moved(root, name)
    if ".gz." in metadata.name:
        arguments += ", metadata_compression_codec => 'gzip'"
    return Snapshot(
        product=product,
        location=root,
        version=name,
        relation=f"iceberg_scan({arguments})",
        proof=_proof(metadata),
        # A manifest that cannot be read aborts the process in iceberg_scan, and raises in iceberg_metadata.
        preflight=f"SELECT count(*) FROM iceberg_metadata({arguments})",
        changed_at=metadata.modified,
    )


def _proof(metadata: Object) -> tuple[str, ...]:
    return (metadata.key, metadata.etag or metadata.modified.isoformat())


def _sequence(metadata: Object) -> int:
    match = METADATA.match(metadata.name)
    return int(match[1]) if match else -1


def _newest_of(objects: list[Object]) -> Object | None:
    found = [o for o in objects if METADATA.match(o.name)]
    return max(found, key=lambda o: (_sequence(o), o.modified), default=None)


def _still_newest(store: Store, key: str) -> Object | None:
    """The metadata file `key` if the store has it and none that follows; else None.

    Every commit writes the next number, so one that is not there proves that there is none beyond it. Names
    with a uuid cannot be guessed, but one small listing shows those of this number and the next.
    """
    folder, _, name = key.rpartition("/")
    digits = re.match(r"\d+", name)
    if digits is None:
        number = METADATA.match(name)
        following = f"{folder}/v{int(number[1]) + 1}." if number else ""
        return None if following and _newest_of(store.objects(following)) else store.head(key)
    next_digits = f"{int(digits[0]) + 1:0{len(digits[0])}d}"
    differs = next(i for i, (a, b) in enumerate(zip(digits[0], next_digits, strict=False)) if a != b)
    shared = f"{folder}/{next_digits[:differs]}"
    newest = _newest_of(store.objects(shared, after=shared))
    return newest if newest and newest.key == key else None


def _hinted(store: Store, root: Location) -> str | None:
    """The key of the metadata file that version-hint.text names; the hint may lag behind the table."""
    hint = store.get(f"{root.key}metadata/version-hint.text")
    if not hint:
        return None
    said = hint.decode(errors="replace").strip().removeprefix("v")
    return f"{root.key}metadata/{'v' if said.isdigit() else ''}{said}.metadata.json"


def details(snapshot: Snapshot, store: Store, ask: Ask) -> Details:
    """Return how much the current snapshot holds, by its own summary; no rows with equality deletes."""
    metadata = document(snapshot, store)
    current = metadata.get("current-snapshot-id")
    found = next((s for s in metadata.get("snapshots", ()) if s["snapshot-id"] == current), None)
    if found is None:
        return Details(files=0, rows=0, bytes=0, changed_at=_instant(metadata["last-updated-ms"]))
    summary = found.get("summary", {})
    records, deleted = _number(summary, "total-records"), _number(summary, "total-position-deletes") or 0
    exact = records is not None and not _number(summary, "total-equality-deletes")
    return Details(
        files=_number(summary, "total-data-files"),
        rows=records - deleted if exact and records is not None else None,
        bytes=_number(summary, "total-files-size"),
        changed_at=_instant(found["timestamp-ms"]),
    )


def contents(snapshot: Snapshot, store: Store, ask: Ask) -> list[File]:
    """Return the current snapshot's files with the manifests that name them, delete files too."""
    root = snapshot.location
    metadata = snapshot.relation.replace("iceberg_scan(", "iceberg_metadata(", 1)
    listed = ask(
        f"SELECT manifest_path, file_path, manifest_content FROM {metadata} WHERE status <> 'DELETED'"
    )
    sizes = {o.key: o.size for o in store.objects(root.key)}
    return [
        File(key, sizes.get(key), manifest=_key(root, manifest), deletes=content != "DATA")
        for manifest, key, content in ((m, _key(root, path), c) for m, path, c in listed)
    ]


def _key(root: Location, path: str) -> str:
    """The key of a file that metadata names, which may name the place that the table was moved from."""
    _, found, inside = path.partition(f"/{root.key}")
    return root.key + inside if found and root.key else path.removeprefix(root.at(""))


def document(snapshot: Snapshot, store: Store) -> dict[str, Any]:
    """Return the content of the metadata file of a snapshot; raises CorruptError where it is none."""
    raw = store.get(snapshot.proof[0])
    try:
        content = json.loads(gzip.decompress(raw) if raw and raw[:2] == b"\x1f\x8b" else raw or b"")
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise CorruptError(
            f"{snapshot.product.name}: not Iceberg metadata: {snapshot.location.at(snapshot.proof[0])}"
        )
    return content


def _number(summary: dict[str, str], key: str) -> int | None:
    return int(summary[key]) if key in summary else None


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
