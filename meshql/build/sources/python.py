"""Rows that a Python function gives."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow
import pyarrow.parquet

from meshql.build.drift import merged
from meshql.build.sources.fresh import beginning, fresh, held, typed
from meshql.build.sources.portion import Portion, Work, room
from meshql.build.step import Step
from meshql.catalog.build import PythonSource
from meshql.errors import MeshError, QueryError, UsageError
from meshql.formats.batch_state import UNKNOWN
from meshql.formats.batches import scan
from meshql.query.reading import Reading

__all__ = ["Function"]

PLAIN = (date, time, Decimal, UUID)
"""What JSON lacks, and has one text."""

ROWS = 50_000
"""Dicts that are made into a file at once."""


class Function:
    """A function that is called with the cursor's last value, and its options by their names."""

    def __init__(self, declared: PythonSource, step: Step) -> None:
        self.name = declared.name or declared.function
        self.notes: list[str] = []
        self._declared, self._step = declared, step

    def pending(self, work: Work) -> str:
        """Return from where on the function would be called; it is not."""
        since = beginning(work, self.name, self._declared.cursor)
        return f"{self.name} since {since}" if since is not None else f"{self.name} from the beginning"

    def portions(self, work: Work) -> Iterator[Portion]:
        """Yield the new rows."""
        with held(work) as reading:
            files = self._spooled(self._start(work, reading))
            relation = _relation(reading, files)
            portion, left = fresh(work, reading, self.name, self._declared.cursor, relation, {}, told=True)
            self.notes += left
            if portion:
                yield portion
        for file in files:
            file.unlink()

    def _start(self, work: Work, reading: Reading) -> Any:
        last = work.state.taken.cursors.get(self.name)
        if last and not work.step.request.backfill:
            return typed(reading, last)
        if work.step.request.since is None:
            return self._declared.cursor.start
        return beginning(work, self.name, self._declared.cursor)

    def _spooled(self, start: Any) -> list[Path]:
        """Write all rows down."""
        files: list[Path] = []
        count = 0
        with self._said():
            given = self._function()(start, **self._declared.options)
            for table in _tables(given):
                files.append(self._step.scratch / f"rows-{len(files)}.parquet")
                with room(self._step):
                    pyarrow.parquet.write_table(table, files[-1])
                count += table.num_rows
                self._step.progress(f"reading {self.name}", count)
        return files

    def _function(self) -> Callable[..., Any]:
        module, _, name = self._declared.function.partition(":")
        with _importable(Path(self._step.mesh.catalog.root)):
            found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if not callable(found):
            raise UsageError(f"{self._step.product.name}: {self._declared.function} is no function")
        return found  # type: ignore[no-any-return]

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Say of an error which function it is of."""
        try:
            yield
        except (MeshError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            kind = type(error).__name__
            hint = (
                "it is looked for beside the catalog, and where Python looks"
                if isinstance(error, ImportError)
                else None
            )
            raise QueryError(
                f"{self._step.product.name}: {self._declared.function} failed: {kind}: {error}", hint=hint
            ) from None


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    """Let modules beside the catalog be imported."""
    folder = str(root if root.is_dir() else root.parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _tables(given: Any) -> Iterator[pyarrow.Table]:
    """What a function gave, as tables of bounded size."""
    if given is None:
        return
    if hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__"):
        yield from _arrow(given)
        return
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"it gives a {type(given).__name__}, not rows: an iterable of dicts, or Arrow data")
    rows = iter(given)
    while chunk := list(islice(rows, ROWS)):
        if isinstance(chunk[0], Mapping):
            yield _table(chunk)
        else:
            for part in chunk:
                yield from _tables(part)


def _arrow(given: Any) -> Iterator[pyarrow.Table]:
    if not hasattr(given, "__arrow_c_stream__"):
        yield pyarrow.Table.from_batches([pyarrow.record_batch(given)])
        return
    reader = pyarrow.RecordBatchReader.from_stream(given)
    for batch in reader:
        yield pyarrow.Table.from_batches([batch])


def _table(rows: list[Any]) -> pyarrow.Table:
    odd = next((row for row in rows if not isinstance(row, Mapping)), None)
    if odd is not None:
        raise TypeError(f"a row is a {type(odd).__name__}, not a dict")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pyarrow.table({str(n): _array(str(n), [row.get(n) for row in rows]) for n in names})


def _array(name: str, values: list[Any]) -> pyarrow.Array:
    """Values as a column; where they are of different types, as text, which drift then tells of.

    Raises TypeError for a value that neither Arrow nor JSON has.
    """
    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError, OverflowError):
        return pyarrow.array([_text(name, value) for value in values])


def _text(name: str, value: Any) -> str | None:
    def spelled(inner: Any) -> str:
        if isinstance(inner, PLAIN):
            return str(inner)
        raise TypeError(f"a value of {name} is a {type(inner).__name__}, which has no text")

    if value is None or isinstance(value, str):
        return value
    return spelled(value) if isinstance(value, PLAIN) else json.dumps(value, default=spelled)


def _relation(reading: Reading, files: list[Path]) -> str:
    """What reads all files as one table, whatever columns each has."""
    schema: dict[str, str] = {}
    for file in files:
        found = reading.ask(f"DESCRIBE FROM read_parquet('{file}')")
        schema = dict(merged(schema, {str(n): str(t) for n, t, *_ in found}, reading.cursor).schema)
    known = {name: "VARCHAR" if kind == UNKNOWN else kind for name, kind in schema.items()}
    return scan([str(file) for file in files], known)
