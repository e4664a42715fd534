"""Replication slots and publications: made, examined and dropped, and how much of the server's log they hold.

A slot makes the server keep what has not been read, so what a slot holds back is watched: a slot that nobody
reads fills the server's disk.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from meshql.build.cdc.server import OURS, Server, ask, server_of
from meshql.build.cdc.tables import Found
from meshql.catalog.build import CdcBuild
from meshql.catalog.model import Product
from meshql.errors import BusyError, LocationError, StorageError, UsageError
from meshql.formats import batches
from meshql.mesh import Mesh
from meshql.sql import quote_identifier, quote_name

if TYPE_CHECKING:
    import psycopg

__all__ = [
    "Slot",
    "SlotStatus",
    "drop",
    "find",
    "make",
    "names_of",
    "publish",
    "remove",
    "status",
    "warning_of",
]

WARN_BYTES = 1_000_000_000
"""What a slot may hold back without a limit before that is worth a warning."""

FREED_WITHIN_SECONDS = 30.0
"""How long a session of ours that was killed may hold its slot."""

QUERY = """
    SELECT s.slot_name::text, s.plugin::text, s.database::text, s.active, s.active_pid, s.wal_status::text,
        s.confirmed_flush_lsn - '0/0'::pg_lsn, (pg_current_wal_lsn() - s.restart_lsn)::bigint,
        s.safe_wal_size,
        (SELECT a.application_name FROM pg_stat_activity a WHERE a.pid = s.active_pid),
        (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = s.active_pid),
        (pg_current_wal_lsn() - s.confirmed_flush_lsn)::bigint, s.temporary
    FROM pg_replication_slots s WHERE s.slot_name = %s
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as the server has it; places in the server's log are numbers, amounts of it bytes.

    `state` is its wal_status: reserved, extended, unreserved or lost. `holder` is what the session that reads
    it is called. `safe` is how much more the server writes until the slot is lost; None without a limit.
    """

    name: str
    plugin: str
    database: str
    active: bool
    pid: int | None
    state: str | None
    confirmed: int | None
    retained: int | None
    safe: int | None
    holder: str | None
    since: datetime | None
    behind: int | None
    temporary: bool

    @property
    def end(self) -> int | None:
        """Where the server's log ended."""
        return None if self.confirmed is None or self.behind is None else self.confirmed + self.behind


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """How a log of changes stands with its server. Amounts are in bytes of the server's log.

    `lag_seconds` is how long ago the newest change was made durable; None where none ever was. `safe_bytes`
    is how much more the server writes until the slot is lost; None without a limit.
    """

    product: str
    slot: str
    exists: bool
    active: bool = False
    active_since: datetime | None = None
    state: str | None = None
    confirmed: str | None = None
    retained_bytes: int | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    safe_bytes: int | None = None
    warning: str | None = None
    hint: str | None = None
    tables: tuple[str, ...] = ()


def names_of(mesh: Mesh, product: Product) -> tuple[str, str]:
    """Return the names of a log's slot and publication: declared ones, or ours, which nobody else's are."""
    assert isinstance(product.build, CdcBuild)
    _, location = mesh.store(product)
    digest = hashlib.sha256(location.folder.plain.encode()).hexdigest()[:8]
    plain = re.sub(r"[^a-z0-9]+", "_", product.name.casefold())[:40]
    ours = f"{OURS}_{plain}_{digest}"
    return product.build.slot or ours, product.build.publication or ours


def find(session: psycopg.Connection[Any], name: str) -> Slot | None:
    """Return the slot of that name; None where there is none."""
    rows = ask(session, QUERY, (name,))
    if not rows:
        return None
    values: list[Any] = list(rows[0])
    # The difference of two places is numeric.
    values[6] = None if values[6] is None else int(values[6])
    return Slot(*values)


# --- what a build needs ---------------------------------------------------------------------------


def make(session: psycopg.Connection[Any], name: str, *, temporary: bool = False) -> tuple[int, str]:
    """Make a slot; returns from where it tells changes, and a snapshot of all that was before.

    The snapshot is there as long as the session, which has to be one of the replication protocol, sends
    nothing else. Transactions that are under way are waited for.
    """
    from meshql.build.cdc.pgoutput import lsn_value

    kind = "TEMPORARY " if temporary else ""
    command = f"CREATE_REPLICATION_SLOT {name} {kind}LOGICAL pgoutput EXPORT_SNAPSHOT"
    row = ask(session, command, patient=True)[0]
    return lsn_value(row[1]), str(row[2])


def remove(session: psycopg.Connection[Any], name: str, *, ours: str | None = None) -> bool:
    """Drop a slot; False where there is none.

    A session called `ours` that still reads it is ended: it belongs to a build that is gone. Raises BusyError
    where somebody else reads it.
    """
    if find(session, name) is None:
        return False
    released(session, name, ours)
    ask(session, "SELECT pg_drop_replication_slot(%s)", (name,))
    return True


def released(session: psycopg.Connection[Any], name: str, ours: str | None) -> None:
    """Wait until nobody reads a slot, and end a session called `ours` that does; raises BusyError."""
    ends = time.monotonic() + FREED_WITHIN_SECONDS
    while (slot := find(session, name)) is not None and slot.active:
        if slot.holder == ours:
            ask(session, "SELECT pg_terminate_backend(%s)", (slot.pid,))
        if time.monotonic() > ends or (slot.holder is not None and slot.holder != ours):
            raise BusyError(
                f"the replication slot {name} is in use by session {slot.pid} ({slot.holder or 'no name'})",
                hint=f"stop what reads it, or end it: SELECT pg_terminate_backend({slot.pid})",
            )
        time.sleep(0.05)


def publish(session: psycopg.Connection[Any], product: Product, name: str, tables: dict[str, Found]) -> None:
    """See that a publication tells all changes of these tables: ours is made and altered as it takes.

    Raises UsageError for a declared one that does not.
    """
    assert isinstance(product.build, CdcBuild)
    rows = ask(
        session,
        "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot, puballtables"
        " FROM pg_publication WHERE pubname = %s",
        (name,),
    )
    if product.build.publication:
        _check_declared(session, product.name, name, tables, rows)
    elif not rows:
        listed = ", ".join(_named(t, f) for t, f in tables.items())
        _altering(
            session,
            product.name,
            f"CREATE PUBLICATION {quote_identifier(name)} FOR TABLE {listed}"
            " WITH (publish_via_partition_root = true)",
        )
    elif _published(session, name) != set(tables):
        listed = ", ".join(_named(t, f) for t, f in tables.items())
        _altering(session, product.name, f"ALTER PUBLICATION {quote_identifier(name)} SET TABLE {listed}")


def _named(table: str, found: Found) -> str:
    only = "ONLY " if found.kind == "r" else ""
    return only + quote_name(*table.split(".", 1))


def _altering(session: psycopg.Connection[Any], product: str, statement: str) -> None:
    import psycopg

    try:
        session.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"{product}: the user may not make its publication ({error.diag.message_primary})",
            hint=f"as the owner of the tables: {statement}; then name it: `publication: ...`",
        ) from None


def _published(session: psycopg.Connection[Any], name: str) -> set[str]:
    query = (
        "SELECT n.nspname || '.' || c.relname FROM pg_publication_rel r"
        " JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s"
    )
    return {row[0] for row in ask(session, query, (name,))}


def _check_declared(
    session: psycopg.Connection[Any],
    product: str,
    name: str,
    tables: dict[str, Found],
    rows: list[tuple[Any, ...]],
) -> None:
    quoted = quote_identifier(name)
    if not rows:
        listed = ", ".join(_named(t, f) for t, f in tables.items())
        raise LocationError(
            f"{product}: there is no publication {name}",
            hint=f"CREATE PUBLICATION {quoted} FOR TABLE {listed} WITH (publish_via_partition_root = true)",
        )
    complete, through_root, _ = rows[0]
    if not complete:
        raise UsageError(
            f"{product}: the publication {name} leaves some kinds of changes out",
            hint=f"ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate')",
        )
    if not through_root and any(f.kind == "p" for f in tables.values()):
        raise UsageError(
            f"{product}: the publication {name} tells changes by partition, not by table",
            hint=f"ALTER PUBLICATION {quoted} SET (publish_via_partition_root = true)",
        )
    _check_members(session, product, name, tables)


def _check_members(
    session: psycopg.Connection[Any], product: str, name: str, tables: dict[str, Found]
) -> None:
    query = (
        "SELECT t.schemaname || '.' || t.tablename, t.rowfilter IS NOT NULL, t.attnames::text[]"
        " FROM pg_publication_tables t WHERE t.pubname = %s"
    )
    members = {row[0]: row[1:] for row in ask(session, query, (name,))}
    for table, found in tables.items():
        named = quote_name(*table.split(".", 1))
        if table not in members:
            raise UsageError(
                f"{product}: {table} is not in the publication {name}",
                hint=f"ALTER PUBLICATION {quote_identifier(name)} ADD TABLE {named}",
            )
        filtered, columns = members[table]
        if filtered or not set(found.shape.names) <= set(columns):
            part = "rows" if filtered else "columns"
            raise UsageError(
                f"{product}: the publication {name} leaves {part} of {table} out",
                hint="name a publication of whole tables, or none: meshql makes its own",
            )


# --- what a person asks ---------------------------------------------------------------------------


def status(mesh: Mesh, product: Product) -> SlotStatus:
    """Return how a log of changes stands with its server; raises StorageError where it cannot be asked."""
    build = product.build
    assert isinstance(build, CdcBuild)
    name, _ = names_of(mesh, product)
    state = batches.state(*mesh.store(product))
    with server_of(mesh, build.from_, product.name).session() as session:
        slot = find(session, name)
        limited = ask(session, "SHOW max_slot_wal_keep_size")[0][0] != "-1"
    at = state.batches[-1].at if state.batches else None
    # A clock may have been set back since.
    lag = max((datetime.now(UTC) - at).total_seconds(), 0.0) if at else None
    if slot is None:
        lost = at is not None
        return SlotStatus(
            product.name,
            name,
            False,
            lag_seconds=lag,
            tables=build.tables,
            warning=f"{product.name}: the slot {name} is gone, and changes since are lost" if lost else None,
            hint=f"meshql build {product.name} --full" if lost else None,
        )
    from meshql.build.cdc.pgoutput import lsn_text

    warning, hint = warning_of(product, slot, limited=limited) or (None, None)
    return SlotStatus(
        product.name,
        name,
        True,
        slot.active,
        slot.since,
        slot.state,
        lsn_text(slot.confirmed) if slot.confirmed is not None else None,
        slot.retained,
        slot.behind,
        lag,
        slot.safe if limited else None,
        warning,
        hint,
        build.tables,
    )


def warning_of(product: Product, slot: Slot, *, limited: bool) -> tuple[str, str] | None:
    """Return what is amiss with a slot, and what to do about it; None where nothing is.

    `limited` says that the server bounds what slots hold back.
    """
    from meshql.terminal import size

    held = size(slot.retained or 0)
    if slot.state == "lost":
        return (
            f"{product.name}: the server has removed what the slot {slot.name} had not read yet",
            f"meshql build {product.name} --full reads the tables anew; a higher max_slot_wal_keep_size"
            " leaves more time",
        )
    if slot.state == "unreserved" or (limited and slot.safe is not None and slot.safe < (slot.retained or 0)):
        left = size(max(slot.safe or 0, 0))
        return (
            f"{product.name}: the slot {slot.name} holds {held} of the server's log, and is lost after"
            f" {left} more",
            f"run meshql build {product.name} soon, or raise max_slot_wal_keep_size",
        )
    if not limited and (slot.retained or 0) > WARN_BYTES:
        return (
            f"{product.name}: the slot {slot.name} holds {held} of the server's log, and nothing limits it:"
            " it may fill the disk",
            f"run meshql build {product.name}; or meshql cdc drop-slot {product.name} if nobody needs it;"
            " or set max_slot_wal_keep_size",
        )
    return None


def drop(mesh: Mesh, product: Product) -> bool:
    """Drop a log's slot, and the publication that meshql made for it; False where there was no slot.

    The next build reads all tables anew. Raises BusyError while something reads the slot.
    """
    build = product.build
    assert isinstance(build, CdcBuild)
    slot, publication = names_of(mesh, product)
    server: Server = server_of(mesh, build.from_, product.name)
    with server.session() as session:
        found = remove(session, slot)
        if not build.publication:
            session.execute(f"DROP PUBLICATION IF EXISTS {quote_identifier(publication)}".encode())
    return found


def gap(product: Product, slot: Slot | None, name: str, cursor: int) -> StorageError | None:
    """Return the error for changes behind `cursor` that the slot does not tell any more; None without any."""
    hint = f"meshql build {product.name} --full reads the tables anew and goes on from there"
    if slot is None:
        return LocationError(
            f"{product.name}: the replication slot {name} is gone: changes since the last build are lost",
            hint=hint,
        )
    if slot.state == "lost":
        return LocationError(
            f"{product.name}: the server has removed what the slot {name} had not read yet: changes since the"
            " last build are lost",
            hint=f"{hint}; a higher max_slot_wal_keep_size leaves more time",
        )
    from meshql.build.cdc.pgoutput import lsn_text

    if slot.end is not None and slot.end < cursor:
        return LocationError(
            f"{product.name}: the server's log ends at {lsn_text(slot.end)}, before {lsn_text(cursor)}, where"
            " the log of changes ends: the server was put back to an earlier state",
            hint=hint,
        )
    if slot.confirmed is not None and slot.confirmed > cursor:
        return LocationError(
            f"{product.name}: somebody else has read the slot {name} up to {lsn_text(slot.confirmed)}, and"
            f" the log ends at {lsn_text(cursor)}: the changes between are lost",
            hint=hint,
        )
    return None
