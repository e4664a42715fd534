"""Which rows of an Iceberg table changed between two of its versions: those of files that came or went."""

from __future__ import annotations

import gzip

from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.snapshots import Snapshot as TableSnapshot

from meshql.build.changes import Changed, Mark, Untold
from meshql.build.iceberg import StoreFiles
from meshql.build.iceberg_schema import sql_type
from meshql.errors import CorruptError
from meshql.formats.files import readable_uri
from meshql.formats.snapshot import Snapshot
from meshql.mesh import Mesh
from meshql.sql import quote_literal
from meshql.storage.location import Location
from meshql.storage.store import Store

__all__ = ["changed_files"]


def changed_files(mesh: Mesh, mark: Mark, snapshot: Snapshot) -> Changed | Untold:
    """Return the rows of the files that only one of the two versions has."""
    store, root = mesh.store(snapshot.product)[0], snapshot.location
    now_key = snapshot.proof[0]
    folder, _, name = now_key.rpartition("/")
    then_key = f"{folder}/{mark.version}{name.removeprefix(snapshot.version)}"
    made = store.head(then_key)
    if made is None or (made.etag or made.modified.isoformat()) != mark.seal:
        return Untold(f"version {mark.version} is gone")
    then, now = _metadata(store, root, then_key), _metadata(store, root, now_key)
    if then.table_uuid != now.table_uuid:
        return Untold("it was made anew")
    old, new = then.current_snapshot(), now.current_snapshot()
    if old and new and old.snapshot_id == new.snapshot_id:
        return Changed(None)
    if then.schema() != now.schema():
        return Untold("its columns changed")
    if _only_rearranged(now, old, new):
        return Changed(None)
    files = StoreFiles(store, now.location.rstrip("/") + "/", root.key)
    before, after = _files(files, old), _files(files, new)
    if before is None or after is None:
        return Untold("it has files of deleted rows")
    moved = [f for path, f in (before | after).items() if (path in before) != (path in after)]
    if not moved:
        return Changed(None)
    return _scan(now, root, [files.key(f.file_path) for f in moved])


def _only_rearranged(now: TableMetadata, old: TableSnapshot | None, new: TableSnapshot | None) -> bool:
    """Whether all snapshots behind the old one put the same rows into other files."""
    while old is not None and new is not None and new.snapshot_id != old.snapshot_id:
        if new.summary is None or new.summary.operation != Operation.REPLACE:
            return False
        new = now.snapshot_by_id(new.parent_snapshot_id) if new.parent_snapshot_id is not None else None
    return old is not None and new is not None


def _metadata(store: Store, root: Location, key: str) -> TableMetadata:
    raw = store.get(key) or b""
    try:
        return TableMetadataUtil.parse_raw((gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode())
    except ValueError:
        raise CorruptError(f"not Iceberg metadata: {root.at(key)}") from None


def _files(files: StoreFiles, snapshot: TableSnapshot | None) -> dict[str, DataFile] | None:
    """The data files of a snapshot by their URIs; None where rows of some are deleted in other files."""
    if snapshot is None:
        return {}
    manifests = snapshot.manifests(files)
    if any(m.content == ManifestContent.DELETES for m in manifests):
        return None
    entries = (e for m in manifests for e in m.fetch_manifest_entry(files, discard_deleted=True))
    return {e.data_file.file_path: e.data_file for e in entries}


def _scan(metadata: TableMetadata, root: Location, keys: list[str]) -> Changed | Untold:
    fields = metadata.schema().fields
    if any(not f.field_type.is_primitive for f in fields):
        return Untold("it has nested columns")
    listed = ", ".join(quote_literal(readable_uri(root, key)) for key in keys)
    columns = ", ".join(
        f"{f.field_id}: {{name: {quote_literal(f.name)}, type: {quote_literal(sql_type(f.field_type))},"
        " default_value: NULL}"
        for f in fields
    )
    ids = ", ".join(str(f.field_id) for f in fields)
    # A column that a file lacks may have a value all the same, by the file's partition or by its name.
    lacking = (
        f"SELECT file_name FROM parquet_schema([{listed}]) GROUP BY file_name"
        f" HAVING count(*) FILTER (field_id IN ({ids})) < {len(fields)}"
    )
    return Changed(f"read_parquet([{listed}], schema => MAP {{{columns}}})", lacking)
