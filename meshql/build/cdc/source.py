"""The server's side of a log of changes: its tables, slot and publication, and a session to ask."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from meshql.build.cdc import slots, tables
from meshql.build.cdc.capture import Capture, FollowedTable
from meshql.build.cdc.server import ask, called, cancellable, server_of
from meshql.build.cdc.slots import Slot
from meshql.build.cdc.tables import Found
from meshql.build.step import Step
from meshql.catalog.build import CdcBuild
from meshql.errors import LocationError, UsageError

if TYPE_CHECKING:
    import psycopg

__all__ = ["Look", "Source"]

LOOK_SECONDS = 10.0
"""How often tables are compared with what the log makes of them: some changes of a table tell nothing."""

# Amazon's servers have a role in place of the attribute.
MAY = """
    SELECT m.rolreplication OR m.rolsuper OR EXISTS (SELECT FROM pg_roles r
            WHERE r.rolname = 'rds_replication' AND pg_has_role(m.oid, r.oid, 'MEMBER')),
        quote_ident(m.rolname)
    FROM pg_roles m WHERE m.rolname = current_user
"""


class Source:
    """What a log of changes is made of. All but `server` takes the block of `opened`."""

    def __init__(self, step: Step) -> None:
        assert isinstance(step.product.build, CdcBuild)
        self._step = step
        self._product = step.product
        self._how = step.product.build
        self.server = server_of(step.mesh, self._how.from_, step.product.name)
        self.slot, self.publication = slots.names_of(step.mesh, step.product)
        self.names = list(self._how.tables)
        self._session: psycopg.Connection[Any]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold a session for the block."""
        with (
            self.server.session(called(self._product.name)) as self._session,
            cancellable(self._step, self._session),
        ):
            yield

    def found(self, names: Iterable[str] = ()) -> dict[str, Found]:
        """Return tables as they are now, those that are there; all for no names."""
        with self.server.asking():
            return tables.read(self._session, list(names) or self.names, self.publication)

    def position(self) -> int:
        """Return where the server's log ends."""
        with self.server.asking():
            query = "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint"
            return int(ask(self._session, query)[0][0])

    def kept(self) -> Slot | None:
        """Return the slot, as it is now."""
        with self.server.asking():
            return slots.find(self._session, self.slot)

    def removed(self) -> None:
        """See that there is no slot; raises BusyError where somebody else reads it."""
        with self.server.asking():
            slots.remove(self._session, self.slot, ours=called(self._product.name))

    def released(self) -> None:
        """See that nobody reads the slot; raises BusyError where somebody else does."""
        with self.server.asking():
            slots.released(self._session, self.slot, called(self._product.name))

    def refuse(self, known: str | None) -> str:
        """Return what tells the database from all others; raises an error where it cannot be followed.

        `known` is what told it when the log began. The publication is made, or altered, as it takes.
        """
        with self.server.asking():
            system = self._system(known)
            found = self.found()
            for name in self.names:
                tables.refuse(self._product.name, name, found.get(name), self._session)
            slots.publish(self._session, self._product, self.publication, found)
        return system

    def _system(self, known: str | None) -> str:
        name, place = self._product.name, self.server.place
        if (level := ask(self._session, "SHOW wal_level")[0][0]) != "logical":
            raise UsageError(
                f"{name}: the server at {place} has wal_level {level}, and tells changes with logical only",
                hint="ALTER SYSTEM SET wal_level = 'logical', and restart the server",
            )
        allowed, user = ask(self._session, MAY)[0]
        if not allowed:
            raise UsageError(
                f"{name}: the user {user} may not follow changes",
                hint=f"as a superuser: ALTER ROLE {user} REPLICATION",
            )
        with self.server.session(replication=True) as session:
            system = str(ask(session, "IDENTIFY_SYSTEM")[0][0])
        if known is not None and known != system and not self._step.request.full:
            raise LocationError(
                f"{name}: the database at {place} is another one than the log is of",
                hint=f"check the connection {self._how.from_}; meshql build {name} --full begins anew",
            )
        return system

    def warning(self, slot: Slot) -> str | None:
        """Return what is amiss with the slot, and what to do; None where nothing is."""
        with self.server.asking():
            limited = ask(self._session, "SHOW max_slot_wal_keep_size")[0][0] != "-1"
        found = slots.warning_of(self._product, slot, limited=limited)
        return f"{found[0]}: {found[1]}" if found else None

    def missing(self, table: str) -> LocationError:
        """Return the error for a table that went away."""
        return LocationError(
            f"{self._product.name}: the table {table} is not there any more",
            hint="take it out of `tables`, or make it again",
        )


class Look:
    """Tables as the server had them before its log reached `target`: compared once all before it is taken."""

    def __init__(self, source: Source, followed: Mapping[str, FollowedTable]) -> None:
        self._source = source
        self._followed = followed
        self.again()

    def again(self) -> None:
        """Look now."""
        self._found = self._source.found()
        self.target = self._source.position()
        self._at = time.monotonic()
        self._shapes = {name: followed.shape for name, followed in self._followed.items()}

    @property
    def due(self) -> bool:
        """Whether the last look was some time ago."""
        return time.monotonic() - self._at >= LOOK_SECONDS

    def compare(self, capture: Capture) -> None:
        """Have the capture go over to what has changed of tables without a change of their rows."""
        for name, followed in self._followed.items():
            found = self._found.get(name)
            if found is None:
                raise self._source.missing(name)
            # What the stream has changed since that look is newer.
            same = followed.shape is self._shapes[name]
            if same and not followed.stale and found.shape != followed.shape:
                capture.adopt(followed, found)
