"""Changes out of any product that holds them: change topics as Debezium writes them, audit tables, others.

What a change did, its key, place and time, and the columns of the row are SQL over the product's columns. Of
changes of one row that the order does not tell apart, that of the later batch counts; in one batch, or where
there are none, they have to be equal. Where a change comes to light that lies before one that was taken, all
changes are taken again. Without `select`, a row has all of the product's columns but those that
`operation`, `order` and `at` name, unless they belong to the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import duckdb

from meshql.build.cdc.feed import (
    AT,
    BAD,
    LSN,
    OP,
    ORDER,
    SEQ,
    UNCHANGED,
    Behind,
    Evolution,
    Feed,
    refuse_doubles,
)
from meshql.build.cdc.values import NESTED, Value, kind_named, of_text
from meshql.build.column_types import stored
from meshql.build.silver_rows import nothing
from meshql.build.takes import Take
from meshql.catalog.build import CdcBuild
from meshql.catalog.model import Product
from meshql.errors import QueryError, UsageError
from meshql.formats.batch_state import ROW_COLUMNS, State
from meshql.query.reading import Reading
from meshql.sql import quote_identifier, quote_literal, quote_name

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

__all__ = ["ToldChanges"]

OPERATION_WORDS = {
    "r": ("r", "read"),
    "c": ("c", "i", "insert", "create"),
    "u": ("u", "update"),
    "d": ("d", "delete"),
    "t": ("t", "truncate"),
}

UNAVAILABLE = "__debezium_unavailable_value"
"""What Debezium writes in place of a value that an update leaves as it is, and the server does not repeat."""


class ToldChanges:
    """The changes that a product holds; see feed.Source."""

    def __init__(self, name: str, how: CdcBuild, product: Product, state: State | None) -> None:
        self.name = name
        self.how = how
        self.product = product
        self.state = state

    @property
    def layout(self) -> str:
        """What must not change without all rows being made again."""
        how = self.how
        said = [how.operation, how.key, how.order, how.at, how.history, how.select, how.types]
        return json.dumps(said)

    def split(self, takes: Iterable[Take]) -> Iterable[Take]:
        """Return the takes as they are."""
        return takes

    def counting(self, take: Take, reading: Reading) -> str:
        """Return a query for how many changes a take has."""
        return f"SELECT count(*) FROM {self._relation(take, reading)}"

    def _relation(self, take: Take, reading: Reading) -> str:
        if self.state is None:
            return quote_name(self.product.domain, self.product.table)
        return take.relation(self.state, reading.snapshots[self.product.name].location)

    def watermark(self, lsn: int, order: Sequence[str], reading: Reading) -> str:  # noqa: ARG002
        """Return the order of the last change; of a product without batches, which version of it was read."""
        if self.state is not None:
            return json.dumps(list(order))
        from meshql.build.changes import mark_of

        return json.dumps(mark_of(reading.snapshots[self.product.name]).said())

    def unknown(self, take: Take, reading: Reading) -> QueryError:
        """Return the error that a take holds changes of no known kind."""
        text = f"({self.how.operation})::VARCHAR"
        rows = reading.ask(
            f"SELECT {text} FROM {self._relation(take, reading)} AS changes"
            f" WHERE ({self._operation}) IS NULL LIMIT 1"
        )
        return QueryError(
            f"{self.name}: operation `{self.how.operation}` is {rows[0][0] or 'NULL'} in {self.product.name}",
            hint="c, r, u, d, t, or insert, update, delete, truncate: let `operation` say one of them",
        )

    @property
    def _operation(self) -> str:
        said = f"lower(trim(({self.how.operation})::VARCHAR))"
        tests = " ".join(
            f"WHEN {said} IN ({', '.join(map(quote_literal, words))}) THEN '{op}'"
            for op, words in OPERATION_WORDS.items()
        )
        return f"CASE {tests} END"

    def feed(self, take: Take, reading: Reading, behind: Behind | None) -> Feed:
        """Return what a take feeds; raises QueryError or UsageError for an expression that does not fit."""
        schema = self._schema(reading)
        empty = nothing(schema, "changes")
        self._bound("operation", self._operation, empty, reading)
        if self.how.at:
            self._bound("at", f"({self.how.at})::TIMESTAMPTZ", empty, reading)
        selected = self._selected(schema)
        refuse_doubles(self.name, selected, history=self.how.history)
        values = {
            column: self._value(column, sql, f"e{i}", empty, reading)
            for i, (column, sql) in enumerate(selected.items())
        }
        kinds = {name: value.kind for name, value in values.items()}
        orders = [str(self._bound("order", sql, empty, reading)) for sql in self.how.order]
        inner = self._inner(list(selected.values()), take, reading)
        evolution = self._evolution(kinds, behind.table, reading) if behind else None
        key = self._key(kinds)
        return Feed(
            kinds,
            key,
            self._staged(inner, values),
            self._culprit(inner, values, key),
            evolution,
            late=self._late(behind.watermark, orders) if behind and behind.watermark else "",
            logged=False,
        )

    # --- columns ----------------------------------------------------------------------------------

    def _schema(self, reading: Reading) -> Mapping[str, str]:
        if self.state is not None:
            return self.state.schema
        found = reading.cursor.sql(f"FROM {quote_name(self.product.domain, self.product.table)}")
        return dict(zip(found.columns, map(str, found.types), strict=True))

    def _selected(self, schema: Mapping[str, str]) -> dict[str, str]:
        """The table's columns, each with its expression."""
        if self.how.select:
            return dict(self.how.select)
        named = {str(sql).strip().strip('"').casefold() for sql in (self.how.operation, self.how.at)}
        named |= {sql.strip().strip('"').casefold() for sql in self.how.order}
        named |= {name.casefold() for name in ROW_COLUMNS} if self.state is not None else set()
        named -= {name.casefold() for name in self.how.key}
        return {name: quote_identifier(name) for name in schema if name.casefold() not in named}

    def _key(self, kinds: Mapping[str, str]) -> tuple[str, ...]:
        known = {name.casefold(): name for name in kinds}
        for name in self.how.key:
            if name.casefold() not in known:
                raise UsageError(
                    f"{self.name}: key names the column {name}, which is not there",
                    hint=f"one of {', '.join(kinds)}; or add it below `select:`",
                )
        return tuple(known[name.casefold()] for name in self.how.key)

    def _value(self, column: str, sql: str, made: str, empty: str, reading: Reading) -> Value:
        place = f"{self.name}: select.{column}"
        kind = self._bound(f"select.{column}", sql, empty, reading)
        asked = {n.casefold(): t for n, t in self.how.types.items()}.get(column.casefold())
        wanted = kind_named(f"{self.name}: types.{column}", asked, reading) if asked else kind
        held = stored(wanted)
        if held is None:
            raise UsageError(
                f"{place}: a Delta table holds no {wanted}", hint=f"types: {{{column}: VARCHAR}}"
            )
        if asked and wanted != kind and kind.id not in NESTED and wanted.id not in NESTED:
            text = f"({made}->>'$')" if str(kind) == "JSON" else f"({made}::VARCHAR)"
            return of_text(place, text, wanted, asked=True)
        if held == str(kind):
            return Value(made, "", held)
        cast = f"TRY_CAST({made} AS {wanted})" if wanted != kind else made
        cast = f"TRY_CAST({cast} AS {held})" if held != str(wanted) else cast
        return Value(cast, f"({made} IS NOT NULL AND {cast} IS NULL)", held)

    def _bound(self, key: str, sql: str, empty: str, reading: Reading) -> DuckDBPyType:
        """The type of an expression; raises QueryError with DuckDB's words for one that does not fit."""
        try:
            return reading.cursor.sql(f"SELECT ({sql}) AS v FROM {empty}").types[0]
        except duckdb.Error as error:
            words = reading.failure(error).message.split("\n\nLINE ")[0].strip()
            hint = f"an expression over the columns of {self.product.name}"
            if "Cannot extract field" in words and self.state is not None:
                # A record that has been null in every change so far has no fields.
                hint = f"give its type in the source of {self.product.name}: options: {{columns: {{...}}}}"
            raise QueryError(f"{self.name}: {key}: {words}", hint=hint) from None

    def _evolution(self, kinds: Mapping[str, str], table: str, reading: Reading) -> Evolution:
        """How the table's columns become those of the rows."""
        had = reading.cursor.sql(f"FROM {table}")
        there = {
            name.casefold(): (name, str(kind)) for name, kind in zip(had.columns, had.types, strict=True)
        }
        olds: dict[str, str | None] = {}
        changes, retyped = list[str](), list[str]()
        for name, kind in kinds.items():
            old, was = there.pop(name.casefold(), (None, ""))
            olds[name] = old
            if old is None:
                changes.append(f"{name} is new: {kind}")
            elif was != kind:
                retyped.append(name)
                changes.append(f"{name}: {was} becomes {kind}")
        return Evolution(olds, tuple(changes), tuple(retyped))

    # --- SQL --------------------------------------------------------------------------------------

    def _inner(self, made: Sequence[str], take: Take, reading: Reading) -> str:
        """A SELECT of what the expressions give: op, at, o0 and so on for the order, e0 for the columns."""
        at = f"({self.how.at})::TIMESTAMPTZ" if self.how.at else "NULL::TIMESTAMPTZ"
        orders = "".join(f", ({sql}) AS o{i}" for i, sql in enumerate(self.how.order))
        columns = "".join(f", ({sql}) AS e{i}" for i, sql in enumerate(made))
        batch = "_batch" if self.state is not None else "0::BIGINT"
        return (
            f"SELECT {self._operation} AS op, {at} AS happened, {batch} AS batch{orders}{columns}"
            f" FROM {self._relation(take, reading)} AS changes"
        )

    def _staged(self, inner: str, values: Mapping[str, Value]) -> str:
        terms = [f"o{i}" for i in range(len(self.how.order))]
        known = " AND ".join(f"{term} IS NOT NULL" for term in terms)
        texts = ", ".join(f"{term}::VARCHAR" for term in terms)
        bad = " OR ".join(value.bad for value in values.values() if value.bad) or "false"
        made = ", ".join(f"{v.sql} AS {quote_identifier(name)}" for name, v in values.items())
        return (
            f"SELECT op AS {OP}, rank() OVER (ORDER BY {', '.join(terms)}) AS {LSN}, batch AS {SEQ},"
            f" happened AS {AT}, {_unchanged(values)} AS {UNCHANGED},"
            f" CASE WHEN {known} THEN [{texts}] END AS {ORDER}, coalesce({bad}, false) AS {BAD}, {made}"
            f" FROM ({inner})"
        )

    def _late(self, watermark: str, types: Sequence[str]) -> str:
        """A predicate for staged rows that come before what the watermark names.

        A version that a change has begun is not to be followed by another one of that change.
        """
        last: list[str] = json.loads(watermark)
        rows = ", ".join(f"CAST({ORDER}[{i}] AS {kind})" for i, kind in enumerate(types, start=1))
        known = ", ".join(f"CAST({quote_literal(v)} AS {kind})" for v, kind in zip(last, types, strict=True))
        return f"row({rows}) {'<=' if self.how.history else '<'} row({known})"

    def _culprit(self, inner: str, values: Mapping[str, Value], key: Sequence[str]) -> str:
        tests = {name: (f"e{i}", v.bad) for i, (name, v) in enumerate(values.items()) if v.bad}
        if not tests:
            return ""
        found = " ".join(
            f"WHEN {bad} THEN [{quote_literal(name)}, {text}::VARCHAR]" for name, (text, bad) in tests.items()
        )
        keys = " || ', ' || ".join(
            f"{quote_literal(k + '=')} || coalesce(({values[k].sql})::VARCHAR, 'NULL')" for k in key
        )
        terms = ", ".join(f"o{i}" for i in range(len(self.how.order)))
        return (
            f"SELECT rank() OVER (ORDER BY {terms}) AS {LSN}, batch AS {SEQ},"
            f" CASE {found} END AS found, {keys} AS key FROM ({inner})"
        )


def _unchanged(values: Mapping[str, Value]) -> str:
    """The columns of an update that are not told."""
    tests = {n: f"{v.sql} = {quote_literal(UNAVAILABLE)}" for n, v in values.items() if v.kind == "VARCHAR"}
    if not tests:
        return "NULL::VARCHAR[]"
    each = ", ".join(f"CASE WHEN {test} THEN {quote_literal(name)} END" for name, test in tests.items())
    return (
        f"CASE WHEN op = 'u' AND ({' OR '.join(tests.values())})"
        f" THEN list_filter([{each}], lambda x: x IS NOT NULL) END"
    )
