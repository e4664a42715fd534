"""All versions of a table's rows: what changes end of the versions that are there, and what they begin.

A row has one version for each transaction that changed it, from its commit until that of the next one that
changes the row or takes it out. Moments follow one another, however the source's clock was set: of a log,
each transaction's lies at least a microsecond behind the one before it; else, each change's of a row.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshql.build.cdc.feed import AT, LSN, OP, RANK, UNCHANGED, VALID_FROM, VALID_TO
from meshql.build.cdc.fold import bounds, refuse_untold
from meshql.build.cdc.stage import Stage, Tally, listed
from meshql.errors import QueryError
from meshql.sql import quote_identifier, quote_literal

__all__ = ["History"]

ZONED = "TIMESTAMP WITH TIME ZONE"

LONG_AGO = -(1 << 62)


class History:
    """The versions that staged changes lead to; see fold.Fold for what it is given.

    `clock` is the moment of the last transaction before them, in microseconds.
    """

    def __init__(
        self, stage: Stage, table: str | None, olds: Mapping[str, str | None], clock: int | None
    ) -> None:
        self.stage = stage
        self.feed = stage.feed
        self.key = stage.key
        self.table = table
        self.olds = olds
        self.replaces = table is None
        self.kinds = {**stage.feed.kinds, VALID_FROM: ZONED, VALID_TO: ZONED}
        self.match = (*stage.feed.key, VALID_FROM)
        self.gone: str | None = None
        self.only: tuple[str, ...] = (VALID_TO,)
        self.clock = clock
        self.partial: tuple[str, ...] = ()
        self._refuse_timeless()
        self._events()
        self._survivors()
        self._versions()
        ends, begins = stage.reading.ask(
            "SELECT count(*) FILTER (__r IS NULL), count(__r) FROM temp.versions"
        )[0]
        self.tally = Tally(begins, ends)

    def _refuse_timeless(self) -> None:
        if self.stage.any(f"{AT} IS NULL"):
            raise QueryError(
                f"{self.stage.product}: a change has no time", hint="let `at` say one for every change"
            )

    # --- what happened to each row ----------------------------------------------------------------

    def _events(self) -> None:
        """Line up what happened to each key: __r is the staged row, NULL for one that the table has."""
        ask, stage = self.stage.reading.ask, self.stage
        ask(
            f"CREATE TEMP TABLE raw AS SELECT {self.key}, {LSN} AS __lsn, {RANK} AS __rank, {OP} AS __did,"
            f" file_row_number AS __r, epoch_us({AT}) AS __us, NULL::BIGINT AS __past FROM {stage.rows}"
            f" WHERE {OP} NOT IN ('s', 't')"
        )
        if self.table is not None:
            ask(f"INSERT INTO temp.raw {self._current()}")
        if stage.found.partial:
            self._trace()
        else:
            ask("CREATE TEMP TABLE traced AS FROM temp.raw")
        if stage.found.reset is not None:
            ask(f"INSERT INTO temp.traced BY NAME {self._resets()}")

    def _current(self) -> str:
        """The versions that are valid in the table, and when those that are not any more ended."""
        named = ", ".join(f"{self._old(k)} AS {quote_identifier(k)}" for k in self.feed.key)
        rows = f"SELECT {named}, {VALID_FROM}, {VALID_TO} FROM {self.table}"
        if self.feed.logged:
            rows += f" WHERE {VALID_TO} IS NULL"
        if self.stage.found.reset is None:
            rows = f"FROM ({rows}) SEMI JOIN temp.raw USING ({self.key})"
        past = f"epoch_us(max(coalesce({VALID_TO}, {VALID_FROM})))"
        return (
            f"SELECT {self.key}, -1, -1, if(bool_or({VALID_TO} IS NULL), 'c', 'd'), NULL,"
            f" epoch_us(max({VALID_FROM})), {past} FROM ({rows}) GROUP BY {self.key}"
        )

    def _resets(self) -> str:
        """The ends of rows that a truncate or a snapshot takes away."""
        resets = (
            f"SELECT {LSN} AS __at_lsn, {RANK} AS __at_rank, epoch_us({AT}) AS __at_us FROM {self.stage.rows}"
            f" WHERE {OP} IN ('s', 't')"
        )
        following = f"SELECT *, lead(__rank) OVER (PARTITION BY {self.key} ORDER BY __rank) AS __next"
        return (
            f"SELECT {self.key}, __at_lsn AS __lsn, __at_rank AS __rank, 'd' AS __did, __at_us AS __us"
            f" FROM ({following} FROM temp.traced) AS e ASOF JOIN ({resets}) AS z ON e.__rank < z.__at_rank"
            " WHERE __did <> 'd' AND (__next IS NULL OR __next > __at_rank)"
        )

    # --- what changes do not tell -----------------------------------------------------------------

    def _trace(self) -> None:
        """Find, for each column that some change does not tell, the last row before it that does."""
        ask, stage = self.stage.reading.ask, self.stage
        rows = ask(f"SELECT DISTINCT unnest({UNCHANGED}) FROM {stage.rows} WHERE {OP} = 'u'")
        self.partial = tuple(sorted({row[0] for row in rows} - set(self.feed.key)))
        if not self.partial:
            ask("CREATE TEMP TABLE traced AS FROM temp.raw")
            return
        told = "".join(
            f", last_value(CASE WHEN {_tells(c)} THEN coalesce(__r, {-1 if self._knows(c) else 'NULL'}) END"
            f" IGNORE NULLS) OVER (PARTITION BY {self.key} ORDER BY __rank) AS __of{i}"
            for i, c in enumerate(self.partial)
        )
        rows_ = f"SELECT file_row_number AS __r, {UNCHANGED} FROM {stage.rows} WHERE {UNCHANGED} IS NOT NULL"
        ask(
            f"CREATE TEMP TABLE traced AS SELECT * EXCLUDE ({UNCHANGED}){told}"
            f" FROM temp.raw LEFT JOIN ({rows_}) USING (__r)"
        )
        lost = " OR ".join(f"__of{i} IS NULL" for i in range(len(self.partial)))
        found = ask(
            f"SELECT {listed(self.feed.key, 't.')}, {UNCHANGED} FROM temp.traced AS t"
            f" JOIN ({rows_}) USING (__r) WHERE __did = 'u' AND ({lost}) LIMIT 1"
        )
        if found:
            refuse_untold(stage, found[0])

    def _knows(self, column: str) -> bool:
        """Whether the table has a column."""
        return self.table is not None and self.olds.get(column) is not None

    # --- which events begin or end a version ------------------------------------------------------

    def _survivors(self) -> None:
        """Keep one event for each transaction and key, and of these what makes a difference."""
        ask = self.stage.reading.ask
        window = f"OVER (PARTITION BY {self.key} ORDER BY __rank)"
        ask(
            "CREATE TEMP TABLE steps AS SELECT *, lag(__did) OVER w AS __was, lag(__rank) OVER w AS __before"
            f" FROM (FROM temp.traced QUALIFY lead(__lsn) {window} IS DISTINCT FROM __lsn)"
            f" WINDOW w AS (PARTITION BY {self.key} ORDER BY __rank)"
        )
        ask("DELETE FROM temp.steps WHERE __did = 'd' AND coalesce(__was, 'd') = 'd' AND __rank >= 0")
        if self.stage.found.reread:
            self._drop_equal()

    def _drop_equal(self) -> None:
        """Drop rows that were read anew and are as they were."""
        ask = self.stage.reading.ask
        again = "__did = 'r' AND __was IS NOT NULL AND __was <> 'd'"
        ask(f"CREATE TEMP TABLE again AS SELECT {self.key}, __rank, __before FROM temp.steps WHERE {again}")
        if not ask("SELECT 1 FROM temp.again LIMIT 1"):
            return
        now = self._content("FROM temp.again")
        before = self._content(f"SELECT {self.key}, __before AS __rank FROM temp.again")
        same = " AND ".join(
            f"n.{c} IS NOT DISTINCT FROM b.{c}" for c in map(quote_identifier, self.feed.kinds)
        )
        ask(
            f"CREATE TEMP TABLE equal AS SELECT g.__rank AS __rank, {listed(self.feed.key, 'g.')}"
            f" FROM temp.again AS g JOIN ({now}) AS n USING ({self.key}, __rank) JOIN ({before}) AS b"
            f" ON {self._keys('g', 'b')} AND g.__before = b.__rank WHERE {same}"
        )
        ask(
            f"DELETE FROM temp.steps WHERE ({self.key}, __rank) IN"
            f" (SELECT ({self.key}, __rank) FROM temp.equal)"
        )

    def _keys(self, left: str, right: str) -> str:
        return " AND ".join(f"{left}.{k} = {right}.{k}" for k in map(quote_identifier, self.feed.key))

    # --- versions ---------------------------------------------------------------------------------

    def _versions(self) -> None:
        """Give what is left its moments; only versions that begin or end are kept."""
        ask = self.stage.reading.ask
        timed = self._moments() if self.feed.logged else self._moments_by_key()
        started = f"SELECT *, if(__rank < 0, __us, __moment) AS __from FROM ({timed})"
        ended = (
            f"SELECT *, lead(__from) OVER (PARTITION BY {self.key} ORDER BY __rank) AS __to FROM ({started})"
        )
        traces = "".join(f", __of{i}" for i in range(len(self.partial)))
        ask(
            f"CREATE TEMP TABLE versions AS SELECT {self.key}, __r{traces},"
            f" make_timestamp(__from)::{ZONED} AS {VALID_FROM}, make_timestamp(__to)::{ZONED} AS {VALID_TO}"
            f" FROM ({ended}) WHERE __did <> 'd' AND (__r IS NOT NULL OR __to IS NOT NULL)"
        )

    def _moments(self) -> str:
        """A SELECT of what is left with the moment of its transaction."""
        ask = self.stage.reading.ask
        last = LONG_AGO if self.clock is None else self.clock
        each = (
            f"SELECT {LSN} AS __lsn, epoch_us(max({AT})) AS c, row_number() OVER (ORDER BY {LSN}) AS n"
            f" FROM {self.stage.rows} GROUP BY {LSN}"
        )
        ask(
            "CREATE TEMP TABLE moments AS SELECT __lsn,"
            f" n + greatest(max(c - n) OVER (ORDER BY n), {last}) AS __moment FROM ({each})"
        )
        ((newest,),) = ask("SELECT max(__moment) FROM temp.moments")
        self.clock = self.clock if newest is None else int(newest)
        return "FROM temp.steps LEFT JOIN temp.moments USING (__lsn)"

    def _moments_by_key(self) -> str:
        """A SELECT of what is left with its own moment, behind that of the row's change before it."""
        window = f"OVER (PARTITION BY {self.key} ORDER BY __rank)"
        numbered = f"SELECT *, row_number() {window} AS __n FROM temp.steps"
        said = "if(__rank < 0, __past, __us) - __n"
        return f"SELECT *, __n + max({said}) {window} AS __moment FROM ({numbered})"

    # --- rows -------------------------------------------------------------------------------------

    def rows(self, *, merged: bool = False) -> str:
        """Return a SELECT of the versions that begin; `merged`, also of those that end, by VALID_TO."""
        columns = ", ".join(self._column(c) for c in self.feed.kinds)
        begun = (
            f"SELECT {columns}, e.{VALID_FROM}, e.{VALID_TO} FROM"
            f" {self._sources('(FROM temp.versions WHERE __r IS NOT NULL)')}"
        )
        if not merged:
            return begun
        keyed = listed(self.feed.key)
        ended = f"SELECT {keyed}, {VALID_FROM}, {VALID_TO} FROM temp.versions WHERE __r IS NULL"
        return f"{begun} UNION ALL BY NAME {ended}"

    def _content(self, chosen: str) -> str:
        """A SELECT of the columns of the events that `chosen` lists by key and __rank."""
        columns = ", ".join(self._column(c) for c in self.feed.kinds)
        events = f"(FROM temp.steps SEMI JOIN ({chosen}) USING ({self.key}, __rank))"
        return f"SELECT {columns}, e.__rank FROM {self._sources(events)}"

    def _sources(self, events: str) -> str:
        """Events, as e, with the rows that hold their values: s staged, h the table's, p0, p1 traced."""
        joined = f"{events} AS e LEFT JOIN {self.stage.rows} AS s ON s.file_row_number = e.__r"
        if self.table is not None:
            had = ", ".join(f"{self._old(c)} AS {quote_identifier(c)}" for c in self.feed.kinds)
            valid = f"(SELECT {had} FROM {self.table} WHERE {VALID_TO} IS NULL)"
            joined += f" LEFT JOIN {valid} AS h ON {self._keys('e', 'h')}"
        for i in range(len(self.partial)):
            joined += f" LEFT JOIN {self.stage.rows} AS p{i} ON p{i}.file_row_number = e.__of{i}"
        return joined

    def _column(self, name: str) -> str:
        column = quote_identifier(name)
        if name in self.feed.key:
            return f"e.{column}"
        traced = self.partial.index(name) if name in self.partial else None
        staged = f"s.{column}" if traced is None else f"p{traced}.{column}"
        if self.table is None:
            return f"{staged} AS {column}"
        of_table = "e.__r IS NULL" if traced is None else f"(e.__r IS NULL OR e.__of{traced} = -1)"
        return f"CASE WHEN {of_table} THEN h.{column} ELSE {staged} END AS {column}"

    def _old(self, name: str) -> str:
        """A column of the table, by the name that rows have for it."""
        old = self.olds.get(name)
        return f"{quote_identifier(old) if old else 'NULL'}::{self.feed.kinds[name]}"

    def within(self) -> dict[str, tuple[int, int]]:
        """Return the least and greatest value of the key's columns that are whole numbers."""
        return bounds(self.stage, "temp.versions")

    def rewritten(self) -> str:
        """Return a SELECT of all of the table's versions after the changes, in the rows' columns."""
        had = ", ".join(f"{self._old(c)} AS {quote_identifier(c)}" for c in self.feed.kinds)
        old = f"SELECT {had}, {VALID_FROM}, {VALID_TO} FROM {self.table}"
        ends = f"SELECT {self.key}, {VALID_FROM}, {VALID_TO} AS __ended FROM temp.versions WHERE __r IS NULL"
        columns = listed(tuple(self.feed.kinds))
        return (
            f"SELECT {columns}, {VALID_FROM}, coalesce({VALID_TO}, __ended) AS {VALID_TO} FROM ({old})"
            f" LEFT JOIN ({ends}) USING ({self.key}, {VALID_FROM}) UNION ALL {self.rows()}"
        )


def _tells(column: str) -> str:
    return f"__did <> 'd' AND NOT coalesce(list_contains({UNCHANGED}, {quote_literal(column)}), false)"
