"""Delta tables that are built here: opened at a version, written by delta-rs, one commit at a time.

opened(mesh, product, version)        the table at a version
Table.commits() .transaction(app)     what its commits say, and the numbers that they keep for good
append(...) replace(...) merge(...)   one commit each
properties(commit, transactions)      what such a commit says of itself
writing(name)                         a block in which errors of delta-rs become those of meshql
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshql.build.needs import needs
from meshql.build.step import Commit
from meshql.catalog.model import Product
from meshql.errors import LocationError, MeshError, QueryError, StorageError
from meshql.mesh import Mesh
from meshql.redact import scrub
from meshql.sql import quote_identifier
from meshql.storage.refusals import storage_error

if TYPE_CHECKING:
    import pyarrow
    from deltalake import CommitProperties, DeltaTable, WriterProperties

__all__ = [
    "SAID",
    "Table",
    "address",
    "append",
    "create",
    "merge",
    "opened",
    "properties",
    "replace",
    "writing",
]

SAID = "meshql"
"""The key of a commit's metadata under which it says what it is."""

MOST_AT_FIRST = (4, 32)
"""How many commits are read before all of them are."""

ROWS_IN_GROUP = 128 * 1024
"""Rows that the writer holds of each partition before it writes them."""


@dataclass(slots=True)
class Table:
    """A product's table at one version; `handle` is None before its first commit.

    A write fails with StorageError where another writer committed after that version in a way that matters:
    every write carries numbers of applications, and of two from the same version one succeeds.
    """

    name: str
    uri: str
    options: dict[str, str]
    handle: DeltaTable | None

    @property
    def version(self) -> int:
        """Its version; -1 before the first commit."""
        return int(self.handle.version()) if self.handle is not None else -1

    @property
    def partitions(self) -> list[str]:
        """The columns that it is partitioned by."""
        return list(self.handle.metadata().partition_columns) if self.handle is not None else []

    def transaction(self, app: str) -> int | None:
        """Return the number that commits have kept for an application; None where none has."""
        found = self.handle.transaction_version(app) if self.handle is not None else None
        return None if found is None else int(found)

    def transactions(self, apps: Iterable[str]) -> dict[str, int]:
        """Return the numbers of those applications that have one."""
        found = {app: self.transaction(app) for app in apps}
        return {app: number for app, number in found.items() if number is not None}

    def commits(self, known: Container[str] = ()) -> list[Commit]:
        """Return what its commits say of themselves, newest first; those that say nothing are left out.

        Those before the newest one of a `known` run may be left out: each commit is a request.
        """
        return self._commits(lambda found: any(commit.run in known for commit in found))

    def last_commit(self) -> Commit | None:
        """Return what the newest commit that says something of itself says."""
        return next(iter(self._commits(bool)), None)

    def _commits(self, enough: Callable[[list[Commit]], bool]) -> list[Commit]:
        found: list[Commit] = []
        for most in (*MOST_AT_FIRST, None):
            with writing(self.name):
                history = self.handle.history(most) if self.handle else []
            found = [Commit.parse(entry[SAID], str(entry["version"])) for entry in history if SAID in entry]
            if enough(found) or (most and len(history) < most):
                break
        return found

    def files(self) -> dict[str, tuple[int, int]]:
        """Return the bytes and rows of its files, by path."""
        if self.handle is None:
            return {}
        with writing(self.name):
            added = self.handle.get_add_actions(flatten=True)
        found = {name: added.column(name).to_pylist() for name in ("path", "size_bytes", "num_records")}
        return {
            path: (size, rows or 0)
            for path, size, rows in zip(found["path"], found["size_bytes"], found["num_records"], strict=True)
        }


def address(mesh: Mesh, name: str) -> tuple[str, dict[str, str]]:
    """Return the URI of a product and the options with which delta-rs writes there, as who meshql is.

    The options hold secrets. Raises what `Mesh.storage_options` raises.
    """
    uri, options = mesh.storage_options(name, "deltalake")
    endpoint, account = (
        options.get("azure_storage_endpoint", ""),
        options.get("azure_storage_account_name", ""),
    )
    if endpoint.startswith("http://") and "azure_storage_account_key" in options:
        # Azurite lists a log from its start, wherever it is asked to begin. delta-rs knows that of emulators,
        # whose address it takes from nowhere else.
        os.environ["AZURITE_BLOB_STORAGE_URL"] = endpoint.rstrip("/").removesuffix(f"/{account}")
        options = options | {"azure_storage_use_emulator": "true"}
    return uri, options


def opened(mesh: Mesh, product: Product, version: int | None = None) -> Table:
    """Return a product's table at a version, or at its newest one.

    A product that has no table yet gives one without a handle. Raises StorageError, and UsageError where the
    library is missing or cannot be given the product's identity.
    """
    needs("deltalake")
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    uri, options = address(mesh, product.name)
    found = Table(product.name, uri, options, None)
    with writing(product.name):
        try:
            found.handle = DeltaTable(uri, version=version, storage_options=options)
        except TableNotFoundError:
            return found
    return found


def properties(commit: Commit | None, transactions: Mapping[str, int]) -> CommitProperties:
    """Return what makes a commit say what it is, and keep a number for each application.

    Of two commits that were begun from the same version and name the same application, one fails.
    """
    from deltalake import CommitProperties, Transaction

    return CommitProperties(
        custom_metadata={SAID: commit.json()} if commit is not None else None,
        app_transactions=[Transaction(app, number) for app, number in transactions.items()],
    )


def create(
    found: Table,
    schema: pyarrow.Schema,
    said: CommitProperties,
    *,
    partitions: tuple[str, ...] = (),
    configuration: Mapping[str, str | None] | None = None,
) -> None:
    """Make a table with no rows; `configuration` are its properties."""
    from deltalake import DeltaTable, Schema

    with writing(found.name):
        found.handle = DeltaTable.create(
            found.uri,
            Schema.from_arrow(schema),
            mode="error",
            partition_by=list(partitions),
            configuration=configuration,
            storage_options=found.options,
            commit_properties=said,
        )


def append(
    found: Table,
    rows: pyarrow.RecordBatchReader,
    said: CommitProperties,
    *,
    partitions: tuple[str, ...] = (),
    new_columns: bool = False,
) -> None:
    """Add rows, in a stream and one commit; a table that is not there yet is made."""
    _write(
        found,
        rows,
        mode="append" if found.handle is not None else "error",
        partition_by=list(partitions) or None,
        schema_mode="merge" if new_columns else None,
        commit_properties=said,
    )


def replace(
    found: Table,
    rows: pyarrow.RecordBatchReader,
    said: CommitProperties,
    *,
    where: str | None = None,
    partitions: tuple[str, ...] = (),
    new_columns: bool = False,
) -> None:
    """Put rows in place of all, or of those for which the SQL condition `where` holds, in one commit.

    Without `where`, columns and partitions become those of the rows. With it, the rows have to keep it.
    """
    if found.handle is None:
        append(found, rows, said, partitions=partitions)
    elif where is None:
        _write(
            found,
            rows,
            mode="overwrite",
            schema_mode="overwrite",
            partition_by=list(partitions),
            commit_properties=said,
        )
    else:
        _write(
            found,
            rows,
            mode="overwrite",
            predicate=where,
            schema_mode="merge" if new_columns else None,
            commit_properties=said,
        )


def _write(found: Table, rows: pyarrow.RecordBatchReader, **more: Any) -> None:
    from deltalake import DeltaTable, write_deltalake

    with writing(found.name):
        if found.handle is None:
            write_deltalake(
                found.uri, rows, storage_options=found.options, writer_properties=_in_small_groups(), **more
            )
            found.handle = DeltaTable(found.uri, storage_options=found.options)
        else:
            write_deltalake(found.handle, rows, writer_properties=_in_small_groups(), **more)


def merge(
    found: Table,
    rows: pyarrow.RecordBatchReader,
    keys: tuple[str, ...],
    said: CommitProperties,
    *,
    new_columns: bool = False,
    gone: str | None = None,
    only: tuple[str, ...] = (),
    within: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Put rows in place of those of the same key, and add those whose key is new, in one commit.

    `gone` is a column of the rows, and not of the table, that says that the row of that key is to be
    removed. `only` are the columns that are put in place; all of them unless given. `within` are the least
    and greatest value that columns of the key have in the rows: files without any of these are not read.
    """
    assert found.handle is not None
    tests = [f"t.{quote_identifier(key)} = s.{quote_identifier(key)}" for key in keys]
    for column, (least, greatest) in (within or {}).items():
        tests.append(f"t.{quote_identifier(column)} BETWEEN {least} AND {greatest}")
    same = " AND ".join(tests)
    with writing(found.name):
        merger = found.handle.merge(
            rows,
            same,
            source_alias="s",
            target_alias="t",
            merge_schema=new_columns,
            writer_properties=_in_small_groups(),
            commit_properties=said,
        )
        unlike = [gone] if gone else None
        if gone:
            merger = merger.when_matched_delete(f"s.{quote_identifier(gone)}")
        if only:
            merger = merger.when_matched_update(
                {quote_identifier(c): f"s.{quote_identifier(c)}" for c in only}
            )
        else:
            merger = merger.when_matched_update_all(except_cols=unlike)
        merger.when_not_matched_insert_all(
            f"NOT s.{quote_identifier(gone)}" if gone else None, except_cols=unlike
        ).execute()


def _in_small_groups() -> WriterProperties:
    from deltalake import WriterProperties

    return WriterProperties(max_row_group_size=ROWS_IN_GROUP)


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn what delta-rs raises about the product `name` into errors of meshql.

    A commit may have landed although an error is raised: whoever tries again looks first. Errors of meshql
    pass through.
    """
    needs("deltalake")
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except MeshError:
        raise
    except CommitFailedError as error:
        scrub(error)
        raise StorageError(
            f"{name}: another writer committed at the same moment", hint="run it again"
        ) from None
    except (DeltaError, OSError) as error:
        scrub(error)
        found = storage_error(str(error), name)
        if isinstance(found, LocationError) and found.hint:
            found.hint = found.hint.replace("and that its files still exist", "and that it can be written to")
        raise found from None
    except Exception as error:
        # Wrong values and types are plain exceptions of several classes there.
        scrub(error)
        raise QueryError(f"{name}: delta-rs refused the rows: {str(error).splitlines()[0]}") from None
