"""The columns of a source's table as its log of changes tells them, and what their values are as rows.

A log of changes is Parquet in batches with these columns, in the order in which things happened:

    table_name    VARCHAR       schema.table
    op            VARCHAR       s a snapshot of the table begins, r a row of it, c insert, u update, d delete,
                                t truncate
    lsn           BIGINT        where the transaction's commit stands in the server's log; of a snapshot's
                                rows, just before where the commits begin that it has not
    seq           BIGINT        the change's place in its transaction, from 1
    xid           BIGINT        the transaction
    committed_at  TIMESTAMPTZ   the server's time of the commit, or of the snapshot
    before        MAP(VARCHAR, VARCHAR)   of d, and of u where the server tells: the old row, or its key only
    after         MAP(VARCHAR, VARCHAR)   of r, c, u: the new row
    unchanged     VARCHAR[]     columns of u that are missing in `after`, since the server does not repeat
                                them; NULL without any

A change of a row's key is a d and a c. Of one table, rows are in the order of (lsn, seq). Values are the text
that PostgreSQL writes with DateStyle ISO, TimeZone UTC, IntervalStyle postgres and bytea_output hex; arrays
are JSON lists of such texts. A batch holds whole transactions, and its rows of a table are all of the shape
that `shape_at` gives for that batch; between two shapes, a column is the same one where its number is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshql.formats.batch_state import State

__all__ = ["Column", "Shape", "kind_of", "shape_at"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a source's table: its number there, which outlives its name, and its type in its words.

    `oid` and `modifier` are the type's as the protocol says it. `kind` is the DuckDB type that holds it.
    """

    name: str
    number: int
    type: str
    oid: int
    modifier: int

    @property
    def kind(self) -> str:
        """The DuckDB type that holds its values without loss."""
        return kind_of(self.type)


@dataclass(frozen=True, slots=True)
class Shape:
    """A source's table: its columns in order, and those that tell its rows apart; none where nothing does.

    `files` tells one filling of the table from another: the server's names of the files that it lies in.
    """

    table: str
    oid: int
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    identity: str
    files: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its columns."""
        return tuple(c.name for c in self.columns)

    def json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "oid": self.oid,
            "columns": [[c.name, c.number, c.type, c.oid, c.modifier] for c in self.columns],
            "key": list(self.key),
            "identity": self.identity,
            "files": list(self.files),
        }

    @classmethod
    def parse(cls, table: str, said: Mapping[str, Any]) -> Shape:
        """Return what JSON says of a table."""
        return cls(
            table,
            said["oid"],
            tuple(Column(*values) for values in said["columns"]),
            tuple(said["key"]),
            said["identity"],
            tuple(said["files"]),
        )


def shape_at(state: State, table: str, batch: int) -> Shape | None:
    """Return the shape of a table's rows in a batch of its log; None where it has not come up by then."""
    for found in reversed(state.batches):
        if found.number <= batch and table in found.taken.kept:
            return Shape.parse(table, found.taken.kept[table])
    return None


KINDS = {
    "boolean": "BOOLEAN",
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "oid": "BIGINT",
    "real": "FLOAT",
    "double precision": "DOUBLE",
    "bytea": "BLOB",
    "date": "DATE",
    "timestamp without time zone": "TIMESTAMP",
    "timestamp with time zone": "TIMESTAMP WITH TIME ZONE",
}

NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")

PRECISION = re.compile(r"^(timestamp)\(\d\)")


def kind_of(type_: str) -> str:
    """Return the DuckDB type that holds values of a PostgreSQL type, as format_type writes it, without loss.

    VARCHAR holds what no other does: numeric without precision or with more than 38 digits, times, intervals,
    uuid, json, enums.
    """
    if type_ == "box[]":
        # Its elements are parted by semicolons.
        return "VARCHAR"
    if type_.endswith("[]"):
        return f"{kind_of(type_.removesuffix('[]'))}[]"
    if found := NUMERIC.fullmatch(type_):
        width, scale = int(found[1]), int(found[2])
        return f"DECIMAL({width},{scale})" if width <= 38 and scale <= width else "VARCHAR"
    return KINDS.get(PRECISION.sub(r"\1", type_), "VARCHAR")
