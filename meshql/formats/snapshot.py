"""A product at one moment: which version, and the SQL that scans just that version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshql.catalog.model import Product
from meshql.storage import Location

__all__ = ["Ask", "Details", "Snapshot"]

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
        """A name for this very version, unique in a catalog: `sales.orders@7`."""
        return f"{self.product.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Details:
    """How much a snapshot holds; None where its format does not record it."""

    files: int | None
    rows: int | None
    bytes: int | None
    changed_at: datetime | None
