"""A product at one moment: which version, and the SQL that scans just that version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from meshql.catalog.model import Product
from meshql.storage.location import Location

if TYPE_CHECKING:
    from meshql.formats.delta_log import Log

__all__ = ["Ask", "Details", "File", "Snapshot", "snapshot_key"]

Ask = Callable[[str], Sequence[Sequence[Any]]]
"""Runs a SQL text on the engine that has the snapshot's extensions and secrets, and returns its rows."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a product's table, fixed for as long as a statement runs.

    `version` is the Delta version, the Iceberg metadata file's name, or a digest of the files' names, sizes
    and tags. `relation` goes behind FROM. `proof` is what the store showed of this version: while it shows
    the same, the snapshot is still the current one. `shares` names an attached database that others are read
    through too. `log` is what a Delta table's log says, where the files that it names are scanned one by one
    instead of by the delta extension. `misread` is a query that finds something where the delta extension may
    misread the table. `parts` says how many files each scan has that the relation is made of, where it is
    made of several.
    """

    product: Product
    location: Location
    version: str
    relation: str
    proof: tuple[str, ...]
    attach: str | None = None
    preflight: str | None = None
    misread: str | None = None
    changed_at: datetime | None = None
    files: int | None = None
    bytes: int | None = None
    shares: str | None = None
    parts: tuple[int, ...] = ()
    log: Log | None = field(default=None, repr=False, compare=False)

    @property
    def function(self) -> str:
        """The name of the table function that reads it, as plans have it; empty for an attached table."""
        if self.log is not None:
            return "READ_PARQUET"
        return "" if self.attach else self.relation.partition("(")[0].upper()

    @property
    def key(self) -> str:
        """A name for this very version, which a table made anew at the same version does not share."""
        return snapshot_key(self.product, self.version, self.location, self.proof)


@dataclass(frozen=True, slots=True)
class File:
    """A file of a snapshot: its key in the bucket, and its bytes, None where they cannot be had.

    `partition` holds what the file's place in the table says of columns, as text. `manifest` is the key of
    the list that names the file, where the format has such lists. `deletes` says that it only tells which
    rows of other files are gone.
    """

    key: str
    bytes: int | None
    partition: Mapping[str, str | None] = field(default_factory=dict)
    manifest: str | None = None
    deletes: bool = False


@dataclass(frozen=True, slots=True)
class Details:
    """How much a snapshot holds; None where its format does not record it."""

    files: int | None
    rows: int | None
    bytes: int | None
    changed_at: datetime | None


def snapshot_key(product: Product, version: str, location: Location, proof: tuple[str, ...]) -> str:
    """Return the name of one version of one table: `sales.orders@7~3fa29c1e`."""
    digest = hashlib.sha256("\0".join((str(location), *proof)).encode()).hexdigest()
    return f"{product.name}@{version}~{digest[:8]}"
