"""Delta tables: the log tells the version, the delta extension scans it.

The layout of `_delta_log` is that of the Delta Transaction Protocol:
https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
import re

from meshql.catalog.model import Product
from meshql.errors import CorruptError, LocationError, MeshError, StorageError
from meshql.formats import delta_files, delta_log, delta_vectors
from meshql.formats.snapshot import Ask, Details, File, Snapshot, snapshot_key
from meshql.sql import quote_identifier, quote_literal
from meshql.storage.location import Location
from meshql.storage.store import Object, Store

__all__ = ["contents", "details", "resolve"]

DELETION_VECTOR = re.compile(r"(^|/)deletion_vector_[^/]*\.bin$")

MISREAD = """
    SELECT 1
    FROM (
        SELECT unnest(map_entries(partitions)) AS pair
        FROM delta_list_files({root}, version => {version})
    )
    GROUP BY pair.key
    HAVING bool_and(pair.value = 'NULL')
"""
"""Finds partition columns that are NULL in every file, as the delta extension has those of mapped names.

See https://github.com/duckdb/duckdb-delta/issues/343; where all are NULL indeed, no harm is done either.
"""

COMMIT = re.compile(r"(\d{20})\.(?:json|checkpoint(?:\.[\w-]+)*\.(?:parquet|json))$")


def resolve(product: Product, location: Location, store: Store, last: Snapshot | None) -> Snapshot:
    """Return the newest version of the table; `last` itself when one listing proves that it still is.

    The delta extension scans it where `location` says that it can, or else meshql scans the files that the
    log names. Raises LocationError where there is no log, CorruptError where its last commit is empty,
    StorageError once when the version has gone back since `last`.
    """
    if last is not None:
        newer = _commits(store, last.location, int(last.version))
        if newer and _version(newer[-1]) == int(last.version) and _proof(newer[-1], store) == last.proof:
            return last
        if last.log is not None and delta_log.goes_on(last.log, newer):
            return _by_files(product, last.location, newer, store, last.log)
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
    _refuse_empty(product, root, newest)
    if last is not None and version < int(last.version):
        raise StorageError(
            f"{product.name}: the Delta log went back from version {last.version} to {version}",
            hint="if the table was made anew, run the statement again; otherwise commits are missing",
        )
    if not location.native:
        return _by_files(product, root, commits, store, None)
    return _snapshot(product, root, newest, _proof(newest, store))


def _refuse_empty(product: Product, root: Location, newest: Object) -> None:
    if newest.size == 0:
        raise CorruptError(
            f"{product.name}: commit {_version(newest)} of the Delta log is empty: {root.at(newest.key)}"
        )


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
        misread=MISREAD.format(root=quote_literal(str(root)), version=version),
        changed_at=newest.modified,
    )


def _by_files(
    product: Product, root: Location, commits: list[Object], store: Store, last: delta_log.Log | None
) -> Snapshot:
    """The newest version as a scan of the files that its log names."""
    newest = commits[-1]
    _refuse_empty(product, root, newest)
    log = delta_log.copied(store, root, commits, _version(newest), last)
    try:
        delta_files.check(log, root)
        relation = delta_files.relation(log, root, delta_vectors.written(log, root, store))
    except MeshError:
        if last is None:
            delta_log.dropped(log)
        raise
    return Snapshot(
        product=product,
        location=root,
        version=str(log.version),
        relation=relation.sql,
        proof=_proof(newest, store),
        preflight=delta_files.agreement(log, relation.sql),
        changed_at=newest.modified,
        files=len(log.files),
        bytes=sum(file.size for file in log.files.values()),
        parts=relation.parts,
        log=log,
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
    """Return how much the version holds: rows from the log, bytes from a listing of the table's folder.

    Where the log was copied, it tells the bytes too.
    """
    if snapshot.log is not None:
        counts = [file.left for file in snapshot.log.files.values()]
        counted = None if None in counts else sum(count or 0 for count in counts)
        return Details(snapshot.files, counted, snapshot.bytes, snapshot.changed_at)
    root = snapshot.location
    listed = ask(f"FROM delta_list_files({quote_literal(str(root))}, version => {snapshot.version})")
    sizes = {root.at(o.key): o.size for o in store.objects(root.key)}
    known = [sizes.get(row[0]) for row in listed]
    total = None if None in known else sum(size for size in known if size is not None)
    rows = None if any(row[1] is None for row in listed) else sum(row[1] for row in listed)
    return Details(files=len(listed), rows=rows, bytes=total, changed_at=snapshot.changed_at)


def contents(snapshot: Snapshot, store: Store, ask: Ask) -> list[File]:
    """Return the version's files with their partitions, and every deletion vector, whether in use or not."""
    if snapshot.log is not None:
        return delta_files.listed(snapshot.log, snapshot.location)
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
