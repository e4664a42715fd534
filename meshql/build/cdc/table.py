"""Tables out of changes: the rows as they are after them, or all their versions, in a Delta table.

Each commit takes whole batches of changes, and keeps the number of the last one: of two builds that take the
same batch one fails, and a build that was cut off is gone on with from there. From a product that is not in
batches, all changes are taken whenever it has a new version.

What a commit counts: `rows_in` are the changes that were looked at, `rows_out` rows that the table did not
have, or versions that begin; `rows_updated` are rows replaced, or versions ended. `rows_duplicate` is the
rest, so that they sum up: changes that another one of the same row overtook or that replace a row, deletes
and truncates. That a snapshot begins counts as nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Container, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import duckdb

from meshql.build import delta
from meshql.build.cdc.feed import Behind, Feed, Source
from meshql.build.cdc.fold import Fold
from meshql.build.cdc.from_log import LoggedTable
from meshql.build.cdc.from_product import ToldChanges
from meshql.build.cdc.history import History
from meshql.build.cdc.stage import Stage, staged
from meshql.build.step import Commit, Counts, Outcome, Pending, Step
from meshql.build.takes import BATCH, BATCH_ID, COUNTER, LAYOUT, Due, Known, Take
from meshql.catalog.build import CdcBuild, in_batches
from meshql.catalog.model import Product
from meshql.errors import MeshError, QueryError, StorageError, UsageError
from meshql.formats import batches
from meshql.formats.batch_state import State
from meshql.query.reading import Reading
from meshql.sql import quote_name

__all__ = ["build", "commits", "pending"]

CLOCK = "meshql-clock"
"""Keeps the moment of the last transaction of a table's history, in microseconds since 1970."""

APPS = (COUNTER, BATCH, BATCH_ID, LAYOUT, CLOCK)

ROWS_AT_ONCE = 64 * 1024

IDLE_BATCHES = 64
"""Batches without a change of the table after which a commit notes that they were seen."""


def build(step: Step) -> Outcome:
    """Take the changes that the table has not, commit by commit; see Step for what it is given."""
    return _Table(step).build()


def pending(step: Step) -> Pending:
    """Return what `build` would do now; nothing is written."""
    return Pending(_Table(step).words())


def commits(step: Step, known: Container[str] = ()) -> list[Commit]:
    """Return what the table's commits say, newest first, at least those behind the last `known` run."""
    if step.mesh.snapshot(step.product) is None:
        return []
    return delta.opened(step.mesh, step.product).commits(known)


class _Late(Exception):
    """A change came that lies before one that the table has, or columns that it cannot take."""


class _Table:
    """One build of one product."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.product = step.product
        assert isinstance(step.product.build, CdcBuild)
        self.how = step.product.build
        self._refuse_backfill()
        self.source = _source(step, self.how)
        self.table = delta.opened(step.mesh, self.product)
        self.known = self.table.transactions(APPS)
        self.made: list[Commit] = []
        self.notes: list[str] = []
        self._refuse_foreign()

    def _refuse_backfill(self) -> None:
        if self.step.request.backfill:
            raise UsageError(
                f"{self.product.name}: changes build on those before them: an interval cannot be built again",
                hint=f"meshql build {self.product.name} --full",
            )

    def _refuse_foreign(self) -> None:
        if self.table.handle is not None and COUNTER not in self.known:
            raise UsageError(
                f"{self.product.name}: there is a Delta table at {self.table.uri} that meshql did not build",
                hint="give the product another `location`, or remove that table",
            )

    # --- what there is to do ----------------------------------------------------------------------

    @property
    def due(self) -> Due:
        """What there is to do of a source in batches, as far as the table was looked at."""
        built, name = self.table.handle is not None, self.source.product.name
        return Due(name, self.source.state or State(), Known(self.known), self.step.request, built, False)

    def takes(self, reading: Reading | None = None) -> list[Take]:
        """What each commit is to take."""
        if self.source.state is not None:
            return list(self.source.split(self.due.takes()))
        if reading is None:
            with self._reading() as opened:
                return self.takes(opened)
        return [Take((), 0, whole=True)] if self._moved(reading) else []

    def _moved(self, reading: Reading) -> bool:
        """Whether a source that is not in batches has another version than the one that was taken."""
        last = self.table.last_commit()
        snapshot = reading.snapshots[self.source.product.name]
        # A live table has no versions.
        if last is None or self.step.request.full or snapshot.shares:
            return True
        return last.watermark != self.source.watermark(0, (), reading)

    def words(self) -> str:
        """What there is to do; empty when there is nothing."""
        takes = self.takes()
        if not takes:
            return ""
        with self._reading() as reading:
            rows = sum(int(reading.ask(self.source.counting(take, reading))[0][0]) for take in takes)
        number, of = sum(len(take.batches) for take in takes), f"of {self.due.bronze}"
        if self.source.state is not None:
            of = f"of {number:,} batches {of}"
        why = self.due.whole
        if why:
            return f"{rows:,} changes {of}, all again: {why}"
        return f"{rows:,} changes {of}" if rows else ""

    @property
    def layout(self) -> int:
        """A digest of what must not change without all rows being made again."""
        return zlib.crc32(self.source.layout.casefold().encode())

    # --- doing it ---------------------------------------------------------------------------------

    def build(self) -> Outcome:
        """Take what there is; see Layer.build."""
        why = self.due.whole
        if why and why != "asked for":
            self.notes.append(f"all rows are made again: {why}")
        if not why and not self.step.request.full:
            self._refuse_layout()
        takes = self.takes()
        for take in takes:
            try:
                self._commit(take, last=take is takes[-1])
            except _Late as late:
                self.notes.append(f"all rows are made again: {late}")
                self._commit(Take(self.due.taken.live, 0, whole=True), last=True)
                break
        handle = self.table.handle
        total = sum(rows for _, rows in self.table.files().values()) if handle is not None else None
        version = str(self.table.version) if handle is not None else None
        return Outcome(tuple(self.made), version, total, tuple(self.notes))

    def _refuse_layout(self) -> None:
        if self.table.handle is None:
            return
        again = f"meshql build {self.product.name} --full"
        if self.known.get(LAYOUT, self.layout) != self.layout:
            raise UsageError(
                f"{self.product.name}: its definition has changed, and the rows were made by the old one",
                hint=again,
            )
        had, wanted = self.table.partitions, list(self.how.partitions)
        if [c.casefold() for c in had] != [c.casefold() for c in wanted]:
            raise UsageError(
                f"{self.product.name}: the table is partitioned by {', '.join(had) or 'nothing'}, not by"
                f" {', '.join(wanted) or 'nothing'}",
                hint=again,
            )

    def _commit(self, take: Take, *, last: bool) -> None:
        """Take some changes, in one commit; where there are none, mostly in none."""
        step = self.step
        step.progress(f"reading changes of {take}" if take.batches else "reading changes", self._rows)
        with self._reading() as reading:
            self._hold(reading)
            # The machine's own zone must not change what a build makes.
            reading.ask("SET TimeZone = 'UTC'")
            feed = self.source.feed(take, reading, None if take.whole else self._behind())
            try:
                with staged(reading, feed, self.product.name, step.scratch) as stage:
                    if not self._idle(stage, take, last=last):
                        self._judge(stage, take, reading)
                        self._write(stage, take, reading)
            except duckdb.Error as error:
                raise reading.failure(error) from None
            except MeshError:
                # A statement that was interrupted fails in whatever words its reader has.
                step.check()
                raise

    @property
    def _rows(self) -> int:
        return sum(c.counts.rows_in for c in self.made)

    def _reading(self) -> AbstractContextManager[Reading]:
        needed = [self.source.product]
        if self.table.handle is not None:
            needed.append(self.product)
        return self.step.mesh.reading(needed)

    def _hold(self, reading: Reading) -> None:
        """Write from the very version that is read, so that who commits meanwhile is noticed."""
        snapshot = reading.snapshots.get(self.product.name)
        if snapshot is not None and int(snapshot.version) != self.table.version:
            self.table = delta.opened(self.step.mesh, self.product, int(snapshot.version))
        if self.table.transactions(APPS) != self.known:
            raise StorageError(f"{self.product.name}: another build committed meanwhile", hint="run it again")

    def _behind(self) -> Behind | None:
        if self.table.handle is None:
            return None
        commit = self.made[-1] if self.made else self.table.last_commit()
        watermark = commit.watermark if commit else ""
        name = quote_name(self.product.domain, self.product.table)
        return Behind(self.known.get(BATCH, 0), watermark, name)

    def _idle(self, stage: Stage, take: Take, *, last: bool) -> bool:
        """Whether a take without changes is passed over: the next one sees its batches again."""
        found = stage.found
        if found.rows or found.reset is not None or take.whole or self.table.handle is None:
            return False
        return not (last and take.upto - self.known.get(BATCH, 0) >= IDLE_BATCHES)

    def _judge(self, stage: Stage, take: Take, reading: Reading) -> None:
        feed, anew = stage.feed, take.whole or (stage.found.reset is not None and not self.how.history)
        if stage.found.unknown:
            raise self.source.unknown(take, reading)
        stage.judge(all_count=self.how.history)
        if feed.late and stage.any(feed.late):
            raise _Late(f"{self.source.product.name} has changes that came after later ones")
        if feed.evolution is None or not feed.evolution.retyped or anew:
            return
        if not feed.logged:
            raise _Late(", ".join(feed.evolution.changes))
        if stage.found.reset is None:
            raise QueryError(
                f"{self.product.name}: {', '.join(feed.evolution.changes)}, and {self.source.product.name}"
                " does not hold the rows anew",
                hint=f"meshql build {self.source.product.name} --full",
            )

    # --- the table --------------------------------------------------------------------------------

    def _way(self, stage: Stage, take: Take) -> Fold | History:
        feed = stage.feed
        view = quote_name(self.product.domain, self.product.table)
        table = None if take.whole or self.table.handle is None else view
        olds = feed.evolution.olds if feed.evolution else {name: name for name in feed.kinds}
        if self.how.history:
            return History(stage, table, olds, None if take.whole else self.known.get(CLOCK))
        return Fold(stage, table, olds)

    def _write(self, stage: Stage, take: Take, reading: Reading) -> None:
        step, feed = self.step, stage.feed
        self._refuse_partitions(feed)
        step.progress(f"applying {stage.found.rows:,} changes", self._rows + stage.found.rows)
        way = self._way(stage, take)
        before = self.table.files()
        commit = self._said(stage, take, way, reading)
        said = delta.properties(commit, self._numbers(take, way.clock))
        evolution, partitions = feed.evolution, self.how.partitions
        rewrites = evolution is not None and evolution.rewrites(feed.kinds)
        new = bool(evolution and evolution.new)
        step.progress(f"writing {way.tally.inserted + way.tally.updated:,} rows", self._rows)

        if way.replaces:
            delta.replace(self.table, reading.stream(way.rows(), ROWS_AT_ONCE), said, partitions=partitions)
        elif rewrites:
            delta.replace(
                self.table, reading.stream(way.rewritten(), ROWS_AT_ONCE), said, partitions=partitions
            )
        elif way.tally.updated or way.tally.gone:
            # Whatever is asked while rows stream would end the stream.
            within = way.within()
            delta.merge(
                self.table,
                reading.stream(way.rows(merged=True), ROWS_AT_ONCE),
                way.match,
                said,
                new_columns=new,
                gone=way.gone,
                only=way.only,
                within=within,
            )
        else:
            found = reading.stream(way.rows(), ROWS_AT_ONCE)
            delta.append(self.table, found, said, partitions=partitions, new_columns=new)
        self._committed(commit, before)

    def _refuse_partitions(self, feed: Feed) -> None:
        known = {name.casefold() for name in feed.kinds}
        for name in self.how.partitions:
            if name.casefold() not in known:
                raise UsageError(
                    f"{self.product.name}: partitions names the column {name}, which is not there",
                    hint=f"one of {', '.join(feed.kinds)}",
                )

    def _said(self, stage: Stage, take: Take, way: Fold | History, reading: Reading) -> Commit:
        found, tally, source = stage.found, way.tally, self.source
        counts = Counts(
            rows_in=found.rows,
            rows_out=tally.inserted,
            rows_duplicate=found.rows - tally.inserted,
            rows_updated=tally.updated,
        )
        version = (
            str(take.upto) if source.state is not None else reading.snapshots[source.product.name].version
        )
        behind = None if take.whole else self._behind()
        watermark = behind.watermark if behind else ""
        if found.rows or source.state is None:
            watermark = source.watermark(found.lsn, found.order, reading)
        changes = stage.feed.evolution.changes if stage.feed.evolution else ()
        return self.step.commit(
            counts, inputs={source.product.name: version}, watermark=watermark, changes=changes
        )

    def _committed(self, commit: Commit, before: Mapping[str, tuple[int, int]]) -> None:
        if self.table.transaction(COUNTER) == self.known.get(COUNTER):
            raise StorageError(f"{self.product.name}: delta-rs wrote nothing", hint="run it again")
        added = [size for path, (size, _) in self.table.files().items() if path not in before]
        counts = replace(commit.counts, files=len(added), bytes=sum(added))
        self.made.append(replace(commit, counts=counts, version=str(self.table.version)))
        self.known = self.table.transactions(APPS)

    def _numbers(self, take: Take, clock: int | None) -> dict[str, int]:
        numbers = {
            COUNTER: self.known.get(COUNTER, 0) + 1,
            BATCH: take.upto,
            BATCH_ID: self.due.batch_id(take.upto),
            LAYOUT: self.layout,
        }
        return numbers if clock is None else numbers | {CLOCK: clock}


def _source(step: Step, how: CdcBuild) -> Source:
    """What the changes come from; raises UsageError where it is no product of changes."""
    name, found = step.product.name, step.mesh.find(how.from_)
    logged = isinstance(found.build, CdcBuild) and bool(found.build.tables)
    if how.table and not logged:
        raise UsageError(
            f"{name}: table is for the log of a database, and {found.name} is none",
            hint="name a product with `build: {kind: cdc, tables: ...}`, or say `operation`, `key`, `order`",
        )
    state = _state(step, found) if in_batches(found.build) else None
    if how.table:
        assert state is not None
        return LoggedTable(name, how, found, state)
    return ToldChanges(name, how, found, state)


def _state(step: Step, product: Product) -> State:
    store, location = step.mesh.store(product)
    return batches.state(store, location)
