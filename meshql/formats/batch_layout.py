"""Which files hold the rows of old batches, where several batches' files were written into one.

A layout lies beside the log of batches, `_batches/layout-000000003.json`, and the newest one counts. It names
files that each hold all rows of the batches `first` to `last`; what the entries of these batches name is not
read any more. Batches keep their numbers, and rows their `_batch`: whoever takes what is new notices nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshql.errors import CorruptError
from meshql.storage.location import Location
from meshql.storage.store import Object, Store

__all__ = [
    "Layout",
    "MergedFile",
    "layout_proof",
    "layouts_in",
    "newest_layout",
    "read_layout",
    "write_layout",
]

NAME = re.compile(r"layout-(\d{9,})\.json")


@dataclass(frozen=True, slots=True)
class MergedFile:
    """A Parquet file with the rows of several batches: its key below the product's folder, bytes and rows."""

    key: str
    size: int
    rows: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The files that replace those of batches; `at` is when it came to be, by the store's clock."""

    number: int = 0
    files: tuple[MergedFile, ...] = ()
    at: datetime | None = None

    @property
    def batches(self) -> set[int]:
        """The batches whose rows are read from here, and not from their own files."""
        return {number for f in self.files for number in range(f.first, f.last + 1)}

    def since(self, batch: int) -> Layout:
        """Return the layout without files of which all batches lie before `batch`."""
        kept = tuple(f for f in self.files if f.first >= batch)
        return self if len(kept) == len(self.files) else Layout(self.number, kept, self.at)


def newest_layout(store: Store, location: Location, log: Iterable[Object]) -> Layout:
    """Return the newest layout of a listing of the log; an empty one where there is none.

    Raises CorruptError where it is none.
    """
    found = layouts_in(log)
    return read_layout(store, location, found[-1]) if found else Layout()


def layouts_in(log: Iterable[Object]) -> list[Object]:
    """Return the layouts of a listing of the log, oldest first."""
    return sorted((o for o in log if NAME.fullmatch(o.name)), key=lambda o: o.key)


def layout_proof(log: Iterable[Object]) -> str:
    """Return what proves which layout of a listing is the newest; empty without any."""
    found = layouts_in(log)
    return f"{found[-1].key}\0{found[-1].etag or found[-1].modified.isoformat()}" if found else ""


def read_layout(store: Store, location: Location, found: Object) -> Layout:
    """Return the layout that an object holds; raises CorruptError where it is none."""
    content = store.get(found.key)
    try:
        said: Any = json.loads(content or b"")
        number = int(found.name.removeprefix("layout-").removesuffix(".json"))
        return Layout(number, tuple(MergedFile(*values) for values in said["files"]), found.modified)
    except (KeyError, TypeError, ValueError):
        raise CorruptError(f"the log of batches holds no layout: {location.at(found.key)}") from None


def write_layout(store: Store, location: Location, number: int, files: Sequence[MergedFile]) -> bool:
    """Make layout `number` the one that counts; False where another has made one of that number."""
    content = json.dumps(
        {"meshql": 1, "files": [[f.key, f.size, f.rows, f.first, f.last] for f in files]},
        separators=(",", ":"),
    ).encode()
    key = f"{location.folder.key}_batches/layout-{number:09d}.json"
    # A request that was sent twice meets its own object.
    return store.put(key, content, new=True) or store.get(key) == content
