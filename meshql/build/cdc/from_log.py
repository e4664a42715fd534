"""One table's changes out of the log of a database: its shapes, and the SQL that makes rows of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from meshql.build.cdc.feed import (
    AT,
    BAD,
    LSN,
    OP,
    OPERATIONS,
    ORDER,
    SEQ,
    UNCHANGED,
    Behind,
    Evolution,
    Feed,
    refuse_doubles,
)
from meshql.build.cdc.shapes import Column, Shape
from meshql.build.cdc.values import Value, kind_named, of_text
from meshql.build.takes import Take
from meshql.catalog.build import CdcBuild
from meshql.catalog.model import Product
from meshql.errors import QueryError, UsageError
from meshql.formats import batches
from meshql.formats.batch_state import State
from meshql.query.reading import Reading
from meshql.sql import quote_identifier, quote_literal

__all__ = ["LoggedTable"]


class LoggedTable:
    """The changes of one table in a log; see feed.Source."""

    def __init__(self, name: str, how: CdcBuild, log: Product, state: State) -> None:
        assert how.table is not None
        self.name = name
        self.how = how
        self.product = log
        self.state = state
        self.table = how.table
        self._shapes = dict(self._followed())

    def _followed(self) -> Iterator[tuple[int, Shape | None]]:
        """The shape of the table's rows in each batch."""
        shape = None
        tables = set[str]()
        for batch in self.state.batches:
            tables |= batch.taken.kept.keys()
            if self.table in batch.taken.kept:
                shape = Shape.parse(self.table, batch.taken.kept[self.table])
            yield batch.number, shape
        if self.state.batches and shape is None:
            known = ", ".join(sorted(t for t in tables if "." in t)) or "none yet"
            raise UsageError(
                f"{self.name}: the log {self.product.name} has no table {self.table}; it has {known}",
                hint=f"add it to `tables` of {self.product.name}, and run meshql build {self.product.name}",
            )

    @property
    def layout(self) -> str:
        """What must not change without all rows being made again."""
        types = [f"{name}={kind}" for name, kind in sorted(self.how.types.items())]
        return "\0".join([self.table, str(self.how.history), *types])

    def split(self, takes: Iterable[Take]) -> Iterator[Take]:
        """Return the takes, cut where the table's key becomes another one."""
        for take in takes:
            group = [b for b in take.batches if self._shapes.get(b.number) is not None]
            first = 0
            for at in range(1, len(group)):
                if self._key(group[at].number) != self._key(group[at - 1].number):
                    cut = tuple(group[first:at])
                    behind = take.behind if not first else group[first - 1].number
                    yield replace(take, batches=cut, behind=behind, whole=take.whole and not first)
                    first = at
            rest, behind = tuple(group[first:]), take.behind if not first else group[first - 1].number
            if rest:
                yield replace(take, batches=rest, behind=behind, whole=take.whole and not first)

    def _key(self, batch: int) -> tuple[int, ...]:
        shape = self._shapes[batch]
        return tuple(c.number for c in shape.columns if c.name in shape.key) if shape else ()

    def counting(self, take: Take, reading: Reading) -> str:
        """Return a query for how many changes a take has."""
        location = reading.snapshots[self.product.name].location
        return f"SELECT count(*) FROM {take.relation(self.state, location)} WHERE {self._mine}"

    @property
    def _mine(self) -> str:
        return f"table_name = {quote_literal(self.table)}"

    def watermark(self, lsn: int, order: Sequence[str], reading: Reading) -> str:  # noqa: ARG002
        """Return where the last change stands in the server's log, as PostgreSQL writes it."""
        return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"

    def unknown(self, take: Take, reading: Reading) -> QueryError:
        """Return the error that a take holds changes of no known kind."""
        location = reading.snapshots[self.product.name].location
        known = ", ".join(map(quote_literal, OPERATIONS))
        relation = take.relation(self.state, location)
        rows = reading.ask(f"SELECT op FROM {relation} WHERE {self._mine} AND op NOT IN ({known}) LIMIT 1")
        return QueryError(f"{self.name}: {self.product.name} holds a change of an unknown kind: {rows[0][0]}")

    def feed(self, take: Take, reading: Reading, behind: Behind | None) -> Feed:
        """Return what a take feeds; raises UsageError where the table's columns do not fit."""
        now = self._shapes[take.upto]
        assert now is not None
        refuse_doubles(self.name, now.names, history=self.how.history)
        values = {c.name: self._value(c, f"t{i}", reading) for i, c in enumerate(now.columns)}
        self._refuse_unknown(values)
        kinds = {name: value.kind for name, value in values.items()}
        before = self._shapes.get(behind.batch) if behind else None
        evolution = self._evolution(before, now, kinds, reading) if before else None
        parts = list(self._parts(take, now, reading))
        rows = " UNION ALL ".join(f"SELECT {self._staged(values)} FROM ({part})" for part in parts)
        again = f"meshql build {self.product.name} --full"
        keyless = f"ALTER TABLE {self.table} ADD PRIMARY KEY (...) in the source, then {again}"
        if self.how.history and not now.key:
            raise UsageError(f"{self.name}: {self.table} has no key, which `history` takes", hint=keyless)
        culprit = self._culprit(parts, now, values)
        return Feed(kinds, now.key, rows, culprit, evolution, keyless=keyless, keyed=again)

    def _value(self, column: Column, text: str, reading: Reading) -> Value:
        place = f"{self.name}: types.{column.name}"
        asked = {name.casefold(): kind for name, kind in self.how.types.items()}.get(column.name.casefold())
        kind = kind_named(place, asked or column.kind, reading)
        own = asked is None or kind == kind_named(place, column.kind, reading)
        return of_text(place, text, kind, hexed=column.type.startswith("bytea"), asked=not own)

    def _refuse_unknown(self, values: Iterable[str]) -> None:
        known = {name.casefold() for name in values}
        for name in self.how.types:
            if name.casefold() not in known:
                raise UsageError(
                    f"{self.name}: types names the column {name}, which {self.table} does not have",
                    hint=f"one of {', '.join(values)}",
                )

    # --- SQL --------------------------------------------------------------------------------------

    def _parts(self, take: Take, now: Shape, reading: Reading) -> Iterator[str]:
        """A SELECT of texts for each stretch of batches with one shape."""
        location = reading.snapshots[self.product.name].location
        numbers = [b.number for b in take.batches]
        first = 0
        for at in range(1, len(numbers) + 1):
            shape = self._shapes[numbers[first]]
            if at == len(numbers) or self._shapes[numbers[at]] != shape:
                assert shape is not None
                relation = batches.relation(self.state, location, numbers[first] - 1, numbers[at - 1])
                yield self._texts(relation, shape, now)
                first = at

    def _texts(self, relation: str, shape: Shape, now: Shape) -> str:
        """A SELECT of changes, with the text of each of the columns `now` as t0, t1 and so on."""
        places = {c.number: (i, c.name) for i, c in enumerate(shape.columns, start=1)}
        # The values of a whole row are quicker found by their place.
        whole = f'map_keys("after") = [{", ".join(map(quote_literal, shape.names))}]'
        texts = list[str]()
        for i, column in enumerate(now.columns):
            text = "NULL::VARCHAR"
            if column.number in places:
                place, name = places[column.number]
                named = f'"after"[{quote_literal(name)}]'
                text = f'CASE WHEN {whole} THEN map_values("after")[{place}] ELSE {named} END'
                if column.name in now.key:
                    text = f'coalesce({text}, "before"[{quote_literal(name)}])'
            texts.append(f"{text} AS t{i}")
        renamed = {
            places[c.number][1]: c.name
            for c in now.columns
            if c.number in places and places[c.number][1] != c.name
        }
        return (
            f"SELECT op, lsn, seq, committed_at, {self._unchanged(renamed, shape, now)} AS unchanged,"
            f" {', '.join(texts)} FROM {relation} WHERE {self._mine}"
        )

    def _unchanged(self, renamed: dict[str, str], shape: Shape, now: Shape) -> str:
        gone = {c.number for c in shape.columns} - {c.number for c in now.columns}
        if not renamed and not gone:
            return "unchanged"
        kept = {c.number for c in now.columns}
        pairs = {c.name: renamed.get(c.name, c.name) for c in shape.columns if c.number in kept}
        listed = ", ".join(f"{quote_literal(old)}: {quote_literal(new)}" for old, new in pairs.items())
        named = f"list_transform(unchanged, lambda x: MAP {{{listed}}}[x])"
        return f"nullif(list_filter({named}, lambda x: x IS NOT NULL), [])"

    def _staged(self, values: dict[str, Value]) -> str:
        known = ", ".join(map(quote_literal, OPERATIONS))
        bad = " OR ".join(value.bad for value in values.values() if value.bad) or "false"
        made = ", ".join(f"{v.sql} AS {quote_identifier(name)}" for name, v in values.items())
        return (
            f"CASE WHEN op IN ({known}) THEN op END AS {OP}, lsn AS {LSN}, seq AS {SEQ},"
            f" committed_at AS {AT}, unchanged AS {UNCHANGED}, NULL::VARCHAR[] AS {ORDER},"
            f" coalesce({bad}, false) AS {BAD}, {made}"
        )

    def _culprit(self, parts: Sequence[str], now: Shape, values: dict[str, Value]) -> str:
        tests = {name: v.bad for name, v in values.items() if v.bad}
        if not tests:
            return ""
        text = {name: f"t{i}" for i, name in enumerate(values)}
        found = " ".join(
            f"WHEN {bad} THEN [{quote_literal(name)}, {text[name]}]" for name, bad in tests.items()
        )
        key = " || ', ' || ".join(f"{quote_literal(k + '=')} || coalesce({text[k]}, 'NULL')" for k in now.key)
        said = f"CASE {found} END AS found, {key or 'NULL'} AS key"
        return " UNION ALL ".join(
            f"SELECT lsn AS {LSN}, seq AS {SEQ}, {said} FROM ({part})" for part in parts
        )

    # --- columns ----------------------------------------------------------------------------------

    def _evolution(self, before: Shape, now: Shape, kinds: dict[str, str], reading: Reading) -> Evolution:
        """How the table's columns become those of the rows."""
        had = {c.number: c for c in before.columns}
        olds: dict[str, str | None] = {}
        changes, retyped = list[str](), list[str]()
        for column in now.columns:
            old = had.pop(column.number, None)
            olds[column.name] = old.name if old else None
            if old is None:
                changes.append(f"{column.name} is new: {kinds[column.name]}")
                continue
            if old.name != column.name:
                changes.append(f"{old.name} is called {column.name} now")
            if old.kind != column.kind and self._value(old, "t", reading).kind != kinds[column.name]:
                retyped.append(column.name)
                changes.append(f"{column.name}: {old.type} becomes {column.type}")
        changes += [f"{old.name} is gone" for old in had.values()]
        return Evolution(olds, tuple(changes), tuple(retyped), bool(had))
