"""Rows on their way into a silver table: judged once, kept on this machine, and told apart by their key."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from meshql.build.silver_rows import JSON, REASONS, Shape, nothing
from meshql.errors import QueryError
from meshql.query.reading import Reading
from meshql.sql import nodes, quote_identifier, quote_literal

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Stage", "Tally", "ordering", "staged"]


@dataclass(slots=True)
class Tally:
    """What became of staged rows."""

    rows: int = 0
    refused: int = 0
    winners: int = 0
    updated: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    """Rows that break rules of lesser severity, by the reason."""

    @property
    def inserted(self) -> int:
        """Rows that the table did not have by key."""
        return self.winners - self.updated


class Stage:
    """Staged rows, in a file of this machine, on the cursor of a Reading."""

    def __init__(self, reading: Reading, path: Path, shape: Shape, order: Sequence[str]) -> None:
        self._reading = reading
        self._path = path
        self._shape = shape
        self._order = tuple(order)
        self.key = shape.key
        self._key = ", ".join(map(quote_identifier, shape.key))
        self._rows = f"read_parquet({quote_literal(str(path))}, file_row_number => true)"
        self._chosen = False

    def fill(self, relation: str) -> Tally:
        """Judge the rows of a relation of bronze, and count what became of them."""
        shape = self._shape
        # Of the ways to put rows aside, this one takes the least time and memory.
        file = f"{quote_literal(str(self._path))} (FORMAT parquet, COMPRESSION lz4)"
        self._reading.ask(f"COPY ({shape.sql(relation)}) TO {file}")
        counters = "".join(
            f", count_if({shape.counter(i)} AND {REASONS} IS NULL)" for i in range(len(shape.counted))
        )
        ((rows, refused, *counted),) = self._reading.ask(
            f"SELECT count(*), count({REASONS}){counters} FROM {self._rows}"
        )
        tally = Tally(rows, refused, rows - refused)
        for (rule, _), number in zip(shape.counted, counted, strict=True):
            if number:
                tally.counted[f"{rule.reason} ({rule.severity})"] = number
        return tally

    def choose(self, tally: Tally) -> None:
        """Keep, of each key, the row that comes first in the order; without a key, all of them.

        Of rows that the order does not tell apart, that of the latest batch comes first; and then a digest
        of the row decides, so that it does not matter which rows were staged together.
        """
        if not self._key:
            return
        good = f"{REASONS} IS NULL"
        self._reading.ask(
            f"CREATE TEMP TABLE doubles AS SELECT {self._key} FROM {self._rows} WHERE {good}"
            f" GROUP BY {self._key} HAVING count(*) > 1"
        )
        whole = ", ".join(quote_identifier(c.name) for c in self._shape.columns)
        ranked = (
            f"SELECT s.file_row_number AS r, row_number() OVER (PARTITION BY {self._key} ORDER BY"
            f" {self._ordered()}hash({whole}), _source, _ingested_at) AS n FROM {self._rows} AS s"
            f" SEMI JOIN temp.doubles USING ({self._key}) WHERE {good}"
        )
        self._reading.ask(f"CREATE TEMP TABLE lost AS SELECT r FROM ({ranked}) WHERE n > 1")
        ((number,),) = self._reading.ask("SELECT count(*) FROM temp.lost")
        self._chosen = True
        tally.winners -= number

    def _ordered(self) -> str:
        return "".join(f"{term}, " for term in (*self._order, "_batch DESC"))

    def meet(self, table: str, tally: Tally) -> None:
        """Let the rows meet those of the same key in a table: of each key one is kept, whichever it is."""
        needed = dict.fromkeys((*self._shape.key, *self._read_by_order(), "_batch"))
        columns = ", ".join(map(quote_identifier, needed))
        self._reading.ask(
            f"CREATE TEMP TABLE known AS SELECT {columns} FROM {table} SEMI JOIN"
            f" (SELECT {self._key} FROM {self._rows} WHERE {self._kept()}) USING ({self._key})"
        )
        met = f"{self._rows} AS s SEMI JOIN temp.known USING ({self._key}) WHERE {self._kept()}"
        both = f"SELECT s.file_row_number AS r, {columns} FROM {met}"
        both += f" UNION ALL SELECT NULL, {columns} FROM temp.known"
        ranked = f"SELECT r, row_number() OVER (PARTITION BY {self._key} ORDER BY {self._ordered()}r) AS n"
        beaten = f"SELECT r FROM ({ranked} FROM ({both})) WHERE n > 1 AND r IS NOT NULL"
        self._reading.ask(f"INSERT INTO temp.lost {beaten}")
        ((doubles,),) = self._reading.ask("SELECT count(*) FROM temp.known")
        ((lost,),) = self._reading.ask("SELECT count(*) FROM temp.lost")
        tally.updated = doubles - (lost - (tally.rows - tally.refused - tally.winners))
        tally.winners = tally.rows - tally.refused - lost

    def _read_by_order(self) -> list[str]:
        """Columns that the order reads."""
        text = f"SELECT 1 ORDER BY {', '.join(self._order)}" if self._order else "SELECT 1"
        tree = json.loads(self._reading.ask(f"SELECT json_serialize_sql({quote_literal(text)})")[0][0])
        named = (node["column_names"] for node in nodes(tree) if node.get("type") == "COLUMN_REF")
        said = {part.casefold() for names in named for part in names}
        return [name for name in self._shape.names if name.casefold() in said]

    def _kept(self) -> str:
        unless = " AND file_row_number NOT IN (SELECT r FROM temp.lost)" if self._chosen else ""
        return f"{REASONS} IS NULL{unless}"

    def good(self, columns: Mapping[str, str] | None = None) -> str:
        """Return a SELECT of the rows that are kept, with the columns given, cast to the types given."""
        listed = columns or self._shape.kinds
        known = {name.casefold() for name in self._shape.names}
        made = ", ".join(
            f"{quote_identifier(name) if name.casefold() in known else 'NULL'}::{kind}"
            f" AS {quote_identifier(name)}"
            for name, kind in listed.items()
        )
        return f"SELECT {made} FROM {self._rows} WHERE {self._kept()}"

    def rewritten(self, table: str, columns: Mapping[str, str], known: Iterable[str]) -> str:
        """Return a SELECT of a table's rows, but for those that are replaced, and of those that are kept."""
        there = {name.casefold() for name in known}
        made = ", ".join(
            f"{quote_identifier(name) if name.casefold() in there else 'NULL'}::{kind}"
            f" AS {quote_identifier(name)}"
            for name, kind in columns.items()
        )
        unless = (
            f" ANTI JOIN (SELECT {self._key} FROM {self._rows} WHERE {self._kept()}) USING ({self._key})"
            if self._key
            else ""
        )
        return f"SELECT {made} FROM {table}{unless} UNION ALL {self.good(columns)}"

    def refused(self, run: str) -> str:
        """Return a SELECT of the rows that are refused, as a quarantine holds them."""
        return (
            f"SELECT {REASONS} AS _reasons, {JSON} AS _row, _source, _ingested_at, _batch,"
            f" {quote_literal(run)} AS _run, now() AS _quarantined_at FROM {self._rows}"
            f" WHERE {REASONS} IS NOT NULL"
        )

    def stream(self, sql: str) -> pyarrow.RecordBatchReader:
        """Return the rows of a query as they come."""
        return self._reading.stream(sql, 64 * 1024)


def ordering(name: str, order: Sequence[str], shape: Shape, reading: Reading) -> None:
    """Raise QueryError where a product's order is none over its own columns: the table's rows take part."""
    for term in order:
        try:
            _ = reading.cursor.sql(f"SELECT 1 FROM {nothing(shape.kinds, 's')} ORDER BY {term}").types
        except duckdb.Error as error:
            words = reading.failure(error).message.split("\n\nLINE ")[0]
            raise QueryError(
                f"{name}: order `{term}`: {words}",
                hint="order by columns of the product itself: add what it takes below `select:`",
            ) from None


@contextmanager
def staged(reading: Reading, shape: Shape, order: Sequence[str], scratch: Path) -> Iterator[Stage]:
    """Open a stage for the block; its file lies below `scratch`."""
    # The machine's own zone must not change what a build makes.
    reading.ask("SET TimeZone = 'UTC'")
    path = scratch / f"stage-{secrets.token_hex(4)}.parquet"
    try:
        yield Stage(reading, path, shape, order)
    finally:
        path.unlink(missing_ok=True)
