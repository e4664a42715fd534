"""Tables as they were at one place in the server's log: read under the snapshot that a slot was made with.

What committed before that place is in the snapshot, and what committed at it or later is in the slot's
stream: nothing is in both, and nothing in neither.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshql.build.cdc import slots, tables
from meshql.build.cdc.server import OURS, Server, ask, called, cancellable
from meshql.build.cdc.tables import Found
from meshql.build.step import Step
from meshql.errors import LocationError
from meshql.sql import quote_identifier, quote_name

if TYPE_CHECKING:
    import psycopg

__all__ = ["Snapshot", "snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """Tables at the place `point`, with the shapes that they had there.

    `at` is the server's time then, in microseconds since 1970.
    """

    point: int
    at: int
    found: dict[str, Found]
    session: psycopg.Connection[Any]

    def rows(self, table: str) -> Iterator[tuple[str | None, ...]]:
        """Yield a table's rows, values as a log of changes has them."""
        found = self.found[table]
        listed = ", ".join(
            f"to_json({quote_identifier(c.name)}::text[])::text"
            if c.kind.endswith("[]")
            else quote_identifier(c.name)
            for c in found.shape.columns
        )
        query = f"COPY (SELECT {listed} FROM {_from(table, found)}) TO STDOUT"
        with self.session.cursor().copy(query.encode()) as copy:
            yield from copy.rows()


@contextmanager
def snapshot(
    server: Server, step: Step, names: Sequence[str], publication: str, slot: str | None
) -> Iterator[Snapshot]:
    """Hold tables as they are at one place for the block; a slot of the name `slot` is made there.

    Without one, the slot lives as long as the block. Transactions that are under way are waited for.
    """
    session = called(step.product.name)
    with server.session(session) as holder:
        found = tables.read(holder, names, publication)
        for name in names:
            tables.refuse(step.product.name, name, found.get(name), holder)
        listed = ", ".join(_from(name, found[name]) for name in names)
        with server.session(session, replication=True) as maker, server.session(session) as reader:
            with cancellable(step, holder, maker):
                # A table that is rewritten or truncated looks empty to a snapshot from before.
                step.progress("waiting for transactions under way")
                holder.execute(f"BEGIN; LOCK TABLE {listed} IN ACCESS SHARE MODE".encode())
                temporary = f"{OURS}_{secrets.token_hex(8)}"
                point, name = slots.make(maker, slot or temporary, temporary=slot is None)
            reader.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            reader.execute(f"SET TRANSACTION SNAPSHOT '{name}'".encode())
            reader.execute(f"LOCK TABLE {listed} IN ACCESS SHARE MODE".encode())
            holder.execute(b"ROLLBACK")
            there = tables.read(reader, names, publication)
            if missing := [n for n in names if n not in there]:
                raise LocationError(f"{step.product.name}: the table {missing[0]} went away meanwhile")
            with cancellable(step, reader):
                at = int(ask(reader, "SELECT extract(epoch FROM now()) * 1000000")[0][0])
                yield Snapshot(point, at, there, reader)
            ask(reader, "ROLLBACK")


def _from(table: str, found: Found) -> str:
    # Tables that inherit from a plain one are tables of their own.
    return ("ONLY " if found.kind == "r" else "") + quote_name(*table.split(".", 1))
