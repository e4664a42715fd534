"""Delta tables: the log tells the version, the delta extension scans it.

The layout of `_delta_log` is that of the Delta Transaction Protocol:
https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
import re

from meshql.catalog.model import Product
from meshql.errors import CorruptError, LocationError, StorageError
from meshql.formats.snapshot import Ask, Details, File, Snapshot, snapshot_key
from meshql.sql import quote_identifier, quote_literal
from meshql.storage import Location, Object, Store

__all__ = ["contents", "details", "resolve"]

DELETION_VECTOR = re.compile(r"(^|/)deletion_vector_[^/]*\.bin$")

COMMIT = re.compile(r"(\d{20})\.(?:json|checkpoint(?:\.[\w-]+)*\.(?:parquet|json))$")


def resolve(product: Product, location: Location, store: Store, last: Snapshot | None) -> Snapshot:
    """Return the newest version of the table; `last` itself when one listing proves that it still is.

    Raises LocationError where there is no log, CorruptError where its last commit is empty, StorageError
    once when the version has gone back since `last`.
    """
    if last is not None:
        newer = _commits(store, last.location, int(last.version))
        if newer and _version(newer[-1]) == int(last.version) and _proof(newer[-1], store) == last.proof:
            return last
    root = location.folder
    start = _checkpoint(store, root)
    # A hint that leads past the log's end is a wrong hint.
    commits = _commits(store, root, start) or (_commits(store, root, 0) if start else [])
    if not commits:
        raise LocationError(
            f"{product.name}: no Delta table at {root}",
            hint="check the product's `location`: it has to be the folder that holds _delta_log",
        )
    newest = commits[-1]
    version = _version(newest)
    if newest.size == 0:
        raise CorruptError(
            f"{product.name}: commit {version} of the Delta log is empty: {root.at(newest.key)}"
        )
    if last is not None and version < int(last.version):
        raise StorageError(
            f"{product.name}: the Delta log went back from version {last.version} to {version}",
            hint="if the table was made anew, run the statement again; otherwise commits are missing",
        )
    return _snapshot(product, root, newest, _proof(newest, store))


def _snapshot(product: Product, root: Location, newest: Object, proof: tuple[str, ...]) -> Snapshot:
    version = str(_version(newest))
    database = quote_identifier(snapshot_key(product, version, root, proof))
    attach = f"ATTACH IF NOT EXISTS {quote_literal(str(root))} AS {database} (TYPE delta, VERSION {version})"
    return Snapshot(
        product=product,
        location=root,
        version=version,
        relation=f"{database}.main.{database}",
        proof=proof,
        attach=attach,
        changed_at=newest.modified,
    )


def _proof(newest: Object, store: Store) -> tuple[str, ...]:
    """What tells this version from one of another store, or of a table made anew."""
    return (newest.etag or newest.modified.isoformat(), store.place)


def _commits(store: Store, root: Location, start: int) -> list[Object]:
    """The commits and checkpoints of the log from version `start` on, in order."""
    log = f"{root.key}_delta_log/"
    # A dot sorts behind nothing at all, so the commit `start` itself is in the listing.
    listed = store.objects(log, after=f"{log}{start:020d}")
    commits = [o for o in listed if o.key == log + o.name and COMMIT.match(o.name) and _version(o) >= start]
    return sorted(commits, key=lambda o: (_version(o), o.name.endswith(".json")))


def _version(commit: Object) -> int:
    return int(commit.name[:20])


def _checkpoint(store: Store, root: Location) -> int:
    """The version from which the log has to be listed; 0 for a log with no checkpoint."""
    hint = store.get(f"{root.key}_delta_log/_last_checkpoint")
    try:
        return int(json.loads(hint)["version"]) if hint else 0
    except (ValueError, TypeError, KeyError):
        # The protocol makes it a hint only: without it the whole log is listed.
        return 0


def details(snapshot: Snapshot, store: Store, ask: Ask) -> Details:
    """Return how much the version holds: rows from the log, bytes from a listing of the table's folder."""
    root = snapshot.location
    listed = ask(f"FROM delta_list_files({quote_literal(str(root))}, version => {snapshot.version})")
    sizes = {root.at(o.key): o.size for o in store.objects(root.key)}
    known = [sizes.get(row[0]) for row in listed]
    total = None if None in known else sum(size for size in known if size is not None)
    rows = None if any(row[1] is None for row in listed) else sum(row[1] for row in listed)
    return Details(files=len(listed), rows=rows, bytes=total, changed_at=snapshot.changed_at)


def contents(snapshot: Snapshot, store: Store, ask: Ask) -> list[File]:
    """Return the version's files with their partitions, and every deletion vector, whether in use or not."""
    root = snapshot.location
    listed = ask(f"FROM delta_list_files({quote_literal(str(root))}, version => {snapshot.version})")
    sizes = {o.key: o.size for o in store.objects(root.key)}
    prefix = root.at("")
    keys = [str(row[0]).removeprefix(prefix) for row in listed]
    found = [File(key, sizes.get(key), row[2] or {}) for key, row in zip(keys, listed, strict=True)]
    if any(row[3] for row in listed):
        vectors = ((key, size) for key, size in sizes.items() if DELETION_VECTOR.search(key))
        found += [File(key, size, deletes=True) for key, size in vectors]
    return found
