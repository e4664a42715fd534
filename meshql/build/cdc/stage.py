"""Changes on their way into a table, in a file of this machine: staged once, and judged."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshql.build.cdc.feed import AT, BAD, LSN, OP, ORDER, RANK, SEQ, UNCHANGED, Feed
from meshql.errors import QueryError
from meshql.query.reading import Reading
from meshql.sql import quote_identifier, quote_literal

__all__ = ["Stage", "Tally", "listed", "staged"]

LONGEST = 80
"""Characters of a value that a message quotes."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is among the staged changes: how many, and the place of the last reset, a truncate or snapshot.

    That a snapshot begins is no change by itself.

    `partial` says that some do not tell all columns, `reread` that rows were read anew, `unknown` that the
    kind of some cannot be told.
    """

    rows: int
    reset: int | None
    partial: bool
    reread: bool
    unknown: bool
    lsn: int
    order: tuple[str, ...]

    @property
    def scope(self) -> str:
        """A predicate for changes that count in the end."""
        after = f" AND {RANK} > {self.reset}" if self.reset is not None else ""
        return f"{OP} NOT IN ('s', 't'){after}"


@dataclass(frozen=True, slots=True)
class Tally:
    """What staged changes make of a table: rows put in, rows replaced, rows taken out."""

    inserted: int
    updated: int
    gone: int = 0


class Stage:
    """Staged changes, on the cursor of a Reading."""

    def __init__(self, reading: Reading, path: Path, feed: Feed, product: str) -> None:
        self.reading = reading
        self.feed = feed
        self.product = product
        self.rows = f"read_parquet({quote_literal(str(path))}, file_row_number => true)"
        self.key = ", ".join(map(quote_identifier, feed.key))
        # Of the ways to put rows aside, this one takes the least time and memory.
        reading.ask(f"COPY ({feed.sql}) TO {quote_literal(str(path))} (FORMAT parquet, COMPRESSION lz4)")
        self.found = self._found()

    def _found(self) -> Found:
        ((rows, reset, partial, reread, unknown),) = self.reading.ask(
            f"SELECT count(*) FILTER ({OP} IS DISTINCT FROM 's'), max({RANK}) FILTER ({OP} IN ('s', 't')),"
            f" count({UNCHANGED}) > 0,"
            f" count(*) FILTER ({OP} = 'r') > 0, count(*) FILTER ({OP} IS NULL) > 0 FROM {self.rows}"
        )
        last = self.reading.ask(f"SELECT {LSN}, {ORDER} FROM {self.rows} ORDER BY {LSN} DESC LIMIT 1")
        lsn, order = last[0] if last else (0, None)
        return Found(
            rows, None if reset is None else int(reset), partial, reread, unknown, lsn, tuple(order or ())
        )

    def any(self, predicate: str) -> bool:
        """Tell whether a predicate holds for some change."""
        return bool(self.reading.ask(f"SELECT 1 FROM {self.rows} WHERE {predicate} LIMIT 1"))

    # --- what must not be ------------------------------------------------------------------------

    def judge(self, *, all_count: bool) -> None:
        """Raise QueryError for changes that cannot be told apart or made rows of.

        With `all_count`, those before a reset count as well.
        """
        scope = f"{OP} NOT IN ('s', 't')" if all_count else self.found.scope
        for column in self.feed.key:
            if self.any(f"{scope} AND {quote_identifier(column)} IS NULL AND NOT {BAD}"):
                raise QueryError(
                    f"{self.product}: a change has no {column}, which is part of the key",
                    hint=self.feed.keyed,
                )
        if self.any(f"{scope} AND {BAD}"):
            self._refuse_value(scope)
        if not self.feed.logged:
            self._refuse_ties(scope)

    def _refuse_value(self, scope: str) -> None:
        bad = f"SELECT {LSN}, {SEQ} FROM {self.rows} WHERE {scope} AND {BAD}"
        found, key = self.reading.ask(
            f"SELECT found, key FROM ({self.feed.culprit}) SEMI JOIN ({bad}) USING ({LSN}, {SEQ})"
            " WHERE found IS NOT NULL LIMIT 1"
        )[0]
        column, value = found
        quoted = value if len(value) <= LONGEST else f"{value[:LONGEST]}... ({len(value):,} characters)"
        of = f" of the row {key}" if key else ""
        raise QueryError(
            f"{self.product}: {column}{of} is {quoted!r}, which is no {self.feed.kinds[column]} that a Delta"
            " table holds",
            hint=f"types: {{{column}: VARCHAR}}, and meshql build {self.product} --full",
        )

    def _refuse_ties(self, scope: str) -> None:
        if self.any(f"{ORDER} IS NULL"):
            raise QueryError(
                f"{self.product}: a change has no order: one of the columns that `order` names is NULL",
                hint="order by what every change has",
            )
        whole = ", ".join(quote_identifier(name) for name in self.feed.kinds)
        text = " || ', ' || ".join(
            f"{quote_literal(k + '=')} || any_value({quote_identifier(k)})::VARCHAR" for k in self.feed.key
        )
        digest = f"hash({OP}, {AT}, {whole})"
        ties = self.reading.ask(
            f"SELECT {text}, any_value({ORDER}) FROM {self.rows} WHERE {scope}"
            f" GROUP BY {self.key}, {LSN}, {SEQ} HAVING min({digest}) <> max({digest}) LIMIT 1"
        )
        hint = "add a column to `order` that tells them apart"
        if ties:
            key, order = ties[0]
            raise QueryError(
                f"{self.product}: two different changes of the row {key} have the order {', '.join(order)}",
                hint=hint,
            )
        if self.any(f"{OP} <> 't' AND {LSN} IN (SELECT {LSN} FROM {self.rows} WHERE {OP} = 't')"):
            raise QueryError(f"{self.product}: a truncate has the order of another change", hint=hint)


@contextmanager
def staged(reading: Reading, feed: Feed, product: str, scratch: Path) -> Iterator[Stage]:
    """Stage changes for the block; their file lies below `scratch`."""
    path = scratch / f"changes-{secrets.token_hex(4)}.parquet"
    try:
        yield Stage(reading, path, feed, product)
    finally:
        path.unlink(missing_ok=True)


def listed(columns: Sequence[str], of: str = "") -> str:
    """Return columns as SQL lists them, those of the relation `of` if given."""
    return ", ".join(f"{of}{quote_identifier(column)}" for column in columns)
