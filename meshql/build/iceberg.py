"""A folder of a store as an Iceberg catalog of one table, whose every file goes through our Store.

Commits are those of Iceberg's own catalog of folders: `metadata/v7.metadata.json`, which only one writer can
make, then `version-hint.text`. Whoever knows the folder can read the table.
https://iceberg.apache.org/spec/#file-system-tables

    folder = open_folder(mesh, product)
    table = folder.current()                  # pyiceberg's Table; None where there is none yet
    folder.start(schema, spec).commit_transaction()
    folder.files.delete(...)                  # pyiceberg's FileIO over the store
"""

from __future__ import annotations

import io
import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.io import FileIO, InputFile, OutputFile
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableResponse, CreateTableTransaction, StagedTable, Table
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import TableRequirement, TableUpdate, update_table_metadata

from meshql.catalog.azure import AzurePlace
from meshql.catalog.connections import AzureConnection
from meshql.catalog.model import Product
from meshql.errors import CorruptError, ExistsError, LocationError, StorageError, UsageError
from meshql.identity.interop import AZURE_ENDPOINT
from meshql.mesh import Mesh
from meshql.storage.location import Location
from meshql.storage.store import Store

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Folder", "StoreFiles", "open_folder"]

COMMIT = re.compile(r"v(\d+)\.metadata\.json")

FORMAT = {"format-version": "2"}

PUBLIC_CLOUD = ".blob.core.windows.net"


def open_folder(mesh: Mesh, product: Product) -> Folder:
    """Return the folder that a product lies in as a catalog of its table; nothing is sent yet."""
    store, location = mesh.store(product)
    return Folder(product.name, store, location.folder, _spelled(mesh, product, location.folder))


def _spelled(mesh: Mesh, product: Product, folder: Location) -> str:
    """The folder's URI as the table's metadata is to name it, so that other engines find its files."""
    if not isinstance(mesh.catalog.connection_of(product), AzureConnection):
        # Strict readers take a path only as a URI.
        return folder.plain if folder.scheme else f"file://{folder.plain}"
    place = AzurePlace.parse(folder.plain)
    if place.host is None:
        _, options = mesh.storage_options(product.name, "pyiceberg")
        account = options["adls.account-name"]
        endpoint = options.get(AZURE_ENDPOINT) or options["adls.blob-storage-authority"]
        if not endpoint.rstrip("/").endswith(PUBLIC_CLOUD):
            # An emulator's account has no host of its own.
            return f"abfs://{place.container}/{folder.key}"
        place = replace(place, host=f"{account}{PUBLIC_CLOUD}")
    return str(place)


class StoreFiles(FileIO):
    """pyiceberg's file access by our Store, so that every cloud is reached as the product's identity.

    `written` are the keys of all files that were written through it.
    """

    def __init__(self, store: Store, root: str, key: str) -> None:
        super().__init__({})
        self._store = store
        self._root, self._key = root, key
        self.written: list[str] = []

    def key(self, uri: str) -> str:
        """Return the key of a file that the table's metadata names; raises LocationError for one outside."""
        if not uri.startswith(self._root):
            raise LocationError(f"the table's metadata names a file outside its folder: {uri}")
        return self._key + uri.removeprefix(self._root)

    def uri(self, key: str) -> str:
        """Return how the table's metadata names a key."""
        return self._root + key.removeprefix(self._key)

    def new_input(self, location: str) -> InputFile:
        """Return a file to read."""
        return _Read(self, location)

    def new_output(self, location: str) -> OutputFile:
        """Return a file to write, which is there as a whole once it is closed."""
        return _Written(self, location)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Remove a file."""
        self._store.delete([self.key(location if isinstance(location, str) else location.location)])

    def read(self, location: str) -> bytes:
        """Return a file's content; raises FileNotFoundError, as pyiceberg expects."""
        content = self._store.get(self.key(location))
        if content is None:
            raise FileNotFoundError(location)
        return content

    def write(self, location: str, content: bytes) -> None:
        """Write a file."""
        key = self.key(location)
        self.written.append(key)
        self._store.put(key, content)

    def there(self, location: str) -> bool:
        """Tell whether a file exists."""
        return self._store.head(self.key(location)) is not None


class _Read(InputFile):
    def __init__(self, files: StoreFiles, location: str) -> None:
        super().__init__(location)
        self._files = files

    def __len__(self) -> int:
        return len(self._files.read(self.location))

    def exists(self) -> bool:
        return self._files.there(self.location)

    def open(self, seekable: bool = True) -> io.BytesIO:  # noqa: ARG002
        return io.BytesIO(self._files.read(self.location))


class _Written(OutputFile):
    def __init__(self, files: StoreFiles, location: str) -> None:
        super().__init__(location)
        self._files = files
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def exists(self) -> bool:
        return self._files.there(self.location)

    def to_input_file(self) -> InputFile:
        return _Read(self._files, self.location)

    def create(self, overwrite: bool = False) -> io.BytesIO:  # noqa: ARG002
        return _Buffer(self)

    def finish(self, content: bytes) -> None:
        """Write the content that the stream has gathered."""
        self._length = len(content)
        self._files.write(self.location, content)


class _Buffer(io.BytesIO):
    """Holds what is written until it is closed, and writes nothing when that went wrong."""

    def __init__(self, file: _Written) -> None:
        super().__init__()
        self._file = file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            super().close()
        self.close()

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._file.finish(content)


class Folder(NoopCatalog):
    """The one table in a folder. A commit succeeds only on top of the version that it was made from."""

    def __init__(self, name: str, store: Store, location: Location, root: str) -> None:
        super().__init__(name)
        self.store = store
        self.location = location
        self.files = StoreFiles(store, root, location.key)
        self._root = root

    def version(self) -> int:
        """Return the number of the newest metadata file; 0 where there is none.

        Raises UsageError for a table whose metadata files are named otherwise: another catalog has it.
        """
        listed = self.store.objects(f"{self.location.key}metadata/")
        numbers = [int(found[1]) for o in listed if (found := COMMIT.fullmatch(o.name))]
        if not numbers and any(o.name.endswith(".metadata.json") for o in listed):
            raise UsageError(
                f"{self.name}: an Iceberg table lies at {self.location} that was not built here",
                hint="give the product a `location` of its own",
            )
        return max(numbers, default=0)

    def metadata_key(self, version: int) -> str:
        """Return the key of a version's metadata file."""
        return f"{self.location.key}metadata/v{version}.metadata.json"

    def metadata(self, version: int) -> TableMetadata:
        """Return what a version's metadata file says; raises CorruptError."""
        key = self.metadata_key(version)
        try:
            return TableMetadataUtil.parse_raw((self.store.get(key) or b"").decode())
        except ValueError:
            raise CorruptError(f"{self.name}: not Iceberg metadata: {self.location.at(key)}") from None

    def current(self) -> Table | None:
        """Return the table at its newest version; None where there is none yet."""
        version = self.version()
        return self._table(version, self.metadata(version)) if version else None

    def _table(self, version: int, metadata: TableMetadata) -> Table:
        uri = self.files.uri(self.metadata_key(version))
        return Table(("folder", self.name), metadata, uri, self.files, self)

    def start(self, schema: Schema, spec: PartitionSpec) -> CreateTableTransaction:
        """Begin to make the table; its first commit is version 1, with all that is done until then."""
        metadata = new_table_metadata(schema, spec, UNSORTED_SORT_ORDER, self._root.rstrip("/"), dict(FORMAT))
        return CreateTableTransaction(StagedTable(("folder", self.name), metadata, "", self.files, self))

    def load_table(self, identifier: str | tuple[str, ...]) -> Table:  # noqa: ARG002
        """Return the table at its newest version; raises LocationError where there is none."""
        table = self.current()
        if table is None:
            raise LocationError(f"{self.name}: no Iceberg table at {self.location}")
        return table

    def commit_table(
        self,
        table: Table,
        requirements: tuple[TableRequirement, ...],  # noqa: ARG002
        updates: tuple[TableUpdate, ...],
    ) -> CommitTableResponse:
        """Make the next version; raises ExistsError where somebody else has made it.

        Raises StorageError where the store does not answer, and whether the commit was made is unknown.
        """
        base = None if isinstance(table, StagedTable) else table.metadata
        metadata = update_table_metadata(
            base_metadata=base or MetastoreCatalog._empty_table_metadata(),
            updates=updates,
            enforce_validation=base is None,
            metadata_location=table.metadata_location if base else None,
        )
        version = self.number(table) + 1
        # A version that followed ours may be gone again, with those between: its number would be free.
        if self.version() != version - 1:
            raise self._lost(version)
        content = metadata.model_dump_json(exclude_none=True).encode()
        self._put(version, content)
        with suppress(StorageError):
            # Only a hint: readers find a newer version themselves.
            self.store.put(f"{self.location.key}metadata/version-hint.text", str(version).encode())
        uri = self.files.uri(self.metadata_key(version))
        # The alias is what pyiceberg's model takes.
        return CommitTableResponse.model_validate({"metadata": metadata, "metadata-location": uri})

    @staticmethod
    def number(table: Table) -> int:
        """Return the number of the version that a table was opened at; 0 for one that is not made yet."""
        found = COMMIT.fullmatch(table.metadata_location.rpartition("/")[2])
        return int(found[1]) if found else 0

    def _put(self, version: int, content: bytes) -> None:
        """Make a metadata file that must not be there yet, and find out what became of it."""
        key = self.metadata_key(version)
        try:
            if self.store.put(key, content, new=True):
                return
        except StorageError:
            # The answer may be lost, and the file be there.
            if self.store.get(key) != content:
                raise
            return
        # A request that was sent twice meets its own file.
        if self.store.get(key) != content:
            raise self._lost(version)

    def _lost(self, version: int) -> ExistsError:
        return ExistsError(
            f"{self.name}: another build has made version v{version} of the table",
            hint="run it again: it goes on from there",
        )
