"""Arrow batches made into text and bytes by DuckDB, which knows how each of its types is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import duckdb
import pyarrow

from meshql.errors import QueryError, StorageError
from meshql.output.files import temporary_folder
from meshql.output.plain import ARROW, PARQUET, replacement, require_lossless, unique
from meshql.sql import quote_identifier, quote_literal

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

__all__ = ["Encoder", "Texts"]

Texts = list[list[str | None]]
"""Cells, column by column."""


class Encoder:
    """A DuckDB instance of its own, for batches of one schema. Close it, or use it as a context manager.

    Columns go by position, so that their names need not be different.
    """

    def __init__(self, columns: Sequence[str], types: Sequence[str], schema: pyarrow.Schema) -> None:
        self.columns = tuple(columns)
        self.keys = unique(columns)
        """The names made different, for formats that look columns up by name."""
        self._schema = pyarrow.schema([field.with_name(f"c{i}") for i, field in enumerate(schema)])
        self._open = ExitStack()
        # Several threads would hold back row groups to keep them in order: memory would grow with the rows.
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        self._connection.execute("SET enable_progress_bar = false")
        if zone := _time_zone(schema):
            self._connection.execute(f"SET TimeZone = {quote_literal(zone)}")
        self._types = self._imported()
        for column, declared, imported in zip(columns, types, self._types, strict=True):
            require_lossless(column, declared, str(imported))
        self._values = [
            _as_declared(f"c{i}", declared, str(imported))
            for i, (declared, imported) in enumerate(zip(types, self._types, strict=True))
        ]
        self._plain = {i: sql for i, t in enumerate(self._types) if (sql := replacement(t, ARROW))}

    def texts(self, batch: pyarrow.RecordBatch) -> Texts:
        """Return every cell as DuckDB writes it in a VARCHAR, and None for NULL."""
        casts = ", ".join(f"CAST({v} AS VARCHAR) AS c{i}" for i, v in enumerate(self._values))
        return [column.to_pylist() for column in self._asked(f"SELECT {casts} FROM batch", batch).columns]

    def csv_header(self, delimiter: str) -> bytes:
        """Return the line of the names, as they are."""
        names = ", ".join(quote_literal(name) for name in self.columns)
        return self._piece(f"SELECT {names}", _csv_options(delimiter, ""))

    def csv(self, batch: pyarrow.RecordBatch, delimiter: str, null: str = "") -> bytes:
        """Return the batch as lines of CSV, without a header."""
        return self._piece(
            f"SELECT {', '.join(self._values)} FROM batch", _csv_options(delimiter, null), batch
        )

    def json_lines(self, batch: pyarrow.RecordBatch) -> bytes:
        """Return the batch as one JSON object a line; names that stand twice are numbered."""
        return self._piece(
            f"SELECT {self._keyed(self._values)} FROM batch", "FORMAT json, ARRAY false", batch
        )

    def parquet(self, batches: Iterable[pyarrow.RecordBatch], path: Path) -> None:
        """Write a Parquet file; an error of `batches` is raised as it is."""
        values = [_cast(v, replacement(t, PARQUET)) for v, t in zip(self._values, self._types, strict=True)]
        failed: list[BaseException] = []
        query = f"SELECT {self._keyed(values)} FROM batch"
        try:
            self._copy(query, path, "FORMAT parquet", _remembering(batches, failed))
        except BaseException:
            if failed:
                raise failed[0] from None
            raise

    @cached_property
    def plain_schema(self) -> pyarrow.Schema:
        """The schema of `plain` batches: types that any reader of Arrow knows, names that stand once."""
        fields = [field.with_name(key) for field, key in zip(self._schema, self.keys, strict=True)]
        if self._plain:
            for i, field in zip(self._plain, self._asked(self._plain_query).schema, strict=True):
                fields[i] = field.with_name(self.keys[i])
        return pyarrow.schema(fields)

    def plain(self, batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
        """Return the rows of the batch, one at least, under the `plain_schema`."""
        arrays = list(batch.columns)
        if self._plain:
            asked = self._asked(self._plain_query, batch).combine_chunks()
            for i, column in zip(self._plain, asked.columns, strict=True):
                arrays[i] = column.chunk(0)
        return pyarrow.RecordBatch.from_arrays(arrays, schema=self.plain_schema)

    def close(self) -> None:
        """Let the instance and its temporary files go."""
        self._connection.close()
        self._open.close()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _imported(self) -> list[DuckDBPyType]:
        """The types as DuckDB reads them back from Arrow."""
        self._register([])
        return list(self._connection.view("batch").types)

    @cached_property
    def _folder(self) -> Path:
        return self._open.enter_context(temporary_folder())

    @property
    def _plain_query(self) -> str:
        casts = ", ".join(f"CAST(c{i} AS {sql}) AS c{i}" for i, sql in self._plain.items())
        return f"SELECT {casts} FROM batch"

    def _keyed(self, values: Sequence[str]) -> str:
        pairs = zip(values, self.keys, strict=True)
        return ", ".join(f"{value} AS {quote_identifier(key)}" for value, key in pairs)

    def _register(self, batches: Iterable[pyarrow.RecordBatch]) -> None:
        named = (pyarrow.RecordBatch.from_arrays(b.columns, schema=self._schema) for b in batches)
        reader = pyarrow.RecordBatchReader.from_batches(self._schema, named)
        # Given the reader itself, DuckDB would import pyarrow.dataset and pandas: half a second.
        self._connection.register("batch", reader.__arrow_c_stream__())

    def _asked(self, query: str, *batches: pyarrow.RecordBatch) -> pyarrow.Table:
        with _translated():
            self._register(batches)
            return self._connection.execute(query).to_arrow_table()

    def _piece(self, query: str, options: str, *batches: pyarrow.RecordBatch) -> bytes:
        """The bytes that COPY writes; DuckDB writes files only, so they go by way of one."""
        path = self._folder / "piece"
        self._copy(query, path, f"{options}, COMPRESSION none", batches)
        return path.read_bytes()

    def _copy(self, query: str, path: Path, options: str, batches: Iterable[pyarrow.RecordBatch]) -> None:
        with _translated():
            self._register(batches)
            self._connection.execute(
                f"COPY ({query}) TO {quote_literal(str(path))} ({options}, USE_TMP_FILE false)"
            )


def _csv_options(delimiter: str, null: str) -> str:
    return f"FORMAT csv, HEADER false, DELIMITER {quote_literal(delimiter)}, NULLSTR {quote_literal(null)}"


def _as_declared(column: str, declared: str, imported: str) -> str:
    """Make JSON of what is JSON, where the Arrow stream carries it as mere text."""
    lost = imported != declared and imported == declared.replace("JSON", "VARCHAR")
    return f"CAST({column} AS {declared})" if lost else column


def _cast(value: str, sql: str | None) -> str:
    return f"CAST({value} AS {sql})" if sql else value


def _time_zone(schema: pyarrow.Schema) -> str | None:
    """The time zone in which the session shows TIMESTAMP WITH TIME ZONE; all columns carry the same."""
    kinds = [field.type for field in schema]
    while kinds:
        kind = kinds.pop()
        if zone := getattr(kind, "tz", None):
            return str(zone)
        kinds.extend(kind.field(i).type for i in range(kind.num_fields))
    return None


def _remembering(
    batches: Iterable[pyarrow.RecordBatch], failed: list[BaseException]
) -> Iterator[pyarrow.RecordBatch]:
    """Keep the error of `batches`: on its way through Arrow and DuckDB it becomes a text."""
    try:
        yield from batches
    except BaseException as error:
        failed.append(error)
        raise


@contextmanager
def _translated() -> Iterator[None]:
    """Turn DuckDB's errors into meshql's, and what it makes of Ctrl-C back into KeyboardInterrupt."""
    try:
        yield
    except duckdb.IOException as error:
        raise StorageError(f"cannot write: {error}") from None
    except duckdb.ConversionException as error:
        raise QueryError(f"no value of this format: {error}", hint="cast the column to VARCHAR") from None
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from None
