"""What every source gives: rows in portions, each with what has been taken once they are committed."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import duckdb

from meshql.build.drift import text_kept
from meshql.build.step import Step
from meshql.errors import QueryError, StorageError
from meshql.formats.batch_state import ROW_COLUMNS, State, Taken
from meshql.formats.snapshot import Ask
from meshql.query.reading import Reading
from meshql.sql import quote_identifier, quote_literal

__all__ = ["Portion", "Source", "Work", "columns_of", "copied", "json_columns", "listed_columns", "room"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a source goes on from: what was taken so far, and the number of the batch that comes next."""

    step: Step
    state: State
    number: int

    @property
    def name(self) -> str:
        """The product's name."""
        return self.step.product.name


@dataclass(frozen=True, slots=True)
class Portion:
    """Rows to be written as one batch, at most: `relation` stands behind FROM on the reading's cursor.

    `source` is the SQL of each row's `_source`. Without a relation, there is only something to be noted.
    """

    reading: Reading
    name: str
    relation: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    taken: Taken = field(default_factory=Taken)
    inputs: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[], None] = lambda: None
    """Called once the rows are written: raises where they are not to be committed."""


class Source(Protocol):
    """Rows that come in portions. `notes` gathers what the user should know."""

    name: str
    notes: list[str]

    def portions(self, work: Work) -> Iterator[Portion]:
        """Yield what is new; each portion is read before the next one is asked for."""

    def pending(self, work: Work) -> str:
        """Return what is new, in words; nothing where nothing is."""


def columns_of(ask: Ask, relation: str, product: str, source: str) -> dict[str, str]:
    """Return the columns that a relation has, by name with their types.

    Raises QueryError where one has the name of those that meshql adds.
    """
    found = {str(name): str(kind) for name, kind, *_ in ask(f"DESCRIBE FROM {relation}")}
    taken = [name for name in found if name.casefold() in ROW_COLUMNS]
    if taken:
        raise QueryError(
            f"{product}: rows of {source} have a column {taken[0]}, a name that is meshql's own",
            hint=f"rename it, by a source of `kind: sql`: SELECT * RENAME ({taken[0]} AS ...) FROM ...",
        )
    return found


FULL = re.compile("No space left|disk is full|Disk quota exceeded", re.IGNORECASE)

EVERY_KEY = {"field_appearance_threshold": 0, "map_inference_threshold": -1}


def json_columns(
    ask: Ask, connection: duckdb.DuckDBPyConnection, scan: Callable[[Mapping[str, Any]], str]
) -> dict[str, str]:
    """Return the columns of JSON rows with types that keep all of them; `scan` takes more options.

    Rows whose keys are seldom the same ones would be taken for one value each.
    """
    for more in ({}, EVERY_KEY):
        found = ask(f"DESCRIBE FROM {scan(more)}")
        columns = {str(name): text_kept(str(kind), connection) for name, kind, *_ in found}
        if list(columns) != ["json"]:
            break
    return columns


def copied(
    reading: Reading, query: str, target: str, step: Step, options: str = ""
) -> list[tuple[str, int, int]]:
    """Write the rows of a query to Parquet on this machine; returns each file's path, rows and bytes.

    Raises StorageError where this machine's disk is full.
    """
    # DuckDB's Bloom filters lose rows when BLOBs are looked up by value.
    form = f"FORMAT parquet, COMPRESSION zstd, WRITE_BLOOM_FILTER false, RETURN_STATS{options}"
    statement = f"COPY ({query}) TO {quote_literal(target)} ({form})"
    with room(step):
        try:
            rows = reading.cursor.execute(statement).fetchall()
        except (OSError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if FULL.search(str(error)):
                raise OSError(errno.ENOSPC, "") from None
            raise reading.failure(error) from None
    return [(str(path), int(count), int(size)) for path, count, size, *_ in rows]


@contextmanager
def room(step: Step) -> Iterator[None]:
    """Say of a disk that is full inside the block which one it is; raises StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(
            f"{step.product.name}: the disk of this machine is full: {step.scratch}",
            hint="free some space there, or set TMPDIR to a folder that has more",
        ) from None


def listed_columns(columns: Mapping[str, str]) -> str:
    """Return column names as a SELECT lists them."""
    return ", ".join(map(quote_identifier, columns))
