"""Care of an Iceberg table in a folder: old snapshots let go, and files that no snapshot names.

Neither takes anything from a reader that began after `older_than`: a snapshot counts as old from when another
one took its place, not from when it was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise

from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.update import RemoveSnapshotsUpdate

from meshql.build.iceberg import COMMIT, Folder
from meshql.build.iceberg_write import COMMIT_PROPERTY, REARRANGED
from meshql.build.step import Commit
from meshql.storage.store import Object

__all__ = ["expire_snapshots", "old_snapshots", "orphan_files"]

AT_ONCE = 8


def old_snapshots(table: Table, older_than: datetime, keep_runs: int) -> list[int]:
    """Return the ids of the snapshots that were replaced before `older_than` and that nothing keeps.

    What keeps one is that it is current, that it is one of the last `keep_runs` runs that built the table, or
    a tag or branch that somebody gave it besides the tag of its run.
    """
    metadata = table.metadata
    kept = {metadata.current_snapshot_id, *_of_last_runs(metadata, keep_runs), *_held(metadata)}
    ended = _ended(metadata)
    return [
        s.snapshot_id
        for s in metadata.snapshots
        if s.snapshot_id not in kept and ended.get(s.snapshot_id, s.timestamp_ms) < _milliseconds(older_than)
    ]


def expire_snapshots(folder: Folder, older_than: datetime, keep_runs: int) -> int:
    """Take the old snapshots and their tags out of the table, and return how many; their files stay.

    One commit, or none where there is none to take. Raises ExistsError where a build commits meanwhile.
    """
    table = folder.current()
    found = old_snapshots(table, older_than, keep_runs) if table else []
    if table is None or not found:
        return 0
    transaction = table.transaction()
    transaction._stage((RemoveSnapshotsUpdate.model_validate({"snapshot-ids": found}),))
    transaction.commit_transaction()
    return len(found)


def orphan_files(folder: Folder, older_than: datetime) -> list[Object]:
    """Return the files of before `older_than` that the table does not need.

    That are data files and manifests that no snapshot names, as killed builds and expired snapshots leave
    them, and metadata files that were replaced before then. What is younger may be part of a build under way.
    No gap is left between metadata files: readers take one that is missing for the end of the line.
    """
    root = folder.location.key
    listed = [o for part in ("data/", "metadata/") for o in folder.store.objects(f"{root}{part}")]
    # Behind the listing: what a build has committed since then counts.
    table = folder.current()
    if table is None:
        return [o for o in listed if o.modified < older_than]
    needed = set(_named(folder, table))
    made = {int(name[1]): o.modified for o in listed if (name := COMMIT.fullmatch(o.name))}
    return [
        o
        for o in listed
        if o.key not in needed
        and o.name != "version-hint.text"
        and (made.get(_version(o) + 1, datetime.now(UTC)) if _version(o) else o.modified) < older_than
    ]


def _version(o: Object) -> int:
    """The number of a metadata file; 0 for other files."""
    found = COMMIT.fullmatch(o.name)
    return int(found[1]) if found else 0


def _milliseconds(moment: datetime) -> float:
    return moment.timestamp() * 1000


def _ended(metadata: TableMetadata) -> dict[int, int]:
    """When each snapshot was replaced by another, in milliseconds since 1970."""
    log = metadata.snapshot_log
    return {entry.snapshot_id: behind.timestamp_ms for entry, behind in pairwise(log)}


def _runs(metadata: TableMetadata) -> dict[int, str]:
    """The runs that made snapshots, by the ids of these, newest first; a compaction is no run."""
    newest_first = sorted(metadata.snapshots, key=lambda s: s.sequence_number or 0, reverse=True)
    said = {s.snapshot_id: s.summary.additional_properties for s in newest_first if s.summary}
    return {
        number: Commit.parse(text, "").run
        for number, properties in said.items()
        if (text := properties.get(COMMIT_PROPERTY)) and REARRANGED not in properties
    }


def _of_last_runs(metadata: TableMetadata, runs: int) -> list[int]:
    # Of a run that followed its inputs, the last snapshot is the one that its tag names.
    newest = dict[str, int]()
    for snapshot, run in _runs(metadata).items():
        newest.setdefault(run, snapshot)
    return list(newest.values())[:runs]


def _held(metadata: TableMetadata) -> Iterator[int]:
    """The snapshots that somebody gave a tag or branch, besides the tag of the run that made it."""
    runs = _runs(metadata)
    for name, ref in metadata.refs.items():
        if ref.snapshot_ref_type != SnapshotRefType.TAG or runs.get(ref.snapshot_id) != name:
            yield ref.snapshot_id


def _named(folder: Folder, table: Table) -> Iterator[str]:
    """The keys of all files that snapshots of the table consist of."""
    files, metadata = folder.files, table.metadata
    yield folder.metadata_key(folder.number(table))
    for statistics in (*metadata.statistics, *metadata.partition_statistics):
        yield files.key(statistics.statistics_path)
    manifests: dict[str, ManifestFile] = {}
    for snapshot in metadata.snapshots:
        yield files.key(snapshot.manifest_list)
        manifests |= {m.manifest_path: m for m in snapshot.manifests(files)}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="meshql-manifests") as pool:
        for entries in pool.map(
            lambda m: m.fetch_manifest_entry(files, discard_deleted=True), manifests.values()
        ):
            yield from (files.key(e.data_file.file_path) for e in entries)
    yield from (files.key(path) for path in manifests)
