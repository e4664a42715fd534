"""Rows of a query as one snapshot of an Iceberg table: Parquet files, their figures, one commit."""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table, Transaction
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Operation, Summary
from pyiceberg.table.update import (
    AddPartitionSpecUpdate,
    AddSchemaUpdate,
    AddSnapshotUpdate,
    RemoveSnapshotRefUpdate,
    SetCurrentSchemaUpdate,
    SetDefaultSpecUpdate,
    TableUpdate,
)
from pyiceberg.typedef import Record

from meshql.build.iceberg import Folder
from meshql.build.iceberg_schema import Column, evolved, field_ids, schema_of
from meshql.build.partitions import Key, Partitioning, check_keys, spec_of
from meshql.build.step import Counts, Progress, Step
from meshql.errors import ExistsError, MeshError
from meshql.query.reading import Reading
from meshql.sql import quote_identifier, quote_literal

__all__ = [
    "COMMIT_PROPERTY",
    "REARRANGED",
    "VERSION_PROPERTY",
    "Draft",
    "data_files",
    "draft",
    "uploaded",
    "write",
]

COMMIT_PROPERTY = "meshql"
"""The property of a snapshot that holds the Commit."""

VERSION_PROPERTY = "meshql.version"
"""The property of a snapshot that names the metadata file which it came with."""

REARRANGED = "meshql.rearranged"
"""The property of a snapshot that has the rows of the one before it in other files: its own version."""

FILE_BYTES = "256MB"
"""Files of tables without partitions are begun anew at this size."""

AT_ONCE = 8

EVERY_SECONDS = 0.5


@dataclass(slots=True)
class Draft:
    """A snapshot in the making: the transaction that it is part of, and the files that were written for it.

    `replaces` says that the table's columns or partitions are others than before, so that no file of before
    can stay. `changes` are those of the columns, in words.
    """

    folder: Folder
    transaction: Transaction
    columns: Sequence[Column]
    partitioning: Partitioning
    number: int
    replaces: bool = False
    changes: tuple[str, ...] = ()
    files: list[DataFile] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    rows: int = 0

    @property
    def schema(self) -> Schema:
        """The columns with their ids."""
        return self.transaction.table_metadata.schema()

    @property
    def spec(self) -> PartitionSpec:
        """The partitioning with its ids."""
        return self.transaction.table_metadata.spec()

    @property
    def version(self) -> str:
        """The version that the commit makes."""
        return f"v{self.number}"

    @property
    def counts(self) -> Counts:
        """Rows, bytes and files that were written."""
        size = sum(f.file_size_in_bytes for f in self.files)
        return Counts(rows_out=self.rows, bytes=size, files=len(self.files))

    @property
    def table(self) -> Table:
        """The table; once the snapshot is committed, at its new version."""
        return self.transaction._table

    def commit(self, removed: Iterable[DataFile], tag: str | None, properties: Mapping[str, str]) -> None:
        """Make the snapshot the table's current one, without the files `removed`, and tag it.

        One with the property REARRANGED says that it changes no rows. Raises ExistsError, with nothing left
        behind, where somebody else has made a version meanwhile.
        """
        said = {VERSION_PROPERTY: self.version, **properties}
        producer = self.transaction.update_snapshot(snapshot_properties=said).overwrite()
        for file in self.files:
            producer.append_data_file(file)
        for file in removed:
            producer.delete_data_file(file)
        producer.commit()
        if tag is not None:
            update, requirement = self.transaction._set_ref_snapshot(
                snapshot_id=producer.snapshot_id, ref_name=tag, type="tag"
            )
            self.transaction._stage(update, requirement)
        if REARRANGED in said:
            self.transaction._updates = tuple(map(_rearranging, self.transaction._updates))
        try:
            self.transaction.commit_transaction()
        except ExistsError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Remove what was written, as far as the store lets us: no commit names it."""
        with suppress(MeshError):
            self.folder.store.delete([*self.keys, *self.folder.files.written])


def _rearranging(update: TableUpdate) -> TableUpdate:
    """An update whose snapshot, if it adds one, replaces files and changes no rows."""
    if not isinstance(update, AddSnapshotUpdate):
        return update
    said = update.snapshot.summary.additional_properties if update.snapshot.summary else {}
    summary = Summary(Operation.REPLACE, **said)
    return AddSnapshotUpdate(snapshot=update.snapshot.model_copy(update={"summary": summary}))


def draft(
    folder: Folder,
    table: Table | None,
    columns: Sequence[Column],
    partitioning: Partitioning,
    *,
    anew: bool = False,
) -> Draft:
    """Begin a snapshot of these columns and partitions, of a table that is there or is yet to be made.

    With `anew`, nothing of the current snapshot goes on, even if columns and partitions are the same.
    """
    if table is None:
        schema = schema_of(columns, count(1))
        return Draft(folder, folder.start(schema, spec_of(partitioning, schema)), columns, partitioning, 1)
    known, transaction, version = table.metadata, table.transaction(), folder.number(table) + 1
    before = known.schema()
    schema = schema_of(columns, count(known.last_column_id + 1), before)
    spec = spec_of(partitioning, schema, known.specs().values())
    same_columns = [f.name for f in schema.fields] == [f.name for f in before.fields] and not evolved(
        before, schema
    )
    if same_columns and spec.spec_id == known.default_spec_id and not anew:
        return Draft(folder, transaction, columns, partitioning, version)
    number = max(s.schema_id for s in known.schemas) + 1
    updates: list[Any] = []
    if not same_columns:
        renumbered = Schema(*schema.fields, schema_id=number)
        updates += [AddSchemaUpdate(schema=renumbered), SetCurrentSchemaUpdate()]
    if spec.spec_id not in known.specs():
        updates += [AddPartitionSpecUpdate(spec=spec), SetDefaultSpecUpdate()]
    elif spec.spec_id != known.default_spec_id:
        updates.append(SetDefaultSpecUpdate.model_validate({"spec-id": spec.spec_id}))
    # What was there is of other columns: a line of snapshots begins anew, and the old ones stay readable.
    updates.append(RemoveSnapshotRefUpdate.model_validate({"ref-name": MAIN_BRANCH}))
    transaction._stage(tuple(updates))
    return Draft(folder, transaction, columns, partitioning, version, True, evolved(before, schema))


def data_files(table: Table | None) -> list[DataFile] | None:
    """Return the files of the table's current snapshot; None where some of their rows are deleted apart."""
    snapshot = table.current_snapshot() if table else None
    if table is None or snapshot is None:
        return []
    manifests = snapshot.manifests(table.io)
    if any(m.content == ManifestContent.DELETES for m in manifests):
        return None
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="meshql-manifests") as pool:
        entries = pool.map(lambda m: m.fetch_manifest_entry(table.io, discard_deleted=True), manifests)
        return [entry.data_file for found in entries for entry in found]


# --- rows to files --------------------------------------------------------------------------------


def write(draft: Draft, step: Step, reading: Reading, sql: str, condition: str | None = None) -> None:
    """Write the rows of a query of which `condition` is true into files that nothing names yet.

    Files are first written on this machine, so that no more than a part of them is in memory.
    """
    token = f"{re.sub(r'[^A-Za-z0-9_-]', '-', step.run)}-{secrets.token_hex(3)}"
    local = step.scratch / f"gold-{token}"
    local.mkdir(parents=True)
    try:
        with _watched(step, local):
            written = _copied(draft, reading, sql, condition, local)
        step.check()
        uploaded(draft, step, written, token)
    except BaseException:
        draft.abandon()
        raise
    finally:
        shutil.rmtree(local, ignore_errors=True)


@contextmanager
def _watched(step: Step, local: Path) -> Iterator[None]:
    """Report how many bytes of files there are so far, while somebody else writes them."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_SECONDS):
            with suppress(OSError):
                size = sum(file.stat().st_size for file in local.rglob("*.parquet"))
                step.report(Progress("computing", 0, size))

    watcher = threading.Thread(target=watch, name="meshql-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _copied(
    draft: Draft, reading: Reading, sql: str, condition: str | None, local: Path
) -> list[tuple[Path, Key]]:
    """The files that DuckDB writes, each with the key of its partition."""
    chosen = ", ".join(c.stored for c in draft.columns)
    options = f"FORMAT parquet, COMPRESSION zstd, RETURN_FILES, FIELD_IDS {field_ids(draft.schema)}"
    query = f"SELECT {chosen} FROM (\n{sql}\n)"
    if condition:
        query = f"SELECT * FROM ({query}) WHERE {condition}"
    if draft.partitioning:
        name = _free_name(draft.columns)
        # Keys are those of the values that are stored, which a cast may have changed.
        # In order, each partition is written in one go, and not as many small files.
        query = f"SELECT *, {draft.partitioning.digest} AS {name} FROM ({query}) ORDER BY {name}"
        options += f", PARTITION_BY ({name})"
    else:
        options += f", FILE_SIZE_BYTES '{FILE_BYTES}'"
    if any("BLOB" in c.type for c in draft.columns):
        # By DuckDB's filters for them, DuckDB finds no BLOB.
        options += ", WRITE_BLOOM_FILTER false"
    target = quote_literal(str(local / "rows"))
    ((rows, files),) = reading.ask(f"COPY ({query}) TO {target} ({options})")
    draft.rows += rows
    if not rows:
        return []
    keyed = list(_keyed(draft.partitioning, reading, files))
    check_keys(draft.folder.name, draft.partitioning, (key for _, key in keyed))
    return keyed


def _keyed(partitioning: Partitioning, reading: Reading, files: Sequence[str]) -> Iterator[tuple[Path, Key]]:
    if not partitioning:
        yield from ((Path(file), ()) for file in files)
        return
    # One row tells it for its whole file.
    listed = ", ".join(map(quote_literal, files))
    scan = f"read_parquet([{listed}], filename => true, file_row_number => true, hive_partitioning => false)"
    for name, *key in reading.ask(
        f"SELECT filename, {partitioning.keys} FROM {scan} WHERE file_row_number = 0"
    ):
        yield Path(name), tuple(key)


def _free_name(columns: Sequence[Column]) -> str:
    names = {c.name.casefold() for c in columns}
    return quote_identifier(next(n for i in count() if (n := f"_partition{i or ''}") not in names))


def uploaded(draft: Draft, step: Step, written: Sequence[tuple[Path, Key]], token: str) -> None:
    """Put the files into the store, side by side, and note what they hold."""
    from pyarrow import parquet

    plan = compute_statistics_plan(draft.schema, draft.transaction.table_metadata.properties)
    paths = parquet_path_to_id_mapping(draft.schema)
    folder = f"{draft.folder.location.key}data/"
    keys = [f"{folder}{token}-{number:05d}.parquet" for number in range(len(written))]
    # Whatever of it is in the store is ours to remove.
    draft.keys += keys
    spec = draft.spec

    def one(item: tuple[tuple[Path, Key], str]) -> DataFile:
        (local, key), name = item
        step.check()
        footer = parquet.read_metadata(local)
        figures = data_file_statistics_from_parquet_metadata(footer, plan, paths)
        size = local.stat().st_size
        draft.folder.store.put(name, local)
        local.unlink()
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=draft.folder.files.uri(name),
            file_format=FileFormat.PARQUET,
            partition=Record(*key),
            file_size_in_bytes=size,
            sort_order_id=None,
            spec_id=spec.spec_id,
            equality_ids=None,
            key_metadata=None,
            **_trusted(figures.to_serialized_dict(), footer, paths),
        )

    size = 0
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="meshql-upload") as pool:
        for file in pool.map(one, zip(written, keys, strict=True)):
            draft.files.append(file)
            size += file.file_size_in_bytes
            step.progress("writing", draft.rows, size)


def _trusted(figures: dict[str, Any], footer: Any, paths: Mapping[str, int]) -> dict[str, Any]:
    """The figures without bounds that do not hold for all of the file's rows.

    A part of a file in which a number is no number has no bounds, and pyiceberg takes those of the others.
    """
    for group in (footer.row_group(i) for i in range(footer.num_row_groups)):
        for column in (group.column(i) for i in range(footer.num_columns)):
            found = column.statistics
            if found is None or not (found.has_min_max or found.null_count == column.num_values):
                for bounds in ("lower_bounds", "upper_bounds"):
                    figures[bounds].pop(paths[column.path_in_schema], None)
    return figures
