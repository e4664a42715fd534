"""Results written out: to a file that is there whole or not at all, or to a stream as the rows come."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from meshql.errors import StorageError
from meshql.output.files import compressed, let_go, opened, temporary_folder
from meshql.output.formats import FORMATS, compression_of, format_of, known_format

if TYPE_CHECKING:
    import pyarrow

    from meshql.output.encode import Encoder, Texts
    from meshql.query.result import Result

__all__ = ["FORMATS", "Written", "format_of", "write"]

TEXT_ROWS = 10_000
"""Rows made into text at once; the first so many settle the widths of a table."""


@dataclass(frozen=True, slots=True)
class Written:
    """How a result went out.

    `truncated` says that rows beyond the limit were left; `closed`, that the reader of a stream went away
    before the end, so that `rows` counts what was handed over and not what was read.
    """

    rows: int
    truncated: bool = False
    closed: bool = False


def write(
    result: Result,
    target: str | Path | BinaryIO,
    format_name: str | None = None,
    *,
    limit: int | None = None,
    width: int | None = None,
    null: str | None = None,
    box: bool = True,
    dim: bool = False,
) -> Written:
    """Write the rows of `result` to a file or a binary stream, at most `limit` of them, and close it.

    A file appears under its name once it is whole; without `format_name` its suffix tells the format, and a
    second suffix .gz or .zst compresses text. A stream gets the rows as they come, as a table unless
    `format_name` says otherwise. When its reader goes away, the query ends and nothing is raised.

    `width` is that of the terminal, for tables, and `box` draws borders around them; `dim` sets NULL
    off where people read it. `null` stands for NULL in text: `NULL`, and nothing in csv and tsv.
    Names that stand twice stay in text; json, jsonl, parquet and arrow number them: `a`, `a_1`.
    Parquet, and Arrow in a file that is not named .arrows, are files of their own; a stream of Arrow is IPC.

    Raises UsageError for an unknown format or a path that cannot be written, StorageError when writing fails,
    and whatever the query raises.
    """
    with result, _writing():
        if not isinstance(target, (str, Path)):
            name = known_format(format_name or "table")
            return _Output(result, name, target, limit, width, null, box=box, dim=dim).write()
        path = Path(target)
        name = known_format(format_name) if format_name else format_of(path)
        with opened(path) as (file, partial), compressed(file, compression_of(path, name)) as stream:
            return _Output(result, name, stream, limit, width, null, partial, path.suffix, box).write()


class _Rows:
    """The batches of a result up to a limit, none of them empty, and what became of them."""

    def __init__(self, result: Result, limit: int | None) -> None:
        self.count = 0
        self.truncated = False
        self._result = result
        self._limit = limit

    def __iter__(self) -> Iterator[pyarrow.RecordBatch]:
        for batch in self._result:
            left = batch.num_rows if self._limit is None else self._limit - self.count
            self.truncated = batch.num_rows > left
            self.count += min(batch.num_rows, left)
            if batch.num_rows and left:
                yield batch.slice(0, left)
            if self.truncated:
                return


@dataclass(frozen=True, slots=True)
class _Output:
    """One result on its way; `partial` is the file behind the stream, when the stream is one's own."""

    result: Result
    format: str
    stream: IO[bytes]
    limit: int | None
    width: int | None
    null: str | None
    partial: Path | None = None
    suffix: str = ""
    box: bool = True
    dim: bool = False

    def write(self) -> Written:
        from meshql.output.encode import Encoder

        rows = _Rows(self.result, self.limit)
        closed = False
        with Encoder(self.result.columns, self.result.types, self.result.schema) as encoder:
            try:
                WRITERS[self.format](self, rows, encoder)
                self.stream.flush()
            except BrokenPipeError:
                closed = True
                let_go(self.stream)
        return Written(rows.count, rows.truncated, closed)

    def put(self, data: bytes) -> None:
        """Write now: whoever reads a stream sees the rows as they come."""
        self.stream.write(data)
        self.stream.flush()


def _table(out: _Output, rows: _Rows, encoder: Encoder) -> None:
    from meshql.output.table import table_blocks

    null = "NULL" if out.null is None else out.null
    for block in table_blocks(
        encoder.columns,
        out.result.types,
        _texts(rows, encoder),
        width=out.width,
        null=null,
        dim=out.dim,
        box=out.box,
    ):
        out.put(block.encode())


def _markdown(out: _Output, rows: _Rows, encoder: Encoder) -> None:
    from meshql.output.lines import markdown_blocks

    null = "NULL" if out.null is None else out.null
    for block in markdown_blocks(encoder.columns, out.result.types, _texts(rows, encoder), null=null):
        out.put(block.encode())


def _vertical(out: _Output, rows: _Rows, encoder: Encoder) -> None:
    from meshql.output.lines import vertical_blocks

    null = "NULL" if out.null is None else out.null
    for block in vertical_blocks(encoder.columns, _texts(rows, encoder), null=null, dim=out.dim):
        out.put(block.encode())


def _texts(rows: _Rows, encoder: Encoder) -> Iterator[Texts]:
    for batch in rows:
        for start in range(0, batch.num_rows, TEXT_ROWS):
            yield encoder.texts(batch.slice(start, TEXT_ROWS))


def _csv(out: _Output, rows: _Rows, encoder: Encoder) -> None:
    delimiter = "\t" if out.format == "tsv" else ","
    out.put(encoder.csv_header(delimiter))
    for batch in rows:
        out.put(encoder.csv(batch, delimiter, out.null or ""))


def _jsonl(out: _Output, rows: _Rows, encoder: Encoder) -> None:
    for batch in rows:
        out.put(encoder.json_lines(batch))


def _json(out: _Output, rows: _Rows, encoder: Encoder) -> None:
    before = b"["
    for batch in rows:
        out.put(before + encoder.json_lines(batch)[:-1].replace(b"\n", b",\n"))
        before = b",\n"
    out.put(b"]\n" if rows.count else b"[]\n")


def _parquet(out: _Output, rows: _Rows, encoder: Encoder) -> None:
    if out.partial:
        encoder.parquet(rows, out.partial)
        return
    with temporary_folder() as folder:
        path = folder / "rows.parquet"
        encoder.parquet(rows, path)
        with path.open("rb") as file:
            shutil.copyfileobj(file, out.stream)


def _arrow(out: _Output, rows: _Rows, encoder: Encoder) -> None:
    import pyarrow

    as_file = out.partial and out.suffix != ".arrows"
    new = pyarrow.ipc.new_file if as_file else pyarrow.ipc.new_stream
    with new(out.stream, encoder.plain_schema) as writer:
        for batch in rows:
            writer.write_batch(encoder.plain(batch))
            out.stream.flush()


WRITERS: dict[str, Callable[[_Output, _Rows, Encoder], None]] = {
    "table": _table,
    "csv": _csv,
    "tsv": _csv,
    "json": _json,
    "jsonl": _jsonl,
    "markdown": _markdown,
    "vertical": _vertical,
    "parquet": _parquet,
    "arrow": _arrow,
}


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write: {error.strerror or error}") from None
