"""Every way in which a result leaves meshql: as text for people, as data for programs, as files."""

from __future__ import annotations

from meshql.output.formats import FORMATS, format_of
from meshql.output.writers import Written, write

__all__ = ["FORMATS", "Written", "format_of", "write"]
