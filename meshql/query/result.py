"""The answer of a statement: an Arrow stream, read once, by whatever reads Arrow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Literal

from meshql.errors import QueryError
from meshql.sql import quote_identifier

if TYPE_CHECKING:
    import duckdb
    import pandas
    import polars
    import pyarrow

    from meshql.query.receipt import Receipt
    from meshql.sql import Statement

__all__ = ["Result", "is_count", "result_of", "result_of_rows"]

BATCH_ROWS = 100_000

SHOWN_ROWS = 40

GRACE_SECONDS = 1.0


class Result:
    """The rows of one statement, streamed.

    Reading consumes them: by iteration over `pyarrow.RecordBatch`es, by any library that takes
    `__arrow_c_stream__`, or by `arrow`, `df` and `pl`. `show` and a notebook's display only look ahead.
    Close a result that is not read to its end, or use it as a context manager.
    """

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        *,
        translate: Callable[[BaseException], BaseException],
        account: Callable[[int], Receipt | None],
        end: Callable[[bool | None], None],
        interrupt: Callable[[], None] = lambda: None,
        again: Callable[[BaseException], BaseException | None] = lambda error: error,
    ) -> None:
        self.columns, self.types = _shape(cursor)
        """The names of the columns, which need not be different, and their DuckDB types."""
        self.receipt: Receipt | None = None
        """What was read from where, once the result is read or closed; None unless it was asked for."""
        self._cursor = cursor
        self._translate = translate
        self._account = account
        self._end = end
        self._interrupt = interrupt
        self._again = again
        self._thread: ThreadPoolExecutor | None = None
        self._hangs = False
        self._stream: pyarrow.RecordBatchReader | None = None
        self._schema: pyarrow.Schema | None = None
        self._ahead: list[pyarrow.RecordBatch] = []
        self._rows = 0
        self._state: Literal["open", "read", "closed"] = "open"

    def __iter__(self) -> Iterator[pyarrow.RecordBatch]:
        """Yield batches of up to 100,000 rows; raises QueryError once the result is closed."""
        while (batch := self._next()) is not None:
            yield batch

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the rows as an Arrow C stream (https://arrow.apache.org/docs/format/CDataInterface)."""
        return self.reader().__arrow_c_stream__(requested_schema)

    def reader(self) -> pyarrow.RecordBatchReader:
        """Return the rows as a RecordBatchReader."""
        import pyarrow

        return pyarrow.RecordBatchReader.from_batches(self.schema, iter(self))

    @property
    def schema(self) -> pyarrow.Schema:
        """The Arrow schema."""
        if self._schema is None:
            self._schema = self._reading().schema
        return self._schema

    def arrow(self) -> pyarrow.Table:
        """Return all rows as a pyarrow Table."""
        return self.reader().read_all()

    def df(self) -> pandas.DataFrame:
        """Return all rows as a pandas DataFrame."""
        return self.arrow().to_pandas()

    def pl(self) -> polars.DataFrame:
        """Return all rows as a polars DataFrame."""
        import polars

        frame = polars.from_arrow(self.arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows as tuples of Python values."""
        return [row for batch in self for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)]

    def head(self, rows: int) -> tuple[pyarrow.Table, bool]:
        """Return the first `rows` rows, which stay to be read, and whether more follow."""
        import pyarrow

        while sum(b.num_rows for b in self._ahead) <= rows:
            batch = self._read()
            if batch is None:
                break
            self._ahead.append(batch)
        table = pyarrow.Table.from_batches(self._ahead, self.schema)
        return table.slice(0, rows), table.num_rows > rows

    def show(self, rows: int = SHOWN_ROWS) -> None:
        """Print the first `rows` rows as a table, and whether there are more."""
        from meshql.output.table import terminal_width, text_table

        table, more = self.head(rows)
        print(text_table(self.columns, self.types, table, width=terminal_width()))
        if more:
            print(f"… the first {rows:,} rows; more follow")

    def _repr_html_(self) -> str:
        from meshql.output.table import html_table

        table, more = self.head(SHOWN_ROWS)
        return html_table(self.columns, self.types, table, more=more)

    def __repr__(self) -> str:
        columns = ", ".join(f"{n} {t}" for n, t in zip(self.columns, self.types, strict=True))
        return f"<meshql.Result ({columns})>"

    def prefetch(self) -> None:
        """Read all rows now, which ends the statement; they stay to be read."""
        while (batch := self._read()) is not None:
            self._ahead.append(batch)

    def close(self) -> None:
        """End the statement; rows not read yet are dropped. Closing twice does nothing."""
        self._ahead.clear()
        self._finish("closed", ok=True)

    def __enter__(self) -> Result:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_state", "closed") == "open":
            self.close()

    def _next(self) -> pyarrow.RecordBatch | None:
        return self._ahead.pop(0) if self._ahead else self._read()

    def _read(self) -> pyarrow.RecordBatch | None:
        if self._state == "read":
            return None
        stream = self._reading()
        try:
            batch = self._interruptible(lambda: next(stream, None))
        except BaseException as first:
            error = self._run_again(first)
            if error is None:
                return self._read()
            translated = self._translate(error)
            self._finish("closed", ok=False)
            raise translated from None
        if batch is None:
            self._finish("read", ok=True)
            return None
        self._rows += batch.num_rows
        return batch

    def _run_again(self, error: BaseException) -> BaseException | None:
        """Begin the statement anew, if that can help and nobody has seen a row; the error that remains."""
        remains = error if self._rows else self._again(error)
        if remains is not None:
            return remains
        self._stream = None
        return None if _shape(self._cursor) == (self.columns, self.types) else error

    def _interruptible(self, read: Callable[[], pyarrow.RecordBatch | None]) -> pyarrow.RecordBatch | None:
        """Read so that Ctrl-C is seen: the main thread, which gets it, must not wait inside DuckDB."""
        if threading.current_thread() is not threading.main_thread():
            return read()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="meshql-read")
        job = self._thread.submit(read)
        try:
            wait([job])
        except KeyboardInterrupt:
            self._interrupt()
            self._hangs = not wait([job], timeout=GRACE_SECONDS).done
            raise
        return job.result()

    def _reading(self) -> pyarrow.RecordBatchReader:
        if self._state == "closed":
            raise QueryError(
                "the result is closed",
                hint="read it before the next statement of its session, or before closing",
            )
        if self._stream is None:
            self._stream = self._cursor.to_arrow_reader(BATCH_ROWS)
            self._schema = self._stream.schema
        return self._stream

    def _finish(self, state: Literal["read", "closed"], *, ok: bool) -> None:
        """End the statement once; what it read is known only now, and forgotten by the cursor's next one."""
        if self._state != "open":
            self._state = state if state == "closed" else self._state
            return
        self._state = state
        try:
            self.receipt = self._account(self._rows) if ok and state == "read" else None
        finally:
            self._stream = None
            if self._thread is not None:
                self._thread.shutdown(wait=False)
            self._end(None if self._hangs else ok)


def _shape(cursor: duckdb.DuckDBPyConnection) -> tuple[tuple[str, ...], tuple[str, ...]]:
    description = cursor.description or []
    return tuple(d[0] for d in description), tuple(str(d[1]) for d in description)


def is_count(statement: Statement, result: Result) -> bool:
    """Whether a result has no rows of its own: it only tells how many changed, or that all went well."""
    shape = (result.columns, result.types)
    counts = shape in {(("Count",), ("BIGINT",)), (("Success",), ("BOOLEAN",))}
    return counts and not statement.reads


def result_of(table: pyarrow.Table, columns: Sequence[str]) -> Result:
    """Return rows that are there already as a result under these names, which need not be different."""
    import duckdb

    held = duckdb.connect()
    held.register("held", table.rename_columns([f"c{i}" for i in range(len(columns))]))
    named = ", ".join(f"c{i} AS {quote_identifier(name)}" for i, name in enumerate(columns))
    return Result(
        held.execute(f"SELECT {named} FROM held"),
        translate=lambda error: error,
        account=lambda rows: None,
        end=lambda ok: held.close(),
    )


def result_of_rows(rows: Sequence[Mapping[str, str | float | None]]) -> Result:
    """Return rows of text and numbers, one at least, as a result; a column holds one or the other."""
    import pyarrow

    kinds = {int: pyarrow.int64(), float: pyarrow.float64()}
    found = {name: {type(row[name]) for row in rows} - {type(None)} for name in rows[0]}
    schema = pyarrow.schema(
        [(n, kinds.get(next(iter(t)), pyarrow.string()) if t else pyarrow.string()) for n, t in found.items()]
    )
    return result_of(pyarrow.Table.from_pylist(list(rows), schema), schema.names)
