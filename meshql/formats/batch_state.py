"""What the log of batches says, as values: a batch, its files, what it took from sources, and all of it."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from meshql.formats.batch_layout import Layout, MergedFile

__all__ = [
    "ROW_COLUMNS",
    "UNKNOWN",
    "Batch",
    "BatchFile",
    "Cursor",
    "State",
    "Taken",
    "TakenFile",
]

ROW_COLUMNS = {"_ingested_at": "TIMESTAMP WITH TIME ZONE", "_source": "VARCHAR", "_batch": "BIGINT"}
"""The columns that every row has besides its source's own: when it came, from where, in which batch."""

UNKNOWN = '"NULL"'
"""The type of a column of which only NULLs have come so far."""


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A Parquet file of a batch: its key below the product's folder, its bytes and rows."""

    key: str
    size: int
    rows: int


@dataclass(frozen=True, slots=True)
class TakenFile:
    """A source's file as it was when it was taken; `bad` when it could not be read and was left out."""

    etag: str | None
    size: int
    modified: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a source was taken: its highest value as text, that column's type, and since which batch.

    Rows with the highest value are in no batch before `batch`.
    """

    value: str
    type: str
    batch: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken: files by their address, and by the source's name its cursor and its columns' types.

    `kept` is what a source keeps for itself, JSON by name, in its own words.
    """

    files: Mapping[str, TakenFile] = field(default_factory=dict)
    cursors: Mapping[str, Cursor] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)

    def __or__(self, later: Taken) -> Taken:
        return Taken(
            {**self.files, **later.files},
            {**self.cursors, **later.cursors},
            {**self.columns, **later.columns},
            {**self.kept, **later.kept},
        )

    def __bool__(self) -> bool:
        return bool(self.files or self.cursors or self.columns or self.kept)

    def json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "files": {k: [f.etag, f.size, f.modified, f.bad] for k, f in self.files.items()},
            "cursors": {k: [c.value, c.type, c.batch] for k, c in self.cursors.items()},
            "columns": {k: dict(columns) for k, columns in self.columns.items()},
            **({"kept": dict(self.kept)} if self.kept else {}),
        }

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Taken:
        """Return what JSON says of it."""
        return cls(
            {k: TakenFile(*values) for k, values in said.get("files", {}).items()},
            {k: Cursor(*values) for k, values in said.get("cursors", {}).items()},
            said.get("columns", {}),
            said.get("kept", {}),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """One commit: rows that became visible at once.

    `id` tells it from another writer's batch of the same number. `columns` are those of its own files;
    `schema` all columns so far, with the types that all batches are read at. `replaces` says that the rows of
    earlier batches count no more. `taken` is what it took from sources, besides what earlier ones did.
    """

    number: int
    id: str
    at: datetime
    commit: str
    files: tuple[BatchFile, ...]
    columns: Mapping[str, str]
    schema: Mapping[str, str]
    taken: Taken = Taken()
    replaces: bool = False

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return sum(f.rows for f in self.files)

    @property
    def bytes(self) -> int:
        """The bytes of its files."""
        return sum(f.size for f in self.files)

    def json(self) -> dict[str, Any]:
        """Return it as the log has it."""
        return {
            "meshql": 1,
            "number": self.number,
            "id": self.id,
            "at": self.at.isoformat(),
            "commit": json.loads(self.commit),
            "replaces": self.replaces,
            "files": [[f.key, f.size, f.rows] for f in self.files],
            "columns": dict(self.columns),
            "schema": dict(self.schema),
            "taken": self.taken.json(),
        }

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Batch:
        """Return what an entry of the log says."""
        return cls(
            number=int(said["number"]),
            id=str(said["id"]),
            at=datetime.fromisoformat(said["at"]),
            commit=json.dumps(said["commit"], separators=(",", ":")),
            files=tuple(BatchFile(*values) for values in said["files"]),
            columns=said["columns"],
            schema=said["schema"],
            taken=Taken.parse(said["taken"]),
            replaces=bool(said["replaces"]),
        )


@dataclass(frozen=True, slots=True)
class State:
    """All that the log says: the batches, oldest first, and what was taken from sources."""

    batches: tuple[Batch, ...] = ()
    taken: Taken = Taken()
    layout: Layout = field(default_factory=Layout)

    @property
    def number(self) -> int:
        """The newest batch; 0 where there is none."""
        return self.batches[-1].number if self.batches else 0

    @property
    def since(self) -> int:
        """The batch that replaced all earlier ones; 0 where none did."""
        return max((b.number for b in self.batches if b.replaces), default=0)

    @property
    def live(self) -> tuple[Batch, ...]:
        """The batches whose rows count, oldest first."""
        since = self.since
        return tuple(b for b in self.batches if b.number >= since)

    @property
    def schema(self) -> Mapping[str, str]:
        """All columns with the types that they are read at, `_ingested_at` and its like last."""
        own = self.batches[-1].schema if self.batches else {}
        return {name: "VARCHAR" if kind == UNKNOWN else kind for name, kind in own.items()} | ROW_COLUMNS

    @property
    def rows(self) -> int:
        """The rows of all live batches."""
        return sum(b.rows for b in self.live)

    def adding(self, batch: Batch) -> State:
        """Return the state with one more batch."""
        taken = batch.taken if batch.replaces else self.taken | batch.taken
        return replace(self, batches=(*self.batches, batch), taken=taken)

    def files(self, after: int = 0, upto: int | None = None) -> list[MergedFile]:
        """Return the files that hold the rows of batches `after` < n <= `upto`, as far as they count.

        One that was merged may hold rows of other batches besides.
        """
        wanted = self._wanted(after, upto)
        numbers = [b.number for b in wanted if b.files]
        found = [f for f in self.layout.files if _any_between(numbers, f.first, f.last)]
        merged = self.layout.batches
        for batch in wanted:
            if batch.number not in merged:
                found += [MergedFile(f.key, f.size, f.rows, batch.number, batch.number) for f in batch.files]
        return sorted(found, key=lambda f: f.first)

    def _wanted(self, after: int, upto: int | None) -> list[Batch]:
        return [b for b in self.live if after < b.number and (upto is None or b.number <= upto)]

    def beyond(self, files: Sequence[MergedFile], after: int = 0, upto: int | None = None) -> str:
        """Return the condition under which rows of `files` are of those batches; empty where all are."""
        numbers = [b.number for b in self._wanted(after, upto)]
        if {n for f in files for n in range(f.first, f.last + 1)} <= set(numbers):
            return ""
        first, last = numbers[0], numbers[-1]
        if len(numbers) == last - first + 1:
            return f"_batch BETWEEN {first} AND {last}"
        return f"_batch IN ({', '.join(map(str, numbers))})"


def _any_between(numbers: Sequence[int], first: int, last: int) -> bool:
    """Whether one of some sorted numbers is `first`, `last` or between them."""
    at = bisect_left(numbers, first)
    return at < len(numbers) and numbers[at] <= last
