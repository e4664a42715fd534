"""Gold: rows that SQL makes of other products, as an Iceberg table.

A build is one snapshot. It says which versions of the inputs it was made of, so that the next build knows
what has changed since: nothing, rows that lead to some of the partitions, or what takes all of it to be made
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from meshql.build.changes import Changed, Mark, Untold, changed, mark_of, same
from meshql.build.iceberg import Folder, open_folder
from meshql.build.iceberg_schema import Column, columns_of
from meshql.build.iceberg_write import (
    COMMIT_PROPERTY,
    REARRANGED,
    VERSION_PROPERTY,
    Draft,
    data_files,
    draft,
    write,
)
from meshql.build.partitions import Key, Partitioning, in_partitions, key_of, partitions_of
from meshql.build.step import Commit, Outcome, Pending, Step
from meshql.build.trace import CHANGED, Trace, Unfollowed
from meshql.catalog.build import GoldBuild
from meshql.catalog.model import Product
from meshql.errors import InterruptedQueryError, MeshError, QueryError, UsageError
from meshql.formats.snapshot import Snapshot
from meshql.query.reading import Reading
from meshql.sql import TableName, parse, quote_identifier

__all__ = ["build", "commits", "pending"]

WHOLE_SHARE = 0.5
"""Where more of the partitions, or of their bytes, are affected than this, all of them are made again."""


def build(step: Step) -> Outcome:
    """Bring the table up to date with its inputs, in one snapshot; nothing where they are as they were."""
    task = _Task.of(step)
    last = task.last
    if last is not None and last.run == step.run and not step.request.follow:
        # The commit of a try whose answer was lost; a run that follows makes many.
        return Outcome((last,), last.version, task.rows)
    untraced = None
    for _ in range(2):
        try:
            with task.reading() as reading:
                return task.built(reading, untraced)
        except _Untraced as error:
            # Reading failed, which leaves nothing to be read any more behind it.
            untraced = error.why
    raise AssertionError


def pending(step: Step) -> Pending:
    """Return what `build` would do, by the versions of the inputs; whose rows changed is not looked into."""
    task = _Task.of(step)
    if task.table is None:
        return Pending("first build")
    if step.request.backfill and not step.request.full:
        return Pending(f"{_interval(step)} again")
    snapshots = [s for p in task.inputs if (s := step.mesh.snapshot(p))]
    if reason := task.all_of_it():
        return Pending(f"whole: {reason}")
    moved = task.moved(snapshots)
    return Pending(", ".join(f"{name} {words}" for name, words in moved.items()))


def commits(step: Step, known: Container[str] = ()) -> list[Commit]:  # noqa: ARG001
    """Return what the table's snapshots say of themselves, newest first; snapshots of others are left out."""
    table = open_folder(step.mesh, step.product).current()
    found = sorted(table.metadata.snapshots, key=lambda s: s.sequence_number or 0) if table else []
    said = (s.summary.additional_properties for s in reversed(found) if s.summary)
    return [
        Commit.parse(text, properties.get(VERSION_PROPERTY, ""))
        for properties in said
        if (text := properties.get(COMMIT_PROPERTY)) and REARRANGED not in properties
    ]


class _Untraced(Exception):
    """The rows that changed cannot be read."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class _Way:
    """What is made again: all rows, or those of some partitions; `note` says so in words.

    `files` are those of the table that give way, and `watermark` what the inputs were read up to, where that
    is not up to now.
    """

    note: str
    condition: str | None = None
    files: tuple[DataFile, ...] = ()
    watermark: str | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """A table as it is before it is built, and the query that it is made by."""

    step: Step
    build: GoldBuild
    sql: str
    inputs: tuple[Product, ...]
    folder: Folder
    table: Table | None
    restless: str | None

    @classmethod
    def of(cls, step: Step) -> _Task:
        build = step.product.build
        assert isinstance(build, GoldBuild)
        with step.mesh.reading([]) as reading:
            sql = _parsed(step.product, build.sql, reading)
            restless = Trace.of(sql, reading.cursor).restless()
        folder = open_folder(step.mesh, step.product)
        inputs = tuple(step.mesh.named(sql))
        return cls(step, build, sql, inputs, folder, folder.current(), restless)

    @property
    def last(self) -> Commit | None:
        """What the current snapshot says of itself; None where it is none of ours."""
        properties = _properties(self.table)
        text = properties.get(COMMIT_PROPERTY)
        return Commit.parse(text, properties.get(VERSION_PROPERTY, "")) if text else None

    @property
    def rows(self) -> int | None:
        """How many rows the table has, by its own word."""
        return _rows(self.table)

    @property
    def definition(self) -> str:
        """A digest of what the rows depend on besides the inputs."""
        said = json.dumps([self.sql, self.build.partitions])
        return hashlib.sha256(said.encode()).hexdigest()[:12]

    @property
    def marks(self) -> dict[str, Mark]:
        """The versions of the inputs that the table was made of."""
        said = json.loads(self.last.watermark) if self.last and self.last.watermark else {}
        return {name: Mark(*mark) for name, mark in said.get("inputs", {}).items()}

    def watermark(self, snapshots: Mapping[str, Snapshot]) -> str:
        """Return what is written down of the inputs."""
        marks = {name: mark_of(s).said() for name, s in snapshots.items()}
        return json.dumps({"definition": self.definition, "inputs": marks}, separators=(",", ":"))

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Hold the inputs, with what the SQL of partitions takes."""
        with self.step.mesh.reading(self.inputs, extensions=("iceberg",)) as reading:
            # What day it is must not depend on where the build runs.
            reading.ask("SET TimeZone = 'UTC'")
            yield reading

    # --- what is to be done -----------------------------------------------------------------------

    def all_of_it(self) -> str | None:
        """Why all rows have to be made again, whatever became of the inputs; None for no reason."""
        if self.table is None:
            return "first build"
        if self.step.request.full:
            return "--full"
        if self.last is None:
            return "its newest snapshot was not made here"
        if json.loads(self.last.watermark or "{}").get("definition") != self.definition:
            return "its definition changed"
        return self.restless

    def moved(self, snapshots: Sequence[Snapshot]) -> dict[str, str]:
        """Return the inputs that have other versions than those that the table was made of: `7 → 9`."""
        marks = self.marks
        return {
            s.product.name: f"{mark.version} → {s.version}" if mark else f"→ {s.version}"
            for s in snapshots
            if (mark := marks.get(s.product.name)) is None or not same(mark, s)
        }

    def built(self, reading: Reading, untraced: str | None) -> Outcome:
        """Build from the inputs as they are held."""
        step = self.step
        reason = self.all_of_it()
        moved = self.moved(list(reading.snapshots.values()))
        if not reason and not moved and not step.request.backfill:
            return self._unchanged()
        step.progress("reading")
        described = _described(step.product, self.sql, reading)
        partitioning = partitions_of(step.product.name, self.build.partitions, described)
        new = draft(self.folder, self.table, described, partitioning)
        before = data_files(self.table)
        if reason is None and (new.replaces or before is None):
            reason = "its columns changed" if new.replaces else "somebody else deleted rows of it"
        if before is None:
            new = draft(self.folder, self.table, described, partitioning, anew=True)
        if reason is None and step.request.backfill:
            return self._made(new, self._backfill(partitioning, before or []), reading)
        way = _Chooser(self, reading, partitioning, before or [], moved).way(reason or untraced)
        return self._made(new, way, reading) if way else self._unchanged()

    def _unchanged(self) -> Outcome:
        return Outcome(
            version=f"v{self.folder.number(self.table)}" if self.table else None, rows_total=self.rows
        )

    def _made(self, new: Draft, way: _Way, reading: Reading) -> Outcome:
        step, snapshots = self.step, reading.snapshots
        write(new, step, reading, self.sql, way.condition)
        commit = step.commit(
            new.counts,
            inputs={name: s.version for name, s in snapshots.items()},
            watermark=way.watermark or self.watermark(snapshots),
            changes=new.changes,
        )
        new.commit(() if new.replaces else way.files, step.run, {COMMIT_PROPERTY: commit.json()})
        made = Commit.parse(commit.json(), new.version)
        return Outcome((made,), made.version, _rows(new.table), (way.note,))

    def _backfill(self, partitioning: Partitioning, before: Sequence[DataFile]) -> _Way:
        """Make the partitions of an interval again; all others stay, so the inputs count as not read."""
        request, name = self.step.request, self.step.product.name
        clock = partitioning.clock(request.since, request.until)
        if clock is None:
            raise UsageError(
                f"{name}: no partition of it tells when something was, so that there is no interval to build",
                hint="partition it: `partitions: [day(ordered_at)]`; or build all of it: --full",
            )
        field, values = clock
        at = partitioning.fields.index(field)
        files = tuple(f for f in before if (value := key_of(f.partition)[at]) is not None and value in values)
        assert self.last is not None
        return _Way(
            f"{_interval(self.step)} recomputed",
            f"{field.key} >= {values.start} AND {field.key} < {values.stop}",
            files,
            self.last.watermark,
        )


@dataclass(frozen=True, slots=True)
class _Chooser:
    """Finds out what the changes of inputs take to be made again."""

    task: _Task
    reading: Reading
    partitioning: Partitioning
    before: Sequence[DataFile]
    moved: Mapping[str, str]

    def way(self, reason: str | None) -> _Way | None:
        """Return what is to be made again, all for a `reason`; None where no row of an input changed."""
        if reason or self.task.build.whole:
            return self._whole(reason or "its definition says so")
        marks, snapshots = self.task.marks, self.reading.snapshots
        found: dict[str, Changed] = {}
        for name in self.moved:
            mark = marks.get(name)
            rows = changed(self.task.step.mesh, mark, snapshots[name]) if mark else Untold("it is new")
            if isinstance(rows, Untold):
                return self._whole(f"{name} {self.moved[name]}: {rows.why}")
            if rows.relation is not None:
                found[name] = rows
        if not found:
            return None
        if len(found) > 1:
            return self._whole(f"{_listed(list(found))} changed")
        ((name, rows),) = found.items()
        if not self.partitioning:
            return self._whole(f"{name} changed")
        keys = self._affected(snapshots[name].product, rows)
        return self._some(keys) if isinstance(keys, set) else self._whole(f"{name} changed, and {keys.why}")

    def _whole(self, reason: str) -> _Way:
        note = reason if reason == "first build" else f"recomputed whole: {reason}"
        return _Way(note, None, tuple(self.before))

    def _some(self, keys: set[Key]) -> _Way | None:
        """Return how to make these partitions again; all, where that is most of the table anyway."""
        if not keys:
            return None
        files = tuple(f for f in self.before if key_of(f.partition) in keys)
        known = keys | {key_of(f.partition) for f in self.before}
        size = sum(f.file_size_in_bytes for f in self.before)
        if (
            len(keys) > WHOLE_SHARE * len(known)
            or sum(f.file_size_in_bytes for f in files) > WHOLE_SHARE * size
        ):
            return self._whole(f"{len(keys)} of {len(known)} partitions are affected")
        note = f"{len(keys)} of {len(known)} partitions recomputed"
        return _Way(note, in_partitions(self.partitioning, keys), files)

    def _affected(self, product: Product, rows: Changed) -> set[Key] | Unfollowed:
        """The partitions that the changed rows of one input lead to, both as they were and as they are."""
        reading, columns = self.reading, {f.column.name: f.column for f in self.partitioning.fields}
        trace = Trace.of(self.task.sql, reading.cursor)
        followed = trace.followed(TableName(product.table, product.domain), list(columns))
        if isinstance(followed, Unfollowed):
            return followed
        try:
            if rows.lacking and reading.ask(rows.lacking):
                return Unfollowed("its files do not say all of its columns")
            reading.ask(f"CREATE TEMP VIEW {quote_identifier(CHANGED)} AS FROM {rows.relation}")
            stored = ", ".join(c.stored for c in columns.values())
            keys = f"SELECT DISTINCT {self.partitioning.keys} FROM (SELECT {stored} FROM ({followed}))"
            return {tuple(key) for key in reading.ask(keys)}
        except InterruptedQueryError:
            raise
        except MeshError as error:
            raise _Untraced(f"{product.name} changed, and {_first_line(error.message)}") from None


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _rows(table: Table | None) -> int | None:
    total = _properties(table).get("total-records")
    return int(total) if total is not None else None


def _properties(table: Table | None) -> dict[str, str]:
    """What the current snapshot says of itself."""
    snapshot = table.current_snapshot() if table else None
    return snapshot.summary.additional_properties if snapshot and snapshot.summary else {}


def _parsed(product: Product, sql: str, reading: Reading) -> str:
    """The text of the one SELECT, without what stands around it."""
    try:
        statements = parse(sql, reading.cursor)
    except QueryError as error:
        raise UsageError(f"{product.name}: its SQL does not parse: {error.message}") from None
    if len(statements) != 1 or not statements[0].reads:
        raise UsageError(f"{product.name}: its SQL is no single SELECT", hint="`sql:` gives the table's rows")
    if statements[0].parameters:
        raise UsageError(f"{product.name}: its SQL has parameters, which nobody gives")
    return statements[0].text


def _described(product: Product, sql: str, reading: Reading) -> list[Column]:
    """The columns that the query gives, as they will be stored."""
    try:
        relation = reading.cursor.sql(sql)
        names, types = relation.columns, relation.types
    except Exception as error:
        found = reading.failure(error)
        if isinstance(found, QueryError):
            raise QueryError(f"{product.name}: {found.message}", hint=found.hint) from None
        raise found from None
    return columns_of(product.name, names, types)


def _interval(step: Step) -> str:
    since, until = step.request.since, step.request.until
    return " ".join(
        [f"from {since:%Y-%m-%d %H:%M}"] * bool(since) + [f"to {until:%Y-%m-%d %H:%M}"] * bool(until)
    )
