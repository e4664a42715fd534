"""Care for Iceberg tables: small files compacted, old snapshots expired, files that nothing names removed.

A compaction is a snapshot that says it only replaces files, so whoever reads the table's changes passes it
over. It says of the table what the build's snapshot before it said.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from meshql.build.footers import columns_of, shapes
from meshql.build.iceberg import Folder, open_folder
from meshql.build.iceberg_care import expire_snapshots, old_snapshots, orphan_files
from meshql.build.iceberg_schema import field_ids
from meshql.build.iceberg_write import (
    COMMIT_PROPERTY,
    REARRANGED,
    VERSION_PROPERTY,
    Draft,
    data_files,
    uploaded,
)
from meshql.build.maintain import Job, counted
from meshql.build.partitions import Key, Partitioning, key_of
from meshql.build.step import Request, Step
from meshql.errors import ExistsError, StorageError
from meshql.formats.files import readable_uri
from meshql.query.reading import Reading
from meshql.sql import quote_literal
from meshql.terminal import size

__all__ = ["care"]

TRIES = 3


def care(job: Job) -> None:
    """Compact what is small, expire snapshots, and remove what is older than the retention.

    Raises StorageError where a build committed at the same time, each time it was tried.
    """
    folder = open_folder(job.mesh, job.product)
    table = folder.current()
    if table is None:
        job.tell("not built yet")
        return
    job.tell_files(before=len(data_files(table) or ()))
    _again(job, lambda: _compact(job, folder, folder.load_table(())))
    job.check()
    _again(job, lambda: _expire(job, folder))
    job.check()
    _remove(job, folder)
    if not job.given.dry_run:
        job.tell_files(after=len(data_files(folder.load_table(())) or ()))


def _again(job: Job, commit: Callable[[], None]) -> None:
    """Do what ends in a commit, and again on top of a build's that came first."""
    for left in reversed(range(TRIES)):
        try:
            return commit()
        except ExistsError:
            if not left:
                raise StorageError(
                    f"{job.product.name}: builds committed again and again meanwhile",
                    hint=f"when no build is at it: meshql maintain {job.product.name}",
                ) from None
        job.check()


# --- compaction -----------------------------------------------------------------------------------


def _compact(job: Job, folder: Folder, table: Table) -> None:
    groups = list(_groups(job, table))
    if not groups:
        return
    current = table.current_snapshot()
    assert current is not None
    with job.mesh.reading([job.product]) as reading:
        alike = [g for g in groups if _alike(reading, folder, table, g)]
        if not alike:
            return
        many = sum(len(g.files) for g in alike)
        if job.given.dry_run:
            job.tell(f"would write {many:,} small files into {len(alike):,}")
            return
        draft = Draft(folder, table.transaction(), (), Partitioning(()), folder.number(table) + 1)
        _write(job, draft, reading, alike)
    said = current.summary.additional_properties if current.summary else {}
    kept = {name: said[name] for name in (COMMIT_PROPERTY, VERSION_PROPERTY) if name in said}
    draft.commit([f for g in alike for f in g.files], None, {**kept, REARRANGED: draft.version})
    job.tell(f"wrote {many:,} small files into {len(alike):,}")


@dataclass(frozen=True, slots=True)
class _Group:
    """Small files of one partition."""

    key: Key
    files: tuple[DataFile, ...]


def _groups(job: Job, table: Table) -> Iterator[_Group]:
    """Small files by partition, as many at a time as one file of the wanted size holds."""
    partitions: dict[Key, list[DataFile]] = defaultdict(list)
    for file in data_files(table) or ():
        if file.spec_id == table.spec().spec_id and file.file_size_in_bytes < job.given.target_bytes:
            partitions[key_of(file.partition)].append(file)
    for key, files in partitions.items():
        group: list[DataFile] = []
        total = 0
        for file in sorted(files, key=lambda f: f.file_size_in_bytes):
            if group and total + file.file_size_in_bytes > job.given.target_bytes:
                if len(group) >= job.given.fewest:
                    yield _Group(key, tuple(group))
                group, total = [], 0
            group.append(file)
            total += file.file_size_in_bytes
        if len(group) >= job.given.fewest:
            yield _Group(key, tuple(group))


def _uris(reading: Reading, folder: Folder, group: _Group) -> list[str]:
    root = next(iter(reading.snapshots.values())).location
    return [readable_uri(root, folder.files.key(f.file_path)) for f in group.files]


def _alike(reading: Reading, folder: Folder, table: Table, group: _Group) -> bool:
    """Whether files have the very same columns, those of the table: no value is cast."""
    found = shapes(reading, _uris(reading, folder, group))
    return len(set(found)) == 1 and columns_of(found[0]) == [f.name for f in table.schema().fields]


def _write(job: Job, draft: Draft, reading: Reading, groups: Sequence[_Group]) -> None:
    """Write each group into a file that nothing names yet."""
    token = f"compacted-{secrets.token_hex(6)}"
    run = Step(job.mesh, job.product, token, Request(), job.scratch, cancelled=job.cancelled)
    written: list[tuple[Path, Key]] = []
    try:
        for number, group in enumerate(groups):
            job.check()
            local = job.scratch / f"{token}-{number}.parquet"
            listed = ", ".join(map(quote_literal, _uris(reading, draft.folder, group)))
            ((rows,),) = reading.ask(
                f"COPY (FROM read_parquet([{listed}], hive_partitioning => false)) TO"
                f" {quote_literal(str(local))}"
                " (FORMAT parquet, COMPRESSION zstd, WRITE_BLOOM_FILTER false,"
                f" FIELD_IDS {field_ids(draft.schema)})"
            )
            if rows != sum(f.record_count for f in group.files):
                raise StorageError(f"{job.product.name}: files hold other rows than the table says")
            written.append((local, group.key))
        uploaded(draft, run, written, token)
    except BaseException:
        draft.abandon()
        raise


# --- what nobody needs ----------------------------------------------------------------------------


def _expire(job: Job, folder: Folder) -> None:
    """Let go of snapshots that were followed by others before the retention, and of old runs' tags."""
    if job.given.dry_run:
        doomed = len(old_snapshots(folder.load_table(()), job.before, job.given.keep_runs))
    else:
        doomed = expire_snapshots(folder, job.before, job.given.keep_runs)
    if doomed:
        job.tell(f"{'would expire' if job.given.dry_run else 'expired'} {counted(doomed, 'snapshot')}")


def _remove(job: Job, folder: Folder) -> None:
    """Remove files that no snapshot names, and metadata files that were followed by others."""
    doomed = [o for o in orphan_files(folder, job.before) if not o.key.startswith(job.nested)]
    if not doomed:
        return
    freed = sum(o.size for o in doomed)
    if not job.given.dry_run:
        folder.store.delete([o.key for o in doomed])
    would = "would remove" if job.given.dry_run else "removed"
    job.tell(f"{would} {counted(len(doomed), 'file')}, {size(freed)}", removed=len(doomed), freed=freed)
