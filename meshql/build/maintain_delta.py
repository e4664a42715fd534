"""Care for Delta tables: small files compacted, the log summed up, files that no version needs removed.

A compaction's commit says that it changes no data, so whoever reads the table's changes passes it over.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from meshql.build.delta import opened, writing
from meshql.build.maintain import CLOCKS, Job, counted
from meshql.errors import StorageError
from meshql.redact import scrub
from meshql.terminal import size

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["care"]

TRIES = 3

CHECKPOINT_AFTER = 10
"""Commits since the last checkpoint that are worth a new one."""


def care(job: Job) -> None:
    """Compact what is small, checkpoint the log, and remove what is older than the retention.

    Raises StorageError where a build changed the compacted files at the same time, each time it was tried.
    """
    table = opened(job.mesh, job.product).handle
    with writing(job.product.name):
        if table is None:
            job.tell("not built yet")
            return
        job.tell_files(before=len(_files(table)))
        _compact(job, table)
        job.check()
        _checkpoint(job, table)
        job.check()
        _vacuum(job, table)
        job.tell_files(after=len(_files(table)) if not job.given.dry_run else None)


def _files(table: DeltaTable) -> list[tuple[tuple[Any, ...], int]]:
    """The partition and the bytes of each file of the table's version."""
    import pyarrow as pa

    rows = pa.table(table.get_add_actions(flatten=True))
    keys = [name for name in rows.column_names if name.startswith("partition.")]
    values = [rows.column(name).to_pylist() for name in keys]
    sizes = rows.column("size_bytes").to_pylist()
    partitions = list(zip(*values, strict=True)) if values else [()] * len(sizes)
    return list(zip(partitions, sizes, strict=True))


# --- compaction -----------------------------------------------------------------------------------


def _compact(job: Job, table: DeltaTable) -> None:
    small = _small(job, table)
    if not small:
        return
    many = sum(len(sizes) for sizes in small)
    if job.given.dry_run:
        bins = sum(math.ceil(sum(sizes) / job.given.target_bytes) for sizes in small)
        job.tell(f"would write {many:,} small files into {bins:,}")
        return
    found = _compacted(job, table)
    job.tell(f"wrote {found['numFilesRemoved']:,} small files into {found['numFilesAdded']:,}")


def _small(job: Job, table: DeltaTable) -> list[list[int]]:
    """The bytes of small files, by partitions that have enough of them."""
    partitions: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for partition, length in _files(table):
        if length < job.given.target_bytes:
            partitions[partition].append(length)
    return [sizes for sizes in partitions.values() if len(sizes) >= job.given.fewest]


def _compacted(job: Job, table: DeltaTable) -> dict[str, Any]:
    """Compact, and again where a build changed the same files meanwhile."""
    from deltalake.exceptions import CommitFailedError

    for left in reversed(range(TRIES)):
        try:
            return dict(
                table.optimize.compact(
                    target_size=job.given.target_bytes, post_commithook_properties=_nothing_else()
                )
            )
        except CommitFailedError as error:
            if not left:
                scrub(error)
                raise StorageError(
                    f"{job.product.name}: a build changed the files that were being compacted",
                    hint=f"when no build is at it: meshql maintain {job.product.name}",
                ) from None
        job.check()
        table.update_incremental()
    raise AssertionError


def _nothing_else() -> Any:
    """What keeps commits from cleaning the log: entries that say how far a build came stay."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


# --- the log --------------------------------------------------------------------------------------


def _checkpoint(job: Job, table: DeltaTable) -> None:
    store, location = job.mesh.store(job.product)
    log = f"{location.folder.key}_delta_log/"
    last = _last_checkpoint(store.get(f"{log}_last_checkpoint"))
    since = table.version() - last
    if since < CHECKPOINT_AFTER:
        return
    if job.given.dry_run:
        job.tell(f"would write a checkpoint of {counted(since, 'commit')}")
        return
    table.create_checkpoint()
    job.tell(f"wrote a checkpoint of {counted(since, 'commit')}")


def _last_checkpoint(hint: bytes | None) -> int:
    try:
        return int(json.loads(hint)["version"]) if hint else -1
    except (ValueError, TypeError, KeyError):
        return -1


# --- what nobody needs ----------------------------------------------------------------------------


def _vacuum(job: Job, table: DeltaTable) -> None:
    """Remove files that versions of before the retention had, and those that killed writers left."""
    hours = _hours(job)
    # Files that no version ever named may be those of a product inside the folder.
    options: dict[str, Any] = {
        "retention_hours": hours,
        "enforce_retention_duration": False,
        "full": not job.nested,
    }
    doomed = table.vacuum(dry_run=True, **options)
    if not doomed:
        return
    store, location = job.mesh.store(job.product)
    folder = location.folder.key
    sizes = {o.key.removeprefix(folder): o.size for o in store.objects(folder)}
    freed = sum(sizes.get(re.sub(r"^\./", "", path), 0) for path in doomed)
    removed = len(doomed)
    if not job.given.dry_run:
        removed = len(table.vacuum(dry_run=False, post_commithook_properties=_nothing_else(), **options))
    would = "would remove" if job.given.dry_run else "removed"
    job.tell(f"{would} {counted(removed, 'file')}, {size(freed)}", removed=removed, freed=freed)


def _hours(job: Job) -> int:
    """The retention in whole hours, which is how delta-rs takes it."""
    asked = job.given.older_than
    longer = datetime.now(UTC) - job.before
    # A moment has passed since the retention was counted back from.
    return math.ceil((asked if longer < asked + CLOCKS else longer) / timedelta(hours=1))
