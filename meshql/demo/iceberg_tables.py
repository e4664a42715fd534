"""Iceberg tables written on this disk as they will lie in a store: every path in them is the store's.

A table made so is copied into its bucket file by file and reads there like one that was written there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Operation, Snapshot, Summary, update_snapshot_summaries
from pyiceberg.table.update import AddSnapshotUpdate, AssertRefSnapshotId, SetSnapshotRefUpdate
from pyiceberg.typedef import Record

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.io import InputFile, OutputFile
    from pyiceberg.table import Table

__all__ = ["MirrorIO", "delete_rows", "mirror_catalog"]

# Reserved field ids of the Iceberg specification, for the columns of position delete files.
FILE_PATH_ID, POS_ID = 2147483546, 2147483545


class MirrorIO(PyArrowFileIO):
    """Files of a store (`mirror.scheme`, as in gs://) kept under a folder of this disk (`mirror.folder`)."""

    def new_input(self, location: str) -> PyArrowFile:
        """Return the file to read; it keeps the name that it has in the store."""
        return self._named(super().new_input(self._local(location)), location)

    def new_output(self, location: str) -> PyArrowFile:
        """Return the file to write; it keeps the name that it has in the store."""
        return self._named(super().new_output(self._local(location)), location)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Remove the file."""
        super().delete(self._local(location if isinstance(location, str) else location.location))

    def _local(self, location: str) -> str:
        path = location.removeprefix(f"{self.properties['mirror.scheme']}://")
        return str(Path(self.properties["mirror.folder"]) / path)

    def _named(self, file: PyArrowFile, location: str) -> PyArrowFile:
        file._location = location
        return file


def mirror_catalog(folder: Path, scheme: str) -> SqlCatalog:
    """Return an Iceberg catalog in memory whose tables, at `scheme`://, land under `folder`."""
    return SqlCatalog(
        "demo",
        **{
            "uri": "sqlite:///:memory:",
            "warehouse": f"{scheme}://",
            "py-io-impl": f"{MirrorIO.__module__}.{MirrorIO.__qualname__}",
            "mirror.folder": str(folder),
            "mirror.scheme": scheme,
        },
    )


def delete_rows(table: Table, positions: list[int]) -> Table:
    """Commit a snapshot that deletes rows, by position, from the table's only data file; returns the table.

    The rows stay in the data file: readers must apply the position delete file (merge on read).
    """
    current = table.current_snapshot()
    assert current is not None
    (task,) = table.scan().plan_files()
    snapshot_id = table.metadata.new_snapshot_id()
    deletes = _write_positions(table, task.file.file_path, sorted(positions))
    snapshot = {
        "snapshot-id": snapshot_id,
        "parent-snapshot-id": current.snapshot_id,
        "sequence-number": table.metadata.next_sequence_number(),
        "manifest-list": _write_manifests(table, current, snapshot_id, deletes),
        "summary": _summary(current, deletes),
        "schema-id": table.metadata.current_schema_id,
    }
    branch = {"ref-name": "main", "type": SnapshotRefType.BRANCH, "snapshot-id": snapshot_id}
    table.catalog.commit_table(
        table,
        (AssertRefSnapshotId.model_validate({"ref": "main", "snapshot-id": current.snapshot_id}),),
        (
            AddSnapshotUpdate(snapshot=Snapshot.model_validate(snapshot)),
            SetSnapshotRefUpdate.model_validate(branch),
        ),
    )
    return table.refresh()


class _DeleteManifestWriter(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def _write_positions(table: Table, data_file: str, positions: list[int]) -> DataFile:
    import pyarrow.parquet as pq

    location = table.location_provider().new_data_location(f"{Path(data_file).stem}-deletes.parquet")
    output = table.io.new_output(location)
    with output.create() as stream:
        pq.write_table(_positions(data_file, positions), stream)
    return DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=location,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=len(positions),
        file_size_in_bytes=len(output),
        # Equal bounds of the path tell readers which data file is meant.
        lower_bounds={FILE_PATH_ID: data_file.encode()},
        upper_bounds={FILE_PATH_ID: data_file.encode()},
        spec_id=table.metadata.default_spec_id,
    )


def _write_manifests(table: Table, current: Snapshot, snapshot_id: int, deletes: DataFile) -> str:
    """Write a manifest of the delete file, and the list that adds it to the current ones; returns where."""
    file = table.io.new_output(_metadata(table, f"{snapshot_id}-deletes.avro"))
    manifest = _DeleteManifestWriter(table.spec(), table.schema(), file, snapshot_id, "deflate")
    with manifest:
        manifest.add(ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, data_file=deletes))
    listing = _metadata(table, f"snap-{snapshot_id}-0-deletes.avro")
    with write_manifest_list(
        format_version=2,
        output_file=table.io.new_output(listing),
        snapshot_id=snapshot_id,
        parent_snapshot_id=current.snapshot_id,
        sequence_number=table.metadata.next_sequence_number(),
        avro_compression="deflate",
    ) as writer:
        writer.add_manifests([manifest.to_manifest_file(), *current.manifests(table.io)])
    return listing


def _positions(data_file: str, positions: list[int]) -> pa.Table:
    import pyarrow as pa

    def field(name: str, kind: pa.DataType, number: int) -> pa.Field:
        return pa.field(name, kind, nullable=False, metadata={"PARQUET:field_id": str(number)})

    schema = pa.schema([field("file_path", pa.string(), FILE_PATH_ID), field("pos", pa.int64(), POS_ID)])
    return pa.table({"file_path": [data_file] * len(positions), "pos": positions}, schema=schema)


def _summary(previous: Snapshot, deletes: DataFile) -> Summary:
    rows, size = str(deletes.record_count), str(deletes.file_size_in_bytes)
    added = {
        "added-delete-files": "1",
        "added-position-delete-files": "1",
        "added-position-deletes": rows,
        "added-files-size": size,
    }
    return update_snapshot_summaries(Summary(Operation.DELETE, **added), previous.summary)


def _metadata(table: Table, name: str) -> str:
    return table.location_provider().new_metadata_location(name)
