"""`meshql cdc`: logs of changes and the replication slots that they are read from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from meshql.commands.listing import print_rows
from meshql.commands.opening import open_mesh
from meshql.config import Config
from meshql.errors import MeshError, UsageError
from meshql.terminal import note, report, say, size

if TYPE_CHECKING:
    from meshql.build.cdc.slots import SlotStatus
    from meshql.catalog.model import Product
    from meshql.mesh import Mesh

__all__ = ["drop_slot", "print_status"]


def print_status(names: Sequence[str], config: Config, format_: str) -> int:
    """Print how logs of changes stand with their servers, and return the exit code."""
    from meshql.build.cdc.slots import status
    from meshql.query.supervise import supervise

    with open_mesh(config) as mesh:
        logs = _logs(mesh, names)
        if not logs:
            note("no product of this catalog follows a database")
            return 0

        def ask(log: Product) -> SlotStatus | MeshError:
            try:
                return status(mesh, log)
            except MeshError as error:
                return error

        with ThreadPoolExecutor(max_workers=8) as pool:
            found = supervise(lambda: list(pool.map(ask, logs)), mesh.interrupt, timeout=config.timeout)
    rows = [_row(log, one) for log, one in zip(logs, found, strict=True)]
    print_rows([_shown(row) for row in rows] if format_ in ("table", "markdown") else rows, format_, null="")
    return _exit_code(found)


def _exit_code(found: Sequence[SlotStatus | MeshError]) -> int:
    """Say what is amiss on stderr, and return the code of the first server that could not be asked."""
    errors = [one for one in found if isinstance(one, MeshError)]
    for one in found:
        if not isinstance(one, MeshError) and one.warning:
            note(one.warning + (f"\n  hint: {one.hint}" if one.hint else ""))
    for error in errors:
        report(error)
    return errors[0].exit_code if errors else 0


def _logs(mesh: Mesh, names: Sequence[str]) -> list[Product]:
    """The logs that names mean, all for none; raises UsageError for a product that is none."""
    from meshql.catalog.build import CdcBuild

    def is_log(product: Product) -> bool:
        return isinstance(product.build, CdcBuild) and bool(product.build.tables)

    found = [mesh.find(name) for name in names] if names else list(mesh.catalog.products.values())
    for product in found if names else ():
        if not is_log(product):
            logs = ", ".join(p.name for p in mesh.catalog.products.values() if is_log(p)) or "none"
            raise UsageError(
                f"{product.name} is no log of a database's changes", hint=f"logs of this catalog: {logs}"
            )
    return [product for product in found if is_log(product)]


def _row(log: Product, found: SlotStatus | MeshError) -> dict[str, str | float | None]:
    if isinstance(found, MeshError):
        return {**dict.fromkeys(COLUMNS), "product": log.name, "state": "cannot be asked"}
    values = (
        found.product,
        found.slot,
        _state(found),
        found.confirmed,
        found.lag_bytes,
        None if found.lag_seconds is None else round(found.lag_seconds, 1),
        found.retained_bytes,
        found.safe_bytes,
        ", ".join(found.tables),
    )
    return dict(zip(COLUMNS, values, strict=True))


COLUMNS = (
    "product",
    "slot",
    "state",
    "confirmed",
    "lag_bytes",
    "last_batch_seconds",
    "retained_bytes",
    "safe_bytes",
    "tables",
)


def _shown(row: dict[str, str | float | None]) -> dict[str, str | float | None]:
    """What people look at, in their words."""
    counts = {name: row[f"{name}_bytes"] for name in ("lag", "retained", "safe")}
    shown = {name: size(float(count)) if count is not None else None for name, count in counts.items()}
    seconds = row["last_batch_seconds"]
    return {
        **{name: row[name] for name in ("product", "slot", "state")},
        "lag": shown["lag"],
        "retained": shown["retained"],
        "left": shown["safe"],
        "last batch": f"{seconds:,.0f} s ago" if isinstance(seconds, float) else None,
    }


def _state(found: SlotStatus) -> str:
    if not found.exists:
        return "no slot"
    if found.state == "lost":
        return "lost"
    return f"{'followed' if found.active else 'waiting'}, {found.state}"


def drop_slot(name: str, config: Config, *, yes: bool) -> None:
    """Drop the slot of a log, after asking; raises UsageError where nobody can be asked."""
    from meshql.build.cdc.slots import drop, names_of

    with open_mesh(config) as mesh:
        (log,) = _logs(mesh, [name])
        slot, _ = names_of(mesh, log)
        meaning = (
            f"changes that {log.name} has not read yet are lost, and its next build reads all tables anew"
        )
        if not yes and not _agreed(f"Drop the slot {slot}? Then {meaning}. [y/N] "):
            say("nothing was dropped")
            return
        dropped = drop(mesh, log)
    say(f"dropped the slot {slot}: {meaning}" if dropped else f"there was no slot {slot}")


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("dropping a slot takes somebody to agree", hint="add --yes")
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().casefold() in ("y", "yes")
