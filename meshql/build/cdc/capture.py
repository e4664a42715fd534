"""Messages of the stream become entries of the log: whole transactions, in the order of their commits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from meshql.build.cdc.pgoutput import (
    UNCHANGED,
    Begin,
    Change,
    End,
    Message,
    Relation,
    Truncation,
    Values,
)
from meshql.build.cdc.rows import Encoder, Rows
from meshql.build.cdc.shapes import Shape
from meshql.build.cdc.tables import BESIDE, Found, carried

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Capture", "FollowedTable", "Sink", "Tallied"]

ROWS_IN_PART, BYTES_IN_PART = 100_000, 64 << 20
"""What is held in memory at most; a transaction may have more."""


class Sink(Protocol):
    """Where entries go."""

    def write(self, rows: pyarrow.Table) -> None:
        """Write entries, which nobody sees yet."""

    def commit(self, position: int, kept: dict[str, Any]) -> None:
        """Make visible what was written, and note up to where the stream was taken; `kept` are shapes."""


@dataclass(slots=True)
class FollowedTable:
    """A table that is followed: changes count that commit at `since` or later.

    `stale` says why it has to be read anew: changes of it are passed over until then.
    """

    shape: Shape
    since: int
    stale: str | None = None

    def json(self) -> dict[str, Any]:
        """Return it as the log keeps it."""
        said: dict[str, Any] = {**self.shape.json(), "since": self.since}
        return said | {"stale": self.stale} if self.stale else said

    @classmethod
    def parse(cls, table: str, said: dict[str, Any]) -> FollowedTable:
        """Return what the log keeps of a table."""
        return cls(Shape.parse(table, said), said["since"], said.get("stale"))


@dataclass(slots=True)
class Tallied:
    """How many changes of each kind have come."""

    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    others: int = 0


@dataclass
class Capture:
    """Takes messages, and commits entries at ends of transactions.

    `position` is up to where whole transactions were taken. `look` asks the server for a table as it is now.
    `committed_at` is the server's time of the newest change that is durable, `oldest_at` of the oldest one
    that waits for it.
    """

    followed: dict[str, FollowedTable]
    sink: Sink
    look: Callable[[str], Found | None]
    position: int
    tallied: Tallied = field(default_factory=Tallied)
    committed_at: datetime | None = None
    oldest_at: datetime | None = None

    def __post_init__(self) -> None:
        self._rows = Rows()
        self._whole = 0
        self._first: float | None = None
        self._spilled: set[str] = set()
        self._relations: dict[int, Relation] = {}
        self._encoders: dict[int, Encoder | None] = {}
        self._transaction: Begin | None = None
        self._seq = self._newest = 0
        self._kept: dict[str, Any] = {}
        self._partial: dict[str, int] = {}

    @property
    def stale(self) -> list[str]:
        """Tables that have to be read anew."""
        return [name for name, followed in self.followed.items() if followed.stale]

    @property
    def between(self) -> bool:
        """Whether no transaction has begun that has not ended."""
        return self._transaction is None

    @property
    def waiting(self) -> bool:
        """Whether there is something to commit."""
        return self._first is not None

    @property
    def age(self) -> float:
        """Seconds since the oldest came of what is to be committed; 0 without any."""
        return time.monotonic() - self._first if self._first is not None else 0.0

    def take(self, message: Message, size: int = 0) -> None:
        """Take a message of about `size` bytes; raises what the sink raises."""
        if isinstance(message, Change):
            self._change(message, size)
            if len(self._rows) >= ROWS_IN_PART or self._rows.bytes >= BYTES_IN_PART:
                self._cut()
        elif isinstance(message, Begin):
            self._transaction, self._seq = message, 0
        elif isinstance(message, End):
            self._end(message)
        elif isinstance(message, Relation):
            self._relations[message.oid] = message
            self._encoders.pop(message.oid, None)
        elif isinstance(message, Truncation):
            for oid in message.oids:
                self._truncate(oid)

    def _end(self, message: End) -> None:
        self._transaction = None
        self.position = max(self.position, message.end)
        self._whole = len(self._rows)
        if self._spilled or self._partial or self._whole >= ROWS_IN_PART // 2:
            self.commit()

    # --- rows -------------------------------------------------------------------------------------

    def _encoder(self, oid: int) -> Encoder | None:
        """What encodes rows of a table in this transaction; None where they do not count."""
        if oid in self._encoders:
            return self._encoders[oid]
        relation = self._relations[oid]
        followed = self.followed.get(relation.table)
        if followed is None:
            self._renamed(relation)
            self._encoders[oid] = None
            return None
        assert self._transaction is not None
        if self._transaction.lsn < followed.since:
            return None
        if not followed.stale and not _fits(followed, relation):
            self._other(followed, relation)
        self._encoders[oid] = None if followed.stale else Encoder(followed.shape)
        return self._encoders[oid]

    def _renamed(self, relation: Relation) -> None:
        """Pass over a table that is not followed; one that was, under another name, went away."""
        for followed in self.followed.values():
            if followed.shape.oid == relation.oid and not followed.stale:
                self._stale(followed, f"it was renamed to {relation.table}")

    def _other(self, followed: FollowedTable, relation: Relation) -> None:
        """Go over to another shape; where that cannot be, the table has to be read anew."""
        found = self.look(followed.shape.table)
        if found is None or not _alike(found.shape, relation):
            self._stale(followed, "its columns changed again before that was seen")
        else:
            self.adopt(followed, found)

    def adopt(self, followed: FollowedTable, found: Found) -> None:
        """Go over to the shape that a table has now, or note that it has to be read anew."""
        shape = carried(followed.shape, found)
        table = followed.shape.table
        if shape is None:
            self._stale(followed, "its rows changed in a way that PostgreSQL does not tell")
            return
        if shape.columns != followed.shape.columns or shape.key != followed.shape.key:
            if table in self._rows.tables() or table in self._spilled:
                self._cut()
            if table in self._spilled:
                self._stale(followed, "its columns changed within a transaction")
                return
        followed.shape = shape
        self._keep(followed)
        self._encoders.pop(shape.oid, None)

    def _stale(self, followed: FollowedTable, why: str) -> None:
        followed.stale = why
        self._keep(followed)
        if self._transaction is not None:
            self._partial[followed.shape.table] = self._transaction.lsn
        self._encoders.pop(followed.shape.oid, None)

    def _keep(self, followed: FollowedTable) -> None:
        """Have the next commit note how a table is followed."""
        self._kept[followed.shape.table] = followed.json()
        self._first = self._first or time.monotonic()

    def _change(self, change: Change, size: int) -> None:
        encoder = self._encoder(change.oid)
        if encoder is None:
            return
        if change.kind == "I":
            assert change.new is not None
            self.tallied.inserts += 1
            self._add(encoder, "c", after=change.new, size=size)
        elif change.kind == "U":
            self.tallied.updates += 1
            self._update(encoder, change, size)
        else:
            self.tallied.deletes += 1
            assert change.old is not None
            self._delete(encoder, change.old, change.whole)

    def _update(self, encoder: Encoder, change: Change, size: int) -> None:
        new, old = change.new, change.old
        assert new is not None
        if old is None:
            self._add(encoder, "u", after=new, size=size)
            return
        filling = range(len(new)) if change.whole else encoder.key
        for i in filling:
            if new[i] is UNCHANGED:
                new[i] = old[i]
        if all(old[i] is None or old[i] == new[i] for i in encoder.key):
            self._add(encoder, "u", before=old if change.whole else None, after=new, size=size)
        elif UNCHANGED in new:
            followed = self.followed[encoder.shape.table]
            self._stale(
                followed,
                "the key of a row changed, whose long values PostgreSQL does not repeat;"
                f" with ALTER TABLE {encoder.shape.table} REPLICA IDENTITY FULL it would",
            )
        else:
            self._delete(encoder, old, change.whole)
            self._add(encoder, "c", after=new, size=size)

    def _delete(self, encoder: Encoder, old: Values, whole: bool) -> None:
        if any(old[i] is None for i in encoder.key):
            self._stale(self.followed[encoder.shape.table], "a row was deleted without its key being told")
        elif whole:
            self._add(encoder, "d", before=old)
        else:
            self._add(encoder, "d", before=old, key_only=True)

    def _truncate(self, oid: int) -> None:
        encoder = self._encoder(oid)
        if encoder is None:
            return
        self.tallied.others += 1
        self._add(encoder, "t")
        followed = self.followed[encoder.shape.table]
        beside = tuple(f for f in followed.shape.files if f.startswith(BESIDE))
        followed.shape = replace(followed.shape, files=beside)
        self._keep(followed)

    def _add(
        self,
        encoder: Encoder,
        op: str,
        *,
        before: Values | None = None,
        after: Values | None = None,
        key_only: bool = False,
        size: int = 0,
    ) -> None:
        assert self._transaction is not None
        tx = self._transaction
        if self._first is None:
            self._first = time.monotonic()
            self.oldest_at = datetime.fromtimestamp(tx.at / 1_000_000, UTC)
        self._seq += 1
        self._newest = tx.at
        old = None
        if before is not None:
            spelled = encoder.spelled(before)
            old = (encoder.key_names, encoder.keyed(spelled)) if key_only else (encoder.names, spelled)
        self._rows.add(
            (encoder.shape.table, op, tx.lsn, self._seq, tx.xid, tx.at),
            before=old,
            after=(encoder.names, encoder.spelled(after)) if after is not None else None,
            size=size,
        )

    # --- commits ----------------------------------------------------------------------------------

    def _cut(self) -> None:
        """Commit transactions that have ended, and write what there is of the one under way."""
        rows, self._rows = self._rows, Rows()
        arrow = rows.arrow() if rows else None
        if arrow is not None and self._whole:
            self._commit(arrow.slice(0, self._whole))
        if arrow is not None and len(rows) > self._whole:
            rest = arrow.slice(self._whole)
            self._spilled |= set(rest.column("table_name").unique().to_pylist())
            self.sink.write(rest)
        self._whole = 0

    def commit(self) -> None:
        """Commit all transactions that have ended."""
        rows, self._rows, self._whole = self._rows, Rows(), 0
        self._commit(rows.arrow() if rows else None)

    def _commit(self, rows: pyarrow.Table | None) -> None:
        if rows is not None:
            self.sink.write(self._without_parts(rows))
        kept, self._kept = self._kept, {}
        if self.between:
            self._spilled, self._partial, self._first = set(), {}, None
        if self._newest:
            self.committed_at = datetime.fromtimestamp(self._newest / 1_000_000, UTC)
        self.sink.commit(self.position, kept)

    def _without_parts(self, rows: pyarrow.Table) -> pyarrow.Table:
        """Leave out transactions of which only a part was taken, since their table will be read anew."""
        import pyarrow.compute as pc

        for table, lsn in self._partial.items():
            partial = pc.and_(pc.equal(rows.column("table_name"), table), pc.equal(rows.column("lsn"), lsn))
            rows = rows.filter(pc.invert(partial))
        return rows


def _fits(followed: FollowedTable, relation: Relation) -> bool:
    return relation.oid == followed.shape.oid and _alike(followed.shape, relation)


def _alike(shape: Shape, relation: Relation) -> bool:
    """Whether the stream has a table's columns as the shape has them."""
    mine = [(c.name, c.oid, c.modifier) for c in shape.columns]
    return mine == [(c.name, c.oid, c.modifier) for c in relation.columns]
