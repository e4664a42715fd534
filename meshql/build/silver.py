"""Silver: rows of bronze, cleaned and validated, in a Delta table; rows that break a rule in a quarantine.

Each commit takes whole batches of bronze: first the rows that are refused go into the quarantine's table,
then the others into the product's. Numbers that both tables keep for good tell how far each of them is, so
that the next build sees what a build that was cut off has left: a quarantine that is ahead is put right.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import duckdb

from meshql.build import delta
from meshql.build.evolution import Columns, evolved
from meshql.build.quality import CheckResult, run
from meshql.build.rules import Rules, rules_of
from meshql.build.silver_rows import Shape, shape_of
from meshql.build.stage import Stage, Tally, ordering, staged
from meshql.build.step import Commit, Counts, Outcome, Pending, Step
from meshql.build.takes import (
    APPS,
    BASE,
    BATCH,
    BATCH_ID,
    COUNTER,
    EPOCH,
    LAYOUT,
    QUARANTINE,
    Due,
    Known,
    Take,
)
from meshql.catalog.build import BronzeBuild, SilverBuild
from meshql.catalog.derived import quarantine_name
from meshql.catalog.model import Product
from meshql.errors import MeshError, StorageError, UsageError
from meshql.formats import batches
from meshql.formats.batch_state import State
from meshql.query.reading import Reading
from meshql.sql import quote_name

__all__ = ["build", "commits", "pending"]


def build(step: Step) -> Outcome:
    """Take what bronze has that the product has not, commit by commit; see Step for what it is given."""
    return _Silver(step).build()


def pending(step: Step) -> Pending:
    """Return what `build` would do now; nothing is written."""
    return Pending(_Silver(step).due.words)


def commits(step: Step, known: Container[str] = ()) -> list[Commit]:
    """Return what the table's commits say, newest first, at least those behind the last `known` run."""
    if step.mesh.snapshot(step.product) is None:
        return []
    return delta.opened(step.mesh, step.product).commits(known)


class _Silver:
    """One build of one product."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.product = step.product
        assert isinstance(step.product.build, SilverBuild)
        self.how = step.product.build
        self.bronze = _bronze(step, self.how)
        self.refused = step.mesh.find(quarantine_name(self.product.name))
        self.rules = rules_of(self.product, step.mesh.catalog)
        self.taken = self._taken()
        self.silver = delta.opened(step.mesh, self.product)
        self.quarantine = delta.opened(step.mesh, self.refused)
        self.known = Known(self.silver.transactions(APPS), self.quarantine.transactions(APPS))
        self.made: list[Commit] = []
        self.notes: list[str] = []
        self.counted: dict[str, int] = {}
        self._refuse_foreign()

    def _taken(self) -> State:
        store, location = self.step.mesh.store(self.bronze)
        return batches.state(store, location)

    def _refuse_foreign(self) -> None:
        for table, numbers in ((self.silver, self.known.silver), (self.quarantine, self.known.quarantine)):
            if table.handle is not None and COUNTER not in numbers:
                raise UsageError(
                    f"{table.name}: there is a Delta table at {table.uri} that meshql did not build",
                    hint="give the product another `location`, or remove that table",
                )

    @property
    def due(self) -> Due:
        """What there is to do, as far as the tables were looked at."""
        built = self.silver.handle is not None
        return Due(self.bronze.name, self.taken, self.known, self.step.request, built, bool(self.how.key))

    @property
    def layout(self) -> int:
        """A digest of what must not change without all rows being made again."""
        return zlib.crc32("\0".join([*self.how.key, "", *self.how.order]).casefold().encode())

    # --- doing it ---------------------------------------------------------------------------------

    def build(self) -> Outcome:
        due = self.due
        why = due.whole
        if why and why != "asked for":
            self.notes.append(f"all rows are made again: {why}")
        if not why:
            self._refuse_layout()
            self._note_definition()
        for take in list(due.takes()):
            self._commit(take)
        self._note_rules()
        failed = self._check_table()
        handle = self.silver.handle
        total = sum(rows for _, rows in self.silver.files().values()) if handle is not None else None
        version = str(self.silver.version) if handle is not None else None
        return Outcome(tuple(self.made), version, total, tuple(self.notes), tuple(failed))

    def _refuse_layout(self) -> None:
        if self.silver.handle is None:
            return
        again = f"meshql build {self.product.name} --full"
        if self.known.silver.get(LAYOUT, self.layout) != self.layout:
            raise UsageError(
                f"{self.product.name}: its key or order has changed, and the rows were chosen by the old one",
                hint=again,
            )
        had, wanted = self.silver.partitions, list(self.how.partitions)
        if [c.casefold() for c in had] != [c.casefold() for c in wanted]:
            said = ", ".join(had) or "nothing"
            raise UsageError(
                f"{self.product.name}: the table is partitioned by {said}, not by"
                f" {', '.join(wanted) or 'nothing'}",
                hint=again,
            )

    def _note_definition(self) -> None:
        last = self.silver.last_commit()
        if last is not None and last.definition != self.step.definition:
            self.notes.append(
                "its definition has changed: rows from before stay as they are until"
                f" `meshql build {self.product.name} --full`"
            )

    def _commit(self, take: Take) -> None:
        """Judge the rows of some batches, and commit the refused ones, then the others."""
        step = self.step
        step.progress(f"judging {take}", sum(c.counts.rows_in for c in self.made))
        with self._reading() as reading:
            self._hold(reading)
            shape = shape_of(self.product.name, self.how, self.taken.schema, self.rules.rows, reading)
            ordering(self.product.name, self.how.order, shape, reading)
            columns = None if take.whole else self._columns(shape, reading)
            with staged(reading, shape, self.how.order, step.scratch) as stage:
                try:
                    tally = self._judge(stage, take, reading)
                    epoch = self._quarantine(stage, take, tally)
                    self._write(stage, take, tally, epoch, columns, reading)
                except duckdb.Error as error:
                    raise reading.failure(error) from None
                except MeshError:
                    # A statement that was interrupted fails in whatever words its reader has.
                    step.check()
                    raise
        for reason, number in tally.counted.items():
            self.counted[reason] = self.counted.get(reason, 0) + number

    def _reading(self) -> AbstractContextManager[Reading]:
        needed = [self.bronze, *map(self.step.mesh.find, sorted(self.rules.products))]
        if self.silver.handle is not None:
            needed.append(self.product)
        return self.step.mesh.reading({p.name: p for p in needed}.values())

    def _hold(self, reading: Reading) -> None:
        """Write from the very version that is read, so that who commits meanwhile is noticed."""
        snapshot = reading.snapshots.get(self.product.name)
        if snapshot is not None and int(snapshot.version) != self.silver.version:
            self.silver = delta.opened(self.step.mesh, self.product, int(snapshot.version))
        if self.silver.transactions(APPS) != self.known.silver:
            raise StorageError(f"{self.product.name}: another build committed meanwhile", hint="run it again")

    def _judge(self, stage: Stage, take: Take, reading: Reading) -> Tally:
        location = reading.snapshots[self.bronze.name].location
        tally = stage.fill(take.relation(self.taken, location))
        stage.choose(tally)
        if self.how.key and self.silver.handle is not None and not take.whole:
            stage.meet(quote_name(self.product.domain, self.product.table), tally)
        return tally

    # --- the quarantine ---------------------------------------------------------------------------

    def _quarantine(self, stage: Stage, take: Take, tally: Tally) -> int:
        """Commit the refused rows, and return which rebuild the product's own commit is to follow."""
        first = self.silver.handle is None
        anew = first or take.whole or take.again
        epoch = secrets.randbits(48) if anew else self.known.silver[EPOCH]
        if not anew and self.known.clean and not tally.refused:
            return epoch
        self.step.progress(f"setting {tally.refused:,} rows aside", tally.rows)
        numbers = {
            COUNTER: self.known.quarantine.get(COUNTER, 0) + 1,
            EPOCH: epoch,
            BASE: take.behind,
        }
        counts = Counts(rows_in=tally.refused, rows_out=tally.refused)
        said = self.step.commit(counts, inputs={}, watermark=str(take.upto))
        rows, properties = stage.stream(stage.refused(self.step.run)), delta.properties(said, numbers)
        # What a build that was cut off has left behind the product's last batch goes in the same commit.
        stale = [] if self.known.clean else [f"_batch > {self.known.batch}"]
        again = [take.condition] if take.again else []
        if first or take.whole:
            delta.replace(self.quarantine, rows, properties)
        elif stale or again:
            delta.replace(self.quarantine, rows, properties, where=" OR ".join(again + stale))
        else:
            delta.append(self.quarantine, rows, properties)
        self.known.quarantine = self.quarantine.transactions(APPS)
        return epoch

    # --- the table --------------------------------------------------------------------------------

    def _columns(self, shape: Shape, reading: Reading) -> Columns:
        """The columns of the table once it holds rows of this shape; raises UsageError where it must not."""
        if self.silver.handle is None:
            return Columns(shape.kinds)
        view = quote_name(self.product.domain, self.product.table)
        return evolved(self.product, self.how, shape, reading, f"FROM {view}")

    def _write(
        self,
        stage: Stage,
        take: Take,
        tally: Tally,
        epoch: int,
        columns: Columns | None,
        reading: Reading,
    ) -> None:
        step = self.step
        step.progress(f"writing {take}", tally.rows)
        table, kinds = self.silver, columns.kinds if columns else None
        before = table.files()
        commit = step.commit(
            _counts(tally),
            inputs={self.bronze.name: str(take.upto)}
            | {n: s.version for n, s in reading.snapshots.items() if n in self.rules.products},
            watermark=str(max(take.upto, self.known.batch) if take.again else take.upto),
            changes=columns.changes if columns else (),
        )
        said = delta.properties(commit, self._numbers(take, epoch))
        partitions, new = self.how.partitions, bool(columns and columns.new)
        if take.whole:
            delta.replace(table, stage.stream(stage.good()), said, partitions=partitions)
        elif columns and columns.rewrites:
            view = quote_name(self.product.domain, self.product.table)
            sql = stage.rewritten(view, columns.kinds, columns.old)
            delta.replace(table, stage.stream(sql), said, partitions=partitions)
        elif take.again:
            rows = stage.stream(stage.good(kinds))
            delta.replace(table, rows, said, where=take.condition, new_columns=new)
        elif tally.updated:
            key = stage.key
            delta.merge(table, stage.stream(stage.good(kinds)), key, said, new_columns=new)
        else:
            rows = stage.stream(stage.good(kinds))
            delta.append(table, rows, said, partitions=partitions, new_columns=new)
        self._committed(commit, before)

    def _committed(self, commit: Commit, before: Mapping[str, tuple[int, int]]) -> None:
        added = [size for path, (size, _) in self.silver.files().items() if path not in before]
        counts = replace(commit.counts, files=len(added), bytes=sum(added))
        self.made.append(replace(commit, counts=counts, version=str(self.silver.version)))
        self.step.committed(self.made[-1])
        self.known.silver = self.silver.transactions(APPS)

    def _numbers(self, take: Take, epoch: int) -> dict[str, int]:
        last = self.known.batch if take.again else take.upto
        return {
            COUNTER: self.known.silver.get(COUNTER, 0) + 1,
            BATCH: last,
            BATCH_ID: self.due.batch_id(last),
            EPOCH: epoch,
            LAYOUT: self.layout,
            QUARANTINE: self.known.quarantine.get(COUNTER, 0),
        }

    # --- rules ------------------------------------------------------------------------------------

    def _note_rules(self) -> None:
        self.notes += [f"{number:,} rows kept although: {why}" for why, number in self.counted.items()]
        if self.rules.not_run:
            names = ", ".join(r.name for r in self.rules.not_run)
            self.notes.append(f"rules that are not run: {names}; `meshql check {self.product.name}` says why")

    def _check_table(self) -> list[str]:
        """Check the rules about the table as a whole, and return those of error severity that it breaks."""
        rules = [r for r in self.rules.table if not self._kept_by_key(r.unique)]
        if not rules or self.silver.handle is None:
            return []
        self.step.progress("checking the whole table", sum(c.counts.rows_in for c in self.made))
        with self._reading() as reading:
            results = run(Rules(table=tuple(rules)), reading.ask, self.product)
        self.notes += [_said(r) for r in results if r.severity != "error" and r.state != "passed"]
        return [_said(r) for r in results if r.severity == "error" and r.state != "passed"]

    def _kept_by_key(self, unique: Sequence[str]) -> bool:
        """Whether the table has just one row for each value of these columns, since its key is among them."""
        key = {k.casefold() for k in self.how.key}
        return bool(key) and key <= {c.casefold() for c in unique}


def _bronze(step: Step, how: SilverBuild) -> Product:
    found = step.mesh.find(how.from_)
    if not isinstance(found.build, BronzeBuild):
        raise UsageError(
            f"{step.product.name}: from names {found.name}, which is not built as bronze",
            hint="name a product with `build: {kind: bronze}`; gold takes any product, as does bronze by sql",
        )
    return found


def _said(result: CheckResult) -> str:
    if result.message:
        return f"{result.check}: {result.demanded}; cannot be run: {result.message.splitlines()[0]}"
    return f"{result.check}: {result.demanded}; is {result.measured}"


def _counts(tally: Tally) -> Counts:
    inserted = tally.inserted
    return Counts(
        rows_in=tally.rows,
        rows_out=inserted,
        rows_quarantined=tally.refused,
        rows_duplicate=tally.rows - tally.refused - inserted,
        rows_updated=tally.updated,
    )
