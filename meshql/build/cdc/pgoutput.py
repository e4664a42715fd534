"""Messages of pgoutput, the plug-in of PostgreSQL's own logical replication, version 1 of its protocol.

Source: PostgreSQL's documentation, "Logical Replication Message Formats".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "UNCHANGED",
    "Begin",
    "Change",
    "End",
    "Message",
    "Relation",
    "RelationColumn",
    "Truncation",
    "Values",
    "lsn_text",
    "lsn_value",
    "read",
]


class _Unchanged:
    """A value that the server does not repeat, since the change left it as it was."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = _Unchanged()

Values = list[Any]
"""A row: of each column its text, None for NULL, or UNCHANGED."""

EPOCH_MICROSECONDS = 946_684_800_000_000
"""From 1970, which others count from, to 2000, which PostgreSQL counts from."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins; `lsn` is where its commit stands, `at` when that was, in µs since 1970."""

    lsn: int
    at: int
    xid: int


@dataclass(frozen=True, slots=True)
class End:
    """A transaction has ended; `end` is where the next thing in the server's log stands."""

    lsn: int
    end: int
    at: int


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column as the stream has it."""

    name: str
    oid: int
    modifier: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as its next changes have it."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]

    @property
    def table(self) -> str:
        """Its name with its schema's."""
        return f"{self.schema}.{self.name}"


@dataclass(slots=True)
class Change:
    """An insert `I`, update `U` or delete `D` of a row of the table with this number.

    `old` is the row as it was: all of it where `whole`, or its key only; None where the server does not tell.
    """

    kind: str
    oid: int
    new: Values | None
    old: Values | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Truncation:
    """Tables lost all their rows."""

    oids: tuple[int, ...]


Message = Begin | End | Relation | Change | Truncation

_begin = struct.Struct(">qqI").unpack_from
_commit = struct.Struct(">qqq").unpack_from
_int = struct.Struct(">I").unpack_from
_signed = struct.Struct(">i").unpack_from
_short = struct.Struct(">H").unpack_from


def read(data: bytes) -> Message | None:
    """Return the message that `data` holds; None for kinds that change no rows: types, origins, messages.

    Raises ValueError for what is none, and UnicodeDecodeError for text that is not in UTF-8.
    """
    kind = data[:1]
    if kind == b"I":
        return Change("I", _int(data, 1)[0], _row(data, 6)[0])
    if kind == b"U":
        return _update(data)
    if kind == b"D":
        return Change("D", _int(data, 1)[0], None, _row(data, 6)[0], data[5:6] == b"O")
    if kind == b"B":
        lsn, at, xid = _begin(data, 1)
        return Begin(lsn, at + EPOCH_MICROSECONDS, xid)
    if kind == b"C":
        lsn, end, at = _commit(data, 2)
        return End(lsn, end, at + EPOCH_MICROSECONDS)
    if kind == b"R":
        return _relation(data)
    if kind == b"T":
        count, _ = struct.unpack_from(">IB", data, 1)
        return Truncation(struct.unpack_from(f">{count}I", data, 6))
    if kind in (b"Y", b"O", b"M"):
        return None
    raise ValueError(f"no message of pgoutput: {kind!r}")


def _update(data: bytes) -> Change:
    oid, kind = _int(data, 1)[0], data[5:6]
    if kind == b"N":
        return Change("U", oid, _row(data, 6)[0])
    old, at = _row(data, 6)
    return Change("U", oid, _row(data, at + 1)[0], old, kind == b"O")


def _row(data: bytes, at: int) -> tuple[Values, int]:
    """Return the row that begins at `at`, and where it ends."""
    (count,) = _short(data, at)
    at += 2
    values: Values = []
    append = values.append
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == 116:  # t
            (length,) = _int(data, at)
            at += 4
            append(data[at : at + length].decode())
            at += length
        elif kind == 110:  # n
            append(None)
        elif kind == 117:  # u
            append(UNCHANGED)
        else:
            raise ValueError(f"no value of pgoutput: {chr(kind)!r}")
    return values, at


def _relation(data: bytes) -> Relation:
    oid, at = _int(data, 1)[0], 5
    schema, at = _text(data, at)
    name, at = _text(data, at)
    identity = chr(data[at])
    (count,) = _short(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        column, at = _text(data, at + 1)
        columns.append(RelationColumn(column, _int(data, at)[0], _signed(data, at + 4)[0]))
        at += 8
    # The schema pg_catalog is written as no name at all.
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1


def lsn_text(lsn: int) -> str:
    """Return a place in the server's log as the server writes it: 16/B374D848."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_value(text: str) -> int:
    """Return the number that a place in the server's log is."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)
