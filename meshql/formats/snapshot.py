"""A product at one moment: which version, and the SQL that scans just that version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from meshql.catalog.model import Product
from meshql.storage import Location

__all__ = ["Ask", "Details", "File", "Snapshot", "snapshot_key"]

Ask = Callable[[str], Sequence[Sequence[Any]]]
"""Runs a SQL text on the engine that has the snapshot's extensions and secrets, and returns its rows."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a product's table, fixed for as long as a statement runs.

    `version` is the Delta version, the Iceberg metadata file's name, or a digest of the files' names, sizes
    and tags. `relation` goes behind FROM. `proof` is what the store showed of this version: while it shows
    the same, the snapshot is still the current one.
    """

    product: Product
    location: Location
    version: str
    relation: str
    proof: tuple[str, ...]
    attach: str | None = None
    preflight: str | None = None
    changed_at: datetime | None = None
    files: int | None = None
    bytes: int | None = None

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
