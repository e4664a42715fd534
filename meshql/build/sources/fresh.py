"""Rows of a source with a cursor, cut down to those that were not taken yet.

A source may answer from its last value on, or only with what is behind it. Rows behind the last value are
new; of those that have that very value, as many are left out as the product has of the same: so nothing
comes twice, and what came late is not lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from meshql.build.drift import merged
from meshql.build.sources.portion import Portion, Work, columns_of, copied, listed_columns
from meshql.catalog import build
from meshql.errors import QueryError, UsageError, nearest
from meshql.formats import batch_state, batches
from meshql.formats.batch_state import Cursor, Taken
from meshql.query.reading import Reading
from meshql.sql import quote_identifier, quote_literal

__all__ = ["Order", "beginning", "fresh", "held", "typed"]

NUMBER = "DECIMAL(38,10)"

DIGEST, NTH, KNOWN = "_meshql_digest", "_meshql_nth", "_meshql_known"
"""Columns beside those of the rows: what is the same of equal rows, their number, and how many are known."""


@dataclass(frozen=True, slots=True)
class Order:
    """How the values of a cursor follow one another: `key` is the SQL that rows are compared by."""

    column: str
    type: str
    kind: str
    """numbers, times or text."""

    @property
    def key(self) -> str:
        """The SQL of a row's place in the order."""
        return self.of(self.text if self.type in ("VARCHAR", "JSON") else self.value)

    @property
    def value(self) -> str:
        """The SQL of a row's value, cast to the type that all rows are read at."""
        return f"CAST({self.column} AS {self.type})"

    @property
    def text(self) -> str:
        """The SQL of a row's value as text."""
        return f"({self.column} ->> '$')" if self.type == "JSON" else f"CAST({self.value} AS VARCHAR)"

    def literal(self, value: str) -> str:
        """Return the SQL of the place that a value has, which is given as text."""
        text = quote_literal(value)
        return self.of(text if self.type in ("VARCHAR", "JSON") else f"CAST({text} AS {self.type})")

    def of(self, sql: str) -> str:
        """Return the SQL of the place of a value."""
        if self.type not in ("VARCHAR", "JSON") or self.kind == "text":
            return sql
        return f"TRY_CAST({sql} AS {NUMBER if self.kind == 'numbers' else 'TIMESTAMPTZ'})"

    def moment(self, moment: datetime) -> str:
        """Return the SQL of an instant's place in the order."""
        utc = moment.astimezone(UTC)
        if self.type.startswith(("TIMESTAMP", "DATE")) and self.type != "TIMESTAMP WITH TIME ZONE":
            return f"TIMESTAMP '{utc:%Y-%m-%d %H:%M:%S.%f}'"
        return f"TIMESTAMPTZ '{utc:%Y-%m-%d %H:%M:%S.%f}+00:00'"


@contextmanager
def held(work: Work) -> Iterator[Reading]:
    """Hold the product's newest version, where it has one, to compare new rows with."""
    product = work.step.product
    with work.step.mesh.reading([product] if work.state.batches else []) as reading:
        # Times without a zone are the same everywhere.
        reading.cursor.execute("SET TimeZone = 'UTC'")
        yield reading


def beginning(work: Work, name: str, cursor: build.Cursor) -> str | None:
    """Return the value that a source is to be asked from, as text; None for all of it."""
    if work.step.request.since is not None:
        return work.step.request.since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    last = work.state.taken.cursors.get(name)
    if last is not None and not work.step.request.backfill:
        return last.value
    start = cursor.start
    return None if start is None else str(start)


def fresh(
    work: Work,
    reading: Reading,
    name: str,
    cursor: build.Cursor,
    relation: str,
    inputs: Mapping[str, str],
    *,
    told: bool = False,
) -> tuple[Portion | None, list[str]]:
    """Return the rows of `relation` that are not in the product yet, and notes on those that are left out.

    In a backfill, rows behind the last value wait for the next ordinary build, which begins there. Rows
    before it are left out otherwise, which is worth a note where the source was `told` the last value. Raises
    QueryError for rows without the cursor's column, or with NULL in it.
    """
    if not reading.ask(f"SELECT 1 FROM {relation} LIMIT 1"):
        return None, []
    columns = columns_of(reading.ask, relation, work.name, name)
    column = _column(work, name, cursor, columns)
    chosen = _Choice(work, reading, name, relation, columns)
    order = chosen.order(column)
    rows, waiting = chosen.rows(order)
    notes = [f"{waiting:,} newer rows of {name} come with the next build"] if waiting else []
    notes += chosen.passed_over(order) if told else []
    top, count = reading.ask(f"SELECT arg_max({order.text}, {order.key}), count(*) FROM {rows}")[0]
    if not count:
        return None, notes
    last = work.state.taken.cursors.get(name)
    taken = Taken()
    if not (work.step.request.backfill and last):
        since = last.batch if last and _same(reading, order, last.value, str(top)) else work.number
        taken = Taken(cursors={name: Cursor(str(top), order.type, since)})
    return Portion(reading, name, rows, columns, quote_literal(name), taken, inputs), notes


def _column(work: Work, name: str, cursor: build.Cursor, columns: Mapping[str, str]) -> str:
    found = next((c for c in columns if c.casefold() == cursor.column.casefold()), None)
    if found is None:
        close = nearest(cursor.column, columns)
        raise QueryError(
            f"{work.name}: rows of {name} have no column {cursor.column}, which its cursor names",
            hint=f"did you mean {' or '.join(close)}?" if close else f"they have {', '.join(columns)}",
        )
    return found


def _same(reading: Reading, order: Order, one: str, other: str) -> bool:
    return bool(reading.ask(f"SELECT {order.literal(one)} = {order.literal(other)}")[0][0])


class _Choice:
    """Which rows of a relation are new."""

    def __init__(
        self, work: Work, reading: Reading, name: str, relation: str, columns: Mapping[str, str]
    ) -> None:
        self._work, self._reading, self._name = work, reading, name
        self._relation, self._columns = relation, columns
        before = work.state.batches[-1].schema if work.state.batches else {}
        self._shape = merged(before, columns, reading.cursor)
        self._last = work.state.taken.cursors.get(name)

    def order(self, column: str) -> Order:
        """Return how the cursor's values are to be compared; the last one is among them."""
        kind = self._shape.schema[next(n for n in self._shape.schema if n.casefold() == column.casefold())]
        order = Order(quote_identifier(column), kind, "text")
        values = f"SELECT {order.text} AS v FROM {self._relation}"
        if self._last:
            values += f" UNION ALL SELECT {quote_literal(self._last.value)}"
        total, given, numbers, times = self._reading.ask(
            f"SELECT count(*), count(v), count(TRY_CAST(v AS {NUMBER})), count(TRY_CAST(v AS TIMESTAMPTZ))"
            f" FROM ({values})"
        )[0]
        if given < total:
            raise QueryError(
                f"{self._work.name}: {total - given:,} rows of {self._name} have no value in {column}, the"
                " column of its cursor",
                hint="choose a column that every row has, or leave such rows out at the source",
            )
        known = "numbers" if numbers == total else "times" if times == total else "text"
        return Order(order.column, kind, known)

    def rows(self, order: Order) -> tuple[str, int]:
        """Return the relation of new rows, and how many wait for the next build."""
        request = self._work.step.request
        if request.backfill:
            return self._of_interval(order)
        if self._last is None:
            return self._relation, 0
        last = order.literal(self._last.value)
        late = self._unknown(f"{order.key} = {last}", after=self._last.batch - 1)
        names = listed_columns(self._columns)
        return (
            f"(SELECT {names} FROM {self._relation} WHERE {order.key} > {last}"
            f" UNION ALL SELECT {names} FROM {late})"
        ), 0

    def passed_over(self, order: Order) -> list[str]:
        """Say how many rows an ordinary build leaves out because they lie before the last value."""
        if self._last is None or self._work.step.request.backfill:
            return []
        before = f"{order.key} < {order.literal(self._last.value)}"
        count = self._reading.ask(f"SELECT count(*) FROM {self._relation} WHERE {before}")[0][0]
        said = f"{count:,} rows of {self._name} left out: their {order.column} is before {self._last.value}"
        return [f"{said}; --from takes what came late"] if count else []

    def _of_interval(self, order: Order) -> tuple[str, int]:
        request = self._work.step.request
        if order.kind != "times":
            raise UsageError(
                f"{self._work.name}: --from and --to take times, and the cursor of {self._name} holds"
                f" {order.kind}",
                hint="build without them, or all of it: --full",
            )
        inside = " AND ".join(
            f"{order.key} {sign} {order.moment(moment)}"
            for sign, moment in ((">=", request.since), ("<", request.until))
            if moment is not None
        )
        waiting = 0
        if self._last:
            behind = f"{order.key} > {order.literal(self._last.value)}"
            waiting = self._reading.ask(f"SELECT count(*) FROM {self._relation} WHERE {inside} AND {behind}")[
                0
            ][0]
            inside += f" AND NOT {behind}"
        return self._unknown(inside), int(waiting)

    def _unknown(self, condition: str, after: int = 0) -> str:
        """The rows with this condition that the product has not as often, written down on this machine."""
        names = listed_columns(self._columns)
        target = self._work.step.scratch / f"late-{self._work.number}.parquet"
        known = f"SELECT NULL::VARCHAR AS {DIGEST}, 0 AS {KNOWN} WHERE false"
        if self._work.state.live:
            place = self._reading.snapshots[self._work.name].location
            stored = batches.relation(self._work.state, place, after)
            known = (
                f"SELECT {self._digest(stored=True)} AS {DIGEST}, count(*) AS {KNOWN} FROM {stored}"
                f" WHERE {condition} AND _source = {quote_literal(self._name)} GROUP BY ALL"
            )
        query = (
            f"SELECT {names} FROM (SELECT *, row_number() OVER (PARTITION BY {DIGEST}) AS {NTH} FROM"
            f" (SELECT {names}, {self._digest(stored=False)} AS {DIGEST} FROM {self._relation}"
            f" WHERE {condition})) LEFT JOIN ({known}) USING ({DIGEST}) WHERE {NTH} > coalesce({KNOWN}, 0)"
        )
        copied(self._reading, query, str(target), self._work.step)
        return f"read_parquet({quote_literal(str(target))})"

    def _digest(self, *, stored: bool) -> str:
        """The SQL of what is the same of two rows whose values are: their columns as JSON, without NULLs."""
        schema, written = self._shape.schema, self._shape.written
        parts = []
        for name in sorted(schema, key=str.casefold):
            kind = schema[name]
            if kind == batch_state.UNKNOWN or (not stored and name not in written):
                continue
            if stored and name not in self._work.state.schema:
                continue
            sql = quote_identifier(name) if stored else written[name][0]
            parts.append(f"{quote_literal(name)}: CAST({sql} AS {kind})")
        packed = f"{{{', '.join(parts)}}}"
        return f"md5(CAST(json_merge_patch('{{}}', to_json({packed})) AS VARCHAR))"


def typed(reading: Reading, last: Cursor) -> Any:
    """Return a cursor's last value as Python has its type: a number, a text; times stay text."""
    if last.type in ("VARCHAR", "JSON") or last.type.startswith(("TIMESTAMP", "DATE", "TIME")):
        return last.value
    return reading.ask(f"SELECT CAST({quote_literal(last.value)} AS {last.type})")[0][0]
