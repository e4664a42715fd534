"""The log of changes of a PostgreSQL: a snapshot of each table, and then what the stream of changes tells.

Each batch holds whole transactions. It is acknowledged to the server once it is durable, never before, and
the next build asks for what lies behind the last batch: what was read and not committed comes again, and what
was committed does not.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from meshql.build import bronze
from meshql.build.bronze_log import BatchWriter
from meshql.build.cdc import pgoutput, slots
from meshql.build.cdc.capture import Capture, FollowedTable, Tallied
from meshql.build.cdc.pgoutput import lsn_text, lsn_value
from meshql.build.cdc.rows import LOG_COLUMNS, Rows
from meshql.build.cdc.snapshot import Snapshot, snapshot
from meshql.build.cdc.source import Look, Source
from meshql.build.cdc.stream import Stream
from meshql.build.sources.portion import Portion
from meshql.build.step import Commit, Outcome, Pending, Step
from meshql.build.step import Stream as Progressed
from meshql.catalog.build import CdcBuild
from meshql.formats import batches
from meshql.formats.batch_state import Cursor, State, Taken
from meshql.sql import quote_literal
from meshql.terminal import size

if TYPE_CHECKING:
    import pyarrow

__all__ = ["build", "commits", "pending"]

COMMIT_SECONDS = 1.0
"""How long the oldest change waits at most, behind its transaction, for others to be committed with."""

TELL_SECONDS = 0.5
"""How often progress is told."""

NOTED_BYTES = 16 << 20
"""How much of the server's log may pass without a change of ours before that is noted, so that it can go."""

SNAPSHOT_ROWS = 200_000

ROWS = "__changes"

SOURCE = "@source"
"""Under which the log keeps which server it is of."""


def build(step: Step) -> Outcome:
    """Append what has committed on the server since the last batch; the first time, what is there.

    A request to follow goes on until the step is cancelled. Raises LocationError, which says what to do,
    where the server cannot tell all changes any more; UsageError for a table that cannot be followed rightly.
    """
    return _Log(step).build()


def pending(step: Step) -> Pending:
    """Return how much of the server's log there is to read, in words; nothing is taken."""
    return Pending(_Log(step).pending())


def commits(step: Step, known: Container[str] = ()) -> list[Commit]:
    """Return what the log of batches says of each, newest first."""
    return bronze.commits(step, known)


class _Log:
    """One build of one log."""

    def __init__(self, step: Step) -> None:
        assert isinstance(step.product.build, CdcBuild)
        self.step = step
        self.product = step.product
        self.how = step.product.build
        self.source = Source(step)
        self.store, self.location = step.mesh.store(self.product)
        self.writer = self._writer(batches.state(self.store, self.location))
        self.made: list[Commit] = []
        self.notes: list[str] = []
        self.followed = _followed(self.writer.state, self.source.names)
        self.tallied = Tallied()
        self.rows = 0

    def _writer(self, state: State, *, anew: bool = False) -> BatchWriter:
        return BatchWriter(self.step, self.store, self.location, state, full=anew)

    @property
    def cursor(self) -> int | None:
        """Up to where the log has everything; None before its first batch."""
        found = self.writer.state.taken.cursors.get(self.how.from_)
        return lsn_value(found.value) if found else None

    def pending(self) -> str:
        with self.source.opened():
            slot = self.source.kept()
        if self.cursor is None or self.step.request.full:
            return f"reading {_listed(self.source.names)}"
        if error := slots.gap(self.product, slot, self.source.slot, self.cursor):
            raise error
        behind = slot.behind if slot else None
        missing = self._stale()
        words = [f"reading {_listed(missing)}"] if missing else []
        return "; ".join([*words, f"up to {size(behind)} of the server's log"] if behind else words)

    # --- doing it ---------------------------------------------------------------------------------

    def build(self) -> Outcome:
        with ExitStack() as open_:
            open_.enter_context(self.source.opened())
            self.reading = open_.enter_context(self.step.mesh.looking(self.product))
            self._prepare()
            while self._stream():
                self._read(self._stale())
        state = self.writer.state
        return Outcome(
            tuple(self.made),
            str(state.number) if state.number else None,
            state.rows,
            tuple(dict.fromkeys(self.notes)),
        )

    def _prepare(self) -> None:
        """See that the server tells us all, and read the tables of which the log has nothing yet."""
        known = self.writer.state.taken.kept.get(SOURCE)
        self.system = self.source.refuse(known["system"] if known else None)
        slot = self.source.kept()
        if self.step.request.full or self.cursor is None:
            if slot is not None and (self.step.request.full or not self.how.slot):
                self.source.removed()
                slot = None
            self._read(self.source.names, make=slot is None)
            return
        if error := slots.gap(self.product, slot, self.source.slot, self.cursor):
            raise error
        self.source.released()
        if slot is not None and (warning := self.source.warning(slot)):
            self.notes.append(warning)
        if stale := self._stale():
            self._read(stale)

    def _stale(self) -> list[str]:
        return [n for n in self.source.names if n not in self.followed or self.followed[n].stale]

    # --- tables, whole ----------------------------------------------------------------------------

    def _read(self, names: list[str], *, make: bool = False) -> None:
        """Read tables as they are at one place, and commit them in one batch; `make` the slot there."""
        for name in names:
            known = self.followed.get(name)
            if known is not None and known.stale:
                self.notes.append(f"{name} was read anew: {known.stale}")
        source = self.source
        slot = source.slot if make else None
        with snapshot(source.server, self.step, names, source.publication, slot) as found:
            if make and self._foreign(found.point):
                self.writer = self._writer(self.writer.state, anew=True)
                self.notes.append("the log was begun anew: it was of another database")
            for name in names:
                self._copy(found, name)
            followed = {n: FollowedTable(found.found[n].shape, found.point) for n in names}
            kept: dict[str, Any] = {n: f.json() for n, f in followed.items()}
            kept[SOURCE] = {"system": self.system, "slot": source.slot}
            self.commit(found.point if make else self._begins(found.point), kept)
        self.followed |= followed

    def _begins(self, point: int) -> int:
        """Where the stream is taken from behind a snapshot at `point` that the slot was not made with."""
        if self.cursor is not None:
            return self.cursor
        # Changes from where the slot is are passed over up to the snapshot.
        there = self.source.kept()
        return min(point, there.confirmed) if there and there.confirmed else point

    def _foreign(self, point: int) -> bool:
        """Whether what the log holds so far is of another database, whose places cannot be compared."""
        known = self.writer.state.taken.kept.get(SOURCE)
        return known is not None and (known["system"] != self.system or point < (self.cursor or 0))

    def _copy(self, found: Snapshot, name: str) -> None:
        rows, count, names = Rows(), 0, list(found.found[name].shape.names)
        # Before the changes of a commit at that very place.
        lsn, at = found.point - 1, found.at
        rows.add((name, "s", lsn, 0, None, at))
        for count, row in enumerate(found.rows(name), 1):
            rows.add(
                (name, "r", lsn, count, None, at),
                after=(names, list(row)),
                size=sum(map(_length, row)),
            )
            if len(rows) >= SNAPSHOT_ROWS or rows.bytes > 64 << 20:
                self.write(rows.arrow())
                rows = Rows()
                self.step.progress(f"reading {name}", self.rows)
        self.write(rows.arrow())
        self.step.progress(f"read {count:,} rows of {name}", self.rows)

    # --- the sink of a capture --------------------------------------------------------------------

    def write(self, rows: pyarrow.Table) -> None:
        """Write entries, which nobody sees yet."""
        if not rows.num_rows:
            return
        self.reading.cursor.register(ROWS, rows)
        try:
            self.writer.add(
                Portion(self.reading, self.how.from_, ROWS, LOG_COLUMNS, quote_literal(self.how.from_))
            )
        finally:
            self.reading.cursor.unregister(ROWS)
        self.rows += rows.num_rows

    def commit(self, position: int, kept: dict[str, Any]) -> None:
        """Make visible what was written, and note up to where the stream was taken."""
        cursor = Cursor(lsn_text(position), "PG_LSN", self.writer.state.number + 1)
        self.writer.note(Taken(cursors={self.how.from_: cursor}, kept=kept))
        self.writer.commit()
        self.made.append(self.writer.commits[-1])
        if self.writer.full:
            self.writer = self._writer(self.writer.state)
        self.step.committed(self.made[-1])

    # --- changes ----------------------------------------------------------------------------------

    def _stream(self) -> bool:
        """Take changes until there are no more, or until cancelled; True where a table must be read anew."""
        assert self.cursor is not None
        source, look = self.source, Look(self.source, self.followed)
        with Stream(source.server, self.product.name, source.slot, source.publication, self.cursor) as stream:
            capture = Capture(
                self.followed, self, lambda name: source.found([name]).get(name), self.cursor, self.tallied
            )
            told = _Told(self.step, capture, stream, self)
            for message in stream.messages(self.step.check if not self.step.request.follow else _nothing):
                if message is not None:
                    decoded = pgoutput.read(message)
                    if decoded is not None:
                        capture.take(decoded, len(message))
                    if not isinstance(decoded, pgoutput.End):
                        continue
                if not capture.between:
                    continue
                self._due(capture, stream)
                told.now()
                if capture.stale:
                    self._commit_all(capture, stream)
                    return True
                if self._ended(capture, stream, look, idle=message is None):
                    self._commit_all(capture, stream)
                    return bool(capture.stale)
        return False

    def _due(self, capture: Capture, stream: Stream) -> None:
        """Commit what has waited long enough, and tell the server what is durable."""
        if self.step.request.follow and capture.age >= COMMIT_SECONDS:
            capture.commit()
        self._acknowledge(stream)

    def _commit_all(self, capture: Capture, stream: Stream) -> None:
        if not self.step.cancelled.is_set():
            if capture.waiting:
                capture.commit()
            self._note_passed(capture, stream)
        self._acknowledge(stream)

    def _acknowledge(self, stream: Stream) -> None:
        assert self.cursor is not None
        if self.cursor > stream.durable:
            stream.acknowledge(self.cursor)

    def _note_passed(self, capture: Capture, stream: Stream) -> None:
        """Note how far the server's log was read where nothing in it is ours: the server may let it go."""
        assert self.cursor is not None
        position = max(capture.position, stream.sent)
        if capture.between and not capture.waiting and position - self.cursor >= NOTED_BYTES:
            self.commit(position, {})

    def _ended(self, capture: Capture, stream: Stream, look: Look, *, idle: bool) -> bool:
        """Whether to stop here: cancelled, or at the end of what there was to take."""
        if self.step.cancelled.is_set():
            return True
        reached = max(capture.position, stream.sent) >= look.target
        if idle and not reached:
            stream.ask_position()
        if self.step.request.follow:
            if reached and idle:
                self._note_passed(capture, stream)
            if reached and look.due:
                look.compare(capture)
                look.again()
            return False
        if reached:
            look.compare(capture)
        return reached


class _Told:
    """Tells how far a stream was followed, now and then."""

    def __init__(self, step: Step, capture: Capture, stream: Stream, log: _Log) -> None:
        self._step, self._capture, self._stream, self._log = step, capture, stream, log
        self._next = 0.0

    def now(self) -> None:
        """Tell it, unless that was just done."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + TELL_SECONDS
        if self._step.cancelled.is_set():
            return
        capture, tallied, cursor = self._capture, self._capture.tallied, self._log.cursor or 0
        taken = cursor if capture.waiting else max(cursor, self._stream.sent)
        behind = self._log.source.position() - taken
        now = datetime.now(UTC) + timedelta(microseconds=self._stream.clock)
        oldest = capture.oldest_at if capture.waiting else None
        self._step.progress(
            "following changes",
            self._log.rows,
            stream=Progressed(
                lsn_text(max(cursor, capture.position)),
                max(behind, 0),
                max((now - oldest).total_seconds(), 0.0) if oldest else 0.0,
                tallied.inserts,
                tallied.updates,
                tallied.deletes,
                tallied.others,
                capture.committed_at,
            ),
        )


def _nothing() -> None:
    """Who follows looks for himself whether to stop."""


def _length(value: str | None) -> int:
    return len(value) if value is not None else 0


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _followed(state: State, names: Iterable[str]) -> dict[str, FollowedTable]:
    kept = state.taken.kept
    return {name: FollowedTable.parse(name, kept[name]) for name in names if name in kept}
