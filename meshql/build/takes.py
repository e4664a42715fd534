"""What each commit of a silver product takes of bronze, and the numbers that tell how far it is."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from meshql.build.step import Request
from meshql.formats import batches
from meshql.formats.batch_state import Batch, State
from meshql.storage.location import Location

__all__ = [
    "APPS",
    "BASE",
    "BATCH",
    "BATCH_ID",
    "COUNTER",
    "EPOCH",
    "LAYOUT",
    "QUARANTINE",
    "Due",
    "Known",
    "Take",
]

ROWS_IN_COMMIT, BYTES_IN_COMMIT = 1_000_000, 256 << 20
"""How much of bronze one commit takes, unless a single batch has more."""

COUNTER, BATCH, BATCH_ID, EPOCH, LAYOUT, QUARANTINE, BASE = (
    "meshql",
    "meshql-batch",
    "meshql-batch-id",
    "meshql-epoch",
    "meshql-layout",
    "meshql-quarantine",
    "meshql-base",
)
"""Numbers that commits keep: how many there were; the last batch taken, and its id; which rebuild it follows;
the key and order; of a silver table, the quarantine's commits when it was made; of a quarantine, the batch
that its last commit began behind."""

APPS = (COUNTER, BATCH, BATCH_ID, EPOCH, LAYOUT, QUARANTINE, BASE)


@dataclass(frozen=True, slots=True)
class Take:
    """Batches of bronze that one commit takes; `behind` is the last one that was taken before.

    `whole` replaces all rows, `again` those of just these batches.
    """

    batches: tuple[Batch, ...]
    behind: int
    whole: bool = False
    again: bool = False

    @property
    def upto(self) -> int:
        """The last batch that it takes."""
        return self.batches[-1].number if self.batches else self.behind

    @property
    def rows(self) -> int:
        """The rows of its batches."""
        return sum(b.rows for b in self.batches)

    @property
    def condition(self) -> str:
        """A predicate for rows of its batches."""
        return f"_batch IN ({', '.join(str(b.number) for b in self.batches)})"

    def relation(self, state: State, location: Location) -> str:
        """Return what goes behind FROM to scan its batches, of all that `state` knows."""
        if not self.batches:
            return batches.relation(state, location, after=state.number)
        first, last = self.batches[0].number, self.upto
        found = batches.relation(state, location, first - 1, last)
        gaps = sum(first <= b.number <= last for b in state.live) > len(self.batches)
        return f"(FROM {found} WHERE {self.condition})" if gaps else found

    def __str__(self) -> str:
        first = self.batches[0].number if self.batches else self.upto
        return f"batch {first}" if first == self.upto else f"batches {first} to {self.upto}"


@dataclass(slots=True)
class Known:
    """What the numbers of both tables say; empty where a table is not there."""

    silver: dict[str, int] = field(default_factory=dict)
    quarantine: dict[str, int] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """The last batch that the product has taken."""
        return self.silver.get(BATCH, 0)

    @property
    def clean(self) -> bool:
        """Whether the quarantine is as the product's last commit left it."""
        return self.quarantine.get(COUNTER) == self.silver.get(QUARANTINE)

    @property
    def damaged(self) -> bool:
        """Whether more of the quarantine has changed than what lies behind the product's last batch."""
        if self.clean:
            return False
        follows = self.quarantine.get(EPOCH) == self.silver.get(EPOCH)
        return not follows or self.quarantine.get(BASE, -1) < self.batch


@dataclass(frozen=True, slots=True)
class Due:
    """What a product has still to take of `bronze`, whose batches are `taken`.

    `built` says that its table is there; `keyed` that of each key one row is kept.
    """

    bronze: str
    taken: State
    known: Known
    request: Request
    built: bool
    keyed: bool

    def batch_id(self, number: int) -> int:
        """Return what tells batch `number` from another of that number."""
        return next((zlib.crc32(b.id.encode()) for b in self.taken.batches if b.number == number), 0)

    @property
    def whole(self) -> str | None:
        """Why all rows have to be made again; None when they need not."""
        known = self.known
        if not self.built:
            return None
        if self.request.full:
            return "asked for"
        if self.taken.since > known.batch:
            return f"{self.bronze} was replaced"
        if known.batch > self.taken.number or self.batch_id(known.batch) != known.silver.get(BATCH_ID):
            return f"{self.bronze} was made anew"
        if known.damaged:
            return "a build was cut off while it made rows again"
        if self.keyed and self._asked():
            return "with a key, rows of other batches may come back"
        return None

    def _asked(self) -> tuple[Batch, ...]:
        """The batches that a backfill is about, as far as they were taken before."""
        since, until = self.request.since, self.request.until
        if not self.built or not self.request.backfill:
            return ()
        return tuple(
            b
            for b in self.taken.live
            if b.number <= self.known.batch
            and (since is None or since <= b.at)
            and (until is None or b.at < until)
        )

    def takes(self) -> Iterator[Take]:
        """Yield what each commit is to take, whether or not those before it are made meanwhile."""
        if self.whole:
            yield Take(self.taken.live, 0, whole=True)
            return
        behind, group = self.known.batch, list[Batch]()
        if asked := self._asked():
            yield Take(asked, behind, again=True)
        for batch in [b for b in self.taken.live if b.number > behind]:
            if group and not _fits([*group, batch]):
                yield Take(tuple(group), behind)
                behind, group = group[-1].number, []
            group.append(batch)
        if group:
            yield Take(tuple(group), behind)

    @property
    def words(self) -> str:
        """What there is to do; empty when there is nothing."""
        takes = list(self.takes())
        if not takes:
            return ""
        rows, number = sum(t.rows for t in takes), sum(len(t.batches) for t in takes)
        said = f"{rows:,} rows of {number:,} batches of {self.bronze}"
        if self.whole:
            return f"{said}, all again: {self.whole}"
        return f"{said}, some of them again" if takes[0].again else said


def _fits(group: Sequence[Batch]) -> bool:
    return sum(b.rows for b in group) <= ROWS_IN_COMMIT and sum(b.bytes for b in group) <= BYTES_IN_COMMIT
