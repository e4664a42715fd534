"""Queries kept under a name, with their parameters."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meshql.errors import UsageError, nearest

__all__ = ["Bookmark", "Bookmarks"]


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A query and the values that its parameters had."""

    sql: str
    params: dict[str, Any]


class Bookmarks:
    """Bookmarks in a JSON file that only its owner can read; every change is written at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, Bookmark]:
        """Return the bookmarks by name; raises UsageError when the file is not what was written."""
        try:
            content = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
            return {name: Bookmark(**kept) for name, kept in content.items()}
        except (ValueError, TypeError, AttributeError):
            raise UsageError(
                f"not a file of bookmarks: {self._path}", hint="mend it, or move it away"
            ) from None

    def get(self, name: str) -> Bookmark:
        """Return the bookmark of this name; raises UsageError with the nearest names."""
        kept = self.all()
        if name not in kept:
            close = nearest(name, kept)
            hint = f"did you mean {' or '.join(close)}?" if close else ".save NAME keeps the last query"
            raise UsageError(f"no bookmark {name}", hint=hint)
        return kept[name]

    def save(self, name: str, bookmark: Bookmark) -> None:
        """Keep `bookmark` under `name`, in place of one that has it."""
        kept = {n: asdict(b) for n, b in (self.all() | {name: bookmark}).items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            json.dump(kept, file, indent=2, default=str)
        partial.replace(self._path)
