"""The rows of a table as they are after its changes: of each key the last change counts.

What a change does not tell is as the changes before it say, or else as the table has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshql.build.cdc.feed import LSN, OP, RANK, SEQ, UNCHANGED
from meshql.build.cdc.stage import Stage, Tally, listed
from meshql.errors import QueryError, UsageError
from meshql.sql import quote_identifier, quote_literal

__all__ = ["GONE", "Fold"]

GONE = "__gone"
"""The column of a row to merge that says that its key is to be taken out."""


class Fold:
    """The current state that staged changes lead to.

    `table` is the table's name in SQL, None where it is not there or all of it is replaced; `olds` are the
    names of the rows' columns there.
    """

    def __init__(self, stage: Stage, table: str | None, olds: Mapping[str, str | None]) -> None:
        self.stage = stage
        self.found = stage.found
        self.feed = stage.feed
        self.key = stage.key
        self.replaces = table is None or self.found.reset is not None
        self.table = None if self.replaces else table
        self.olds = olds
        self.kinds = stage.feed.kinds
        self.match = stage.feed.key
        self.gone: str | None = GONE
        self.only: tuple[str, ...] = ()
        self.clock: int | None = None
        self.filled: tuple[str, ...] = ()
        self._there = self._renamed()
        self.tally = self._chosen() if self.feed.key else self._appended()

    def _renamed(self) -> str:
        """The table's key columns, under the names that the rows have for them."""
        named = ", ".join(
            f"{quote_identifier(self.olds.get(k) or k)} AS {quote_identifier(k)}" for k in self.feed.key
        )
        return f"(SELECT {named} FROM {self.table})"

    # --- which rows -------------------------------------------------------------------------------

    def _appended(self) -> Tally:
        """Choose the rows of a table without a key: all that come."""
        stage, scope = self.stage, self.found.scope
        wrong = stage.reading.ask(
            f"SELECT {OP}, {LSN} FROM {stage.rows} WHERE {scope} AND {OP} IN ('u', 'd') LIMIT 1"
        )
        if wrong:
            did = "an update" if wrong[0][0] == "u" else "a delete"
            raise UsageError(
                f"{stage.product}: {did} came for a table that has no key to find the row by",
                hint=stage.feed.keyless,
            )
        ((rows,),) = stage.reading.ask(f"SELECT count(*) FROM {stage.rows} WHERE {scope}")
        return Tally(rows, 0)

    def _chosen(self) -> Tally:
        """Choose, of each key, the last change."""
        ask, stage = self.stage.reading.ask, self.stage
        ask(
            f"CREATE TEMP TABLE won AS SELECT {self.key}, arg_max(file_row_number, {RANK}) AS __r,"
            f" arg_max({OP}, {RANK}) AS __did, max({RANK}) AS __rank FROM {stage.rows}"
            f" WHERE {self.found.scope} GROUP BY {self.key}"
        )
        known = f"SELECT {self.key} FROM temp.won LIMIT 0"
        if self.table:
            known = f"SELECT {self.key} FROM {self._there} SEMI JOIN temp.won USING ({self.key})"
        ask(f"CREATE TEMP TABLE known AS {known}")
        ask(
            "CREATE TEMP TABLE chosen AS SELECT __r, false AS __gone FROM temp.won WHERE __did <> 'd'"
            f" UNION ALL SELECT __r, true FROM temp.won SEMI JOIN temp.known USING ({self.key})"
            " WHERE __did = 'd'"
        )
        if self.found.partial:
            self._fill()
        ((rows, gone),) = ask(
            "SELECT count(*) FILTER (NOT __gone), count(*) FILTER (__gone) FROM temp.chosen"
        )
        ((met,),) = ask("SELECT count(*) FROM temp.known")
        return Tally(rows - (met - gone), met - gone, gone)

    # --- what they do not tell --------------------------------------------------------------------

    def _fill(self) -> None:
        """Find what chosen changes do not tell: first in the changes before them, then in the table."""
        ask, stage = self.stage.reading.ask, self.stage
        chosen = f"{stage.rows} AS s JOIN temp.chosen AS c ON s.file_row_number = c.__r AND NOT c.__gone"
        rows = ask(f"SELECT DISTINCT unnest({UNCHANGED}) FROM {chosen}")
        self.filled = tuple(sorted({row[0] for row in rows} - set(self.feed.key)))
        if not self.filled:
            return
        told = ", ".join(
            f"arg_max(struct_pack(v := s.{quote_identifier(c)}), {_rank('s')}) FILTER (NOT"
            f" coalesce(list_contains(s.{UNCHANGED}, {quote_literal(c)}), false)) AS {quote_identifier(c)}"
            for c in self.filled
        )
        lacking = (
            f"SELECT c.__r, {listed(stage.feed.key, 's.')} FROM {chosen} WHERE s.{UNCHANGED} IS NOT NULL"
        )
        ask(
            f"CREATE TEMP TABLE told AS SELECT w.__r, {told} FROM ({lacking}) AS w JOIN"
            f" (FROM {stage.rows} WHERE {self.found.scope} AND {OP} <> 'd') AS s USING ({self.key})"
            " GROUP BY w.__r"
        )
        ask(f"CREATE TEMP TABLE filled AS {self._from_table()}")
        missing = " OR ".join(
            f"(list_contains(s.{UNCHANGED}, {quote_literal(c)}) AND f.{quote_identifier(c)} IS NULL)"
            for c in self.filled
        )
        lost = f"{stage.rows} AS s JOIN temp.filled AS f ON f.__r = s.file_row_number WHERE {missing}"
        if rows := ask(f"SELECT {listed(stage.feed.key, 's.')}, s.{UNCHANGED} FROM {lost} LIMIT 1"):
            refuse_untold(stage, rows[0])

    def _from_table(self) -> str:
        olds = {c: self.olds.get(c, c) for c in self.filled}
        if self.table is None or not any(olds.values()):
            return "FROM temp.told"
        there = ", ".join(
            f"{quote_identifier(self.olds.get(k) or k)} AS {quote_identifier(k)}" for k in self.feed.key
        )
        had = "".join(
            f", struct_pack(v := {quote_identifier(old)}) AS {quote_identifier('had ' + c)}"
            for c, old in olds.items()
            if old
        )
        first = ", ".join(
            f"coalesce(d.{quote_identifier(c)}, t.{quote_identifier('had ' + c)}) AS {quote_identifier(c)}"
            if old
            else f"d.{quote_identifier(c)}"
            for c, old in olds.items()
        )
        keyed = f"SELECT d.*, {listed(self.feed.key, 's.')} FROM temp.told AS d JOIN {self.stage.rows} AS s"
        return (
            f"WITH d AS ({keyed} ON s.file_row_number = d.__r) SELECT d.__r, {first} FROM d LEFT JOIN"
            f" (SELECT {there}{had} FROM {self.table}) AS t USING ({self.key})"
        )

    # --- rows -------------------------------------------------------------------------------------

    def rows(self, *, merged: bool = False) -> str:
        """Return a SELECT of the rows to put in; `merged`, also of the keys to take out, by GONE."""
        stage = self.stage
        if not self.feed.key:
            return f"SELECT {listed(tuple(self.feed.kinds))} FROM {stage.rows} WHERE {self.found.scope}"
        columns = ", ".join(self._column(c) for c in self.feed.kinds)
        joined = f"{stage.rows} AS s JOIN temp.chosen AS c ON s.file_row_number = c.__r"
        if self.filled:
            joined += " LEFT JOIN temp.filled AS f ON f.__r = c.__r"
        if merged:
            return f"SELECT {columns}, c.__gone AS {GONE} FROM {joined}"
        return f"SELECT {columns} FROM {joined} WHERE NOT c.__gone"

    def _column(self, name: str) -> str:
        column = quote_identifier(name)
        if name not in self.filled:
            return f"s.{column}"
        kept = f"coalesce(list_contains(s.{UNCHANGED}, {quote_literal(name)}), false)"
        return f"CASE WHEN {kept} THEN f.{column}.v ELSE s.{column} END AS {column}"

    def rewritten(self) -> str:
        """Return a SELECT of all of the table's rows as they are after the changes, in the rows' columns."""
        made = ", ".join(
            f"{quote_identifier(old) if (old := self.olds.get(name)) else 'NULL'}::{kind}"
            f" AS {quote_identifier(name)}"
            for name, kind in self.feed.kinds.items()
        )
        old_rows = f"SELECT {made} FROM {self.table}"
        if self.feed.key:
            old_rows = f"FROM ({old_rows}) ANTI JOIN temp.won USING ({self.key})"
        return f"{old_rows} UNION ALL {self.rows()}"

    def within(self) -> dict[str, tuple[int, int]]:
        """Return the least and greatest value of the key's columns that are whole numbers."""
        return bounds(self.stage, "temp.won")


def bounds(stage: Stage, relation: str) -> dict[str, tuple[int, int]]:
    """Return the least and greatest value that columns of the key have in a relation, of whole numbers."""
    whole = [k for k in stage.feed.key if stage.feed.kinds[k] in ("SMALLINT", "INTEGER", "BIGINT")]
    if not whole:
        return {}
    ends = ", ".join(f"min({c}), max({c})" for c in map(quote_identifier, whole))
    (row,) = stage.reading.ask(f"SELECT {ends} FROM {relation}")
    return {k: (row[2 * i], row[2 * i + 1]) for i, k in enumerate(whole) if row[2 * i] is not None}


def refuse_untold(stage: Stage, row: Sequence[object]) -> None:
    """Raise QueryError for a change that does not tell a column, of a row that nobody knows."""
    *key, unchanged = row
    named = ", ".join(f"{k}={v}" for k, v in zip(stage.feed.key, key, strict=True))
    raise QueryError(
        f"{stage.product}: an update of the row {named} does not tell {', '.join(unchanged)}, and no change"  # type: ignore[arg-type]
        " before it does",
        hint=f"meshql build {stage.product} --full",
    )


def _rank(of: str) -> str:
    return f"({of}.{LSN}::HUGEINT * 9223372036854775808 + {of}.{SEQ})"
