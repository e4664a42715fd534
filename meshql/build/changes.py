"""Which rows of a product changed between two of its versions, where its format tells that exactly.

    mark = mark_of(snapshot)                        what a table that was made of this version writes down
    same(mark, snapshot)                            whether that is still the version
    found = changed(mesh, product, mark, snapshot)  -> Changed | Untold
    found.relation                                  SQL behind FROM with the changed rows, old and new ones

Rows that did not change may be among the changed ones: those that share a file with others that did.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshql.catalog.build import in_batches
from meshql.catalog.model import Product
from meshql.errors import CatalogError, MeshError
from meshql.formats import batches, delta_files, delta_log
from meshql.formats.delta_log import DataFile, Log
from meshql.formats.delta_schema import columns_of
from meshql.formats.snapshot import Snapshot
from meshql.mesh import Mesh
from meshql.storage.store import Object, Store

__all__ = ["Changed", "Mark", "Untold", "changed", "mark_of", "same"]

MOST_COMMITS = 500
"""Behind more commits of a Delta table than these, reading them one by one is not worth it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A version of an input, as a table that was made of it writes it down.

    `digest` tells it from the same number of a table made anew, and `seal` is what the store says of the one
    file that made the version.
    """

    version: str
    digest: str
    seal: str

    def said(self) -> list[str]:
        """Return it as JSON has it."""
        return [self.version, self.digest, self.seal]


@dataclass(frozen=True, slots=True)
class Changed:
    """The changed rows; `relation` is None where no row did.

    `lacking` is a query that finds something where the relation does not hold the whole rows after all.
    """

    relation: str | None
    lacking: str | None = None


@dataclass(frozen=True, slots=True)
class Untold:
    """Why it cannot be told which rows changed."""

    why: str


def mark_of(snapshot: Snapshot) -> Mark:
    """Return what to write down of a version that something is made of."""
    text = "\0".join((snapshot.location.plain, *snapshot.proof))
    return Mark(snapshot.version, hashlib.sha256(text.encode()).hexdigest()[:12], _seal(snapshot))


def _seal(snapshot: Snapshot) -> str:
    if snapshot.product.format == "delta":
        return snapshot.proof[0]
    if snapshot.product.format == "iceberg":
        return snapshot.proof[-1]
    return snapshot.proof[0].rpartition("\0")[2] if _batched(snapshot.product) else ""


def _batched(product: Product) -> bool:
    return in_batches(product.build)


def _tag(o: Object) -> str:
    return o.etag or o.modified.isoformat()


def same(mark: Mark, snapshot: Snapshot) -> bool:
    """Tell whether a snapshot is the version that was written down."""
    # A table of a database has no versions.
    return mark == mark_of(snapshot) and not snapshot.shares


def changed(mesh: Mesh, mark: Mark, snapshot: Snapshot) -> Changed | Untold:
    """Return the rows that changed from the version that was written down to `snapshot`.

    Storage errors count as that it cannot be told: files of old versions may be gone.
    """
    product = snapshot.product
    try:
        if product.format == "delta":
            return _delta(mesh, mark, snapshot)
        if _batched(product):
            return _batches(mesh, mark, snapshot)
        if product.format == "iceberg":
            from meshql.build.iceberg_changes import changed_files

            return changed_files(mesh, mark, snapshot)
    except CatalogError:
        return Untold("its files are not read one by one")
    except MeshError as error:
        return Untold(error.message)
    return Untold("its format keeps no versions")


# --- bronze ---------------------------------------------------------------------------------------


def _batches(mesh: Mesh, mark: Mark, snapshot: Snapshot) -> Changed | Untold:
    store, _ = mesh.store(snapshot.product)
    taken, newest = int(mark.version), int(snapshot.version)
    entry = store.head(f"{snapshot.location.key}{batches.LOG}{taken:09d}.json")
    if entry is None or _tag(entry) != mark.seal:
        return Untold("it was made anew")
    state = batches.state(store, snapshot.location, upto=newest)
    if state.since > taken:
        return Untold("its rows were replaced")
    if not any(b.files for b in state.live if b.number > taken):
        return Changed(None)
    return Changed(batches.relation(state, snapshot.location, taken, newest))


# --- Delta ----------------------------------------------------------------------------------------


def _delta(mesh: Mesh, mark: Mark, snapshot: Snapshot) -> Changed | Untold:
    store, root = mesh.store(snapshot.product)[0], snapshot.location
    before, now = int(mark.version), int(snapshot.version)
    folder = f"{root.key}_delta_log/"
    listed = [o for o in store.objects(folder) if o.key == folder + o.name]
    made = {o.name: o for o in listed}.get(f"{before:020d}.json")
    if made is None or _tag(made) != mark.seal:
        return Untold(f"version {before} is no longer in its log")
    if not before < now <= before + MOST_COMMITS:
        return Untold(f"its log is at version {now}, and was at {before}")
    log = delta_log.copied(store, root, [o for o in listed if o.name[:20] <= f"{before:020d}"], before, None)
    try:
        return _between(store, snapshot, log, listed, now)
    finally:
        delta_log.dropped(log)


def _between(
    store: Store, snapshot: Snapshot, log: Log, listed: Sequence[Object], now: int
) -> Changed | Untold:
    root, columns = snapshot.location, columns_of(log)
    touched: dict[tuple[str, str | None], DataFile] = {}
    rearranged = False
    before = log.files
    for version in range(log.version + 1, now + 1):
        commit = [o for o in listed if o.name == f"{version:020d}.json"]
        later = delta_log.copied(store, root, commit, version, log)
        if _changes_rows(later, version):
            moved = log.files.keys() ^ later.files.keys()
            touched |= {key: log.files.get(key) or later.files[key] for key in moved}
        else:
            rearranged |= log.files != later.files
        log = later
    if columns_of(log) != columns:
        return Untold("its columns changed")
    if not rearranged:
        # A file that came and went again is no part of either version.
        touched = {key: f for key, f in touched.items() if (key in before) != (key in log.files)}
    if not touched:
        return Changed(None)
    delta_files.check(log, root)
    # Rows that a deletion vector takes away are changed ones, too.
    files: dict[tuple[str, str | None], DataFile] = {
        (f.path, None): replace(f, vector=None) for f in touched.values()
    }
    return Changed(delta_files.relation(replace(log, files=files), root, None).sql)


def _changes_rows(log: Log, version: int) -> bool:
    """Whether a commit did more than put the same rows into other files."""
    path = log.folder / "_delta_log" / f"{version:020d}.json"
    actions = (json.loads(line) for line in path.read_bytes().splitlines() if line.strip())
    moved: list[Mapping[str, Any]] = [m for a in actions if (m := a.get("add") or a.get("remove"))]
    return any(m.get("dataChange", True) for m in moved)
