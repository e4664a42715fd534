"""A mesh over the catalog, and with the engine's settings, that the configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from meshql.catalog.locate import find_catalog
from meshql.config import Config

if TYPE_CHECKING:
    from meshql.mesh import Mesh

__all__ = ["catalog_of", "open_mesh"]


def catalog_of(config: Config) -> Path:
    """Return the catalog's folder or file; raises CatalogError, which names whoever named it."""
    origin = config.origin("catalog").replace("environment ", "$")
    return find_catalog(config.catalog, said_by=origin)


def open_mesh(config: Config, *, receipts: bool = False, lossless: bool = False) -> Mesh:
    """Open the catalog for queries; raises CatalogError, with all mistakes of the catalog at once.

    With `lossless`, results are to be written out: what writes tables takes plain types.
    """
    from meshql.mesh import connect
    from meshql.query.engine import LOSSLESS

    settings = (LOSSLESS if lossless else {}) | config.engine()
    return connect(catalog_of(config), settings=settings, receipts=receipts)
