"""Rows that SQL over other products gives."""

from __future__ import annotations

from collections.abc import Iterator

from meshql.build.sources.fresh import beginning, fresh
from meshql.build.sources.portion import Portion, Work, copied
from meshql.build.step import Step
from meshql.catalog.build import SqlSource
from meshql.catalog.model import Product
from meshql.errors import QueryError
from meshql.query.reading import Reading
from meshql.sql import parse, quote_identifier, quote_literal

__all__ = ["Query"]


class Query:
    """SQL over products; `_source` says `sql` of its rows unless the source has a name."""

    def __init__(self, declared: SqlSource, step: Step) -> None:
        self.name = declared.name or "sql"
        self.notes: list[str] = []
        self._declared, self._step = declared, step

    def pending(self, work: Work) -> str:
        """Return from where on rows would be read; none are."""
        since = beginning(work, self.name, self._declared.cursor)
        return f"rows of {self.name}" + (f" since {since}" if since is not None else "")

    def portions(self, work: Work) -> Iterator[Portion]:
        """Yield the new rows."""
        products = {p.name: p for p in self._read()}
        if work.state.batches:
            products[work.name] = work.step.product
        with self._step.mesh.reading(products.values()) as reading:
            reading.cursor.execute("SET TimeZone = 'UTC'")
            spool = self._step.scratch / "rows.parquet"
            self._step.progress(f"reading {self.name}")
            copied(reading, self._query(work, reading), str(spool), self._step)
            inputs = {n: s.version for n, s in reading.snapshots.items() if n != work.name}
            relation = f"read_parquet({quote_literal(str(spool))})"
            portion, left = fresh(work, reading, self.name, self._declared.cursor, relation, inputs)
            self.notes += left
            if portion:
                yield portion
        spool.unlink()

    def _read(self) -> list[Product]:
        """The products that the SQL names."""
        import duckdb

        with duckdb.connect() as connection:
            statements = parse(self._declared.sql, connection)
        if len(statements) != 1 or not statements[0].reads:
            raise QueryError(f"{self._step.product.name}: a source's SQL is one SELECT: {self._declared.sql}")
        found = []
        for name in statements[0].names:
            if name.schema and (not name.database):
                found.append(self._step.mesh.find(f"{name.schema}.{name.table}"))
        return found

    def _query(self, work: Work, reading: Reading) -> str:
        """The SQL, cut where the order of the cursor's type is that of its values."""
        text = self._declared.sql.strip().rstrip(";")
        rows = f"({text}\n)"
        columns = {str(n): str(t) for n, t, *_ in reading.ask(f"DESCRIBE FROM {rows}")}
        chosen = ", ".join(
            f"CAST({quote_identifier(n)} AS DECIMAL(38,0)) AS {quote_identifier(n)}"
            if t in ("HUGEINT", "UHUGEINT")
            else quote_identifier(n)
            for n, t in columns.items()
        )
        query = f"SELECT {chosen} FROM {rows}"
        cursor = self._declared.cursor
        kind = next((t for n, t in columns.items() if n.casefold() == cursor.column.casefold()), "VARCHAR")
        since = beginning(work, self.name, cursor)
        if since is None or kind in ("VARCHAR", "JSON"):
            return query
        return f"{query} WHERE {quote_identifier(cursor.column)} >= CAST({quote_literal(since)} AS {kind})"
