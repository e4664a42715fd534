"""Writing batches: rows to Parquet files, files into the store, and an entry of the log that names them."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from meshql.build.drift import Shape, changed, merged
from meshql.build.sources.portion import Portion, Work, copied
from meshql.build.step import Commit, Counts, Step
from meshql.errors import StorageError
from meshql.formats import batches
from meshql.formats.batch_state import UNKNOWN, Batch, BatchFile, State, Taken
from meshql.formats.batches import DATA
from meshql.sql import quote_identifier, quote_literal
from meshql.storage.location import Location
from meshql.storage.store import Store

__all__ = ["BatchWriter"]

FILE_BYTES = "256MB"

CHECKPOINT_EVERY = 50
"""Batches; so many entries are read at most to know a product's state."""


class BatchWriter:
    """The next batch of a bronze product, and the ones after it.

    With `full`, what comes replaces all that is there, in one batch however many portions it has.
    """

    def __init__(self, step: Step, store: Store, location: Location, state: State, *, full: bool) -> None:
        self.state = state
        self.commits: list[Commit] = []
        self.full = full
        self._step, self._store, self._location = step, store, location
        self._begin()

    def _begin(self) -> None:
        self._id = uuid.uuid4().hex[:12]
        self._at = datetime.now(UTC)
        self._files: list[BatchFile] = []
        self._columns: dict[str, str] = {}
        before = self.state.batches[-1].schema if self.state.batches and not self.full else {}
        self._schema: Mapping[str, str] = before
        self._taken = Taken()
        self._inputs: dict[str, str] = {}
        self._changes: list[str] = []

    @property
    def work(self) -> Work:
        """What a source goes on from."""
        return Work(self._step, State() if self.full else self.state, self.state.number + 1)

    def add(self, portion: Portion) -> None:
        """Write a portion's rows into the store; nobody sees them before `commit`."""
        if portion.relation:
            own = self._own(portion)
            shape = merged(self._schema, own, portion.reading.cursor)
            files = self._written(portion, shape)
            portion.check()
            self._upload(files)
            columns = {name: kind for name, (_, kind) in shape.written.items()}
            self._note_drift(portion, columns, shape)
            self._schema, self._columns = shape.schema, {**self._columns, **columns}
            self._taken |= Taken(columns={portion.name: columns})
        self._taken |= portion.taken
        self._inputs |= portion.inputs

    def note(self, taken: Taken) -> None:
        """Note what was taken besides what portions say; there is something to commit then."""
        self._taken |= taken

    def _own(self, portion: Portion) -> dict[str, str]:
        """The columns of a portion; JSON of which there are only NULLs is of no type yet."""
        unsure = [name for name, kind in portion.columns.items() if kind == "JSON"]
        if not unsure:
            return dict(portion.columns)
        counts = ", ".join(f"count({quote_identifier(name)})" for name in unsure)
        found = portion.reading.ask(f"SELECT {counts} FROM {portion.relation}")[0]
        empty = {name for name, count in zip(unsure, found, strict=True) if not count}
        return {name: UNKNOWN if name in empty else kind for name, kind in portion.columns.items()}

    def _note_drift(self, portion: Portion, columns: Mapping[str, str], shape: Shape) -> None:
        before = self.state.taken.columns.get(portion.name)
        known = self._taken.columns.get(portion.name, before)
        if known is not None:
            self._changes += [w for w in changed(known, columns, shape.schema) if w not in self._changes]

    def _written(self, portion: Portion, shape: Shape) -> list[tuple[Path, BatchFile]]:
        columns = [f"{sql} AS {quote_identifier(name)}" for name, (sql, _) in shape.written.items()]
        number = self.state.number + 1
        columns += [
            f"CAST({quote_literal(self._at.isoformat())} AS TIMESTAMPTZ) AS _ingested_at",
            f"{portion.source} AS _source",
            f"CAST({number} AS BIGINT) AS _batch",
        ]
        query = f"SELECT {', '.join(columns)} FROM {portion.relation}"
        folder = self._step.scratch / f"batch-{self._id}"
        self._step.progress(f"writing batch {number}", sum(f.rows for f in self._files))
        options = f", FILE_SIZE_BYTES '{FILE_BYTES}', OVERWRITE true"
        found = copied(portion.reading, query, str(folder), self._step, options)
        day = f"{DATA}{self._at:%Y-%m-%d}"
        return [
            (
                Path(path),
                BatchFile(f"{day}/{number:09d}-{self._id}-{len(self._files) + i}.parquet", size, rows),
            )
            for i, (path, rows, size) in enumerate(found)
            if rows
        ]

    def _upload(self, files: list[tuple[Path, BatchFile]]) -> None:
        self._step.check()
        folder = self._location.folder.key
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(lambda f: self._store.put(folder + f[1].key, f[0]), files))
        self._files += [file for _, file in files]
        shutil.rmtree(self._step.scratch / f"batch-{self._id}", ignore_errors=True)
        counts = self._counts()
        self._step.progress(f"batch {self.state.number + 1}", counts.rows_out, counts.bytes)

    def _counts(self) -> Counts:
        rows = sum(f.rows for f in self._files)
        return Counts(rows, rows, bytes=sum(f.size for f in self._files), files=len(self._files))

    def commit(self) -> Commit | None:
        """Make visible what was added, and return what its commit says; None where nothing was.

        Raises StorageError where another build made the batch of this number first.
        """
        if not (self._files or self._taken or (self.full and self.state.rows)):
            return None
        self._step.check()
        before = self.state.batches[-1].schema if self.state.batches else {}
        if self.full and self._files and before:
            self._changes = changed(before, self._schema, self._schema)
        said = self._step.commit(
            self._counts(), inputs=self._inputs, watermark=_watermark(self._taken), changes=self._changes
        )
        batch = Batch(
            self.state.number + 1,
            self._id,
            self._at,
            said.json(),
            tuple(self._files),
            self._columns,
            # An empty product keeps its columns.
            self._schema or before,
            self._taken,
            replaces=self.full and self.state.number > 0,
        )
        if not batches.commit(self._store, self._location, batch):
            raise StorageError(
                f"{self._step.product.name}: another build has made batch {batch.number} meanwhile,"
                " and this one was given up",
                hint="run it again: it goes on behind the other one",
            )
        self.state = self.state.adding(batch)
        self.commits.append(Commit.parse(batch.commit, str(batch.number)))
        if batch.number % CHECKPOINT_EVERY == 0:
            batches.checkpoint(self._store, self._location, self.state)
        self._begin()
        return self.commits[-1]


def _watermark(taken: Taken) -> str:
    """How far the sources were taken, in words."""
    words = [f"{name}: {cursor.value}" for name, cursor in taken.cursors.items()]
    if taken.files:
        words.append(f"{len(taken.files):,} file{'s' if len(taken.files) > 1 else ''}")
    return "; ".join(words)
